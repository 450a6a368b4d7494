"""Statistics of pitch contours and of energy: how lively speech is, and how close two renderings are.

Every statistic is a `Measured`: where too few frames are voiced it is 0 with `defined` False, never NaN, so that an
unvoiced utterance is neither lost unseen nor averaged in as a perfectly flat one. Deviations are of the population
(divided by n). Contours are in Hz with 0 where unvoiced, as `seaalign.functional.f0` gives them. Between trackers F0
std differs by 9 to 28 %: use one tracker in a report.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from seaalign.functional.pitch import mono

Unit = Literal["semitones", "hz"]

_SILENCE_DB = -120.0  # floor of `energy`
_ENERGY_WINDOW = 0.025  # s: a period and a half of the lowest voice, so that single pulses do not show


class Measured(NamedTuple):
    """A statistic that may be undefined.

    Attributes:
        value: scalar tensor, float32; 0 where undefined.
        defined: whether there were enough frames to measure it.
    """

    value: Tensor
    defined: bool


def semitones(contour: Tensor, reference: float | None = None) -> Tensor:
    """Contour in semitones above a reference: 12 log2(F0 / reference).

    Args:
        contour: F0 in Hz, 0 where unvoiced (frames,).
        reference: Hz; None for the median of the voiced frames.

    Returns:
        Semitones (frames,); unvoiced frames are 0, like the reference: mask with `contour > 0`.

    Raises:
        ValueError: for a contour that is not one, or a reference that is not positive.

    Example:
        >>> semitones(torch.tensor([110.0, 0.0, 220.0]), reference=110.0).tolist()
        [0.0, 0.0, 12.0]
    """
    _check(contour)
    if reference is not None and not 0 < reference < math.inf:
        raise ValueError(f"reference={reference} Hz must be positive: a pitch is measured against a pitch")
    if not (voiced := contour > 0).any():
        return torch.zeros_like(contour, dtype=torch.float32)
    base = contour[voiced].float().quantile(0.5) if reference is None else reference
    return torch.where(voiced, 12 * torch.log2(contour.float().clamp(min=1e-3) / base), 0.0)


def f0_std(contour: Tensor, unit: Unit = "semitones", min_voiced: int = 10) -> Measured:
    """Standard deviation of F0 over the voiced frames of an utterance.

    Args:
        contour: F0 in Hz, 0 where unvoiced (frames,).
        unit: "semitones" (does not depend on the speaker's register) or "hz".
        min_voiced: voiced frames needed; 10 are 0.1 s at 100 Hz.

    Raises:
        ValueError: for a contour that is not one, or an unknown unit.

    Example:
        >>> f0_std(torch.tensor([100.0, 200.0] * 8))
        Measured(value=tensor(6.), defined=True)
    """
    values = _voiced(contour, unit)
    return _measured(_deviation(values), len(values) >= max(min_voiced, 1))


def f0_range(
    contour: Tensor, unit: Unit = "semitones", low: float = 0.05, high: float = 0.95, min_voiced: int = 10
) -> Measured:
    """Range of F0 between two quantiles (5 and 95 %: a single octave error must not set it), interpolated linearly.

    Args:
        contour: F0 in Hz, 0 where unvoiced (frames,).
        unit: "semitones" or "hz".
        low: lower quantile; 0 and 1 give the full range.
        high: upper quantile.
        min_voiced: voiced frames needed.

    Raises:
        ValueError: for a contour that is not one, an unknown unit, or quantiles out of order.

    Example:
        >>> f0_range(torch.linspace(100.0, 200.0, 101), unit="hz")
        Measured(value=tensor(90.), defined=True)
    """
    if not 0 <= low < high <= 1:
        raise ValueError(f"need 0 <= low < high <= 1, got low={low}, high={high} (0.05 for 5 %)")
    values = _voiced(contour, unit)
    if len(values) < max(min_voiced, 1):
        return _measured(values.sum(), False)
    return _measured(values.quantile(high) - values.quantile(low), True)


def f0_correlation(
    a: Tensor, b: Tensor, path: Tensor | None = None, unit: Unit = "semitones", min_voiced: int = 10
) -> Measured:
    """Pearson correlation of two contours over the frame pairs in which both are voiced.

    Args:
        a: F0 in Hz, 0 where unvoiced (N,).
        b: F0 in Hz, 0 where unvoiced (M,).
        path: which frames belong together (L, 2), from `align` on features other than F0; None: frame by frame.
        unit: "semitones" (correlation of log F0) or "hz".
        min_voiced: frame pairs needed; contours without variation are undefined, too.

    Raises:
        ValueError: for contours of different lengths without a path, or a path that leaves them.

    Example:
        >>> up = torch.linspace(100.0, 200.0, 20)
        >>> f0_correlation(up, 2 * up), f0_correlation(up, up.flip(0), unit="hz")
        (Measured(value=tensor(1.), defined=True), Measured(value=tensor(-1.), defined=True))
    """
    x, y = (values - values.mean() for values in _paired(a, b, path, unit))
    norm = x.norm() * y.norm()
    # Under a ten-thousandth of a unit the contour is flat but for rounding, and so is its correlation with anything.
    varied = len(x) >= max(min_voiced, 2) and min(x.square().mean(), y.square().mean()).item() > 1e-8
    return _measured((x @ y / norm).clamp(-1, 1), varied)


def f0_rmse(
    a: Tensor, b: Tensor, path: Tensor | None = None, unit: Unit = "semitones", min_voiced: int = 10
) -> Measured:
    """Root mean square difference of two contours over the frame pairs in which both are voiced.

    Args:
        a: F0 in Hz, 0 where unvoiced (N,).
        b: F0 in Hz, 0 where unvoiced (M,).
        path: as in `f0_correlation`.
        unit: "semitones" or "hz".
        min_voiced: frame pairs needed.

    Raises:
        ValueError: for contours of different lengths without a path, or a path that leaves them.

    Example:
        >>> f0_rmse(torch.full((10,), 100.0), torch.full((10,), 200.0))
        Measured(value=tensor(12.), defined=True)
    """
    x, y = _paired(a, b, path, unit)
    return _measured((x - y).square().mean().sqrt(), len(x) >= max(min_voiced, 1))


def energy(waveform: Tensor, sample_rate: int, frame_rate: float = 100.0) -> Tensor:
    """Level of each frame in dB relative to full scale (mean square 1 = 0 dB), over 25 ms about its centre.

    Args:
        waveform: mono audio (T,).
        sample_rate: Hz.
        frame_rate: frames per second (Hz), on the grid of `f0`.

    Returns:
        dB (frames,), float32, -120 or more.

    Raises:
        ValueError: for audio that is not mono or not finite.

    Example:
        >>> energy(torch.full((800,), 0.1), 8000)[0].round()
        tensor(-20.)
    """
    wave = mono(waveform).double()
    frames = int(len(wave) * frame_rate / sample_rate + 1e-6)
    sums = torch.nn.functional.pad(wave.square().cumsum(0), (1, 0))
    centres = (torch.arange(frames, device=wave.device, dtype=torch.float64) + 0.5) * (sample_rate / frame_rate)
    half = _ENERGY_WINDOW * sample_rate / 2
    first, last = ((centres + side).round().long().clamp(0, len(wave)) for side in (-half, half))
    power = (sums[last] - sums[first]) / (last - first).clamp(min=1)
    return (10 * torch.log10(power.clamp(min=10 ** (_SILENCE_DB / 10)))).float()


def energy_std(level: Tensor, active_db: float = 40.0, min_active: int = 10) -> Measured:
    """Standard deviation in dB of the level over the active frames: those within `active_db` of the loudest.

    Args:
        level: dB (frames,), from `energy`.
        active_db: depth of the active range (dB); pauses deeper than that do not count as liveliness.
        min_active: active frames needed.

    Raises:
        ValueError: for a level that is not one-dimensional or not finite.

    Example:
        >>> energy_std(torch.tensor([-10.0, -20.0] * 5 + [-90.0] * 5))
        Measured(value=tensor(5.), defined=True)
    """
    if level.ndim != 1 or not torch.isfinite(level).all():
        raise ValueError(f"expected finite levels (frames,) in dB, got shape {tuple(level.shape)}")
    loudest = level.max().item() if len(level) else _SILENCE_DB
    active = level[(level >= loudest - active_db) & (level > _SILENCE_DB)].float()
    return _measured(_deviation(active), len(active) >= max(min_active, 1))


def _measured(value: Tensor, defined: bool) -> Measured:
    return Measured(value.float() if defined else value.new_zeros((), dtype=torch.float32), bool(defined))


def _deviation(values: Tensor) -> Tensor:
    return (values - values.mean()).square().mean().sqrt()


def _check(contour: Tensor) -> None:
    if contour.ndim != 1 or not torch.isfinite(contour).all() or (contour < 0).any():
        raise ValueError(
            f"expected an F0 contour (frames,) in Hz with 0 where unvoiced, got shape {tuple(contour.shape)}, "
            "or values that are negative or not finite: pass one utterance, and no semitones"
        )


def _scale(contour: Tensor, unit: Unit) -> Tensor:
    if unit == "semitones":
        return semitones(contour, reference=100.0)  # any constant: it cancels in differences
    if unit == "hz":
        return contour.float()
    raise ValueError(f'unit={unit!r} is not known: "semitones" or "hz"')


def _voiced(contour: Tensor, unit: Unit) -> Tensor:
    _check(contour)
    return _scale(contour, unit)[contour > 0]


def _paired(a: Tensor, b: Tensor, path: Tensor | None, unit: Unit) -> tuple[Tensor, Tensor]:
    """Values of both contours at the frame pairs in which both are voiced (P,), (P,)."""
    _check(a)
    _check(b)
    if path is None:
        if len(a) != len(b):
            raise ValueError(f"contours of {len(a)} and {len(b)} frames need path=align(features_a, features_b)")
    elif path.ndim != 2 or path.shape[1] != 2 or (path < 0).any() or (path >= path.new_tensor([len(a), len(b)])).any():
        raise ValueError(f"path of shape {tuple(path.shape)} does not index contours of {len(a)} and {len(b)} frames")
    else:
        a, b = a[path[:, 0]], b[path[:, 1]]
    both = (a > 0) & (b > 0)
    return _scale(a, unit)[both], _scale(b, unit)[both]
