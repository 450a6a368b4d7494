"""Who hears what, when and on which side: decided before any sound is read, from a seed."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random

from seaalign.evaluation.recorded import PEOPLE
from seaalign.listening.clips import Clip, crossed
from seaalign.listening.order import Slot, mixed_in, rounds, texts_of, turn_of

TESTS = ("nmos", "smos", "ab")
Sound = tuple[str, int]
"""("clip", "spoiled" or "reference", number of the clip)."""


@dataclass(frozen=True)
class Trial:
    """One thing to judge.

    Args:
        id: random; all that the page knows of it.
        test: its section.
        role: of `Slot`.
        clips: numbers of the clips: one, or in "ab" the left and the right one.
        sounds: what is played: the clips, and in "smos" then the speaker to compare with.
    """

    id: str
    test: str
    role: str
    clips: list[int]
    sounds: list[Sound]


@dataclass(frozen=True)
class Design:
    """What is the same for every rater.

    Args:
        clips: text by text, in each text system by system; then recordings of people, for screening.
        texts: ids.
        systems: names.
        people: numbers of the clips for screening.
        pairs: numbers of the systems that "ab" compares.
        each: texts that a rater hears.
        screening: recordings, and as many spoiled ones, in each section.
        again: clips of each section that come twice.
        seed: of all that is drawn.
    """

    clips: list[Clip]
    texts: list[str]
    systems: list[str]
    people: list[int]
    pairs: list[tuple[int, int]]
    each: int
    screening: int
    again: int
    seed: int

    def section(self, test: str, rater: int) -> list[Trial]:
        """The trials of one rater (from 0) in one section, in order."""
        random = Random(f"{self.seed} {test} {rater}")
        turns = {text: self._turn(rater, text) for text in texts_of(rater, len(self.texts), self.each)}
        slots = rounds(turns, len(self.pairs) if test == "ab" else len(self.systems), random)
        extra = [slot._replace(role="again") for slot in random.sample(slots, min(self.again, len(slots)))]
        for i in range(2 * self.screening if self.people else 0):
            clip = self.people[(2 * self.screening * rater + i) % len(self.people)]
            key = self.clips[clip].text_id
            text = self.texts.index(key) if key in self.texts else -1 - clip
            extra.append(Slot(text, clip, "low" if i % 2 else "high"))
        return [self._trial(test, slot, rater, random) for slot in mixed_in(slots, extra, random)]

    def _turn(self, rater: int, text: int) -> int:
        return turn_of(rater, text, len(self.texts), self.each)

    def _trial(self, test: str, slot: Slot, rater: int, random: Random) -> Trial:
        kinds = {"high": ["clip", "spoiled"], "low": ["spoiled", "clip"]}.get(slot.role, ["clip", "clip"])
        start = slot.text * len(self.systems)
        if slot.role in ("high", "low"):
            heard = [slot.condition, slot.condition]
        elif test == "ab":
            pair = self.pairs[slot.condition]
            turn = self._turn(rater, slot.text)  # sides alternate over texts, and over the raters of each text
            swapped = (slot.text + slot.condition + turn + (slot.role == "again")) % 2
            heard = [start + system for system in (pair[::-1] if swapped else pair)]
        else:
            heard = [start + slot.condition]
        heard = heard if test == "ab" else heard[:1]
        sounds = list(zip(kinds, heard, strict=False))
        sounds += [("reference", heard[0])] if test == "smos" else []
        return Trial(f"{random.getrandbits(48):012x}", test, slot.role, heard, sounds)


def design(
    clips: Sequence[Clip],
    tests: Sequence[str],
    seed: int,
    *,
    texts: int | None = None,
    systems: Sequence[str] | None = None,
    compare: Sequence[tuple[str, str]] | None = None,
    people: Iterable[Clip] | None = None,
    screening: int = 2,
    again: int = 0,
) -> Design:
    """Check what is asked for, and lay it out. Arguments and errors as in `build_listening_test`."""
    if not tests or set(tests) - set(TESTS) or len(set(tests)) < len(tests):
        raise ValueError(f"tests are {', '.join(TESTS)}, each once at most; got {list(tests)}")
    names, shared, chosen = crossed(clips, systems)
    each = len(shared) if texts is None else min(texts, len(shared))
    wanted = list(combinations(names, 2)) if compare is None else list(compare)
    strange = any(a == b or a not in names or b not in names for a, b in wanted)
    if "ab" in tests and (strange or not wanted):
        raise ValueError(f"pairs to compare {wanted} must name two different systems of {names}")
    found = [clip for clip in clips if clip.system == PEOPLE] if people is None else list(people)
    found = Random(f"{seed} people").sample(found, len(found)) if screening else []
    missing = [clip.text_id for clip in [*chosen, *found] if clip.reference is None]
    if "smos" in tests and missing:
        raise ValueError(
            f"smos compares with a recording of the speaker, and {len(missing)} clips have none (text {missing[0]!r}): "
            'give "reference" in the manifests, or --references'
        )
    if not found and screening:
        warnings.warn(
            "no screening clips: there are no recordings of people (a system named 'recordings', or people=), so "
            "raters who do not listen cannot be told from the others",
            stacklevel=3,
        )
    pairs = [(names.index(a), names.index(b)) for a, b in wanted] if "ab" in tests else []
    numbers = list(range(len(chosen), len(chosen) + len(found)))
    return Design([*chosen, *found], shared, names, numbers, pairs, each, screening, again, seed)
