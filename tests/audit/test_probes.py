"""Probes: numbers to redo by hand, a slow twin, and the two ways in which a careless split is fooled."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from seaalign.audit import probe_labels, probe_values, together
from seaalign.audit.probes import _explained, _proportion
from seaalign.audit.readers import ridge
from seaalign.audit.splits import group_folds


def speakers(texts=40, each=3, seed=0, told=0.0):
    """Rows of `each` speakers: noise, plus `told` x who speaks."""
    g = torch.Generator().manual_seed(seed)
    text = torch.arange(texts).repeat_interleave(each)
    who = torch.arange(each).repeat(texts)
    x = torch.randn(len(text), 12, generator=g)
    x[:, :each] += told * torch.nn.functional.one_hot(who, each)
    return x, who.tolist(), text.tolist()


def test_golden_interval_of_independent_rows_is_clopper_pearson():
    right = torch.tensor([1.0] * 8 + [0.0] * 2).double()
    value, low, high = _proportion(right, torch.arange(10), 0.95)
    # 10 groups of one row: variance p(1-p)/(n-1), so the answers are worth n-1 = 9
    assert value == pytest.approx(0.8)
    assert low == pytest.approx(stats.beta.ppf(0.025, 7.2, 2.8)) and high == pytest.approx(
        stats.beta.ppf(0.975, 8.2, 1.8)
    )
    all_right = _proportion(torch.ones(10).double(), torch.arange(10), 0.95)
    assert all_right == (1.0, pytest.approx(0.025 ** (1 / 10)), 1.0)  # the rule for no failure in ten


def test_rows_of_one_group_are_worth_one_answer():
    right = torch.tensor([1.0, 1.0, 1.0, 0.0] * 3).double()  # 12 groups of one ...
    alone = _proportion(right, torch.arange(12), 0.95)
    copies = _proportion(right.repeat_interleave(50), torch.arange(12).repeat_interleave(50), 0.95)  # ... or of fifty
    assert copies[0] == alone[0] and copies[1] == pytest.approx(alone[1])
    naive = _proportion(right.repeat_interleave(50), torch.arange(600), 0.95)
    assert naive[2] - naive[1] < 0.3 * (copies[2] - copies[1])


def test_golden_r2():
    errors, base = torch.tensor([[1.0], [0.0], [1.0], [0.0]]).double(), torch.full((4, 1), 2.0).double()
    value, low, high = _explained(errors, base, torch.arange(4), 0.95)
    # 1 - 2/8; influences (1 - 0.25 * 2, 0 - 0.5, ...) / 8 = +-1/16, so the spread is sqrt(4/256 * 4/3)
    reach = stats.t.ppf(0.975, 3) * math.sqrt(4 / 256 * 4 / 3)
    assert (value, low, high) == (0.75, pytest.approx(0.75 - reach), min(0.75 + reach, 1.0))


def test_ridge_is_the_textbook_solution_whichever_side_is_longer():
    g = torch.Generator().manual_seed(0)
    for rows, columns in ((30, 5), (5, 30)):
        x, y, new = (torch.randn(n, m, generator=g).double() for n, m in ((rows, columns), (rows, 2), (4, columns)))
        centred = x - x.mean(0)
        weights = np.linalg.solve(
            (centred.T @ centred + 0.3 * rows * torch.eye(columns)).numpy(), (centred.T @ (y - y.mean(0))).numpy()
        )
        want = (new - x.mean(0)).numpy() @ weights + y.mean(0).numpy()
        assert np.allclose(ridge(x, y)(new, 0.3).numpy(), want)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_leak_is_found_and_permuted_labels_give_chance(kind):
    x, who, text = speakers(told=3.0)
    found = probe_labels(x, who, text, kind)
    assert found.value > 0.85 and found.leaks and found.chance == pytest.approx(1 / 3)
    assert (found.rows, found.groups, found.classes, found.left_out) == (120, 40, 3, 0)
    shuffled = [who[i] for i in torch.randperm(120, generator=torch.Generator().manual_seed(1)).tolist()]
    nothing = probe_labels(x, shuffled, text, kind)
    assert not nothing.leaks and nothing.low < nothing.value < 0.5


def test_intervals_cover_chance_about_as_often_as_they_say():
    covered = 0
    for seed in range(40):
        x, who, text = speakers(texts=20, seed=seed)
        probe = probe_labels(x, who, text, seed=seed)
        covered += probe.low <= 1 / 3 <= probe.high
    assert covered >= 35  # 95 % of 40 are 38


def test_a_network_finds_what_a_line_cannot():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 2, generator=g)
    who = (x.prod(1) > 0).long().tolist()
    assert not probe_labels(x, who, range(300), "linear").share[0] > 0.3
    assert probe_labels(x, who, range(300), "mlp").value > 0.85
    assert probe_values(x, x.square().sum(1), range(300), "mlp").value > 0.6


def test_recognising_the_sentence_is_no_merit():
    """Each text is said by one speaker only, and features tell the text: a split by rows takes that for the speaker."""
    g = torch.Generator().manual_seed(0)
    text = torch.arange(20).repeat_interleave(10)
    who = torch.randint(2, (20,), generator=g)[text].tolist()
    x = torch.randn(20, 16, generator=g)[text] + 0.1 * torch.randn(200, 16, generator=g)
    fooled = probe_labels(x, who, range(200))
    honest = probe_labels(x, who, text.tolist())
    assert fooled.value > 0.9 and fooled.leaks
    assert not honest.leaks and honest.value < 0.75


def test_the_same_text_under_two_utterances_stays_on_one_side():
    assert together(["a", "a", "b", "c", "d"], ["x", "y", "y", "z", "z"]) == [0, 0, 0, 1, 1]
    assert together([1, 2, 3]) == [0, 1, 2] and together([(3, 1), (2,), (3, 1)]) == [0, 1, 0]
    with pytest.raises(ValueError, match=r"\[2, 1\]"):
        together([1, 2], [3])


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=30))
def test_groups_are_the_finest_that_keep_keys_whole(rows):
    numbers = together([u for u, _ in rows], [t for _, t in rows])
    for i, (u, t) in enumerate(rows):
        for j, (v, w) in enumerate(rows):
            if u == v or t == w:
                assert numbers[i] == numbers[j]
    reach = {0}  # slow twin: what can be reached from row 0 by shared keys
    while (
        grown := {j for j in range(len(rows)) for i in reach if rows[i][0] == rows[j][0] or rows[i][1] == rows[j][1]}
        - reach
    ):
        reach |= grown
    assert {i for i, number in enumerate(numbers) if number == numbers[0]} == reach


@given(st.lists(st.integers(0, 9), min_size=2, max_size=60), st.integers(2, 6), st.integers(0, 5))
def test_folds_keep_groups_whole_and_leave_none_empty(groups, count, seed):
    if len(set(groups)) < 2:
        return
    folds = group_folds(torch.tensor(groups), count, seed)
    assert set(folds.tolist()) == set(range(min(count, len(set(groups)))))
    assert len({(g, f) for g, f in zip(groups, folds.tolist(), strict=True)}) == len(set(groups))


def test_values_within_a_speaker():
    """The speaker's level is told, the contour is not: within speakers nothing is left."""
    g = torch.Generator().manual_seed(0)
    who = torch.arange(4).repeat(50)
    x = torch.nn.functional.one_hot(who).float() + 0.05 * torch.randn(200, 4, generator=g)
    spread = torch.randn(200, generator=g)
    register = 5.0 * who + spread
    assert probe_values(x, register, range(200)).value > 0.9
    inside = probe_values(x, register, range(200), within=who.tolist())
    assert not inside.leaks and inside.value < 0.1
    told = torch.cat([x, spread[:, None]], 1)
    assert probe_values(told, register, range(200), within=who.tolist()).value > 0.95


