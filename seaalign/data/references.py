"""Which recording of a speaker stands before an utterance as its style and timbre."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from seaalign.functional.sampling import content_key


@dataclass(frozen=True, eq=False)
class Spoken:
    """An utterance as tokens, and what the choice of a reference looks at.

    Args:
        id: its id.
        speaker: who speaks.
        text: text ids (L,).
        tokens: speech tokens (T,) or (T, K).
        usable: may it be a reference? Not where a timbre is wanted that it cannot give.
    """

    id: str
    speaker: str
    text: Tensor
    tokens: Tensor
    usable: bool = True

    def suits(self, other: Spoken) -> bool:
        """May it stand before the other? Neither itself nor the same text, which would give the answer away."""
        return self.id != other.id and not torch.equal(self.text, other.text)


def choose(
    spoken: Mapping[int, Spoken], frames: tuple[int, int] = (75, 250), per_speaker: int | None = None, seed: int = 0
) -> dict[int, int | None]:
    """A reference for each utterance: another one of its speaker, with another text.

    It is drawn by seed and id among those whose length lies in `frames`; where none of them suits, the one of the
    nearest length is taken.

    Args:
        spoken: utterances by number.
        frames: lengths that make good references.
        per_speaker: draw among so many of each speaker, of different texts; None: all. 2 or more.
        seed: of the draw.

    Returns:
        By number the number of the reference, or None where the speaker says nothing else.

    Example:
        >>> a, b = (Spoken(name, "ann", torch.tensor([i]), torch.zeros(90)) for i, name in enumerate("ab"))
        >>> choose({0: a, 1: b})
        {0: 1, 1: 0}
    """
    keys = {number: content_key([torch.tensor(list(item.id.encode()))], seed) for number, item in spoken.items()}
    voices: dict[str, list[int]] = {}
    for number in sorted(spoken, key=lambda number: keys[number]):
        if spoken[number].usable:
            voices.setdefault(spoken[number].speaker, []).append(number)
    pools = {speaker: _pools(numbers, spoken, frames, per_speaker) for speaker, numbers in voices.items()}
    chosen: dict[int, int | None] = {}
    for number, item in spoken.items():
        drawn, nearest = pools.get(item.speaker, ([], []))
        order = chain(_turned(drawn, keys[number]), nearest)
        chosen[number] = next((other for other in order if spoken[other].suits(item)), None)
    return chosen


def _pools(
    numbers: Sequence[int], spoken: Mapping[int, Spoken], frames: tuple[int, int], per_speaker: int | None
) -> tuple[list[int], list[int]]:
    """Of one speaker, those to draw from, and all, the nearest in length first."""
    low, high = frames
    off = {number: max(low - len(spoken[number].tokens), len(spoken[number].tokens) - high, 0) for number in numbers}
    nearest = sorted(numbers, key=lambda number: off[number])
    drawn = [number for number in numbers if not off[number]]
    if per_speaker is not None:
        texts = dict[tuple[int, ...], int]()
        for number in nearest:
            texts.setdefault(tuple(spoken[number].text.tolist()), number)
        drawn = list(texts.values())[:per_speaker]
    return drawn, nearest


def _turned(numbers: Sequence[int], key: int) -> Iterator[int]:
    """All of them, in a circle from a place that the key says."""
    start = key % max(len(numbers), 1)
    yield from (numbers[(start + step) % len(numbers)] for step in range(len(numbers)))
