"""What is to be said: a text, where there is one a recording of a person saying it, and the voice to say it in."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from seaalign.data.sound import sound_of
from seaalign.data.speech import load_utterances
from seaalign.judges.languages import graphemes
from seaalign.records import Prompt, Recording
from seaalign.records.recording import Audio
from seaalign.records.speech import set_fields
from seaalign.storage import shards
from seaalign.storage.lines import AudioFolder, Row, json_lines, require_file, require_rows
from seaalign.storage.rows import OnBad, Refused, sift

_KEYS = {"id", "text", "ids", "audio", "voice", "voice_text", "language"}


@dataclass(frozen=True, eq=False)
class Case:
    """One text of an evaluation.

    Args:
        id: unique within it.
        text: as people write it; what is heard is compared with it.
        prompt: the same as text ids, with style and timbre; None: each backbone tokenises the text itself, and makes
            style and timbre of `voice`.
        audio: a person saying this text: the recogniser's own error is measured on it, and melodies are compared with
            its melody.
        voice: a recording of the voice to say it in; similarity is measured to it, or to `audio` where it is None.
        voice_text: what is said in `voice`.
        language: code of the language, for recognisers and word segmenters.

    Example:
        >>> Case("greeting", "hello there", Prompt([7, 4])).language is None
        True
    """

    id: str
    text: str
    prompt: Prompt | None = None
    audio: Audio | None = None
    voice: Audio | None = None
    voice_text: str | None = None
    language: str | None = None

    def __post_init__(self) -> None:
        for name in ("audio", "voice"):
            set_fields(self, **{name: Recording("case", "case", getattr(self, name)).audio})  # names of files as paths


def hear(audio: Audio, name: str) -> tuple[Tensor, int]:
    """Samples (S,) of a recording and their rate (Hz).

    Raises:
        ValueError: it cannot be read; the message names it.
    """
    return sound_of(Recording(name, name, audio))


def slug(name: str) -> str:
    """A name as a file can have it.

    >>> slug("sft, alpha 0.5"), slug("ສະບາຍດີ/1")
    ('sft-alpha-0.5', 'ສະບາຍດີ-1')
    """
    return re.sub(r"[\s/\\:*?\"<>|,;]+", "-", name).strip("-.") or "-"


class Texts:
    """Texts from a file. Subclass it and give `read` to bring those of a benchmark; `Fleurs` is one.

    A line of the JSONL file is `{"id": "s1", "text": "hello"}`, and where they exist "ids" (text ids of the model),
    "audio" (a person saying it), "voice" and "voice_text" (whom to sound like) and "language". Audio paths start at the
    file's folder.

    Args:
        path: the file, UTF-8.
        utterances: Parquet of utterances, whose prompts (text ids, style, timbre) are taken by id.
        language: of the texts that do not say theirs.
        root: the folder that audio files must lie in. Default: that of the file.
        limit: take so many.
    """

    def __init__(
        self,
        path: str | Path,
        utterances: str | Path | None = None,
        language: str | None = None,
        root: str | Path | None = None,
        limit: int | None = None,
    ) -> None:
        self.path, self.utterances, self.language, self.root, self.limit = path, utterances, language, root, limit

    def read(self) -> list[Case]:
        """The texts; bad lines are left out with a warning."""
        cases = read_cases(self.path, language=self.language, root=self.root)[: self.limit]
        if self.utterances is None:
            return cases
        prompts = {utterance.id: utterance.prompt for utterance in load_utterances(self.utterances)}
        lost = [case.id for case in cases if case.id not in prompts]
        if lost:
            raise ValueError(
                f"{len(lost)} of {len(cases)} texts have no utterance in {self.utterances}, first {lost[:3]}: give "
                "both the same ids"
            )
        return [replace(case, prompt=prompts[case.id]) for case in cases]


def read_cases(
    path: str | Path,
    *,
    language: str | None = None,
    root: str | Path | None = None,
    on_bad: OnBad = "refuse",
    refused: list[Refused] | None = None,
) -> list[Case]:
    """Read the file that `Texts` describes.

    Args:
        path: the file.
        language: of the lines that do not say theirs.
        root: the folder that audio files must lie in. Default: that of the file.
        on_bad: "refuse" leaves bad lines out and warns with the reasons, "raise" stops at the first.
        refused: a list to fill with what was left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no good line, or a bad one under "raise".
    """
    path = require_file(path, "file of texts")
    folder = AudioFolder(path.parent, root)

    def build(row: dict[str, Any] | ValueError) -> Case:
        if isinstance(row, ValueError):
            raise row
        if strange := sorted(row.keys() - _KEYS):
            raise ValueError(f"unknown keys: {strange}; a line has {', '.join(sorted(_KEYS))}")
        named = {name: folder.find(row[name]) for name in ("audio", "voice") if row.get(name) is not None}
        ids = row.get("ids")
        spoken = row.get("language", language)
        return Case(
            row["id"], row.get("text", ""), None if ids is None else Prompt(ids), **named,
            voice_text=row.get("voice_text"), language=spoken,
        )  # fmt: skip

    def rows() -> Iterator[Row[Case]]:
        for number, row in json_lines(path):
            yield f"line {number}", None if isinstance(row, ValueError) else row.get("id"), partial(build, row)

    return require_rows(sift(rows(), str(path), on_bad, refused), str(path))


def checked(cases: Sequence[Case]) -> list[Case]:
    """The texts, of which there must be some, each with an id of its own and something to say.

    Raises:
        ValueError: otherwise; with the ids.
    """
    names = [slug(case.id) for case in cases]
    twice = sorted({case.id for case, name in zip(cases, names, strict=True) if names.count(name) > 1})
    if not cases or twice:
        raise ValueError(f"an evaluation needs texts with different ids, got {len(cases)}; more than once: {twice[:5]}")
    mute = [case.id for case in cases if not graphemes(case.text, case.language)]
    if mute:
        raise ValueError(
            f"nothing is spoken in {len(mute)} texts, first {mute[:5]}: drop them, or check their spelling"
        )
    return list(cases)


def digest(audio: Audio | None) -> str:
    """Of a recording's contents; "" for none."""
    if audio is None:
        return ""
    data: Any = audio
    if isinstance(audio, Path):
        data = audio.read_bytes()
    elif isinstance(audio, tuple):
        data = audio[0].numpy().tobytes() + str(audio[1]).encode()
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def cases_digest(cases: Sequence[Case]) -> str:
    """Of what is to be said, in what voice, and of what it is compared with."""
    told = [[case.id, case.text, case.language, digest(case.audio), digest(case.voice)] for case in cases]
    return shards.digest(told)
