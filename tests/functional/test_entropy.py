"""Entropy from counts: golden numbers, bias on known distributions, exact subsampling."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import exp1

from seaalign.functional import count_entropy, entropy_at

COUNTS = st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(any)
CORRECTIONS = [None, "miller-madow", "chao-wang-jost"]


def slow_entropy(tokens: tuple[int, ...]) -> float:
    shares = [tokens.count(v) / len(tokens) for v in set(tokens)]
    return -sum(p * math.log2(p) for p in shares)


def slow_chao_wang_jost(counts: list[int]) -> float:
    """The estimator as published, with its alternating tail; only good for small samples."""
    n, f1, f2 = sum(counts), counts.count(1), counts.count(2)
    nats = sum(c / n * sum(1 / r for r in range(c, n)) for c in counts if c)
    a = 2 * f2 / ((n - 1) * f1 + 2 * f2) if f2 else 2 / ((n - 1) * (f1 - 1) + 2) if f1 else 1.0
    if f1 and a < 1:
        bracket = -math.log(a) - sum((1 - a) ** r / r for r in range(1, n))
        nats += f1 / n * (1 - a) ** (1 - n) * bracket
    return nats / math.log(2)


def test_plug_in_golden():
    # 1/2 * 1 + 1/4 * 2 + 2 * 1/8 * 3 = 1.75
    assert count_entropy(torch.tensor([4, 2, 1, 1])).item() == pytest.approx(1.75, abs=1e-12)
    assert count_entropy(torch.full((6561,), 3)).item() == pytest.approx(8 * math.log2(3), abs=1e-12)  # 12.68 bits
    assert count_entropy(torch.tensor([0, 9, 0])).item() == 0.0


def test_miller_madow_golden():
    # plug-in 1.75 + (4 - 1) / (2 * 8 ln 2), of five codes: below the cap log2 5
    counts = torch.tensor([4, 2, 1, 1, 0])
    assert count_entropy(counts, "miller-madow").item() == pytest.approx(1.75 + 3 / (16 * math.log(2)), abs=1e-12)


def test_chao_wang_jost_golden():
    # Counts 2, 1: N = 3, f1 = f2 = 1. First part 2/3 * (1/2) + 1/3 * (1 + 1/2) = 5/6 nats.
    # A = 2 / (2 * 1 + 2) = 1/2; tail 1/3 * (1/2)^-2 * (ln 2 - 1/2 - 1/8) = 4/3 ln 2 - 5/6.
    # Their sum is 4/3 ln 2 nats = 4/3 bits.
    assert count_entropy(torch.tensor([2, 1, 0, 0]), "chao-wang-jost").item() == pytest.approx(4 / 3, abs=1e-9)


@given(counts=COUNTS)
def test_chao_wang_jost_agrees_with_the_published_form(counts):
    expected = min(slow_chao_wang_jost(counts), math.log2(len(counts)))
    assert count_entropy(torch.tensor(counts), "chao-wang-jost").item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("n", [10**4, 10**6])
def test_chao_wang_jost_tail_of_large_samples(n):
    # f1 = 100, f2 = 1, the rest in one code. For large N the tail sum_j z^(j+1) / (N+j) tends to e^w E1(w), w = N A.
    counts = torch.tensor([n - 102, 2] + [1] * 100 + [0] * 900)
    a = 2 / ((n - 1) * 100 + 2)
    tail = 100 / n * math.exp(n * a) * exp1(n * a)
    seen = [n - 102, 2] + [1] * 100
    # digamma(N) - digamma(c) = sum_(r=c)^(N-1) 1/r
    harmonic = [math.fsum(1 / r for r in range(c, n)) for c in (n - 102, 2, 1)]
    first = (seen[0] * harmonic[0] + 2 * harmonic[1] + 100 * harmonic[2]) / n
    got = count_entropy(counts, "chao-wang-jost").item()
    assert got == pytest.approx((first + tail) / math.log(2), rel=1e-4)


@pytest.mark.parametrize("correction", CORRECTIONS)
@given(counts=COUNTS, seed=st.integers(0, 99))
def test_entropy_properties(correction, counts, seed):
    tensor = torch.tensor(counts)
    value = count_entropy(tensor, correction).item()
    assert 0.0 <= value <= math.log2(len(counts))
    order = torch.randperm(len(counts), generator=torch.Generator().manual_seed(seed))
    assert count_entropy(tensor[order], correction).item() == pytest.approx(value, abs=1e-9)
    assert value >= count_entropy(tensor).item() - 1e-9


@pytest.mark.parametrize("n", [2000, 20000])
def test_corrections_shrink_the_bias_on_known_distributions(n):
    """6,561 codes with frequencies 1 / rank^0.7, H = 11.57 bits, mean of 5 samples."""
    generator = torch.Generator().manual_seed(0)
    p = torch.arange(1, 6562, dtype=torch.float64) ** -0.7
    p /= p.sum()
    truth = -(p * p.log2()).sum().item()
    samples = [torch.bincount(torch.multinomial(p, n, True, generator=generator), minlength=6561) for _ in range(5)]
    bias = {c: sum(count_entropy(s, c).item() - truth for s in samples) / 5 for c in CORRECTIONS}
    assert bias[None] < -0.2
    assert abs(bias["miller-madow"]) < 0.8 * abs(bias[None])
    assert abs(bias["chao-wang-jost"]) < 0.25 * abs(bias[None])


def test_entropy_at_golden():
    # Two of {a, a, b, b}: 6 pairs, 2 equal (0 bits), 4 unequal (1 bit).
    assert entropy_at(torch.tensor([2, 2]), 2).item() == pytest.approx(2 / 3, abs=1e-12)
    assert entropy_at(torch.tensor([2, 2]), 1).item() == 0.0
    # Three of {a, a, b, b}: always 2 + 1, H = log2 3 - 2/3.
    assert entropy_at(torch.tensor([2, 2]), 3).item() == pytest.approx(math.log2(3) - 2 / 3, abs=1e-12)


@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(any), data=st.data())
def test_entropy_at_is_the_mean_over_all_subsets(counts, data):
    tokens = tuple(v for v, c in enumerate(counts) for _ in range(c))
    n = data.draw(st.integers(1, len(tokens)))
    subsets = [slow_entropy(subset) for subset in itertools.combinations(tokens, n)]
    assert entropy_at(torch.tensor(counts), n).item() == pytest.approx(sum(subsets) / len(subsets), abs=1e-9)


@given(counts=COUNTS)
def test_entropy_at_grows_to_the_plug_in_value(counts):
    tensor, total = torch.tensor(counts), sum(counts)
    sizes = sorted({*range(1, min(total, 12)), *range(12, total, 17), total})
    curve = [entropy_at(tensor, n).item() for n in sizes]
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(curve))
    assert curve[-1] == pytest.approx(count_entropy(tensor).item(), abs=1e-9)


def test_entropy_at_agrees_with_sampling_at_scale():
    generator = torch.Generator().manual_seed(1)
    p = torch.arange(1, 1001, dtype=torch.float64) ** -1.0
    tokens = torch.multinomial(p, 100_000, True, generator=generator)
    exact = entropy_at(torch.bincount(tokens, minlength=1000), 3000).item()
    draws = [tokens[torch.randperm(100_000, generator=generator)[:3000]] for _ in range(20)]
    values = torch.stack([count_entropy(torch.bincount(draw, minlength=1000)) for draw in draws])
    standard_error = values.std().item() / math.sqrt(20)
    assert abs(values.mean().item() - exact) < 4 * standard_error
    assert standard_error < 0.02


def test_entropy_at_keeps_its_digits_with_90_million_tokens():
    # 90 M tokens in 9 equal codes, 60 M drawn; the deficit is 8 / (2 n ln 2) * (1 - n / N) bits to first order.
    value = entropy_at(torch.full((9,), 10_000_000), 60_000_000).item()
    deficit = 8 / (2 * 60_000_000 * math.log(2)) * (1 - 2 / 3)
    assert math.log2(9) - value == pytest.approx(deficit, rel=1e-3, abs=1e-12)


@pytest.mark.parametrize("n", [0, -1, 5])
def test_entropy_at_refuses_impossible_sizes(n):
    with pytest.raises(ValueError, match=f"between 1 and the 4 tokens counted, got {n}"):
        entropy_at(torch.tensor([2, 2]), n)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (torch.tensor([0, 0]), "no tokens counted"),
        (torch.tensor([-1, 3]), "non-negative whole"),
        (torch.tensor([0.5, 0.5]), "not frequencies"),
        (torch.tensor([math.nan]), "non-negative whole"),
        (torch.tensor([[1, 2]]), r"must be \(V,\)"),
    ],
)
def test_bad_counts_are_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        count_entropy(counts)


def test_unknown_correction_is_refused():
    with pytest.raises(ValueError, match="'grassberger'"):
        count_entropy(torch.tensor([1, 2]), "grassberger")
