"""Systems that exist as recordings: any synthesiser's output, and people."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from seaalign.backbones.base import Unsupported
from seaalign.evaluation.rows import Style
from seaalign.evaluation.systems import Said, System, codec_of
from seaalign.evaluation.texts import Case, digest, hear, slug
from seaalign.records import Recording
from seaalign.records.recording import Audio
from seaalign.storage.lines import AudioFolder, json_lines, require_file

PEOPLE = "recordings"
"""Name of the system that is people, who are the measure of the others."""
_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
_KEYS = {"id", "audio", "repeat", "style", "text"}


class Recorded(System):
    """Recordings of any system, so that a model without an adapter can be evaluated, too.

    Args:
        name: in tables and folders.
        audio: a folder with a file `ID.wav` for each text (`ID-REPEAT.wav`, from 0, where it said them more than once;
            .flac, .ogg and .mp3 as well); or a JSONL file with `{"id": "s1", "audio": "s1.wav"}` a line and where they
            exist "repeat", "style" ("on", "off") and "text", which then must be the text of the evaluation; or a
            mapping from ids to recordings.
        alpha: synthetic share of the data it was trained on; for reports.
        step: of its checkpoint.
        codec: a backbone that encodes, for entropy and repetition of its tokens. Default: the evaluation's.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: a bad line, or no recording.
    """

    def __init__(
        self,
        name: str,
        audio: str | Path | Mapping[str, Any],
        alpha: float | None = None,
        step: int | None = None,
        codec: Any = None,
    ) -> None:
        self.name, self.alpha, self.step, self.encoder = name, alpha, step, codec
        self.texts: dict[str, str] = {}
        self.loose: dict[str, Path] = {}
        self.given: dict[tuple[Style, str, int], Audio] = {}
        self.found: dict[tuple[Style, str, int], Audio] = {}  # what belongs to the texts at hand
        if isinstance(audio, Mapping):
            for key, value in audio.items():
                self._add(key, Recording(key, key, value).audio)  # type: ignore[arg-type]  # no text any more
        elif Path(audio).is_dir():
            files = sorted(path for path in Path(audio).iterdir() if path.suffix.lower() in _SUFFIXES)
            self.loose = {slug(path.stem): path for path in files}
        else:
            self._manifest(require_file(audio, f"folder or manifest of {name}'s recordings"))
        if not self.given and not self.loose:
            raise ValueError(f"{name}: no recording in {audio}; name the files ID.wav or ID-REPEAT.wav")

    def _add(self, key: str, audio: Audio | None, style: Style = "recordings", repeat: int = 0) -> None:
        if audio is None or (style, slug(key), repeat) in self.given:
            raise ValueError(
                f"{self.name}: text {key!r}, style {style}, repeat {repeat} stands there twice, or is None"
            )
        self.given[style, slug(key), repeat] = audio

    def _manifest(self, path: Path) -> None:
        folder = AudioFolder(path.parent)
        for number, row in json_lines(path):
            try:
                if isinstance(row, ValueError):
                    raise row
                if not {"id", "audio"} <= row.keys() <= _KEYS or row.get("style", "on") not in get_args(Style):
                    raise ValueError(f"a line has id and audio, and may have {sorted(_KEYS - {'id', 'audio'})}: {row}")
                self._add(
                    row["id"], folder.find(row["audio"]), row.get("style", "recordings"), int(row.get("repeat", 0))
                )
                self.texts[slug(row["id"])] = row.get("text", "")
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}, line {number}: {error}") from error

    @contextmanager
    def ready(self, cases: Sequence[Case]) -> Iterator[None]:
        """Only what belongs to the texts of the evaluation."""
        names = {slug(case.id): case for case in cases}
        self.found = {key: audio for key, audio in self.given.items() if key[1] in names}
        for stem, path in self.loose.items():  # a text may itself be called "a-1"
            match = re.fullmatch(r"(.+)-(\d+)", stem)
            if stem in names:
                self.found["recordings", stem, 0] = path
            elif match and match[1] in names:
                self.found["recordings", match[1], int(match[2])] = path
        if not self.found:
            raise ValueError(f"{self.name}: none of its recordings belongs to a text; first ids: {list(names)[:3]}")
        for name, text in self.texts.items():
            if text and name in names and text.strip() != names[name].text.strip():
                raise ValueError(f"{self.name} says {text!r} for {name!r}, where the text is {names[name].text!r}")
        self.codec = None if self.encoder is None else codec_of(self.encoder)
        yield

    def styles(self, cases: Sequence[Case]) -> list[Style]:
        return [style for style in get_args(Style) if any(key[0] == style for key in self.found)]

    def repeats(self, asked: int) -> int:
        """As many as there are."""
        return 1 + max(repeat for _, _, repeat in self.found)

    def about(self) -> dict[str, Any]:
        """The sound itself, and whose tokens are made of it."""
        return {
            "audio": {"|".join(map(str, key)): digest(audio) for key, audio in self.found.items()},
            "codec": self.codec,
        }

    def speak(self, cases: Sequence[Case], style: Style, repeat: int, batch: int, progress: bool) -> Iterator[Said]:
        for case in cases:
            audio = self.found.get((style, slug(case.id), repeat))
            if audio is None:
                yield Said(problem="no recording")
                continue
            try:
                waveform, rate = hear(audio, f"{self.name}, {case.id}")
            except ValueError as error:
                yield Said(problem=str(error))
                continue
            try:
                tokens = self.encoder and self.encoder.encode([waveform], rate).rows()[0].cpu()
            except Unsupported:
                tokens = None
            except ValueError as error:  # longer than the codec takes, or of too low a rate
                yield Said(waveform, rate, problem=f"no tokens of it: {error}")
                continue
            yield Said(waveform, rate, tokens)


def people(cases: Sequence[Case], codec: Any = None) -> Recorded | None:
    """The recordings of people that the texts come with, as a system; None where there are none."""
    spoken = {case.id: case.audio for case in cases if case.audio is not None}
    return Recorded(PEOPLE, spoken, codec=codec) if spoken else None
