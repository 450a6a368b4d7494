"""The work, part by part: a system at a style says every text once. A part is a file that is whole or not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from torch import Tensor

from seaalign.audio import save
from seaalign.evaluation.hearing import Heard, Measure, People, contours, errors, prosody, transcripts, without_person
from seaalign.evaluation.recorded import PEOPLE
from seaalign.evaluation.rows import Row, Style, read_rows, write_rows
from seaalign.evaluation.systems import Said, System
from seaalign.evaluation.texts import Case, cases_digest, slug
from seaalign.judges.fingerprint import described
from seaalign.judges.transcribers import Transcriber
from seaalign.sampling.progress import track
from seaalign.storage import Shards


class Listeners:
    """Everybody who listens to an answer.

    Args:
        ear: the recogniser, or None.
        by_words: count word errors, too.
        measures: functions from answers to numbers by name.
    """

    def __init__(self, ear: Transcriber | None, by_words: bool, measures: Sequence[Measure]) -> None:
        self.ear, self.by_words, self.measures = ear, by_words, (prosody, *measures)
        self._works = False  # has the recogniser ever answered?
        self.about = {
            "transcriber": None if ear is None else {"name": ear.name, "fingerprint": ear.fingerprint},
            "by_words": by_words,
            "measures": [described(measure) for measure in self.measures],
        }

    def hear(self, heard: Sequence[Heard]) -> list[tuple[str, str, dict[str, float]]]:
        """Transcript, problem and scores of each answer.

        Raises:
            ValueError: the recogniser failed on all of them.
        """
        said = [None] * len(heard) if self.ear is None else transcripts(self.ear, heard)
        failed = [each for each in said if isinstance(each, Exception)]
        loud = [each.case.id for each in heard if not each.silent]
        self._works = self._works or len(failed) < len(loud)
        if failed and len(failed) == len(loud) and (len(loud) > 1 or not self._works):
            raise ValueError(
                f"the recogniser {self.ear} failed on all of {len(failed)} answers, first {loud[0]!r}: "
                f"{type(failed[0]).__name__}: {failed[0]}. Mend it, and run the same command again"
            ) from failed[0]
        found = []
        for each, text in zip(heard, said, strict=True):
            known = None if text is None or isinstance(text, Exception) else text
            problem = (
                f"the recogniser failed: {text}" if isinstance(text, Exception) else "silent" if each.silent else ""
            )
            found.append((known or "", problem, errors(each.case, known, self.by_words)))
        for measure in self.measures:
            for (_, _, scores), more in zip(found, measure(heard), strict=True):
                scores.update(more)
        return found


class Parts:
    """Answers on disk, made where they are missing.

    Args:
        folder: of the evaluation.
        cases: the texts.
        listeners: who listens.
        repeats: how often a policy says each text.
        batch: texts at a time.
        progress: show bars on a terminal.
    """

    def __init__(
        self, folder: Path, cases: Sequence[Case], listeners: Listeners, repeats: int, batch: int, progress: bool
    ) -> None:
        self.folder, self.cases, self.listeners = folder, cases, listeners
        self.repeats, self.batch, self.progress = repeats, batch, progress
        self.people, self.texts = People(), cases_digest(cases)

    def of(self, system: System) -> dict[tuple[str, Style], list[Row]]:
        """All rows of a system, by its name and style.

        Raises:
            ValueError: its folder was made with other settings; the message says which.
        """
        rows = {}
        with system.ready(self.cases):
            about = {
                "texts": self.texts,
                **self.listeners.about,
                **system.about(),
                "shards": system.repeats(self.repeats),
            }
            for style in system.styles(self.cases):
                shards = Shards(self.folder / "parts" / slug(system.name) / style, about, "repeat")
                shards.claim("Give another folder to write to, or delete this one to have it made anew")
                for repeat in shards.missing():
                    write_rows(shards.path(repeat), self._made(system, style, repeat), shards.stamp(repeat))
                rows[system.name, style] = list(shards.rows(read_rows))
        return rows

    def _made(self, system: System, style: Style, repeat: int) -> list[Row]:
        said = system.speak(self.cases, style, repeat, self.batch, self.progress)
        answers = list(islice(said, self.batch))  # a policy samples all before the first: one bar after the other
        rows: list[Row] = []
        what = f"{system.name}, style {style}, repeat {repeat + 1}: listening"
        for start in track(range(0, len(self.cases), self.batch), what, self.progress):
            rows += self._measured(self.cases[start : start + self.batch], answers, system, style, repeat)
            answers = list(islice(said, self.batch))
        return rows

    def _measured(
        self, cases: Sequence[Case], said: Sequence[Said], system: System, style: Style, repeat: int
    ) -> list[Row]:
        present = [row for row, each in enumerate(said) if len(each.waveform) or each.tokens is not None]
        waves, rates = [said[row].waveform for row in present], [said[row].sample_rate for row in present]
        asked = [cases[row] for row in present]
        tokens = [_first_book(said[row].tokens) for row in present]
        heard = [
            Heard(*each)
            for each in zip(asked, waves, rates, contours(waves, rates), tokens, self.people.say(asked), strict=True)
        ]
        found = dict(
            zip(present, self.listeners.hear(without_person(heard) if system.name == PEOPLE else heard), strict=True)
        )
        by_row = dict(zip(present, heard, strict=True))
        rows = []
        for row, (case, answer) in enumerate(zip(cases, said, strict=True)):
            made = Row(system.name, style, case.id, case.text, repeat, ended=answer.ended, problem=answer.problem)
            if row in found:
                transcript, problem, scores = found[row]
                made = replace(
                    made, transcript=transcript, problem=answer.problem or problem, scores=scores, f0=by_row[row].f0,
                    tokens=by_row[row].tokens, audio=self._save(by_row[row], system.name, style, repeat),
                )  # fmt: skip
            rows.append(made)
        return rows

    def _save(self, heard: Heard, system: str, style: str, repeat: int) -> str:
        """The sound as a file; its path from the evaluation's folder."""
        if not len(heard.waveform):
            return ""
        path = Path("audio", slug(system), style, f"{slug(heard.case.id)}-{repeat}.wav")
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        save(self.folder / path, heard.waveform.clamp(-1, 1), heard.sample_rate)
        return path.as_posix()


def _first_book(tokens: Tensor | None) -> Tensor | None:
    return tokens[:, 0] if tokens is not None and tokens.dim() == 2 else tokens
