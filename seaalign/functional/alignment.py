"""Which frames of two renderings of the same text belong together: dynamic time warping (DTW) and features for it.

Contours compared frame by frame must be aligned first, and not on themselves: a path chosen to make two F0 contours
agree makes them agree, and inflates their correlation. `cepstra` carries the sounds; a little pitch remains in any
spectrum, and inside a steady vowel it would lead the path, so needless warping has a price (`stiffness`).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seaalign.functional.pitch import mono

_WINDOW = 0.025  # s
_BANDS, _LOWEST, _HIGHEST = 24, 80.0, 4000.0  # mel bands, Hz: the same sounds at 8 and at 24 kHz give the same features
_FLOOR_DB = 60.0  # under the loudest band: what lies lower is noise, and would dominate the distance


def align(a: Tensor, b: Tensor, stiffness: float = 0.5) -> Tensor:
    """Dynamic time warping: the monotone path through both sequences with the least summed Euclidean distance.

    What the lengths and the sounds leave open stays open: of two very different tempos, F0 correlation is optimistic.

    Args:
        a: features of the first (N, D) or (N,).
        b: features of the second (M, D) or (M,).
        stiffness: what each step other than (1, 1) costs, as a share of the mean distance of all frame pairs; 0 for the
            textbook's path, which leaves the diagonal for any gain.

    Returns:
        Index pairs (L, 2), int64, from (0, 0) to (N-1, M-1); every frame of either side occurs. The steps are (1, 1),
        (1, 0) and (0, 1); at equal cost (1, 1) is taken.

    Raises:
        ValueError: for an empty sequence, features of different size, values that are not finite, or stiffness < 0.

    Source:
        Sakoe & Chiba (1978), "Dynamic programming algorithm optimization for spoken word recognition", without slope
        constraint; evaluated along anti-diagonals. Memory grows with N x M: 0.2 GB for two half minutes at 100 Hz.

    Example:
        >>> align(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.0, 1.0, 1.0, 2.0])).tolist()
        [[0, 0], [1, 1], [1, 2], [2, 3]]
    """
    first, second = ((x[:, None] if x.ndim == 1 else x).detach().double().cpu() for x in (a, b))
    if first.ndim != 2 or second.ndim != 2 or not a.numel() or not b.numel() or first.shape[1] != second.shape[1]:
        raise ValueError(
            f"cannot align features of shape {tuple(a.shape)} with {tuple(b.shape)}: need (N, D) and (M, D)"
        )
    if not (torch.isfinite(first).all() and torch.isfinite(second).all()):
        raise ValueError("features to align contain NaN or infinite values")
    if not 0 <= stiffness < math.inf:
        raise ValueError(f"stiffness={stiffness} must be 0 or more")
    cost = torch.cdist(first, second).numpy()
    return torch.from_numpy(_trace(_steps(cost, stiffness * cost.mean()), len(second))).to(a.device)


def _steps(cost: NDArray[np.float64], warp: float) -> NDArray[np.int8]:
    """Best step into each cell, by anti-diagonal i + j and row i: 0 from both, 1 from row i-1, 2 from column j-1."""
    rows, columns = cost.shape
    padded = np.full((rows, rows + columns), np.inf)
    padded[:, :columns] = cost
    # Read with a row length shorter by one, row i slides right by i: columns of the result are anti-diagonals.
    diagonals = padded.reshape(-1)[: rows * (rows + columns - 1)].reshape(rows, -1).T.copy()
    steps = np.zeros((rows + columns - 1, rows), np.int8)
    before, last = np.full(rows + 1, np.inf), np.full(rows + 1, np.inf)  # shifted by one: entry i + 1 is row i
    before[0] = 0  # the way into (0, 0)
    for d, here in enumerate(diagonals):
        ways = np.stack([before[:-1], last[:-1] + warp, last[1:] + warp])
        steps[d] = ways.argmin(0)
        before, last = last, np.concatenate([[np.inf], here + ways.min(0)])
    return steps


def _trace(steps: NDArray[np.int8], columns: int) -> NDArray[np.int64]:
    i, j = steps.shape[1] - 1, columns - 1
    path = [(i, j)]
    while i or j:
        step = steps[i + j, i]
        i, j = i - (step != 2), j - (step != 1)
        path.append((i, j))
    return np.array(path[::-1], np.int64)


@torch.no_grad()
def cepstra(waveform: Tensor, sample_rate: int, frame_rate: float = 100.0, coefficients: int = 8) -> Tensor:
    """Mel cepstra for alignment: what was said, with neither level nor pitch nor the colour of the channel.

    Args:
        waveform: mono audio (T,).
        sample_rate: Hz; both sides of an alignment should have 8000 or more.
        frame_rate: frames per second (Hz), on the grid of `f0` and `energy`.
        coefficients: number of cepstral coefficients; few, because the higher ones resolve harmonics.

    Returns:
        Features (frames, coefficients), each with mean 0 over the utterance, in nepers.

    Raises:
        ValueError: for audio that is not mono or not finite.

    Example:
        >>> cepstra(torch.sin(torch.arange(8000) * 0.3), 8000).shape
        torch.Size([100, 8])
    """
    wave = mono(waveform)
    frames, size = int(len(wave) * frame_rate / sample_rate + 1e-6), 2 * round(_WINDOW * sample_rate / 2)
    if not frames:
        return wave.new_zeros(0, coefficients)
    starts = ((torch.arange(frames, device=wave.device, dtype=torch.float64) + 0.5) * (sample_rate / frame_rate)).long()
    windows = torch.nn.functional.pad(wave - wave.mean(), (size // 2, size // 2)).unfold(0, size, 1)[starts]
    power = torch.fft.rfft(windows * torch.hann_window(size, device=wave.device)).abs().square()
    bands = power @ _mel_bands(size, sample_rate).to(wave.device)
    logs = bands.clamp(min=max(bands.max().item(), 1e-20) * 10 ** (-_FLOOR_DB / 10)).log() / 2
    angle = (torch.arange(_BANDS, device=wave.device) + 0.5) * (math.pi / _BANDS)
    cosines = torch.cos(angle[:, None] * torch.arange(coefficients, device=wave.device)) * math.sqrt(2 / _BANDS)
    features = logs @ cosines
    return features - features.mean(0)


def _mel_bands(size: int, sample_rate: int) -> Tensor:
    """Triangles evenly spaced in mel (size // 2 + 1, bands)."""
    ends = [1127 * math.log1p(hertz / 700) for hertz in (_LOWEST, min(_HIGHEST, sample_rate / 2))]
    mel = 1127 * torch.log1p(torch.arange(size // 2 + 1) * (sample_rate / size / 700))
    position = (mel - ends[0]) * ((_BANDS + 1) / (ends[1] - ends[0]))
    return (1 - (position[:, None] - torch.arange(1, _BANDS + 1)).abs()).clamp(min=0)
