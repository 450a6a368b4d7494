"""In which order a rater hears what: balanced over raters, and never the same text twice in a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import NamedTuple


class Slot(NamedTuple):
    """A place in a rater's order: which text, and which condition (a system, or a pair of systems), by number.

    `role` is "test"; "high" or "low" for screening clips that should be rated so; "again" for a clip heard before.
    """

    text: int
    condition: int
    role: str = "test"


def williams(n: int) -> list[list[int]]:
    """A Latin square in which every condition also follows every other one equally often.

    Args:
        n: how many conditions.

    Returns:
        n orders of 0..n-1, or 2n where n is odd (for which no single square is balanced). Every condition stands
        equally often at every place, and every ordered pair of different ones is next to each other equally often.

    Source: Williams 1949, "Experimental designs balanced for the estimation of residual effects of treatments".

    Example:
        >>> williams(4)
        [[0, 3, 1, 2], [1, 0, 2, 3], [2, 1, 3, 0], [3, 2, 0, 1]]
    """
    if n < 1:
        raise ValueError(f"an order needs at least one condition, got {n}")
    zigzag = [(-(i + 1) // 2 if i % 2 else i // 2) % n for i in range(n)]  # 0, -1, 1, -2, 2, ...
    square = [[(start + step) % n for step in zigzag] for start in range(n)]
    return square if n % 2 == 0 else square + [row[::-1] for row in square]


def texts_of(rater: int, texts: int, each: int) -> list[int]:
    """Which texts a rater hears, where there are more than one person can: all are heard equally often, within one.

    Example:
        >>> [texts_of(rater, texts=5, each=2) for rater in range(5)]
        [[0, 1], [2, 3], [4, 0], [1, 2], [3, 4]]
    """
    return [(rater * each + i) % texts for i in range(each)]


def turn_of(rater: int, text: int, texts: int, each: int) -> int:
    """How many raters hear this text before this one does; where all hear all texts, the number of the rater.

    Example:
        >>> [[turn_of(rater, text, texts=5, each=2) for text in texts_of(rater, 5, 2)] for rater in range(5)]
        [[0, 0], [0, 0], [0, 1], [1, 1], [1, 1]]
    """
    return (rater * each + (text - rater * each) % texts) // texts


def rounds(turns: Mapping[int, int], conditions: int, random: Random) -> list[Slot]:
    """Every text in every condition once: as many rounds as conditions, each with every text once, in a new order.

    In which order a text meets its conditions is a row of a Williams square, the next row for the next text and for the
    next rater of it. So conditions are spread evenly over the session, and over raters each is heard early and late.

    Args:
        turns: `turn_of` each text, by its number; at least two texts, so that none need come twice in a row.
        conditions: how many.
        random: shuffles the texts of each round.

    Raises:
        ValueError: fewer than two texts.
    """
    if len(turns) < 2:
        raise ValueError(f"a test needs at least 2 texts, so that none comes twice in a row; got {len(turns)}")
    square, slots = williams(conditions), list[Slot]()
    for turn in range(conditions):
        order = random.sample(list(turns), len(turns))
        if slots and order[0] == slots[-1].text:
            order.append(order.pop(0))
        slots += [Slot(text, square[(text + turns[text]) % len(square)][turn]) for text in order]
    return slots


def mixed_in(slots: Sequence[Slot], extra: Sequence[Slot], random: Random) -> list[Slot]:
    """Hide clips among the others: one in each equal stretch of the session, never beside its own text if that can be.

    A clip that is heard again comes after the first time, as late as half a session where there is room.
    """
    made = list(slots)
    extra = random.sample(list(extra), len(extra))
    for i, one in enumerate(extra):
        start, end = (round(len(made) * part / len(extra)) for part in (i, i + 1))
        if one.role == "again":
            first = next(k for k, slot in enumerate(made) if slot[:2] == one[:2] and slot.role == "test")
            start, end = max(first + 2, min(len(made) - 1, first + len(made) // 2)), len(made)
        places = random.sample(range(max(start, 1), max(end, start, 1) + 1), max(end, start, 1) + 1 - max(start, 1))
        free = [k for k in places if one.text not in {slot.text for slot in made[max(k - 1, 0) : k + 1]}]
        made.insert((free or places)[0], one)
    return made
