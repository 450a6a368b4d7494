"""Lists of Parquet files as CosyVoice trains on them: recordings and pairs in and out.

A `data.list` names files, one a line. Their names end in .tar and they are Parquet all the same. A row is an
utterance: utt, text, spk, wav (where its audio once lay), audio_data (the bytes of that file), utt_embedding and
spk_embedding (192 numbers each), speech_token, and where they exist instruct and reject_speech_token.

Source: github.com/FunAudioLLM/CosyVoice, tools/make_parquet_list.py, cosyvoice/dataset/processor.py and
tools/extract_embedding.py.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from seaalign.records import Pair, Prompt
from seaalign.records.recording import Recording
from seaalign.storage.lines import AudioFolder, Row, require_file, require_rows, text_lines
from seaalign.storage.rows import OnBad, Refused, check_codes, sift

Embedding = Literal["utt", "spk"]
_IDS, _LISTS = ("speech_token", "reject_speech_token"), ("utt_embedding", "spk_embedding")
_MAGIC = b"PAR1"


def read_cosyvoice(
    path: str | Path,
    *,
    audio: bool = False,
    embedding: Embedding = "utt",
    language: str | None = None,
    root: str | Path | None = None,
    source: str = "real",
    vocab_size: int | None = None,
    on_bad: OnBad = "refuse",
    refused: list[Refused] | None = None,
) -> list[Recording]:
    """Read a `data.list`, or one of the files it names.

    An instruction (column `instruct`, CosyVoice 3) comes before the text, where the language model has it too.

    Args:
        path: the list, or one Parquet file.
        audio: keep the bytes of the audio files. They are most of the data and stay in memory, so they are left on disk
            by default; with them, rows without tokens are read as well, for `prepare` to encode. Read large data file
            by file.
        embedding: which of the two is the timbre, {"embedding": (192,)}: of the utterance, or the mean of its speaker.
        language: of all rows.
        root: the folder that the listed files must lie in, and where a relative path starts that leads nowhere from the
            list. A listed file that is not there is looked for by its name beside the list. Default: the list's folder.
        source: "real", or the system that synthesised the recordings.
        vocab_size: size of the codebook (6561 in CosyVoice 2 and 3); ids outside are refused.
        on_bad: "refuse" leaves bad rows and files out and warns with the reasons, "raise" stops at the first.
        refused: a list to fill with what was left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no good row, or a bad one under "raise".
    """
    wanted = ["utt", "text", "spk", "instruct", "speech_token", f"{embedding}_embedding"]

    def build(row: dict[str, Any]) -> Recording:
        tokens = row.get("speech_token")
        if (tokens is None or not len(tokens)) and not audio:
            raise ValueError(
                "no speech tokens: speech_token is empty, as upstream leaves it for audio above 30 s; read with "
                "audio=True and encode it, or leave the row out"
            )
        return Recording(
            row["utt"],
            _text(row),
            row.get("audio_data"),
            None if tokens is None or not len(tokens) else _codes("speech_token", tokens, vocab_size),
            row.get("spk") or None,
            language,
            source,
            _timbre(row.get(f"{embedding}_embedding")),
        )

    rows = _rows(Path(path), root, [*wanted, "audio_data"] if audio else wanted, ("utt", "text"), build)
    return require_rows(sift(rows, str(path), on_bad, refused), str(path))


def read_cosyvoice_pairs(
    path: str | Path,
    tokenize: Callable[[str], Sequence[int]],
    *,
    embedding: Embedding = "utt",
    root: str | Path | None = None,
    vocab_size: int | None = None,
    on_bad: OnBad = "refuse",
    refused: list[Refused] | None = None,
) -> list[Pair]:
    """Read the pairs of a list made with `make_parquet_list.py --dpo` or `write_cosyvoice`.

    Chosen is speech_token, rejected is reject_speech_token, and both count as ended: the format does not say. Rows
    without a rejected answer are refused, as are pairs of equal answers.

    Args:
        path: the list, or one Parquet file.
        tokenize: from a text to text ids, for instance `backbone.tokenize`.
        embedding: which of the two is the timbre, as in `read_cosyvoice`.
        root: the folder that the listed files must lie in, as in `read_cosyvoice`.
        vocab_size: size of the codebook; ids outside are refused.
        on_bad: "refuse" leaves bad rows and files out and warns with the reasons, "raise" stops at the first.
        refused: a list to fill with what was left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no good row, or a bad one under "raise".
    """

    def build(row: dict[str, Any]) -> Pair:
        chosen, rejected = (_codes(name, row[name], vocab_size) for name in _IDS)
        if torch.equal(chosen, rejected):
            raise ValueError("the answers are equal: nothing is preferred; leave the row out")
        prompt = Prompt(tokenize(_text(row)), timbre=_timbre(row.get(f"{embedding}_embedding")))
        return Pair(row["utt"], prompt, chosen, rejected)

    wanted = ["utt", "text", "instruct", *_IDS, f"{embedding}_embedding"]
    rows = _rows(Path(path), root, wanted, ("utt", "text", *_IDS), build)
    return require_rows(sift(rows, str(path), on_bad, refused), str(path))


def _rows(
    path: Path, root: Any, wanted: list[str], needed: tuple[str, ...], build: Callable[[dict[str, Any]], Any]
) -> Iterator[Row[Any]]:
    for name, file in _files(require_file(path, "list of CosyVoice"), root):
        number = 0
        try:
            if isinstance(file, ValueError):
                raise file
            for row in _cells(file, wanted, needed):
                yield f"row {number} of {name}", row["utt"], partial(build, row)
                number += 1
        except (OSError, ValueError) as error:  # what Arrow says of a damaged file is among them
            yield f"file {name}", f"file {name}", partial(_raise, error)


def _raise(error: Exception) -> Any:
    raise ValueError(f"a file cannot be read: {error}")


def _files(path: Path, root: Any) -> Iterator[tuple[str, Path | ValueError]]:
    with open(path, "rb") as file:
        if file.read(4) == _MAGIC:
            yield path.name, path
            return
    folder = AudioFolder(path.parent, root)
    for number, line in text_lines(path):
        if isinstance(line, ValueError):
            raise ValueError(f"{path} is neither Parquet nor a list of files: line {number} is {line}")
        name = line.strip()
        try:
            yield name, folder.find(name)
        except ValueError as error:
            beside = path.parent / Path(name).name  # the folder may have moved since the list was written
            yield name, beside if beside.is_file() else error


def _cells(file: Path, wanted: list[str], needed: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    if tarfile.is_tarfile(file):
        raise ValueError(
            f"{file} is a real tar archive, which CosyVoice's own loader does not read either: make Parquet of it with "
            "its tools/make_parquet_list.py"
        )
    with pq.ParquetFile(file) as table:
        names = table.schema_arrow.names
        missing = [name for name in needed if name not in names]
        if missing:
            raise ValueError(f"{file} lacks the columns {missing}; it has {names}")
        there = [name for name in wanted if name in names]
        for batch in table.iter_batches(batch_size=256, columns=there):
            columns = [_column(name, batch.column(name)) for name in there]
            for values in zip(*columns, strict=True):
                yield dict(zip(there, values, strict=True))


def _column(name: str, column: Any) -> list[Any]:
    import pyarrow as pa

    if name not in _IDS and name not in _LISTS:
        return list(column.to_pylist())
    lists = column.cast(pa.list_(pa.int64() if name in _IDS else pa.float64()))
    if lists.values.null_count:
        raise ValueError(f"column {name} has empty cells inside a list")
    values, bounds = lists.values.to_numpy(zero_copy_only=False), lists.offsets.to_numpy()
    known = lists.is_valid().to_numpy(zero_copy_only=False)
    return [values[a:b] if ok else None for a, b, ok in zip(bounds[:-1], bounds[1:], known, strict=True)]


def _text(row: dict[str, Any]) -> str:
    return (row.get("instruct") or "") + (row["text"] or "")


def _timbre(numbers: Any) -> dict[str, Tensor] | None:
    if numbers is None:
        return None
    embedding = np.array(numbers, dtype=np.float32)
    if not len(embedding) or not np.isfinite(embedding).all():
        raise ValueError(f"the embedding is broken: {len(embedding)} numbers, not all finite; extract it anew")
    return {"embedding": torch.from_numpy(embedding)}


def _codes(name: str, values: Any, vocab_size: int | None) -> Tensor:
    if values is None or not len(values):
        raise ValueError(f"no speech tokens: {name} is empty; leave the row out, or extract the tokens anew")
    tokens = torch.from_numpy(np.array(values))
    if values.min() < 0 or (vocab_size is not None and values.max() >= vocab_size):  # numpy is quicker on short rows
        check_codes(name, tokens, vocab_size)
    return tokens
