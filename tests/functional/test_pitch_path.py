"""The path search against all paths there are, and the clean-up after it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seaalign.functional import pitch_path
from seaalign.functional.pitch_path import Lattice, best_paths, runs, tidy


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), jump=st.floats(0, 2), turn=st.floats(0, 0.5))
def test_the_path_is_the_best_of_all_paths(seed, jump, turn):
    g = np.random.default_rng(seed)
    lattices = []
    for frames in (5, 1, 4):
        score = g.uniform(0, 1, (frames, 2)).astype(np.float32)
        score[g.random((frames, 2)) < 0.3] = -np.inf
        pitch = g.uniform(60, 400, (frames, 2)).astype(np.float32)
        lattices.append(Lattice(pitch, score, g.uniform(0.2, 0.8, frames).astype(np.float32)))

    def worth(lattice: Lattice, path: tuple[int, ...]) -> float:
        total, before = 0.0, None
        for t, state in enumerate((*path, 2)):
            hertz = lattice.pitch[t, state] if state < 2 else None
            if t < len(path):
                total += lattice.score[t, state] if state < 2 else lattice.unvoiced[t]
            if hertz is not None and before is not None:
                total -= jump * abs(math.log2(hertz / before))
            elif (hertz is None) != (before is None):
                total -= turn
            before = hertz
        return total

    for lattice, contour in zip(lattices, best_paths(lattices, jump, turn), strict=True):
        frames = len(contour)
        best = max(worth(lattice, path) for path in itertools.product(range(3), repeat=frames))
        chosen = tuple(2 if v == 0 else int(np.abs(lattice.pitch[t] - v).argmin()) for t, v in enumerate(contour))
        assert worth(lattice, chosen) == pytest.approx(best, abs=1e-5)


def test_tidy_drops_blips_and_octave_islands_only():
    steady = [100.0] * 30
    contour = np.array([0, *steady, 0, 110, 110, 110, 0, *[204.0] * 11, 0, *[204.0] * 12, 0], np.float32)
    kept = runs(tidy(contour, 100) > 0)
    assert kept == [(1, 31), (48, 60)]  # long enough to be meant


def test_grouping_does_not_show(monkeypatch):
    g = np.random.default_rng(0)
    lattices = []
    for frames in (30, 7, 80, 1, 12):
        score = g.uniform(0, 1, (frames, 3)).astype(np.float32)
        score[g.random(frames) < 0.1] = -np.inf  # silence: the stretches come apart here
        pitch = g.uniform(60, 400, (frames, 3)).astype(np.float32)
        lattices.append(Lattice(pitch, score, np.full(frames, 0.5, np.float32)))
    together = best_paths(lattices, 0.6, 0.1)
    monkeypatch.setattr(pitch_path, "_CELLS", 1)
    alone = best_paths(lattices, 0.6, 0.1)
    assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))
    assert all((c[~np.isfinite(lat.score).any(axis=1)] == 0).all() for c, lat in zip(together, lattices, strict=True))
