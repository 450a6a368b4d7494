"""A progress bar for long work, where somebody can see it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

_Item = TypeVar("_Item")


def track(items: Sequence[_Item], what: str, progress: bool) -> Iterable[_Item]:
    """The items, with a bar on stderr where that is a terminal."""
    if not progress or not sys.stderr.isatty():
        return items
    from rich.console import Console
    from rich.progress import track

    return track(items, what, console=Console(stderr=True), transient=True)
