"""Finite scalar quantization: by hand, against a slow twin, and over all ids."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seaalign.functional import fsq, fsq_values


def slow(z: list[float], levels: tuple[int, ...]) -> tuple[list[float], int]:
    """The nearest allowed value of each channel by search, and its rank among all, last channel slowest."""
    grids = [[-1 + 2 * i / (n - 1) for i in range(n)] for n in levels]
    digits = [min(range(len(g)), key=lambda i: abs(g[i] - math.tanh(x))) for g, x in zip(grids, z, strict=True)]
    everything = [c[::-1] for c in itertools.product(*(range(n) for n in levels[::-1]))]
    return [g[d] for g, d in zip(grids, digits, strict=True)], everything.index(tuple(digits))


def test_golden():
    # tanh(0.5) = 0.4621: of -1, -0.5, 0, 0.5, 1 the nearest is 0.5, digit 3; tanh(-0.2) = -0.197: of -1, 0, 1 it is 0
    values, ids = fsq(torch.tensor([0.5, -0.2]), (5, 3))
    assert values.tolist() == [0.5, 0.0]
    assert ids.item() == 3 + 5 * 1


@given(st.lists(st.integers(2, 6), min_size=1, max_size=3), st.integers(0, 10_000))
def test_matches_the_slow_twin(levels, seed):
    z = 2 * torch.randn(4, len(levels), generator=torch.Generator().manual_seed(seed))
    values, ids = fsq(z, levels)
    for row, value, one in zip(z.tolist(), values.tolist(), ids.tolist(), strict=True):
        expected, rank = slow(row, tuple(levels))
        assert value == pytest.approx(expected, abs=1e-6)
        assert one == rank


@given(st.lists(st.integers(2, 7), min_size=1, max_size=4))
def test_every_id_has_its_own_values_and_comes_back(levels):
    ids = torch.arange(math.prod(levels)).view(1, -1)
    values = fsq_values(ids, levels)
    assert len({tuple(row) for row in values[0].tolist()}) == math.prod(levels)
    inside = torch.atanh(values.clamp(-0.999, 0.999))
    again, back = fsq(inside, levels)
    assert torch.equal(back, ids)
    torch.testing.assert_close(again, values)


def test_gradient_is_that_of_tanh():
    z = torch.randn(3, 2, requires_grad=True)
    fsq(z, (5, 4))[0].sum().backward()
    torch.testing.assert_close(z.grad, 1 - torch.tanh(z.detach()).square())


def test_type_of_numbers_is_kept():
    values, ids = fsq(torch.randn(3, 2, dtype=torch.bfloat16), (3, 3))
    assert values.dtype == torch.bfloat16 and ids.dtype == torch.int64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fsq(torch.zeros(2, 3), (5, 5)), "needs 2 channels"),
        (lambda: fsq(torch.tensor([float("nan")]), (5,)), "NaN"),
        (lambda: fsq(torch.zeros(1), (1,)), "2 or more"),
        (lambda: fsq(torch.zeros(0), ()), "2 or more"),
        (lambda: fsq_values(torch.tensor([25]), (5, 5)), r"0\.\.24"),
        (lambda: fsq_values(torch.tensor([-1]), (5, 5)), r"0\.\.24"),
        (lambda: fsq_values(torch.tensor([1.0]), (5, 5)), "integers"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
