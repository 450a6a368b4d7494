"""Speech tokens of files that do not fit in memory, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seaalign.storage.columns import read_metadata


class TokenBatch(NamedTuple):
    """Some utterances of a file.

    Attributes:
        ids: of the utterances (N,).
        sources: "real", or the system that synthesised each (N,).
        tokens: all their tokens, one after the other (sum of lengths,); with K codebooks those of the first.
        lengths: frames of each (N,).
    """

    ids: list[str]
    sources: list[str]
    tokens: np.ndarray
    lengths: np.ndarray


def stream_tokens(path: str | Path, batch: int = 4096) -> Iterator[TokenBatch]:
    """Read ids, sources and tokens of a file of `write_utterances`, and nothing else of it.

    Args:
        path: the file.
        batch: utterances at a time.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds no utterances, or a row without tokens; with the row's id.

    Example:
        >>> import tempfile
        >>> from seaalign.records import Prompt, Utterance
        >>> from seaalign.storage import write_utterances
        >>> path = Path(tempfile.mkdtemp(), "real.parquet")
        >>> write_utterances(path, [Utterance("a", Prompt([1]), [7, 7]), Utterance("b", Prompt([1]), [8])])
        >>> next(stream_tokens(path)).tokens.tolist()
        [7, 7, 8]
    """
    books = utterances_metadata(path).get("codebooks") or 1
    for part in stream_utterances(path, ["id", "source", "tokens"], batch):
        column = part.column("tokens")
        sizes = column.value_lengths().to_numpy(zero_copy_only=False)
        ids = part.column("id").to_pylist()
        bad = [key for key, size in zip(ids, sizes, strict=True) if not size > 0 or size % books]
        if bad:
            raise ValueError(f"{path}: utterance {bad[0]!r} has no whole frames of tokens; read_utterances refuses it")
        flat = column.flatten().to_numpy(zero_copy_only=False)[::books]
        sources = [source or "real" for source in part.column("source").to_pylist()]
        yield TokenBatch(ids, sources, flat.astype(np.int64), sizes.astype(np.int64) // books)


def stream_utterances(path: str | Path, columns: Sequence[str] | None = None, batch: int = 4096) -> Iterator[Any]:
    """Read a file of `write_utterances` as Arrow record batches, whatever is in its rows.

    Args:
        path: the file.
        columns: the ones to read; None = all.
        batch: rows at a time.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds no utterances, lacks a column, or is damaged.
    """
    import pyarrow.parquet as pq

    utterances_metadata(path)
    try:
        file = pq.ParquetFile(path)
        if missing := sorted(set(columns or ()) - set(file.schema_arrow.names)):
            raise ValueError(f"it lacks the columns {missing}")
        yield from file.iter_batches(batch, columns=columns)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); it is damaged: delete it and write it again") from error


def utterances_metadata(path: str | Path) -> dict[str, Any]:
    """What a file of utterances says of itself; errors as in `stream_utterances`."""
    meta = read_metadata(path)
    if meta.get("kind") != "utterances":
        raise ValueError(f"{path} holds {meta.get('kind')}, not utterances: name a file of write_utterances")
    return meta
