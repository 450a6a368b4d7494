"""Finite scalar quantization: a bottleneck of integers without a codebook to learn.

Each channel is squashed to an interval and rounded to one of a few levels; the levels of all channels together are one
id, written in a mixed radix with the first channel fastest. Nothing can collapse, and nothing has to be stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def fsq(z: Tensor, levels: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Quantize channels to a few levels each; the gradient passes as if nothing had been rounded.

    Args:
        z: unbounded channels (..., C), floating.
        levels: how many values each channel may take (C,), 2 or more each.

    Returns:
        Values in [-1, 1] (..., C), evenly spaced, with the gradient of tanh(z); and ids (...), int64, in
        0..prod(levels)-1. ``fsq_values(ids, levels)`` gives the values back.

    Raises:
        ValueError: levels do not fit the channels, or z holds NaN.

    Source:
        Mentzer, Minnen, Agustsson, Tschannen (2023), "Finite Scalar Quantization", sec. 3.1. For an even number of
        levels the values here lie symmetric about 0, where the paper shifts them by half a step.

    Example:
        >>> values, ids = fsq(torch.tensor([[0.1, -9.0], [9.0, 9.0]]), (3, 2))
        >>> values.tolist(), ids.tolist()
        ([[0.0, -1.0], [1.0, 1.0]], [1, 5])
    """
    levels = _checked(levels)
    if z.shape[-1:] != (len(levels),):
        raise ValueError(f"z of shape {tuple(z.shape)} needs {len(levels)} channels last, one for each of {levels}")
    if torch.isnan(z).any():
        raise ValueError("z holds NaN: nothing can be quantized; look at the input, or lower the learning rate")
    span = torch.tensor(levels, device=z.device) - 1
    bounded = torch.tanh(z.float())
    digits = torch.round((bounded.detach() + 1) / 2 * span)
    values = bounded + (digits / span * 2 - 1 - bounded).detach()
    return values.to(z.dtype), (digits.long() * _places(levels, z.device)).sum(-1)


def fsq_values(ids: Tensor, levels: Sequence[int]) -> Tensor:
    """The values that ids stand for.

    Args:
        ids: integers (...) in 0..prod(levels)-1.
        levels: as in `fsq`.

    Returns:
        Values in [-1, 1] (..., C), float32.

    Raises:
        ValueError: ids out of range, or no levels.

    Example:
        >>> fsq_values(torch.tensor([1, 5]), (3, 2)).tolist()
        [[0.0, -1.0], [1.0, 1.0]]
    """
    levels = _checked(levels)
    size = math.prod(levels)
    if ids.is_floating_point() or (ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < size):
        low, high = (float(ids.min()), float(ids.max())) if ids.numel() else (0.0, 0.0)
        raise ValueError(
            f"ids must be integers in 0..{size - 1} for levels {levels}, got {ids.dtype} {low:g}..{high:g}"
        )
    span = torch.tensor(levels, device=ids.device)
    digits = ids[..., None] // _places(levels, ids.device) % span
    return digits / (span - 1) * 2 - 1


def _checked(levels: Sequence[int]) -> tuple[int, ...]:
    if not levels or any(int(level) != level or level < 2 for level in levels):
        raise ValueError(f"levels must be whole numbers of 2 or more, one per channel as (5, 5, 5), got {levels!r}")
    return tuple(int(level) for level in levels)


def _places(levels: tuple[int, ...], device: torch.device) -> Tensor:
    """What a step in each channel adds to the id (C,)."""
    return torch.tensor([math.prod(levels[:i]) for i in range(len(levels))], device=device)
