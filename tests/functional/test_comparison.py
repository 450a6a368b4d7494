"""Intervals and tests between systems: golden numbers, slow twins, what order and names must not change."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from seaalign.functional.comparison import group_sums, group_weights, holm, interval, paired_test, resampled_ratio

P_VALUES = st.lists(st.floats(0, 1), max_size=8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def slow_ratio(numerators, denominators, groups, draws, seed):
    """The bootstrap in plain Python with random numbers of its own."""
    rng, names = random.Random(seed), sorted(set(groups))
    found = []
    for _ in range(draws):
        above = below = 0.0
        for name in rng.choices(names, k=len(names)):
            above += sum(n for n, g in zip(numerators, groups, strict=True) if g == name)
            below += sum(d for d, g in zip(denominators, groups, strict=True) if g == name)
        found.append(above / below)
    return sorted(found)


def slow_holm(values):
    """One by one: the smallest p times the number of tests still open, never below what came before."""
    open_, adjusted, last = list(enumerate(values)), {}, 0.0
    while open_:
        number, p = min(open_, key=lambda item: item[1])
        last = max(last, min(1.0, p * len(open_)))
        adjusted[number] = last
        open_.remove((number, p))
    return [adjusted[i] for i in range(len(values))]


def slow_exchange(a, b):
    """Share of all exchanges of a and b within groups that give a mean difference at least as large."""
    seen = abs(sum(x - y for x, y in zip(a, b, strict=True)))
    signs = list(itertools.product((1, -1), repeat=len(a)))
    large = [abs(sum(s * (x - y) for s, x, y in zip(way, a, b, strict=True))) >= seen - 1e-9 for way in signs]
    return sum(large) / len(signs)


def test_resampled_ratio_golden():
    # two texts, 1/4 and 3/4: the draws are aa, ab, ba, bb, that is 0.25 (1/4), 0.5 (1/2), 0.75 (1/4)
    draws = resampled_ratio(torch.tensor([1, 3]), torch.tensor([4, 4]), torch.tensor([0, 1]), 20_000, seeded())
    shares = [float((draws == value).double().mean()) for value in (0.25, 0.5, 0.75)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.015)


def test_a_group_is_drawn_whole():
    # two rows of one text always come together: 1/8 + 3/8 of each
    draws = resampled_ratio(torch.tensor([1, 3, 1, 3]), torch.full((4,), 4), torch.tensor([5, 5, 9, 9]), 50, seeded())
    assert torch.equal(draws, torch.full((50,), 0.5, dtype=torch.float64))


def test_resampled_ratio_agrees_with_plain_python():
    numerators, denominators, groups = [0, 2, 1, 5, 0, 3], [3, 4, 2, 6, 5, 4], [2, 2, 7, 1, 1, 0]
    fast = resampled_ratio(*map(torch.tensor, (numerators, denominators, groups)), 4000, seeded(1)).sort().values
    slow = torch.tensor(slow_ratio(numerators, denominators, groups, 4000, 2), dtype=torch.float64)
    assert stats.ks_2samp(fast.numpy(), slow.numpy()).pvalue > 0.01
    assert fast.mean().item() == pytest.approx(slow.mean().item(), abs=0.01)


def test_rows_that_were_not_measured_count_in_neither_sum():
    nan = math.nan
    measured = resampled_ratio(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 4.0]), torch.tensor([0, 1]), 40, seeded())
    numerators, denominators = torch.tensor([1.0, nan, 3.0, 2.0]), torch.tensor([2.0, 9.0, 4.0, nan])
    assert torch.equal(measured, resampled_ratio(numerators, denominators, torch.tensor([0, 0, 1, 1]), 40, seeded()))


def test_one_group_has_no_interval():
    draws = resampled_ratio(torch.tensor([1.0, 0.0]), torch.ones(2), torch.zeros(2, dtype=torch.long), 10, seeded())
    assert draws.shape == (10,) and all(map(math.isnan, interval(draws)))


@given(values=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9), st.integers(0, 4)), min_size=2, max_size=12))
@settings(max_examples=40)
def test_order_of_rows_and_names_of_groups_do_not_matter(values):
    numerators, denominators, groups = torch.tensor(values).T
    if len(groups.unique()) < 2:
        return
    draws = resampled_ratio(numerators, denominators, groups, 30, seeded())
    backwards = resampled_ratio(numerators.flip(0), denominators.flip(0), groups.flip(0) * 3 + 5, 30, seeded())
    assert torch.allclose(draws, backwards)
    rates = group_sums(numerators, groups) / group_sums(denominators, groups)
    assert float(rates.min()) - 1e-9 <= float(draws.min()) and float(draws.max()) <= float(rates.max()) + 1e-9
    # paired: what is exactly twice as bad is so in every draw
    twice = resampled_ratio(2 * numerators, denominators, groups, 30, seeded())
    assert torch.allclose(twice, 2 * draws)


def test_weights_are_a_multinomial():
    weights = group_weights(5, 4000, seeded())
    assert torch.equal(weights.sum(1), torch.full((4000,), 5.0, dtype=torch.float64))
    assert weights.var(0).tolist() == pytest.approx([0.8] * 5, rel=0.1)  # n p (1 - p) = 5 x 1/5 x 4/5


def test_the_interval_covers():
    """95 % intervals of the mean of 40 exponential values hold the true mean a little less often."""
    generator, inside = seeded(3), 0
    for _ in range(400):
        sample = torch.empty(40, dtype=torch.float64).exponential_(generator=generator)
        low, high = interval(resampled_ratio(sample, torch.ones(40), torch.arange(40), 300, generator))
        inside += low <= 1.0 <= high
    assert 0.89 <= inside / 400 <= 0.97


def test_interval_golden_and_undefined_draws():
    draws = torch.cat([torch.arange(101.0), torch.full((50,), math.nan)])
    assert interval(draws, 0.9) == pytest.approx((5.0, 95.0))
    assert all(map(math.isnan, interval(torch.cat([draws, torch.full((60,), math.nan)]))))
    with pytest.raises(ValueError, match="level=95"):
        interval(draws, 95)


def test_paired_test_golden():
    # differences 1, 1, 1, 1, 1, -1: sums of 6 signs at least 4 away from 0: 2 x (1 + 6) of 64
    a = torch.tensor([1.0, 2, 3, 4, 5, 0])
    b = torch.tensor([0.0, 1, 2, 3, 4, 1])
    assert paired_test(a, b) == pytest.approx(14 / 64)
    # 14 groups: t. Differences 0 (seven times) and 2: mean 1, sd sqrt(14/13), t = sqrt(13) with 13 degrees of freedom
    many = torch.tensor([0.0, 2.0] * 7)
    assert paired_test(many, torch.zeros(14)) == pytest.approx(2 * stats.t.sf(math.sqrt(13), 13))
    assert paired_test(many, many) == 1.0
    assert math.isnan(paired_test(torch.tensor([1.0, math.nan]), torch.tensor([2.0, 3.0])))
    with pytest.raises(ValueError, match="one value per group"):
        paired_test(torch.ones(2), torch.ones(3))


@given(pairs=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=9))
@settings(max_examples=30)
def test_paired_test_agrees_with_counting_every_exchange(pairs):
    a, b = torch.tensor(pairs, dtype=torch.float64).T
    assert paired_test(a, b) == pytest.approx(slow_exchange(a.tolist(), b.tolist()))
    assert paired_test(b, a) == pytest.approx(paired_test(a, b))


@pytest.mark.parametrize("groups", [8, 30])
def test_equal_systems_are_rarely_called_different(groups):
    generator = seeded(4)
    p = []
    for _ in range(200):
        both = torch.poisson(torch.full((2, groups), 1.5), generator=generator)  # counts of errors
        p.append(paired_test(both[0], both[1]))
    assert sum(value < 0.05 for value in p) / 200 <= 0.09  # 0.05 and two standard errors of 200 trials
    assert min(p) < 0.2


def test_holm_golden():
    # sorted .01 .02 .03 .04: x4 = .04, x3 = .06, x2 = .06, x1 = .04 -> .06
    assert holm([0.04, 0.01, 0.03, 0.02]).tolist() == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([1.5])


def test_tests_that_could_not_be_made_do_not_count():
    assert holm([0.01, math.nan, 0.04]).tolist() == pytest.approx([0.02, math.nan, 0.04], nan_ok=True)


@given(p=P_VALUES)
def test_holm_agrees_with_going_through_them_one_by_one(p):
    adjusted = holm(torch.tensor(p, dtype=torch.float64)).tolist()
    assert adjusted == pytest.approx(slow_holm(p))
    assert all(a >= b for a, b in zip(adjusted, p, strict=True))
