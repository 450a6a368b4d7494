"""Exploration: one sampling call per wave, and candidates that depend on nothing but sentence and seed."""

from __future__ import annotations

import pytest
import torch

from seaalign import Prompt, Sentence
from seaalign.sampling import explore, temperature_gradient
from tests.modules.tdsc_run import sentences
from tests.toy import Toy


class Counting(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, int]] = []
        self.read = 0

    def sample(self, prompts, n=1, *args, **kwargs):
        self.calls.append((len(prompts), n))
        return super().sample(prompts, n, *args, **kwargs)

    def prefill(self, prompts):
        self.read += len(prompts)
        return super().prefill(prompts)


HEATS = [0.7, 0.7, 1.0, 1.3]


def everything(backbone, items, **how):
    found = {}
    for wave, candidates in explore(backbone, items, HEATS, max_len=20, **how):
        for c in candidates:
            found[c.name] = (wave, c.tokens.tolist(), c.ended, c.temperature)
    return found


def test_one_call_per_wave_and_one_prefill_per_prompt():
    toy, items = Counting(), sentences(10)
    found = everything(toy, items, batch=4)
    assert toy.calls == [(4, 4), (4, 4), (2, 4)] and toy.read == 10
    assert len(found) == 40 and [found[f"s0#{i}"][3] for i in range(4)] == HEATS


def test_waves_order_and_company_change_nothing():
    toy, items = Toy(), sentences(9)
    want = {name: rest[1:] for name, rest in everything(toy, items, batch=4).items()}
    for how in (items, items[::-1]):
        for batch in (1, 3, 100):
            got = {name: rest[1:] for name, rest in everything(toy, how, batch=batch).items()}
            assert got == want
    assert {name: rest[1:] for name, rest in everything(toy, items, seed=1).items()} != want


def test_wanted_waves_are_the_same_waves():
    toy, items = Toy(), sentences(9)
    want = everything(toy, items, batch=2)
    got = everything(toy, items, batch=2, wanted=lambda wave: wave % 2 == 1)
    assert got == {name: rest for name, rest in want.items() if rest[0] % 2 == 1}


def test_equal_prompts_of_two_sentences_get_answers_of_their_own():
    twins = [Sentence("a", "x", Prompt([3, 4, 5])), Sentence("b", "x", Prompt([3, 4, 5]))]
    found = everything(Toy(), twins, batch=8)
    assert [found[f"a#{i}"][1] for i in range(4)] != [found[f"b#{i}"][1] for i in range(4)]


def test_each_row_has_its_own_temperature():
    """A row at almost 0 says what greedy says, whatever its neighbours do."""
    toy, items = Toy(), sentences(6)
    greedy = toy.sample([s.prompt for s in items], 1, 0.0, 0.9, 20).rows()
    cold = {c.name: c.tokens for _, cs in explore(toy, items, [1e-4, 2.0], max_len=20) for c in cs}
    assert all(torch.equal(cold[f"{s.id}#0"], row) for s, row in zip(items, greedy, strict=True))
    assert any(not torch.equal(cold[f"{s.id}#1"], row) for s, row in zip(items, greedy, strict=True))


def test_limits_are_per_sentence():
    items = sentences(3)
    got = [c for _, cs in explore(Toy(), items, [1.0], max_len=[1, 5, 9]) for c in cs]
    assert all(len(c.tokens) <= {"s0": 1, "s1": 5, "s2": 9}[c.sentence.id] for c in got)


def test_the_gradient_of_the_paper_and_of_its_table_12():
    assert [round(temperature_gradient(k)[-1], 1) for k in range(1, 6)] == [0.9, 1.0, 1.1, 1.2, 1.3]
    assert [round(temperature_gradient(k, start=1.2)[-1], 1) for k in range(1, 6)] == [1.3, 1.4, 1.5, 1.6, 1.7]
    for bad in ([], [0.7, 0.0]):
        with pytest.raises(ValueError, match="need temperatures above 0"):
            list(explore(Toy(), sentences(1), bad))
