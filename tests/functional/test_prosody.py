"""Statistics of contours and levels, and the alignment under them."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seaalign.functional import (
    align,
    cepstra,
    energy,
    energy_std,
    f0,
    f0_correlation,
    f0_range,
    f0_rmse,
    f0_std,
    semitones,
)

CONTOURS = st.lists(st.one_of(st.just(0.0), st.floats(60, 400)), min_size=12, max_size=60).filter(
    lambda c: sum(v > 0 for v in c) >= 10
)
SHORT = st.lists(st.floats(-5, 5), min_size=1, max_size=7)


def test_golden_numbers():
    octave = torch.tensor([100.0, 200.0, 0.0] * 8)
    assert f0_std(octave).value.item() == pytest.approx(6)  # 0 and 12 semitones: each 6 off the mean
    assert f0_std(octave, unit="hz").value.item() == 50
    assert f0_range(octave).value.item() == pytest.approx(12)
    ramp = torch.cat([torch.arange(100.0, 201.0), torch.zeros(7)])
    assert f0_range(ramp, "hz").value.item() == pytest.approx(90)  # 105 to 195
    assert f0_range(ramp, "hz", 0, 1).value.item() == pytest.approx(100)
    assert semitones(torch.tensor([100.0, 200.0, 0.0, 50.0])).tolist() == pytest.approx([0, 12, 0, -12])
    assert semitones(torch.tensor([440.0, 220.0]), reference=220).tolist() == pytest.approx([12, 0])
    # deviations (-1, 0, 1) and (-1, 1, 0): correlation 1 / 2, mean square difference (0 + 1 + 1) / 3
    a, b = torch.tensor([100.0, 101.0, 102.0, 0.0, 100.0]), torch.tensor([100.0, 102.0, 101.0, 300.0, 0.0])
    assert f0_correlation(a, b, unit="hz", min_voiced=3).value.item() == pytest.approx(0.5, abs=1e-5)
    assert f0_rmse(a, b, unit="hz", min_voiced=3).value.item() == pytest.approx(math.sqrt(2 / 3), abs=1e-5)


@given(contour=CONTOURS)
def test_statistics_agree_with_slow_ones(contour):
    voiced = [v for v in contour if v > 0]
    for unit, values in (("hz", voiced), ("semitones", [12 * math.log2(v) for v in voiced])):
        mean = sum(values) / len(values)
        deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
        c = torch.tensor(contour)
        assert f0_std(c, unit).value.item() == pytest.approx(deviation, rel=1e-3, abs=1e-4)
        low, high = np.quantile(values, [0.05, 0.95])
        assert f0_range(c, unit).value.item() == pytest.approx(high - low, rel=1e-3, abs=1e-3)


@given(contour=CONTOURS, factor=st.floats(0.5, 2))
def test_semitones_do_not_depend_on_register(contour, factor):
    c = torch.tensor(contour)
    for statistic in (f0_std, f0_range):
        assert statistic(c * factor).value.item() == pytest.approx(statistic(c).value.item(), abs=2e-4)
        assert statistic(c * factor, "hz").value.item() == pytest.approx(
            factor * statistic(c, "hz").value.item(), rel=1e-3, abs=1e-3
        )
    assert torch.allclose(semitones(c * factor), semitones(c), atol=2e-4)
    assert f0_rmse(c, c * factor).value.item() == pytest.approx(abs(12 * math.log2(factor)), abs=2e-4)


@given(hertz=st.floats(60, 400), frames=st.integers(10, 40))
def test_a_constant_contour_has_no_spread_and_no_correlation(hertz, frames):
    flat = torch.full((frames,), hertz)
    assert f0_std(flat).value.item() == pytest.approx(0, abs=1e-4) and f0_std(flat).defined
    assert f0_range(flat, "hz").value.item() == 0
    found = f0_correlation(flat, torch.linspace(100, 200, frames))
    assert found.value.item() == 0 and not found.defined


@pytest.mark.parametrize("contour", [torch.zeros(0), torch.zeros(50), torch.tensor([100.0] * 9 + [0.0] * 20)])
def test_too_little_voiced_is_zero_and_said(contour):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for measured in (
            *(statistic(contour, unit) for statistic in (f0_std, f0_range) for unit in ("semitones", "hz")),
            *(compare(contour, contour) for compare in (f0_correlation, f0_rmse)),
            energy_std(torch.full((9,), -20.0)),
            energy_std(energy(torch.zeros(8000), 8000)),
        ):
            assert measured.value.item() == 0 and measured.value.shape == () and measured.defined is False


@settings(deadline=None)
@given(a=SHORT, b=SHORT, stiffness=st.sampled_from([0.0, 0.5, 2.0]))
def test_alignment_is_the_cheapest_monotone_path(a, b, stiffness):
    path = align(torch.tensor(a), torch.tensor(b), stiffness)
    steps = path.diff(dim=0)
    assert path[0].tolist() == [0, 0] and path[-1].tolist() == [len(a) - 1, len(b) - 1]
    assert ((steps == 0) | (steps == 1)).all() and (steps.sum(1) >= 1).all()
    x, y = torch.tensor(a).tolist(), torch.tensor(b).tolist()  # as float32 sees them
    warp = stiffness * sum(abs(p - q) for p in x for q in y) / len(x) / len(y)
    best: dict[tuple[int, int], float] = {}
    for i, j in itertools.product(range(len(x)), range(len(y))):
        before = ((i - 1, j, warp), (i, j - 1, warp), (i - 1, j - 1, 0.0))
        ways = [best[p, q] + price for p, q, price in before if (p, q) in best]
        best[i, j] = abs(x[i] - y[j]) + min(ways, default=0.0)
    cost = sum(abs(x[i] - y[j]) for i, j in path.tolist()) + warp * (steps.sum(1) == 1).sum().item()
    assert cost == pytest.approx(best[len(x) - 1, len(y) - 1], abs=1e-9)


def test_alignment_of_vectors_and_ties():
    g = torch.Generator().manual_seed(0)
    features = torch.randn(40, 5, generator=g)
    assert align(features, features).tolist() == [[i, i] for i in range(40)]
    order = torch.arange(40).repeat_interleave(torch.randint(1, 4, (40,), generator=g))
    assert align(features, features[order]).tolist() == [[i, j] for j, i in enumerate(order.tolist())]
    assert align(torch.zeros(4), torch.zeros(3)).shape == (4, 2)  # ties: the diagonal first


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_a_time_warped_copy_correlates_through_its_path(seed):
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(60, 4, generator=g)
    contour = 150 + 40 * torch.sin(torch.arange(60) / 5) * (torch.arange(60) > 4)
    contour[20:25] = 0
    order = torch.arange(60).repeat_interleave(torch.randint(1, 4, (60,), generator=g))
    path = align(features, features[order])
    assert f0_correlation(contour, contour[order], path).value.item() == pytest.approx(1, abs=1e-4)
    assert f0_rmse(contour, contour[order], path).value.item() == pytest.approx(0, abs=1e-4)


def speech(pitch: torch.Tensor, stretch: float) -> torch.Tensor:
    """Three vowels of one second (times stretch) at the given pitch contour; the vowels do not follow the pitch."""
    t = torch.linspace(0, 1, int(16000 * stretch), dtype=torch.float64)
    hertz = pitch.double()[(t * (len(pitch) - 1)).round().long()]
    phase = 2 * math.pi * hertz.cumsum(0) / 16000
    centre = torch.tensor([700.0, 300.0, 1200.0])[(t * 2.999).long()]
    return sum(torch.sin(h * phase) / (1 + ((h * hertz - centre) / 120) ** 2) for h in range(1, 25)).float()


def test_real_alignment_rests_on_the_sounds_and_not_on_the_pitch():
    x = torch.linspace(0, 2 * math.pi, 100)
    rising, waving = 120 * torch.exp2(x / 20), 140 + 30 * torch.sin(3 * x)
    for pitch in (rising, waving):
        a, b = speech(pitch, 1.0), speech(pitch, 1.4)
        path = align(cepstra(a, 16000), cepstra(b, 16000))
        assert f0_correlation(f0(a, 16000), f0(b, 16000), path).value > 0.9
    for register in (1.0, 1.8):
        unlike = [speech(register * (140 + 30 * wave(3 * x)), 1.0) for wave in (torch.sin, torch.cos)]
        contours, features = [f0(s, 16000) for s in unlike], [cepstra(s, 16000) for s in unlike]
        assert f0_correlation(*contours, align(*features)).value < 0.2
        # the same without the price of warping: traces of pitch in the spectrum make unlike contours look alike
        assert f0_correlation(*contours, align(*features, stiffness=0)).value > 0.5


def test_cepstra_ignore_level_and_keep_the_grid():
    noise = torch.randn(12345, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(cepstra(noise, 8000), cepstra(noise * 1e-3, 8000), atol=1e-3)
    for rate in (8000, 22050, 24000):
        assert len(cepstra(noise, rate)) == len(energy(noise, rate)) == len(f0(noise, rate)) == 12345 * 100 // rate
    assert torch.isfinite(cepstra(torch.zeros(800), 8000)).all() and cepstra(torch.zeros(10), 8000).shape == (0, 8)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), rate=st.sampled_from([8000, 16000, 22050]))
def test_energy_agrees_with_a_loop(seed, rate):
    g = torch.Generator().manual_seed(seed)
    wave = torch.randn(int(rate * 0.1), generator=g) * torch.rand(int(rate * 0.1), generator=g)
    level = energy(wave, rate)
    for t in range(10):
        centre, half = (t + 0.5) * rate / 100, 0.0125 * rate
        piece = wave[max(0, round(centre - half)) : min(len(wave), round(centre + half))].double()
        assert level[t].item() == pytest.approx(10 * math.log10(piece.square().mean()), abs=1e-3)


def test_energy_golden_numbers():
    loud = torch.full((8000,), 0.5)
    assert energy(loud, 8000).tolist() == pytest.approx([10 * math.log10(0.25)] * 100, abs=1e-4)
    assert energy(torch.zeros(800), 8000).tolist() == [-120] * 10
    steps = torch.tensor([-10.0] * 5 + [-22.0] * 5)
    assert energy_std(steps).value.item() == pytest.approx(6)
    assert energy_std(torch.cat([steps, torch.full((9,), -51.0)])).value.item() == pytest.approx(6)  # a pause
    assert energy_std(torch.cat([steps, torch.full((9,), -51.0)]), active_db=50).value.item() > 10
    assert energy_std(steps - 30).value.item() == pytest.approx(6)  # level does not matter


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: f0_std(torch.tensor([1.0, -2.0])), "not finite"),
        (lambda: f0_std(torch.zeros(2, 5)), r"\(2, 5\)"),
        (lambda: f0_std(torch.tensor([math.nan] * 12)), "not finite"),
        (lambda: f0_std(torch.ones(12), unit="cents"), "cents"),
        (lambda: f0_range(torch.ones(12), low=5, high=95), "low=5"),
        (lambda: semitones(torch.ones(3), reference=0.0), "reference=0.0"),
        (lambda: f0_rmse(torch.ones(3), torch.ones(4)), "3 and 4 frames need path"),
        (lambda: f0_rmse(torch.ones(3), torch.ones(4), torch.tensor([[0, 0], [2, 4]])), "does not index"),
        (lambda: align(torch.zeros(0, 3), torch.zeros(2, 3)), r"\(0, 3\)"),
        (lambda: align(torch.zeros(2, 3), torch.zeros(2, 4)), r"\(2, 4\)"),
        (lambda: align(torch.zeros(2), torch.zeros(2), stiffness=-1.0), "stiffness=-1.0"),
        (lambda: align(torch.tensor([math.nan]), torch.zeros(2)), "NaN"),
        (lambda: energy(torch.zeros(2, 800), 8000), "mix channels down"),
        (lambda: energy_std(torch.tensor([-math.inf] * 20)), "finite levels"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
