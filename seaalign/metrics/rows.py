"""What `update` of a metric takes besides tensors."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Number
from typing import Any

import torch
from torch import Tensor

Rows = Tensor | Sequence[Any]
"""A tensor, or what `torch.as_tensor` makes one of; or a list of these."""


def as_rows(given: Any, name: str) -> Any:
    """A tensor for a tensor, an array or a list of numbers; a list of tensors for a list of such.

    Raises:
        TypeError: something else, by its name and type.
    """
    if not isinstance(given, Sequence) or isinstance(given, str):  # tensors and arrays are no sequences
        return as_row(given, name)
    if given and all(isinstance(value, Number) for value in given):
        return as_row(given, name)
    return [as_row(row, f"{name}[{place}]") for place, row in enumerate(given)]


def as_row(given: Any, name: str) -> Tensor:
    """One tensor; no number at all gives int64, which fits tokens and contours alike."""
    if isinstance(given, Tensor):
        return given
    try:
        made = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} must be a tensor, an array or a list of numbers, got {type(given).__name__} ({error})"
        ) from error
    return made if made.numel() else made.long()