def test_means_and_scales_are_those_of_the_rows_learned_from():
    """A held-out row with a monstrous feature must not change what is said of the others' folds."""
    x, who, text = speakers(told=2.0)
    before = torch.random.get_rng_state()
    assert probe_labels(x * 1e6 + 1e3, who, text).value == probe_labels(x, who, text).value
    assert torch.equal(before, torch.random.get_rng_state())
    constant = torch.cat([x, torch.full((len(x), 1), 7.0)], 1)
    assert probe_labels(constant, who, text).value == probe_labels(x, who, text).value


def test_what_cannot_be_probed_is_said():
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="1 label.*of which 1"):
        probe_labels(x, ["a"] * 6, range(6))
    with pytest.raises(ValueError, match="of which 0 occur in two groups"):
        probe_labels(x, ["a", "a", "a", "b", "b", "b"], [0, 0, 0, 1, 1, 1])
    with pytest.raises(ValueError, match="1 of 6 rows of features hold NaN"):
        probe_labels(x.index_put((torch.tensor(2),), torch.tensor(float("nan"))), list("ababab"), range(6))
    with pytest.raises(ValueError, match="no value varies"):
        probe_values(x, torch.ones(6), range(6))
    with pytest.raises(ValueError, match="1 group"):
        probe_values(x, x[:, 0], [0] * 6)
    lonely = probe_labels(torch.randn(9, 2), [*"aaaabbbb", "c"], range(9))
    assert lonely.left_out == 1 and lonely.classes == 2
