"""Fundamental frequency (F0): autocorrelation candidates and the best path through them.

Candidates come from an autocorrelation that is symmetric about the centre of the frame, so that a gliding pitch is
not measured early or late. The path decides voicing and octave together, because a single frame cannot: under a strong
first formant half the period, and in a steady vowel twice the period, correlate almost as well as the period itself.
The analysis runs on a band-passed copy at one internal rate, so that results at 8 and at 24 kHz agree.

Method: normalised cross-correlation (Talkin 1995, RAPT) with the path costs of Boersma (1993), batched over stretches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
import torch
from torch import Tensor

from seaalign.functional.pitch_path import Lattice, best_paths, tidy

_RATE = 8000  # Hz, internal: fine enough to find the period between two lags
_FALL = (2200.0, 3000.0)  # Hz: noise above is worth less than the harmonics there
_MARGIN = 0.1  # s: longer than half a window plus the ringing of the band pass
_BLOCK = 2000  # frames analysed at once: bounds the memory on long recordings
_CANDIDATES = 6  # pitch candidates a frame

# In units of correlation. Octave: how much better a candidate one octave lower must correlate. Jump: price of a leap by
# one octave within 10 ms. Turn: price of starting or ending a voiced stretch. Quiet: how much more correlation a frame
# needs for each dB it lies more than 20 dB under the loudest one, where hum and reverberation correlate well, too.
_OCTAVE, _JUMP, _TURN, _QUIET = 0.02, 0.6, 0.16, 0.02
_QUIET_DB, _GATE_DB = -20.0, -42.0  # under the gate nothing is voiced


@overload
def f0(
    waveform: Tensor,
    sample_rate: int,
    frame_rate: float = ...,
    fmin: float = ...,
    fmax: float = ...,
    voicing: float = ...,
) -> Tensor: ...
@overload
def f0(
    waveform: Sequence[Tensor],
    sample_rate: int,
    frame_rate: float = ...,
    fmin: float = ...,
    fmax: float = ...,
    voicing: float = ...,
) -> list[Tensor]: ...
def f0(
    waveform: Tensor | Sequence[Tensor],
    sample_rate: int,
    frame_rate: float = 100.0,
    fmin: float = 60.0,
    fmax: float = 400.0,
    voicing: float = 0.55,
) -> Tensor | list[Tensor]:
    """F0 contour of speech, with voicing and octaves decided by a path search.

    Frame t covers the time from t to t + 1 in units of 1 / frame_rate and is measured at its centre.

    Args:
        waveform: mono audio (T,), floating or integer, any scale; or a sequence of such, each with its own length.
        sample_rate: Hz, at least 4 x fmax.
        frame_rate: frames per second of the contour (Hz), 50 to 1000.
        fmin: lowest F0 looked for (Hz), 20 or more; the window spans two periods of it.
        fmax: highest F0 looked for (Hz), 1000 or less.
        voicing: correlation from which a frame counts as voiced; higher voices less.

    Returns:
        Contour in Hz, 0 where unvoiced (frames,), frames = floor(T x frame_rate / sample_rate), float32;
        a list of contours for a sequence of waveforms.

    Raises:
        ValueError: for audio that is not mono or not finite, and for settings out of range.

    Example:
        >>> t = torch.arange(8000) / 8000
        >>> contour = f0(torch.sin(2 * torch.pi * 150 * t), 8000)
        >>> contour.shape, round(contour.median().item())
        (torch.Size([100]), 150)
    """
    if not (20 <= fmin < fmax <= 1000):
        raise ValueError(f"need 20 <= fmin < fmax <= 1000 Hz, got fmin={fmin}, fmax={fmax}")
    if sample_rate < 4 * fmax:
        raise ValueError(
            f"sample_rate={sample_rate} Hz is under 4 x fmax={fmax} Hz: lower fmax or use the original audio"
        )
    if not 50 <= frame_rate <= 1000:
        raise ValueError(f"frame_rate={frame_rate} Hz is outside 50 to 1000; resample the contour instead")
    single = isinstance(waveform, Tensor)
    waves = [mono(w) for w in ([waveform] if isinstance(waveform, Tensor) else waveform)]
    lattices = [_analyse(wave, int(sample_rate), frame_rate, fmin, fmax, voicing) for wave in waves]
    paths = best_paths(lattices, _JUMP * frame_rate / 100, _TURN)
    contours = [torch.from_numpy(tidy(p, frame_rate)).to(w.device) for p, w in zip(paths, waves, strict=True)]
    return contours[0] if single else contours


def mono(waveform: Tensor) -> Tensor:
    """The waveform as float32 (T,), integers scaled to [-1, 1]; refuses what is no mono audio.

    Raises:
        ValueError: for more than one channel, complex or non-finite samples.

    Example:
        >>> mono(torch.tensor([0, 16384, -32768], dtype=torch.int16))
        tensor([ 0.0000,  0.5000, -1.0000])
    """
    wave = torch.as_tensor(waveform).detach()
    if wave.ndim != 1:
        raise ValueError(
            f"expected mono audio (T,), got shape {tuple(wave.shape)}: mix channels down with waveform.mean(0), "
            "or pass a batch as a list of 1-D tensors"
        )
    if wave.is_complex() or wave.dtype in (torch.bool, torch.uint8):
        raise ValueError(f"expected floating or signed integer samples, got {wave.dtype}")
    if not wave.is_floating_point():
        return wave.float() / -float(torch.iinfo(wave.dtype).min)
    bad = (~torch.isfinite(wave)).sum().item()
    if bad:
        raise ValueError(f"{bad} of {len(wave)} samples are NaN or infinite: decode the audio again or drop the file")
    return wave.float()


@torch.no_grad()
def _analyse(wave: Tensor, rate: int, frame_rate: float, fmin: float, fmax: float, voicing: float) -> Lattice:
    frames = int(len(wave) * frame_rate / rate + 1e-6)
    peak = wave.abs().max().item() if frames else 0.0
    if peak == 0:
        empty = np.zeros((frames, 1), np.float32)
        return Lattice(empty + 1, empty - np.inf, np.full(frames, voicing, np.float32))
    wave = (wave - wave.mean()) / peak
    half = round(_RATE / fmin)
    lags = torch.arange(math.floor(_RATE / fmax) - 2, math.ceil(_RATE / fmin) + 3, device=wave.device)
    parts = []
    for windows in _windows(wave, rate, frames, frame_rate, half, (fmin / 1.5, fmin, *_FALL)):
        near = windows[:, half - _RATE // 100 : half + _RATE // 100]
        parts.append((*_candidates(correlation(windows, lags), lags, fmin), near.square().mean(1)))
    pitch, score, energy = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
    level = 10 * np.log10(energy / max(energy.max(), 1e-30) + 1e-12)
    score[level < _GATE_DB] = -np.inf
    return Lattice(pitch, score, voicing + _QUIET * np.maximum(0, _QUIET_DB - level))


def _windows(
    wave: Tensor, rate: int, frames: int, frame_rate: float, half: int, band: tuple[float, float, float, float]
) -> Iterator[Tensor]:
    """Band-passed windows (block, 2 x half) at the internal rate, centred on the frames."""
    unit = rate // math.gcd(rate, _RATE)  # so many samples are a whole number of internal samples
    margin = math.ceil(_MARGIN * rate / unit) * unit
    for first in range(0, frames, _BLOCK):
        last = min(first + _BLOCK, frames)
        start = int(first * rate / frame_rate) // unit * unit
        low, high = start - margin, min(int(last * rate / frame_rate) + margin, len(wave) + margin)
        size = _smooth(-(-(high - low) // unit)) * unit
        block = wave.new_zeros(size)
        source = wave[max(low, 0) : min(high, len(wave))]
        block[max(low, 0) - low : max(low, 0) - low + len(source)] = source
        centres = (torch.arange(first, last, device=wave.device, dtype=torch.float64) + 0.5) * (_RATE / frame_rate)
        offset = round(low * _RATE / rate)
        yield _bandpass(block, rate, band).unfold(0, 2 * half, 1)[centres.round().long() - offset - half]


def _smooth(n: int) -> int:
    """The next number without prime factors over 5: fast Fourier lengths."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1


