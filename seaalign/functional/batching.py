"""Which items share a batch under a ceiling: neighbours of one length where rows are padded, a best fit where not."""

from __future__ import annotations

import warnings
from bisect import bisect_left, insort
from collections.abc import Sequence

from torch import Tensor

from seaalign.records import Prompt


def frames_of(prompt: Prompt, rows: Sequence[Tensor], packed: bool) -> int:
    """What an item takes of a batch.

    Args:
        prompt: what the rows answer.
        rows: tokens (T_b,) or (T_b, K) of each.
        packed: are they scored without padding? Then the prompt counts, once, and each row by its own length; the few
            positions of a layout's marks are left out. Else the longest row counts as often as there are rows.

    Example:
        >>> import torch
        >>> rows = [torch.zeros(5), torch.zeros(9), torch.zeros(2)]
        >>> frames_of(Prompt([1, 2, 3]), rows, packed=True), frames_of(Prompt([1, 2, 3]), rows, packed=False)
        (19, 27)
    """
    sizes = [len(row) for row in rows]
    if not packed:
        return len(sizes) * max(sizes)
    style = [] if prompt.style is None else [prompt.style.tokens, prompt.style.text]
    return sum(sizes) + sum(len(ids) for ids in (prompt.text, *style) if ids is not None)


def batches(sizes: Sequence[int], most: int, packed: bool) -> list[list[int]]:
    """Indices of the items in batches. An item of more than `most` has one of its own.

    Args:
        sizes: of the items; see `frames_of`.
        most: ceiling of a batch.
        packed: a batch takes the sum of its items: each goes, largest first, where it leaves least room (best fit
            decreasing; at most 11/9 of the fewest batches possible, and one more). Else it takes items x largest: each
            goes beside the next smaller one.

    Source: Johnson 1974, "Fast algorithms for bin packing" (best fit decreasing).

    Example:
        >>> batches([4, 9, 6, 3, 2], 10, packed=True), batches([4, 9, 6, 3, 2], 10, packed=False)
        ([[1], [2, 0], [3, 4]], [[4, 3], [0], [2], [1]])
    """
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    return _fitted(order, sizes, most) if packed else _neighbours(order, sizes, most)


def warn_of_long(sizes: Sequence[int], most: int, stacklevel: int = 3) -> None:
    """Say how many items are larger than a batch may be, and how large."""
    over = [size for size in sizes if size > most]
    if over:
        warnings.warn(
            f"{len(over)} of {len(sizes)} items are longer than max_frames={most} (longest: {max(over)}); each gets a "
            "batch of its own. Raise max_frames, or drop them.",
            stacklevel=stacklevel,
        )


def _fitted(order: list[int], sizes: Sequence[int], most: int) -> list[list[int]]:
    made: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # ascending: what is left in a batch, and which one it is
    for item in reversed(order):
        at = bisect_left(rooms, (sizes[item], 0))
        room, batch = rooms.pop(at) if at < len(rooms) else (most, len(made))
        if batch == len(made):
            made.append([])
        made[batch].append(item)
        if room - sizes[item] >= sizes[order[0]]:  # else it is full, and need not be looked at again
            insort(rooms, (room - sizes[item], batch))
    return made


def _neighbours(order: list[int], sizes: Sequence[int], most: int) -> list[list[int]]:
    made: list[list[int]] = []
    for item in order:  # ascending, so the newest item is the largest
        if not made or (len(made[-1]) + 1) * sizes[item] > most:
            made.append([])
        made[-1].append(item)
    return made
