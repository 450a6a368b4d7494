"""What a model reads in one go: how far it sees, which row is too long, and what its owner calls that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


class TooLong(ValueError):
    """A row takes more positions than the model reads.

    Attributes:
        row: its number in the call.
    """

    def __init__(self, message: str, row: int = 0) -> None:
        super().__init__(message)
        self.row = row


def require_room(sizes: Sequence[int], context: int | None, model: str, what: str) -> None:
    """Refuse rows that do not fit.

    Args:
        sizes: positions of each row.
        context: how many the model reads; None = any.
        model: its name.
        what: "... take", of which it is said.

    Raises:
        TooLong: names the longest.
    """
    longest = max(sizes, default=0)
    if context is not None and longest > context:
        raise TooLong(
            f"{what} {longest} positions, {model} can read {context}: shorten the style recording or the text, or "
            "leave the row out",
            list(sizes).index(longest),
        )


def by_row(make: Callable[[_Item], _Made], items: Sequence[_Item]) -> list[_Made]:
    """What is made of each item; one that is too long knows its number."""
    made = []
    for row, item in enumerate(items):
        try:
            made.append(make(item))
        except TooLong as error:
            raise TooLong(str(error), row) from error
    return made


def text_settings(config: Any) -> Any:
    """Of a Hugging Face model that speaks: where it sees too, its own lie inside (`Gemma3ForConditionalGeneration`)."""
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def windowed(config: Any) -> bool:
    """Do some layers see a sliding window, or otherwise less than all that is before?"""
    settings = text_settings(config)
    kinds = getattr(settings, "layer_types", None) or ()
    if kinds:
        return any("full" not in kind for kind in kinds)
    return bool(getattr(settings, "sliding_window", None)) and getattr(settings, "use_sliding_window", True)


@contextmanager
def naming(ids: Sequence[str]) -> Iterator[None]:
    """Inside, a row that is too long is called by its id.

    Args:
        ids: of the items, whose rows come in blocks of len(ids); none: nothing is known of them.

    Example:
        >>> with naming(["u1", "u2"]):
        ...     require_room([3, 9], 5, "Model", "the prompt takes")
        Traceback (most recent call last):
        ...
        seaalign.backbones.context.TooLong: 'u2': the prompt takes 9 positions, Model can read 5: shorten the style
        recording or the text, or leave the row out
    """
    try:
        yield
    except TooLong as error:
        if not ids:
            raise
        raise TooLong(f"{ids[error.row % len(ids)]!r}: {error}", error.row) from error
