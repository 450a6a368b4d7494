"""Corpora in the formats of other tools as recordings: NeMo manifests, Common Voice and LJSpeech; Kaldi is next door.

The readers look at the text files, and at whether audio files are there; whether those can be read shows when they are
(`seaalign.data.prepare`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from seaalign.records.recording import Recording
from seaalign.storage.lines import AudioFolder, Row, json_lines, require_file, require_rows, text_lines
from seaalign.storage.rows import OnBad, Refused, sift


def read_nemo(
    path: str | Path,
    *,
    text: str = "text",
    language: str | None = None,
    root: str | Path | None = None,
    source: str = "real",
    on_bad: OnBad = "refuse",
    refused: list[Refused] | None = None,
) -> list[Recording]:
    """Read a JSONL manifest as NeMo and many other tools write it.

    Each line is an object with "audio_filepath" and "text", and where they exist "offset" and "duration" (seconds),
    "speaker" and "lang". "id" is taken where it is there; otherwise the path without its ending, and the offset behind
    "@" where it is not 0. Other keys are left alone.

    Args:
        path: the file, UTF-8.
        text: the key that holds the text, for manifests that have a second one, as "normalized_text".
        language: of the lines that do not say theirs.
        root: the folder that audio files must lie in. Default: that of the manifest.
        source: "real", or the system that synthesised the recordings.
        on_bad: "refuse" leaves bad lines out and warns with the reasons, "raise" stops at the first.
        refused: a list to fill with what was left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no good line, or a bad one under "raise".
    """
    path = require_file(path, "manifest")
    folder = AudioFolder(path.parent, root)

    def build(row: dict[str, Any] | ValueError, key: str) -> Recording:
        if isinstance(row, ValueError):
            raise row
        return Recording(
            key,
            _text(row, text),
            folder.find(row.get("audio_filepath")),
            speaker=None if row.get("speaker") is None else str(row["speaker"]),  # NeMo also numbers them
            language=row.get("lang") or language,
            source=source,
            start=row.get("offset"),
            duration=row.get("duration"),
        )

    def rows() -> Iterator[Row[Recording]]:
        for number, row in json_lines(path):
            key = f"line {number}" if isinstance(row, ValueError) else _nemo_id(row, number)
            yield f"line {number}", key, partial(build, row, key)

    return require_rows(sift(rows(), str(path), on_bad, refused), str(path))


def _nemo_id(row: dict[str, Any], number: int) -> Any:
    name, offset = row.get("audio_filepath"), row.get("offset")
    if "id" in row or not isinstance(name, str):
        return row.get("id", f"line {number}")
    return os.path.splitext(name)[0] + (f"@{offset}" if offset else "")


def _text(row: dict[str, Any], name: str) -> str:
    if name not in row:
        raise ValueError(f"the key {name!r} is missing: the line has {', '.join(sorted(map(str, row)))}")
    return row[name]  # type: ignore[no-any-return]  # Recording says what is wrong with it


def read_common_voice(
    path: str | Path,
    *,
    min_votes: int | None = None,
    root: str | Path | None = None,
    source: str = "real",
    on_bad: OnBad = "refuse",
    refused: list[Refused] | None = None,
) -> list[Recording]:
    """Read a table of Common Voice (train.tsv, validated.tsv, ...), whose audio lies in clips/ beside it.

    Read are the columns "path", "sentence", "client_id" (the speaker), "locale" (the language) and the votes.

    Args:
        path: the table, UTF-8. Quotation marks are marks like others; a row in which a text holds a tab is refused.
        min_votes: refuse a row in which fewer than so many listeners more said yes than no.
        root: the folder that audio files must lie in. Default: that of the table.
        source: "real", or the system that synthesised the recordings.
        on_bad: "refuse" leaves bad rows out and warns with the reasons, "raise" stops at the first.
        refused: a list to fill with what was left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the columns are not there, no good row, or a bad one under "raise".
    """
    path = require_file(path, "table of Common Voice")
    folder = AudioFolder(path.parent, root)
    lines = text_lines(path)
    names = _header(
        path, lines, {"path", "sentence"} | ({"up_votes", "down_votes"} if min_votes is not None else set())
    )

    def build(line: str | ValueError) -> Recording:
        row = dict(zip(names, _cells(line, len(names)), strict=True))
        if min_votes is not None:
            _require_votes(row["up_votes"], row["down_votes"], min_votes)
        if not row["path"].strip():
            raise ValueError("the audio path is missing: the column path is empty")
        audio = folder.find(os.path.join("clips", row["path"]))
        speaker, language = row.get("client_id") or None, row.get("locale") or None
        return Recording(_stem(row["path"]), row["sentence"], audio, None, speaker, language, source)

    def rows() -> Iterator[Row[Recording]]:
        place = names.index("path")
        for number, line in lines:
            cells = [] if isinstance(line, ValueError) else line.split("\t")
            key = _stem(cells[place]) if len(cells) > place and cells[place] else f"line {number}"
            yield f"line {number}", key, partial(build, line)

    return require_rows(sift(rows(), str(path), on_bad, refused), str(path))


def _header(path: Path, lines: Iterator[tuple[int, str | ValueError]], wanted: set[str]) -> list[str]:
    _, first = next(lines, (0, ""))
    names = first.split("\t") if isinstance(first, str) else []
    if not wanted <= set(names):
        raise ValueError(
            f"{path} is no table of Common Voice: its first line lacks the columns {sorted(wanted - set(names))}, it "
            f"has {names[:12]}"
        )
    return names


def _cells(line: str | ValueError, count: int) -> list[str]:
    if isinstance(line, ValueError):
        raise line
    cells = line.split("\t")  # what the csv module does under QUOTE_NONE, without its limit on the length of a cell
    if len(cells) != count:
        raise ValueError(
            f"the number of cells is wrong: {len(cells)}, and the first line has {count}: a tab in a text?"
        )
    return cells


def _require_votes(yes: str, no: str, least: int) -> None:
    if not (yes.isdecimal() and no.isdecimal()):
        raise ValueError(f"the votes are no numbers: {yes!r} up, {no!r} down")
    if int(yes) - int(no) < least:
        raise ValueError(f"too few votes: {yes} up, {no} down, and min_votes={least}")


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def read_ljspeech(
    path: str | Path,
    *,
    speaker: str | None = None,
    language: str | None = None,
    root: str | Path | None = None,
    source: str = "real",
    on_bad: OnBad = "refuse",
    refused: list[Refused] | None = None,
) -> list[Recording]:
    """Read a folder as that of LJSpeech: metadata.csv with `id|text|normalised text`, and wavs/id.wav.

    The normalised text is taken where there is one.

    Args:
        path: the folder, or its metadata.csv, UTF-8.
        speaker: who speaks; default: the name of the folder, as the format is for one speaker.
        language: of all rows.
        root: the folder that audio files must lie in. Default: that of metadata.csv.
        source: "real", or the system that synthesised the recordings.
        on_bad: "refuse" leaves bad rows out and warns with the reasons, "raise" stops at the first.
        refused: a list to fill with what was left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no good row, or a bad one under "raise".
    """
    path = Path(path)
    path = require_file(path / "metadata.csv" if path.is_dir() else path, "metadata.csv")
    folder, voice = AudioFolder(path.parent, root), speaker or path.absolute().parent.name

    def build(line: str | ValueError) -> Recording:
        if isinstance(line, ValueError):
            raise line
        cells = line.split("|")
        if len(cells) not in (2, 3):
            raise ValueError(f"the number of cells is wrong: {len(cells)}, a row is id|text or id|text|normalised text")
        text = cells[2] if len(cells) == 3 and cells[2].strip() else cells[1]
        return Recording(cells[0], text, folder.find(f"wavs/{cells[0]}.wav"), None, voice, language, source)

    def rows() -> Iterator[Row[Recording]]:
        for number, line in text_lines(path):
            key = f"line {number}" if isinstance(line, ValueError) else line.partition("|")[0]
            yield f"line {number}", key, partial(build, line)

    return require_rows(sift(rows(), str(path), on_bad, refused), str(path))