def _bandpass(block: Tensor, rate: int, band: tuple[float, float, float, float]) -> Tensor:
    """Zero-phase band pass with raised-cosine edges and resampling to the internal rate, in one pass."""
    spectrum, size = torch.fft.rfft(block), len(block) * _RATE // rate
    hertz = torch.arange(len(spectrum), device=block.device) * (rate / len(block))
    rise = ((hertz - band[0]) / (band[1] - band[0])).clamp(0, 1)
    fall = ((band[3] - hertz) / (band[3] - band[2])).clamp(0, 1)
    gain = (1 - torch.cos(math.pi * rise)) * (1 - torch.cos(math.pi * fall)) / 4
    return torch.fft.irfft((spectrum * gain)[: size // 2 + 1], n=size) * (_RATE / rate)


def correlation(windows: Tensor, lags: Tensor) -> Tensor:
    """Normalised autocorrelation: sum_j x[j] x[j+k] over the geometric mean of the energies of its two factors.

    Args:
        windows: frames of audio (B, W).
        lags: consecutive positive lags k (L,), in samples, each less than W.

    Returns:
        Correlation in [-1, 1] (B, L); 0 for silence.

    Source:
        Talkin (1995), RAPT, eq. 2, with both factors inside the window so that it is symmetric about the centre.

    Example:
        >>> correlation(torch.tensor([[1.0, -1.0, 1.0, -1.0]]), torch.tensor([1, 2]))
        tensor([[-1.,  1.]])
    """
    width = windows.shape[1]
    size = _smooth(width + int(lags[-1]))
    spectrum = torch.fft.rfft(windows, n=size)
    power = spectrum.real.square() + spectrum.imag.square()
    products = torch.fft.irfft(power, n=size)[:, int(lags[0]) : int(lags[-1]) + 1]
    sums = windows.square().cumsum(1)
    first, second = sums[:, width - 1 - lags], sums[:, -1:] - sums[:, lags - 1]
    # The floor: a factor that is silent but for rounding must not be blown up to a perfect correlation.
    floor = (1e-4 * sums[:, -1:]).clamp(min=1e-20)
    return (products / (first.clamp(min=floor) * second.clamp(min=floor)).sqrt()).clamp(-1, 1)


def _candidates(correlation: Tensor, lags: Tensor, fmin: float) -> tuple[Tensor, Tensor]:
    """The best peaks of the correlation (B, L): pitch (Hz) and score, both (B, K)."""
    middle = correlation[:, 2:-2]
    peak = (middle > correlation[:, 1:-3]) & (middle >= correlation[:, 3:-1]) & (middle > 0)
    penalty = _OCTAVE * torch.log2(lags[2:-2] * (fmin / _RATE))
    score, index = torch.where(peak, middle - penalty, -math.inf).topk(min(_CANDIDATES, middle.shape[1]), dim=1)
    near = [correlation.gather(1, index + step) for step in range(5)]
    bend = (near[1] - 2 * near[2] + near[3]).clamp(max=-1e-9)
    x = ((near[1] - near[3]) / (2 * bend)).clamp(-0.5, 0.5)
    # The height needs more than the parabola: where one high harmonic dominates, this would be 0.04 low midway between
    # two lags, and the double period, if nearer to a lag, would win. Lagrange's polynomial through five lags.
    one, four = x * x - 1, x * x - 4
    inner = (-x * (x - 1) * four / 6, one * four / 4, -x * (x + 1) * four / 6)
    weights = (x * one * (x - 2) / 24, *inner, x * one * (x + 2) / 24)
    height = sum((w * r for w, r in zip(weights, near, strict=True)), torch.zeros_like(x))
    found = torch.isfinite(score)
    pitch = torch.where(found, _RATE / (lags[2 + index] + x), 1.0)
    return pitch, torch.where(found, score + height - near[2], -math.inf)
