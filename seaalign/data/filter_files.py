"""Files of utterances that are filtered: looked over, read a batch at a time, and written without what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seaalign.data.filter_rows import Asking, Row
from seaalign.storage.columns import decode_column, whole_or_nothing
from seaalign.storage.streams import stream_utterances, utterances_metadata


def survey(paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Which utterances are the first of their id (N,), and frames per text id of those that have both (at most N,).

    Raises:
        ValueError: there is nothing, or the files differ in codebooks.
    """
    books = {str(path): utterances_metadata(path).get("codebooks") for path in paths}
    if len(set(books.values())) > 1:
        raise ValueError(f"the files differ in codebooks, {books}: filter them one by one")
    marks, rates = [np.zeros(0, np.uint64)], [np.zeros(0)]
    for path in paths:
        for part in stream_utterances(path, ["id", "text", "tokens"]):
            marks.append(np.array([_mark(key) for key in part.column("id").to_pylist()], np.uint64))
            text, frames = (
                np.nan_to_num(part.column(name).value_lengths().to_numpy(zero_copy_only=False).astype(float))
                for name in ("text", "tokens")
            )
            both = (text > 0) & (frames > 0)
            rates.append(frames[both] / (books[str(path)] or 1) / text[both])
    ids = np.concatenate(marks)
    if not len(ids):
        raise ValueError(f"there is nothing to filter: {', '.join(map(str, paths)) or 'no file'} holds no utterance")
    first = np.zeros(len(ids), dtype=bool)
    first[np.unique(ids, return_index=True)[1]] = True
    return first, np.concatenate(rates)


def _mark(key: str | None) -> int:
    """64 bits: among ten million utterances the chance is one in 400,000 that two share theirs."""
    return int.from_bytes(hashlib.blake2b((key or "").encode(), digest_size=8).digest(), "little")


def read_rows(part: Any, books: int | None, first: np.ndarray, asking: Asking) -> list[Row]:
    """The rows of a batch; those that cannot be read are refused."""
    ids, sources = part.column("id").to_pylist(), part.column("source").to_pylist()
    texts, tokens = (decode_column(part.column(name), "ids") for name in ("text", "tokens"))
    rows = [Row(key, source or "real") for key, source in zip(ids, sources, strict=True)]
    for row, text, spoken, new in zip(rows, texts, tokens, first, strict=False):
        try:
            row.candidate = asking.candidate(row.id, text, spoken, books, bool(new))
        except ValueError as error:
            row.refuse("readable", str(error))
    return rows


def write_kept(paths: Sequence[Path], kept: np.ndarray, path: Path, metadata: dict[str, Any]) -> None:
    """Write the utterances that are kept as they are, whole or not at all.

    Args:
        paths: the files.
        kept: which utterances of all files, one after the other (N,).
        path: the file to write.
        metadata: what it should say of itself, beside what all files say of themselves.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    said = [utterances_metadata(one) for one in paths]
    same = {key: value for key, value in said[0].items() if all(one.get(key) == value for one in said)}
    about = {**same, **metadata, "rows": int(kept.sum())}
    schema = pq.read_schema(paths[0]).with_metadata({"seaalign": json.dumps(about)})
    at = 0
    with whole_or_nothing(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for one in paths:
            for part in stream_utterances(one, schema.names):
                mask = kept[at : at + len(part)]
                at += len(part)
                if mask.any():
                    writer.write_table(pa.Table.from_batches([part]).filter(pa.array(mask)).cast(schema))
