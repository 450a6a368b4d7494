"""What is asked of a synthetic utterance before a model learns from it, and what its answers are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seaalign.data.sound import sound_of
from seaalign.judges import Duration, Intelligibility, Judge, Repetition, VerdictCache
from seaalign.judges.cache import verdict_key
from seaalign.judges.languages import graphemes, words
from seaalign.records import Candidate, Prompt, Recording, Sentence, Verdict
from seaalign.storage.parquet import tokens_of

_AT_ONCE = 64
"""Utterances whose sound is in memory at a time."""


@dataclass
class Row:
    """An utterance on its way.

    Args:
        id: as the file has it.
        source: "real", or the system that synthesised it.
        candidate: what is judged; None where it could not be read.
        stage: where it was refused; "" = nowhere.
        reason: why, with the value.
        scores: "duration" (times the expected length), "repetition" (share), and of those that were heard "error", ...
        heard: what the recogniser wrote down.
        errors: wrong units.
        units: of how many; 0 where nobody listened.
    """

    id: str | None
    source: str
    candidate: Candidate | None = None
    stage: str = ""
    reason: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    heard: str | None = None
    errors: float = 0.0
    units: int = 0

    def refuse(self, stage: str, reason: str) -> None:
        """Not kept."""
        self.stage, self.reason = stage, reason

    def to_json(self) -> dict[str, Any]:
        """A line of refused.jsonl, without where it stood."""
        scores = {name: round(value, 4) for name, value in self.scores.items()}
        told = {"id": self.id, "source": self.source, "stage": self.stage, "reason": self.reason, "scores": scores}
        return told if self.heard is None else told | {"heard": self.heard}


class Asking:
    """The questions in order.

    Args:
        length: is it as long as its text takes?
        loops: is it stuck?
        ask: is it understood? None = nobody listens.
        max_error: the error that is too much.
        recordings: by id, where somebody listens.
        missing: by id, why there is no recording.
    """

    def __init__(
        self,
        length: Duration,
        loops: Repetition,
        ask: Intelligibility | None,
        max_error: float,
        recordings: Mapping[str, Recording],
        missing: Mapping[str, str],
    ) -> None:
        self.length, self.loops, self.max_error = length, loops, max_error
        self.recordings, self.missing = recordings, missing
        self.ear = None if ask is None else Judge(ask)
        self.unit = "word" if ask is None else ask.unit

    def candidate(
        self, key: str | None, text: np.ndarray | None, tokens: np.ndarray | None, books: int | None, new: bool
    ) -> Candidate:
        """A row of a file, if it can be read.

        Raises:
            ValueError: it cannot.
        """
        if not key:
            raise ValueError(f"the id is missing (got {key!r}): give every row a unique text as id")
        if not new:
            raise ValueError(f"id {key!r} is a duplicate: the first of this id is kept")
        prompt = Prompt(torch.tensor([] if text is None else text, dtype=torch.long))
        spoken = tokens_of("tokens", tokens, books, None)
        if self.ear is None:
            return Candidate(Sentence(key, key, prompt), spoken)  # nobody looks at what is written
        if key not in self.recordings:
            raise ValueError(self.missing.get(key, f"no recording has the id {key!r}, so there is nothing to hear"))
        said = self.recordings[key]
        return Candidate(Sentence(key, said.text, prompt, said.language), spoken)

    def judge(self, rows: Sequence[Row], verdicts: Path, done: Callable[[int], None]) -> None:
        """Refuse what does not pass; `verdicts` is where those on what is heard are kept."""
        good = [row for row in rows if row.candidate is not None]
        said = [row.candidate for row in good if row.candidate is not None]
        for row, length, loops in zip(good, self.length(said), self.loops(said), strict=True):
            times, rate = length.scores["tokens_per_unit"] / self.length.per_unit, loops.scores["repetition"]
            row.scores |= {"duration": times, "repetition": rate}
            if not length.ok:
                allowed = f"{self.length.low:g} to {self.length.high:g}"
                row.refuse("duration", f"{times:.2f} times the expected length, allowed are {allowed}")
            elif not loops.ok:
                share = f"{100 * rate:.1f} % of its frames, allowed is less than {100 * self.loops.max_rate:g} %"
                row.refuse("loops", f"{self.loops.k + 1} equal tokens in a row begin at {share}")
        left = [row for row in good if not row.stage] if self.ear else []
        done(len(rows) - len(left))
        cache = VerdictCache(verdicts)
        for at in range(0, len(left), _AT_ONCE):
            self._listen(left[at : at + _AT_ONCE], cache)
            done(len(left[at : at + _AT_ONCE]))

    def _listen(self, rows: Sequence[Row], cache: VerdictCache) -> None:
        assert self.ear is not None  # nobody calls this otherwise
        judge, mark, sounds = self.ear.using(cache), self.ear.fingerprint, dict[str, Any]()
        for row in rows:
            try:
                row.units = self._units(row.candidate.sentence)  # type: ignore[union-attr]
                if verdict_key(row.candidate, mark) not in cache:  # type: ignore[arg-type]
                    sounds[str(row.id)] = sound_of(self.recordings[str(row.id)])
            except ValueError as error:
                row.refuse("readable", str(error))

        def heard(batch: Sequence[Candidate]) -> list[Candidate]:
            parts = [(one, *sounds[one.sentence.id]) for one in batch]
            return [replace(one, waveform=waveform, sample_rate=rate) for one, waveform, rate in parts]

        left = [row for row in rows if not row.stage]
        for row, verdict in zip(left, judge([row.candidate for row in left], heard), strict=True):  # type: ignore[misc]
            self._understood(row, verdict)

    def _units(self, sentence: Sentence) -> int:
        count = len((words if self.unit == "word" else graphemes)(sentence.text, sentence.language))
        if not count:
            raise ValueError(f"nothing is spoken in its text, {sentence.text!r}")
        return count

    def _understood(self, row: Row, verdict: Verdict) -> None:
        row.scores |= verdict.scores
        row.heard = verdict.transcript
        row.errors = verdict.scores["wer" if self.unit == "word" else "cer"] * row.units
        if not verdict.scores["error"] < self.max_error:
            wrong = f"{100 * verdict.scores['error']:.0f} % of {row.units} {self.unit}s are wrong"
            row.refuse("error", f"{wrong}, allowed are less than {100 * self.max_error:g} %")
