"""What a prompt holds for a style prefix, checked: a timbre vector and a prosody code."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from seaalign.records import Prompt

_PARTS = {"prefix", "inner"}


def part_of(timbre: Any, name: str) -> Any:
    """The part of a timbre that the prefix reads ("prefix"), or what the backbone is told ("inner").

    Example:
        >>> part_of({"prefix": 1, "inner": 2}, "inner"), part_of(1, "prefix"), part_of(1, "inner")
        (2, 1, None)
    """
    if isinstance(timbre, dict) and timbre.keys() <= _PARTS:
        return timbre.get(name)
    return timbre if name == "prefix" else None


def voice_of(row: int, prompt: Prompt, size: int) -> Tensor:
    """The timbre vector (size,) of a prompt.

    Raises:
        ValueError: it has none, or another thing.
    """
    timbre = part_of(prompt.timbre, "prefix")
    if not isinstance(timbre, Tensor) or not timbre.is_floating_point() or timbre.shape != (size,):
        got = f"{timbre.dtype} {tuple(timbre.shape)}" if isinstance(timbre, Tensor) else type(timbre).__name__
        raise ValueError(
            f"prompt {row}: the timbre is {got}, and the prefix reads a floating-point vector ({size},): take "
            "Disentangler.restyle, or Prompt(..., timbre=vector)"
        )
    return timbre


def code_of(row: int, prompt: Prompt, levels: tuple[int, ...]) -> Tensor:
    """The prosody code (M,) of a prompt whose style is on.

    Raises:
        ValueError: its style is none, as where speech tokens were left in it.
    """
    assert prompt.style is not None  # asked of styled prompts alone
    ids, most = prompt.style.tokens, math.prod(levels)
    if ids.dim() != 1 or not len(ids) or not 0 <= int(ids.min()) <= int(ids.max()) < most:
        span = f"ids {int(ids.min())}..{int(ids.max())}" if ids.numel() else "no ids"
        raise ValueError(
            f"prompt {row}: Style.tokens of shape {tuple(ids.shape)} hold {span}, and a prosody code of levels "
            f"{levels} is a row of ids 0..{most - 1}. Speech tokens are none: give each utterance its code by "
            "Disentangler.restyle"
        )
    return ids
