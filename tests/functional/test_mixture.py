"""Entropy of the real-synthetic mixture and its peak."""

from __future__ import annotations

import math
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seaalign.functional import critical_ratio, mixture_entropy, mixture_entropy_slope

COUNTS = st.integers(1, 8).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 20), min_size=n, max_size=n).filter(any)] * 2)
)
GRID = torch.linspace(0, 1, 2001, dtype=torch.float64)


def slow_entropy(real: list[float], synthetic: list[float], alpha: float) -> float:
    mixture = [(1 - alpha) * r + alpha * s for r, s in zip(real, synthetic, strict=True)]
    return -sum(p * math.log2(p) for p in mixture if p > 0)


def normalised(counts: list[int]) -> list[float]:
    return [c / sum(counts) for c in counts]


def test_mixture_golden():
    real, synthetic = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    # alpha 1/2: (1/4, 1/4, 1/2) -> 2 * 1/4 * 2 + 1/2 * 1 = 1.5; the ends are 1 and 0 bits
    assert mixture_entropy(real, synthetic, torch.tensor([0.0, 0.5, 1.0])).tolist() == pytest.approx([1.0, 1.5, 0.0])
    # slope at 1/2: 1/2 * -2 + 1/2 * -2 - 1 * -1 = -1
    assert mixture_entropy_slope(real, synthetic, 0.5).item() == pytest.approx(-1.0)
    assert mixture_entropy_slope(real, synthetic, 0.0).item() == math.inf
    assert mixture_entropy_slope(real, synthetic, 1.0).item() == -math.inf


@given(pair=COUNTS, alpha=st.floats(0, 1))
def test_entropy_agrees_with_slow_implementation(pair, alpha):
    real, synthetic = (normalised(c) for c in pair)
    got = mixture_entropy(torch.tensor(real, dtype=torch.float64), torch.tensor(synthetic, dtype=torch.float64), alpha)
    assert got.item() == pytest.approx(slow_entropy(real, synthetic, alpha), abs=1e-9)
    # integer counts are normalised inside
    assert mixture_entropy(*(torch.tensor(c) for c in pair), alpha).item() == pytest.approx(got.item(), abs=1e-9)


@given(pair=COUNTS, alpha=st.floats(0.05, 0.95))
def test_slope_agrees_with_finite_differences(pair, alpha):
    real, synthetic = (torch.tensor(c) for c in pair)
    step = 1e-5
    numeric = mixture_entropy(real, synthetic, alpha + step) - mixture_entropy(real, synthetic, alpha - step)
    slope = mixture_entropy_slope(real, synthetic, alpha).item()
    assert slope == pytest.approx(numeric.item() / (2 * step), abs=1e-5)


@given(pair=COUNTS, a=st.floats(0, 1), b=st.floats(0, 1), t=st.floats(0, 1))
def test_entropy_is_concave_and_bounded(pair, a, b, t):
    real, synthetic = (torch.tensor(c) for c in pair)
    middle = mixture_entropy(real, synthetic, min(t * a + (1 - t) * b, 1.0)).item()
    chord = t * mixture_entropy(real, synthetic, a).item() + (1 - t) * mixture_entropy(real, synthetic, b).item()
    assert middle >= chord - 1e-9
    assert middle <= math.log2(len(real)) + 1e-9


@given(pair=COUNTS)
def test_critical_ratio_is_the_argmax_on_a_fine_grid(pair):
    real, synthetic = (torch.tensor(c) for c in pair)
    star = critical_ratio(real, synthetic)
    assert 0.0 <= star <= 1.0
    assert mixture_entropy(real, synthetic, star) >= mixture_entropy(real, synthetic, GRID).max() - 1e-9
    if normalised(pair[0]) != normalised(pair[1]):
        assert critical_ratio(synthetic, real) == pytest.approx(1.0 - star, abs=1e-6)


