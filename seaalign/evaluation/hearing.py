"""What is measured on an answer: what was understood, its melody beside a person's, its voice."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from seaalign.evaluation.texts import Case, hear
from seaalign.functional.alignment import align, cepstra
from seaalign.functional.errors import edit_distance
from seaalign.functional.pitch import f0
from seaalign.functional.prosody import Measured, energy, energy_std, f0_correlation, f0_range, f0_rmse, f0_std
from seaalign.functional.repetition import repetition_hits
from seaalign.judges.languages import graphemes, words
from seaalign.judges.transcribers import Transcriber
from seaalign.judges.transcribers.base import checked
from seaalign.records.recording import Audio

Encoder = Callable[[Sequence[Tensor], int], Tensor]
SILENT = 1e-3
"""Peak under which nothing is heard (-60 dB): a recogniser would make words up."""


@dataclass(frozen=True, eq=False)
class Heard:
    """An answer on its way to be measured.

    Args:
        case: what should be said.
        waveform: samples (S,).
        sample_rate: Hz.
        f0: contour in Hz at 100 frames a second, 0 where unvoiced (F,).
        tokens: speech tokens of the first codebook (T,), where there are some.
        person: a person who says this text, where there is a recording.
    """

    case: Case
    waveform: Tensor
    sample_rate: int
    f0: Tensor
    tokens: Tensor | None = None
    person: Heard | None = None

    @property
    def silent(self) -> bool:
        """Nothing to hear?"""
        return not len(self.waveform) or float(self.waveform.abs().max()) < SILENT


Measure = Callable[[Sequence[Heard]], Sequence[Mapping[str, float]]]
"""Numbers by name for each answer, NaN or left out where undefined; each name becomes a metric, its mean."""


def contours(waves: Sequence[Tensor], rates: Sequence[int]) -> list[Tensor]:
    """F0 contours in Hz of waveforms of various rates."""
    found: list[Tensor] = [torch.zeros(0)] * len(waves)
    for rate in set(rates):
        rows = [row for row, other in enumerate(rates) if other == rate and len(waves[row])]
        for row, contour in zip(rows, f0([waves[row] for row in rows], rate), strict=True):
            found[row] = contour.cpu()
    return found


class People:
    """The recordings of people that the texts come with, each read once."""

    def __init__(self) -> None:
        self._known: dict[str, Heard | None] = {}

    def say(self, cases: Sequence[Case]) -> list[Heard | None]:
        """Those of some texts; None where there is none, or one that cannot be read, as the rows of people say."""
        new, sounds = [], []
        for case in cases:
            if case.audio is not None and case.id not in self._known:
                try:
                    sounds.append(hear(case.audio, f"the recording of {case.id!r}"))
                    new.append(case)
                except ValueError:
                    self._known[case.id] = None
        for case, (wave, rate), contour in zip(new, sounds, contours(*_split(sounds)), strict=True):
            self._known[case.id] = Heard(case, wave, rate, contour)
        return [self._known.get(case.id) for case in cases]


def _split(sounds: Sequence[tuple[Tensor, int]]) -> tuple[list[Tensor], list[int]]:
    return [wave for wave, _ in sounds], [rate for _, rate in sounds]


def transcripts(ear: Transcriber, heard: Sequence[Heard]) -> list[str | Exception]:
    """What was understood of each, or why the recogniser could not say; silence is "" without asking it.

    A batch that fails is asked once more, one by one, so that a single bad sound does not take the others along.
    """
    answers: list[str | Exception] = [""] * len(heard)
    groups: dict[tuple[str | None, int], list[int]] = {}
    for row, each in enumerate(heard):
        if not each.silent:
            groups.setdefault((each.case.language, each.sample_rate), []).append(row)
    for (language, rate), rows in groups.items():
        for row, answer in zip(rows, _asked(ear, [heard[row].waveform for row in rows], rate, language), strict=True):
            answers[row] = answer
    return answers


def _asked(ear: Transcriber, waves: list[Tensor], rate: int, language: str | None) -> list[str | Exception]:
    try:
        return [*checked(ear.transcribe(waves, rate, language), len(waves), ear.name)]
    except ImportError:
        raise
    except Exception as error:  # whatever a recogniser may raise
        if len(waves) == 1:
            return [error]
        return [answer for wave in waves for answer in _asked(ear, [wave], rate, language)]


def errors(case: Case, transcript: str | None, by_words: bool) -> dict[str, float]:
    """Errors and units, by graphemes and by words; "" is all wrong, None (not heard) is NaN."""
    found: dict[str, float] = {}
    for name, total, split in (("character_errors", "characters", graphemes), ("word_errors", "words", words)):
        if split is graphemes or by_words:
            wanted = list(split(case.text, case.language))
            heard = None if transcript is None else list(split(transcript, case.language))
            found |= {
                name: math.nan if heard is None else float(edit_distance(heard, wanted)),
                total: float(len(wanted)),
            }
    return found


def prosody(heard: Sequence[Heard]) -> list[dict[str, float]]:
    """Liveliness of each answer, and closeness of its melody to a person's: aligned by what is said, not by melody."""
    rows = []
    for each in heard:
        level = energy(each.waveform, each.sample_rate)
        found = {
            "duration": len(each.waveform) / each.sample_rate,
            "f0_std": _number(f0_std(each.f0)),
            "f0_std_hz": _number(f0_std(each.f0, "hz")),
            "f0_range": _number(f0_range(each.f0)),
            "energy_std": _number(energy_std(level)),
        }
        if each.person is not None and not each.silent and len(each.f0) and len(each.person.f0):
            ours, theirs = (
                cepstra(each.waveform, each.sample_rate),
                cepstra(each.person.waveform, each.person.sample_rate),
            )
            path = align(ours, theirs)
            found["f0_correlation"] = _number(f0_correlation(each.f0, each.person.f0, path))
            found["f0_rmse"] = _number(f0_rmse(each.f0, each.person.f0, path))
        rows.append(found)
    return rows


