"""Killed with SIGKILL at random moments and started again, a run ends bit for bit where an undisturbed one ends."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from multiprocessing import forkserver

import pytest
import torch

from tests.modules.tdsc_run import fit, result, start, tables
from tests.toy import Toy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks a process that has everything imported"),
]
KILLS = 24
WATCHED = ("os.rename", "os.replace", "os.remove", "open")
"""Audit events of the interpreter: every file that appears, moves or goes."""


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    torch.set_num_threads(1)
    multiprocessing.set_forkserver_preload([__name__])
    with pytest.MonkeyPatch.context() as patch:  # the server has not the path of this process
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        forkserver.ensure_running()
    file = tmp_path_factory.mktemp("policy") / "policy.pt"
    torch.save(start().state_dict(), file)
    return file


def work(folder, weights, die_at=None):
    """In a forked process: run to the end, or die right before the n-th file event."""
    if die_at is not None:
        left = [die_at]

        def count(event, args):
            if event in WATCHED and str(folder) in str(args[0]):
                left[0] -= 1
                if left[0] <= 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
    torch.set_num_threads(1)
    toy = Toy()
    toy.load_state_dict(torch.load(weights))
    made = fit(toy, folder, folder / "diary")
    torch.save(result(made), folder / "end.pt")


def attempt(folder, weights, seconds=None, die_at=None) -> bool:
    """One process, killed from outside after so many seconds or by itself at an event. Did it reach the end?"""
    # of a server, not of this process: autograd refuses to work in the fork of one in which it has had threads
    process = multiprocessing.get_context("forkserver").Process(target=work, args=(folder, weights, die_at))
    process.start()
    process.join(seconds)
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert process.exitcode in (0, -signal.SIGKILL), f"exit code {process.exitcode}: a restart failed"
    return process.exitcode == 0


def diary(folder) -> Counter:
    """How often each candidate was judged; a line that a kill cut in two does not count."""
    lines = (folder / "diary").read_bytes().split(b"\n")[:-1]
    # attempts with equal tokens share a verdict, so it is chance which of them was looked at
    return Counter((line.split(b"#")[0], line.split(b"|")[-1]) for line in lines)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, policy):
    folder = tmp_path_factory.mktemp("whole")
    begun = time.monotonic()
    assert attempt(folder, policy)
    return folder, time.monotonic() - begun


def check(folder, whole, kills):
    end, want = (torch.load(place / "end.pt", weights_only=True) for place in (folder, whole))
    assert all(torch.equal(end[name], want[name]) for name in want)
    assert tables(folder) == tables(whole)
    looked, once = diary(folder), diary(whole)
    assert looked.keys() == once.keys()  # none lost, none made up
    again = sum((looked - once).values())
    assert again <= 8 * kills, f"{again} candidates were judged twice in {kills} kills; a batch holds 8"
    assert not [path for path in folder.rglob("*.tmp")] or kills  # drafts of killed writes are all that may lie around


def test_killed_at_random_moments(tmp_path, policy, undisturbed):
    whole, seconds = undisturbed
    draw, kills, rounds = random.Random(0), 0, 0
    while kills < KILLS or rounds < 2:
        folder, rounds, before = tmp_path / str(rounds), rounds + 1, kills
        folder.mkdir()
        while not attempt(folder, policy, draw.uniform(0.0, seconds)):
            kills += 1
        check(folder, whole, kills - before)


def test_killed_at_any_file_event(tmp_path, policy, undisturbed):
    whole, _ = undisturbed
    events, low = 0, tmp_path / "count"
    low.mkdir()
    assert not attempt(low, policy, die_at=1)
    for events in (400, 200, 100, 50):  # how many events a run has, roughly
        place = tmp_path / f"count-{events}"
        place.mkdir()
        if not attempt(place, policy, die_at=events):
            break
    draw = random.Random(1)
    moments = sorted(draw.sample(range(1, events), 16))
    for moment in moments:
        folder = tmp_path / str(moment)
        folder.mkdir()
        kills = 0 if attempt(folder, policy, die_at=moment) else 1
        while not attempt(folder, policy, die_at=draw.randrange(20, events) if kills < 3 else None):
            kills += 1
        check(folder, whole, kills)