@pytest.mark.parametrize("r", [1, 2, 7, 4000])
@pytest.mark.parametrize("s", [1, 5, 2561])
def test_disjoint_supports_have_a_closed_form(r, s):
    # H = (1-a) log2 r + a log2 s + h(a) peaks at a = 2^Hs / (2^Hr + 2^Hs) = s / (r + s): the uniform mixture
    real, synthetic = torch.zeros(6561), torch.zeros(6561)
    real[:r] = 1 / r
    synthetic[4000 : 4000 + s] = 1 / s
    assert critical_ratio(real, synthetic) == pytest.approx(s / (r + s), abs=1e-6)


def test_two_codes_have_a_closed_form():
    # (0.9, 0.1) and (0.2, 0.8): uniform at 0.9 - 0.7 a = 0.5, a = 4/7
    star = critical_ratio(torch.tensor([0.9, 0.1]), torch.tensor([0.2, 0.8]))
    assert star == pytest.approx(4 / 7, abs=1e-6)


def test_monotone_and_constant_entropy():
    flat, peaked = torch.tensor([0.5, 0.5]), torch.tensor([0.75, 0.25])
    assert critical_ratio(flat, peaked) == 0.0  # synthetic speech only takes diversity away
    assert critical_ratio(peaked, flat) == 1.0  # it only adds
    assert critical_ratio(torch.tensor([0.9, 0.1]), torch.tensor([0.6, 0.4])) == 1.0  # 0.9 - 0.3 a never reaches 1/2
    for p in (flat, peaked, torch.tensor([1.0, 0.0])):
        assert critical_ratio(p, p) == 1.0


def test_a_rare_synthetic_code_moves_the_peak_just_off_the_end():
    # Some synthetic share always helps (the slope at 0 is infinite), however little. With p_alpha ~ p_real for the
    # common codes, 0 = -0.09 log2 0.9 + 0.1 log2 0.1 - 0.01 log2(0.01 alpha), so alpha = 2.6e-8.
    star = critical_ratio(torch.tensor([0.9, 0.1, 0.0]).double(), torch.tensor([0.99, 0.0, 0.01]).double())
    finite = -0.09 * math.log2(0.9) + 0.1 * math.log2(0.1)
    assert star == pytest.approx(2 ** (finite / 0.01) / 0.01, rel=1e-3)


@pytest.mark.parametrize("size", [6561, 152_000])
def test_large_vocabularies_are_fast_and_right(size):
    generator = torch.Generator().manual_seed(0)
    real = torch.rand(size, generator=generator, dtype=torch.float64) ** 4
    synthetic = torch.rand(size, generator=generator, dtype=torch.float64) ** 8
    real[-size // 10 :], synthetic[: size // 3] = 0, 0
    real, synthetic = (real / real.sum()).float(), (synthetic / synthetic.sum()).float()
    start = time.process_time()
    star = critical_ratio(real, synthetic)
    assert time.process_time() - start < 2.0
    assert abs(mixture_entropy_slope(real, synthetic, star).item()) < 1e-6
    assert 0.05 < star < 0.95


@pytest.mark.parametrize(
    ("real", "synthetic", "message"),
    [
        (torch.tensor([0.5, 0.6]), torch.tensor([0.5, 0.5]), "p_real sums to 1.1"),
        (torch.tensor([0.5, 0.5]), torch.tensor([3.0, 4.0]), "p_syn sums to 7.0, not 1: .* integer counts"),
        (torch.tensor([1.5, -0.5]), torch.tensor([0.5, 0.5]), "p_real must be finite, non-negative"),
        (torch.tensor([math.nan, 1.0]), torch.tensor([0.5, 0.5]), "p_real must be finite"),
        (torch.tensor([0, 0]), torch.tensor([1, 1]), "not all zero"),
        (torch.tensor([0.5, 0.5]), torch.tensor([1.0]), r"must both be \(V,\)"),
    ],
)
def test_bad_distributions_are_refused(real, synthetic, message):
    for function in (critical_ratio, lambda a, b: mixture_entropy(a, b, 0.5)):
        with pytest.raises(ValueError, match=message):
            function(real, synthetic)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan, torch.tensor([0.5, 2.0])])
def test_alpha_must_be_a_share(alpha):
    for function in (mixture_entropy, mixture_entropy_slope):
        with pytest.raises(ValueError, match="alpha must be a share"):
            function(torch.tensor([1, 1]), torch.tensor([1, 2]), alpha)
