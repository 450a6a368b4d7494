"""Data sets of the Hugging Face `datasets` package, or any rows that are dictionaries, as recordings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from seaalign.records.recording import Audio, Recording
from seaalign.storage.lines import AudioFolder, Row, require_rows
from seaalign.storage.rows import OnBad, Refused, check_codes, sift


def read_dataset(
    dataset: Iterable[Mapping[str, Any]],
    *,
    text: str = "text",
    audio: str | None = "audio",
    tokens: str | None = None,
    id: str | None = None,
    speaker: str | None = None,
    language: str | None = None,
    timbre: str | None = None,
    root: str | Path | None = None,
    source: str = "real",
    vocab_size: int | None = None,
    on_bad: OnBad = "refuse",
    refused: list[Refused] | None = None,
) -> list[Recording]:
    """Read a `datasets.Dataset`, a streamed one, or any rows that are dictionaries.

    Audio columns are asked for as bytes or paths, so that nothing is decoded while reading and torchcodec is not
    needed; rows that are decoded already ({"array": ..., "sampling_rate": ...}) are taken too. All rows are held in
    memory: go through a large data set in parts, with `dataset.shard(num_shards, index)`.

    Args:
        dataset: one split, as `datasets.load_dataset(..., split="train")` returns it.
        text: name of the column that holds the text.
        audio: of that with the sound, or None.
        tokens: of that with speech tokens (T,) or (T, K), or None.
        id: of that with unique texts or numbers; None numbers the rows: "row-0", "row-1", ...
        speaker: of that with the speaker, a text or a number, or None.
        language: of that with the code of the language, or None.
        timbre: of that with what the decoder needs of the speaker, or None; lists of numbers become tensors.
        root: audio that is given by path must lie in this folder; None: anywhere, as `datasets` itself reads it.
        source: "real", or the system that synthesised the recordings.
        vocab_size: size of the codebook; token ids outside are refused.
        on_bad: "refuse" leaves bad rows out and warns with the reasons, "raise" stops at the first.
        refused: a list to fill with what was left out.

    Raises:
        TypeError: a dictionary of splits, or rows that are no dictionaries.
        ValueError: a column is not there, no good row, or a bad one under "raise".

    Example:
        >>> rows = [{"sentence": "sabaidee", "codes": [3, 1, 4], "who": 7}]
        >>> read_dataset(rows, text="sentence", audio=None, tokens="codes", speaker="who")[0].speaker
        '7'
    """
    columns = {"text": text, "audio": audio, "tokens": tokens, "id": id, "speaker": speaker}
    named = {what: name for what, name in {**columns, "language": language, "timbre": timbre}.items() if name}
    rows = _undecoded(dataset, list(named.values()), named.get("audio"))
    folder = AudioFolder("." if root is None else root, "/" if root is None else root)

    what = f"data set with columns {sorted(named.values())}"

    def numbered() -> Iterator[Row[Recording]]:
        for number, row in enumerate(rows):
            if number == 0 and isinstance(row, Mapping):
                _require_columns(row, list(named.values()))
            key = row.get(id) if isinstance(row, Mapping) and id is not None else f"row-{number}"
            key = str(key) if isinstance(key, int) else key
            yield f"row {number}", key, partial(_recording, row, key, named, folder, source, vocab_size)

    return require_rows(sift(numbered(), what, on_bad, refused), what)


def _recording(
    row: Any, key: Any, named: Mapping[str, str], folder: AudioFolder, source: str, vocab_size: int | None
) -> Recording:
    if not isinstance(row, Mapping):
        raise TypeError(f"a row must be a dictionary of columns: got {type(row).__name__}")
    cell: dict[str, Any] = {what: row.get(name) for what, name in named.items()}
    for what in ("text", "tokens"):
        if what in named and cell[what] is None:
            raise ValueError(f"an empty cell: the column {named[what]!r} ({what}) holds nothing")
    made = Recording(
        key,
        cell["text"],
        _audio(cell.get("audio"), folder),
        cell.get("tokens"),
        None if cell.get("speaker") is None else str(cell["speaker"]),
        cell.get("language"),
        source,
        _tensors(cell.get("timbre")),
    )
    if made.tokens is not None:
        check_codes("tokens", made.tokens, vocab_size)
    return made


def _undecoded(dataset: Any, names: list[str], audio: str | None) -> Any:
    if isinstance(dataset, Mapping):
        raise TypeError(f"got splits {sorted(dataset)}: pass one of them, as dataset['train']")
    features = getattr(dataset, "features", None)
    if features is None or not hasattr(dataset, "cast_column"):
        return dataset
    _require_columns(features, names)
    dataset = dataset.select_columns(names)  # columns that nobody asked for are not loaded, and no images decoded
    if audio is not None and getattr(features[audio], "decode", False):
        dataset = dataset.cast_column(audio, type(features[audio])(decode=False))
    return dataset


def _require_columns(there: Mapping[str, Any], names: list[str]) -> None:
    missing = [name for name in names if name not in there]
    if missing:
        raise ValueError(f"the data set has no columns {missing}; it has {sorted(there)}: name them, as text='...'")


def _audio(value: Any, folder: AudioFolder) -> Audio | None:
    """Of a cell: nothing, a path, bytes, {"bytes", "path"} or {"array", "sampling_rate"}, also as decoder objects."""
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str | Path):
        return folder.find(str(value))
    if isinstance(value, Mapping) and "array" not in value:
        held, path = value.get("bytes"), value.get("path")
        if held is None and path is None:
            raise ValueError(f"an audio cell has no sound: it has {sorted(value)} and neither bytes nor a path")
        return folder.find(path) if held is None else bytes(held)
    try:
        return value["array"], value["sampling_rate"]
    except (TypeError, KeyError, IndexError) as error:
        raise ValueError(
            f"an audio cell of unknown kind: {type(value).__name__}; known are a path, bytes, "
            "{'bytes', 'path'} and {'array', 'sampling_rate'}"
        ) from error


def _tensors(value: Any) -> Any:
    """Lists of numbers as float tensors, also within a dictionary."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {name: _tensors(part) for name, part in value.items()}
    return torch.as_tensor(value, dtype=torch.float32)
