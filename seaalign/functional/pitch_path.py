"""The best path through pitch candidates: which frames are voiced, and at which octave.

The search is exact. Where every candidate is ruled out (silence), any path is unvoiced, so an utterance falls apart
there into stretches that do not depend on each other; stretches of all utterances are searched side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_CELLS = 20_000  # frames (stretches x longest stretch) searched at once: about 4 MB of transition costs
_MIN_RUN = 0.04  # s: shorter voiced stretches are dropped
_ISLAND, _ISLAND_OCTAVES = 0.12, 0.75  # shorter stretches (s) this far from the median are taken for octave errors

Floats = NDArray[np.float32]


class Lattice(NamedTuple):
    """What the path search chooses from.

    Attributes:
        pitch: candidates (frames, K), Hz; any positive number where there is none.
        score: how good each candidate is (frames, K); -inf where there is none.
        unvoiced: what a candidate has to beat (frames,).
    """

    pitch: Floats
    score: Floats
    unvoiced: Floats


def best_paths(lattices: Sequence[Lattice], jump: float, turn: float) -> list[Floats]:
    """F0 contours (frames,) that maximise score - jump x octaves leapt - turn x voicing changes; 0 = unvoiced.

    Before the first and after the last frame counts as unvoiced.

    Source:
        Boersma (1993), "Accurate short-term analysis of the fundamental frequency", sec. 3 (Viterbi path).

    Example:
        >>> pitch, score = np.array([[100.0], [101.0], [99.0]]), np.array([[0.9], [0.4], [0.9]])
        >>> best_paths([Lattice(pitch, score, np.full(3, 0.5))], jump=0.6, turn=0.1)
        [array([100., 101.,  99.], dtype=float32)]
    """
    contours = [np.zeros(len(lattice.pitch), np.float32) for lattice in lattices]
    pieces = [(n, a, b) for n, lat in enumerate(lattices) for a, b in runs(np.isfinite(lat.score).max(axis=1))]
    pieces.sort(key=lambda piece: piece[2] - piece[1])
    for group in _groups(pieces):
        batch = [Lattice(*(part[a:b] for part in lattices[n])) for n, a, b in group]
        for (n, a, b), contour in zip(group, _search(batch, jump, turn), strict=True):
            contours[n][a:b] = contour[: b - a]
    return contours


def _groups(pieces: list[tuple[int, int, int]]) -> Iterator[list[tuple[int, int, int]]]:
    group: list[tuple[int, int, int]] = []
    for piece in pieces:
        if group and (len(group) + 1) * (piece[2] - piece[1] + 1) > _CELLS:
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def _search(batch: list[Lattice], jump: float, turn: float) -> Floats:
    """Viterbi over stretches padded to a common length, (S, longest); state 0 is unvoiced."""
    count, longest, kinds = len(batch), max(len(lat.pitch) for lat in batch) + 1, batch[0].pitch.shape[1]
    local = np.full((count, longest, kinds + 1), -np.inf, np.float32)
    local[:, :, 0] = 0  # beyond its end a stretch is unvoiced, at no cost
    pitch = np.ones((count, longest, kinds + 1), np.float32)
    for row, lattice in enumerate(batch):
        frames = len(lattice.pitch)
        local[row, :frames, 0], local[row, :frames, 1:] = lattice.unvoiced, lattice.score
        pitch[row, :frames, 1:] = lattice.pitch
    octave = np.log2(pitch)
    leap = jump * np.abs(octave[:, 1:, :, None] - octave[:, :-1, None, :])
    leap[:, :, 0, :] = leap[:, :, :, 0] = turn
    leap[:, :, 0, 0] = 0
    total = local[:, 0] - np.where(np.arange(kinds + 1) > 0, np.float32(turn), np.float32(0))
    back = np.zeros((count, longest, kinds + 1), np.int8)
    for t in range(1, longest):
        reach = total[:, None, :] - leap[:, t - 1]
        back[:, t] = reach.argmax(2)
        total = reach.max(2) + local[:, t]
    state = np.zeros(count, np.intp)  # the padding after the last frame is unvoiced
    rows, contour = np.arange(count), np.zeros((count, longest), np.float32)
    for t in range(longest - 1, 0, -1):
        state = back[rows, t, state].astype(np.intp)
        contour[:, t - 1] = np.where(state > 0, pitch[rows, t - 1, state], 0)
    return contour


def runs(mask: NDArray[Any]) -> list[tuple[int, int]]:
    """Stretches of True as (start, end), end excluded.

    Example:
        >>> runs(np.array([True, False, True, True]))
        [(0, 1), (2, 4)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def tidy(contour: Floats, frame_rate: float) -> Floats:
    """A contour (frames,) without blips: short voiced stretches, and short ones about an octave off the median.

    Both are removed, not repaired: a statistic should rest on the frames that were measured.

    Example:
        >>> tidy(np.array([100.0] * 20 + [0.0] + [205.0] * 5 + [0.0] + [100.0]), 100).nonzero()[0].max()
        np.int64(19)
    """
    contour = contour.copy()
    for start, end in runs(contour > 0):
        if end - start < _MIN_RUN * frame_rate - 1e-6:
            contour[start:end] = 0
    if not (contour > 0).any():
        return contour
    centre = np.median(contour[contour > 0])
    for start, end in runs(contour > 0):
        far = abs(np.log2(np.median(contour[start:end]) / centre)) > _ISLAND_OCTAVES
        if far and end - start < _ISLAND * frame_rate - 1e-6:
            contour[start:end] = 0
    return contour
