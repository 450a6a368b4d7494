"""The map between two Gaussians: by hand, by what must hold, and against every other map that does the same."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seaalign.functional import monge_map

seeds = st.integers(0, 10_000)


def spread(seed: int, size: int = 3) -> torch.Tensor:
    x = torch.randn(size, 2 * size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x @ x.mT / (2 * size) + 0.05 * torch.eye(size, dtype=torch.float64)


def test_a_tilted_ellipse_becomes_a_circle_by_hand():
    # [[2, 1], [1, 2]] has variance 3 along (1, 1) and 1 along (1, -1): shrink the first by sqrt(3), leave the second
    a = (1 / math.sqrt(3) + 1) / 2
    b = (1 / math.sqrt(3) - 1) / 2
    found = monge_map(torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.eye(2))
    torch.testing.assert_close(found, torch.tensor([[a, b], [b, a]]))


@given(seeds, seeds)
def test_the_spread_that_comes_out_is_the_one_asked_for_and_back_is_the_inverse(one, two):
    source, target = spread(one), spread(two)
    there, back = monge_map(source, target), monge_map(target, source)
    torch.testing.assert_close(there @ source @ there.mT, target)
    torch.testing.assert_close(there @ back, torch.eye(3, dtype=torch.float64), atol=1e-6, rtol=0)


@given(seeds, seeds, seeds)
def test_no_other_map_to_the_same_spread_moves_less(one, two, three):
    source, target = spread(one), spread(two)
    turn = torch.linalg.qr(spread(three) - torch.eye(3, dtype=torch.float64))[0]
    other = torch.linalg.cholesky(target) @ turn @ torch.linalg.inv(torch.linalg.cholesky(source))
    torch.testing.assert_close(other @ source @ other.mT, target)

    def moved(a: torch.Tensor) -> float:  # E |A x - x|^2
        away = a - torch.eye(3, dtype=torch.float64)
        return float((away @ source @ away.mT).trace())

    assert moved(monge_map(source, target)) <= moved(other) + 1e-9


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (torch.eye(2), torch.eye(3), r"\(2, 2\) and \(3, 3\)"),
        (torch.ones(2), torch.ones(2), r"must be two \(D, D\)"),
        (torch.diag(torch.tensor([1.0, 0.0])), torch.eye(2), "source has a spread of 0"),
        (torch.eye(2), torch.diag(torch.tensor([1.0, -2.0])), "target has a spread of -2"),
    ],
)
def test_what_is_no_spread_is_refused(source, target, message):
    with pytest.raises(ValueError, match=message):
        monge_map(source, target)