def _number(measured: Measured) -> float:
    return float(measured.value) if measured.defined else math.nan


class Repetition:
    """Percent of positions in runs of k + 1 equal tokens, as `functional.repetition_rate`."""

    def __init__(self, k: int = 4) -> None:
        self.k = k

    def __call__(self, heard: Sequence[Heard]) -> list[dict[str, float]]:
        """NaN where there are no tokens, or too few."""
        known = [each.tokens if each.tokens is not None else torch.zeros(0, dtype=torch.long) for each in heard]
        hits, positions = repetition_hits(known, k=self.k)
        return [
            {"repetition": 100 * h / p if p else math.nan}
            for h, p in zip(hits.tolist(), positions.tolist(), strict=True)
        ]


class Similarity:
    """Cosine of the voices of answer and reference, by a speaker encoder; undefined for silence.

    Args:
        encoder: from waveforms and their rate (Hz) to embeddings (B, D).
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self._known: dict[Any, Tensor] = {}

    def __call__(self, heard: Sequence[Heard]) -> list[dict[str, float]]:
        """Compared with `voice` of the text, else with the person who says it; never with itself."""
        return [self._one(each) for each in heard]

    def _one(self, each: Heard) -> dict[str, float]:
        target: Audio | None = each.case.voice or each.case.audio
        if target is None or each.silent or (each.person is None and each.case.voice is None):
            return {}
        key = id(target) if isinstance(target, tuple) else target
        if key not in self._known:
            self._known[key] = self._embed(*hear(target, f"the voice of {each.case.id!r}"))
        return {"similarity": float(self._embed(each.waveform, each.sample_rate) @ self._known[key])}

    def _embed(self, waveform: Tensor, rate: int) -> Tensor:
        found = self.encoder([waveform], rate).detach().flatten().float().cpu()
        return torch.nn.functional.normalize(found, dim=0)


def without_person(heard: Sequence[Heard]) -> list[Heard]:
    """The same, for people themselves: nobody is compared with his own recording."""
    return [replace(each, person=None) for each in heard]
