"""What is to be heard: clips of several systems that say the same texts, from an evaluation or from manifests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from seaalign.evaluation.rows import Row as EvaluatedRow
from seaalign.evaluation.rows import read_rows
from seaalign.storage.lines import AudioFolder, json_lines, require_file, require_rows
from seaalign.storage.numbers import flag_of, ids_of
from seaalign.storage.rows import Refused, sift


@dataclass(frozen=True)
class Clip:
    """One text as one system says it.

    Args:
        system: who speaks; raters never see it.
        text_id: clips of one text have the same in every system.
        text: what is said.
        audio: the file.
        reference: a recording of the speaker, for speaker similarity, or None.
        tokens: speech tokens, or None; without them a preference cannot be trained on.
        ended: did the answer end by itself?
    """

    system: str
    text_id: str
    text: str
    audio: Path
    reference: Path | None = None
    tokens: tuple[Any, ...] | None = None
    ended: bool = True


def read_manifests(
    manifests: Mapping[str, str | Path], root: str | Path | None = None, refused: list[Refused] | None = None
) -> list[Clip]:
    """Read one JSONL manifest per system: lines of {"id", "text", "audio"}, and maybe "reference", "tokens", "ended".

    Args:
        manifests: file by name of the system.
        root: what the audio must lie in; default: the folder of each manifest.
        refused: a list to fill with the rows that were left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no good row.
    """
    clips: list[Clip] = []
    for system, source in manifests.items():
        path = require_file(source, f"manifest of {system}")
        folder = AudioFolder(path.parent, root)
        rows = ((f"line {n}", _get(row, "id"), partial(_clip, row, system, folder)) for n, row in json_lines(path))
        clips += require_rows(sift(rows, str(path), "refuse", refused), path)
    return clips


def _get(row: Any, name: str) -> Any:
    return row.get(name) if isinstance(row, dict) else name


def _clip(row: dict[str, Any] | ValueError, system: str, folder: AudioFolder) -> Clip:
    if isinstance(row, ValueError):
        raise row
    reference, tokens = row.get("reference"), row.get("tokens")
    return Clip(
        system,
        row["id"],
        str(row.get("text") or ""),
        folder.find(row.get("audio")),
        None if reference is None else folder.find(reference),
        None if tokens is None else tuple(ids_of(row, "tokens").tolist()),
        flag_of(row, "ended"),
    )


def read_evaluation_clips(
    run: str | Path, style: str = "on", references: str | Path | None = None, refused: list[Refused] | None = None
) -> list[Clip]:
    """Read what an evaluation kept: its folder holds utterances.parquet and the audio.

    Of several repeats the first is heard. Systems that were not asked for a style, as the recordings of people, which
    are the system "recordings", are heard as they are.

    Args:
        run: the folder.
        style: "on" or "off": with the style or without it.
        references: JSONL of {"id", "voice"} or {"id", "audio"}: for each text a recording of the speaker. The file of
            texts that was evaluated is one.
        refused: a list to fill with the rows that were left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no row has audio.
    """
    path = require_file(Path(run) / "utterances.parquet", "evaluation")
    speakers = {} if references is None else _speakers(references, refused)
    folder = AudioFolder(run)
    wanted = [row for row in read_rows(path) if row.style in (style, "recordings") and row.audio]
    first: dict[tuple[str, str], EvaluatedRow] = {}
    for row in sorted(wanted, key=lambda row: row.repeat):
        first.setdefault((row.system, row.prompt), row)

    def built() -> Iterator[Any]:
        for (system, prompt), row in first.items():
            yield f"{system} {prompt}", f"{system} {prompt}", partial(_evaluated, row, folder, speakers.get(prompt))

    return require_rows(sift(built(), str(path), "refuse", refused), f"{path}, style {style!r}, with audio")


def _speakers(source: str | Path, refused: list[Refused] | None) -> dict[str, Path]:
    path = require_file(source, "file of references")
    folder = AudioFolder(path.parent)

    def found(row: dict[str, Any] | ValueError) -> tuple[str, Path]:
        if isinstance(row, ValueError):
            raise row
        return row["id"], folder.find(row.get("voice") or row.get("audio"))

    rows = ((f"line {n}", _get(row, "id"), partial(found, row)) for n, row in json_lines(path))
    return dict(require_rows(sift(rows, str(path), "refuse", refused), path))


def _evaluated(row: EvaluatedRow, folder: AudioFolder, reference: Path | None) -> Clip:
    tokens = None if row.tokens is None or not len(row.tokens) else tuple(row.tokens.tolist())
    return Clip(row.system, row.prompt, row.text, folder.find(row.audio), reference, tokens, row.ended)


def crossed(clips: Iterable[Clip], systems: Sequence[str] | None = None) -> tuple[list[str], list[str], list[Clip]]:
    """The systems, the texts that all of them say, and the clips of these texts: text by text, system by system.

    Args:
        clips: of all systems.
        systems: which of them; default: all.

    Raises:
        ValueError: a system is not there, or there is no text that all of them say.
    """
    table: dict[str, dict[str, Clip]] = {}
    for clip in clips:
        table.setdefault(clip.system, {})[clip.text_id] = clip
    names = list(systems or table)
    unknown = [name for name in names if name not in table]
    if unknown or len(set(names)) < len(names):
        raise ValueError(f"systems {unknown or names}: each once, of {', '.join(table)}")
    shared = [key for key in table[names[0]] if all(key in table[name] for name in names)] if names else []
    if not shared:
        counts = json.dumps({name: len(table[name]) for name in names})
        raise ValueError(f"no text is said by all of the systems {counts}: their ids must be those of the texts")
    return names, shared, [table[name][key] for key in shared for name in names]
