"""Bad rows: refused, counted and listed, or an error at once; shared by every reader."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch

OnBad = Literal["refuse", "raise"]
_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Refused:
    """A row that was left out.

    Args:
        where: "row 3" of a Parquet file (from 0) or "line 4" of a manifest (from 1).
        id: the row's id, or None where it has none.
        reason: what is wrong, with the value, and what to do.
    """

    where: str
    id: str | None
    reason: str


def sift(
    rows: Iterable[tuple[str, Any, Callable[[], _Row]]], source: str, on_bad: OnBad, refused: list[Refused] | None
) -> list[_Row]:
    """Build the good rows and account for the bad ones.

    Args:
        rows: where, id and a function that builds the row, or raises TypeError or ValueError.
        source: the file, for messages.
        on_bad: "refuse" leaves bad rows out and warns with a count and the reasons; "raise" stops at the first one.
        refused: filled with what was left out.

    Raises:
        ValueError: a bad row under "raise"; or under "refuse" when no good row is left.
    """
    if on_bad not in ("refuse", "raise"):
        raise ValueError(f"on_bad must be 'refuse' or 'raise', got {on_bad!r}")
    good: list[_Row] = []
    bad: list[Refused] = []
    seen: dict[str, str] = {}
    for where, key, build in rows:
        try:
            _unique(where, key, seen)
            good.append(build())
        except (TypeError, ValueError) as error:
            if on_bad == "raise":
                raise ValueError(f"{source}, {where}: {error}") from error
            bad.append(Refused(where, key if isinstance(key, str) else None, str(error)))
        else:
            seen[key] = where
    if refused is not None:
        refused.extend(bad)
    if bad:
        report = _summary(bad, len(good), source)
        if not good:
            raise ValueError(report)
        warnings.warn(report, stacklevel=3)
    return good


def _unique(where: str, key: Any, seen: dict[str, str]) -> None:
    if not isinstance(key, str) or not key:
        raise ValueError(f"the id is missing (got {key!r}): give every row a unique text as id")
    if key in seen:
        raise ValueError(f"id {key!r} is a duplicate of {seen[key]}: keep one of them, or rename")


def _summary(bad: list[Refused], good: int, source: str) -> str:
    kinds = Counter(item.reason.split(":")[0] for item in bad)
    shown = "\n".join(f"  {item.where} (id {item.id!r}): {item.reason}" for item in bad[:5])
    more = f"\n  and {len(bad) - 5} more; pass refused=[] to get them all" if len(bad) > 5 else ""
    return f"{source}: {len(bad)} of {len(bad) + good} rows refused ({len(kinds)} kinds of fault):\n{shown}{more}"


def check_codes(name: str, tokens: torch.Tensor, vocab_size: int | None) -> None:
    """Refuse token ids outside the codebook.

    Raises:
        ValueError: with the worst id and its place.
    """
    if not tokens.numel():
        return
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or (vocab_size is not None and high >= vocab_size):
        value = low if low < 0 else high
        limit = "0 or more" if vocab_size is None else f"0..{vocab_size - 1}"
        frame = int((tokens == value).nonzero()[0, 0])
        raise ValueError(
            f"{name} hold id {value} at frame {frame}, outside the codebook: ids must be {limit}; check the tokenizer"
        )
