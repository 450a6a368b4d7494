"""Judging behind sampling: in order, bounded, with errors that come out and threads that end."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from seaalign.critique.behind import Behind


def test_the_next_item_is_made_while_the_last_one_is_worked_on():
    """Either side waits for the other: one after the other would stand still."""
    begun, made = threading.Event(), threading.Event()

    def work(item):
        if item == 0:
            begun.set()
            assert made.wait(10)

    with Behind(work) as behind:
        behind.put(0)
        assert begun.wait(10)
        made.set()
        behind.put(1)


def test_no_more_than_so_many_wait():
    open_, taken = threading.Event(), []
    with Behind(lambda item: open_.wait(10) and taken.append(item), ahead=2) as behind:
        behind.put(0)
        behind.put(1)
        third = threading.Thread(target=behind.put, args=(2,))
        third.start()
        time.sleep(0.1)
        assert third.is_alive()  # `put` waits
        open_.set()
        third.join(10)
    assert taken == [0, 1, 2]


def test_an_error_comes_out_and_nothing_more_is_done():
    done = []

    def work(item):
        if item == 1:
            raise ValueError(f"no judgement of {item}")
        done.append(item)

    with pytest.raises(ValueError, match="no judgement of 1"), Behind(work, ahead=1) as behind:
        for item in range(9):
            behind.put(item)
    assert done == [0]


def test_where_the_block_fails_what_has_begun_is_ended_and_the_rest_dropped():
    begun, done = threading.Event(), []

    def work(item):
        begun.set()
        time.sleep(0.05)
        done.append(item)

    with pytest.raises(KeyboardInterrupt), Behind(work, ahead=5) as behind:
        for item in range(4):
            behind.put(item)
        assert begun.wait(10)
        raise KeyboardInterrupt
    assert done == [0]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("judge")]


def test_the_thread_has_autocast_and_records_no_gradients():
    seen = []
    with torch.autocast("cpu", torch.bfloat16), Behind(lambda x: seen.append(x @ x)) as behind:
        behind.put(torch.ones(2, 2, requires_grad=True))
    assert seen[0].dtype == torch.bfloat16 and not seen[0].requires_grad
