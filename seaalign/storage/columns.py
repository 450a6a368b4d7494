"""Parquet files as columns: their types, the JSON they carry about themselves, and writing whole or not at all."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

VERSION = 1
_MODEL = {"config.json", "adapter_config.json"}


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What a file says of itself: kind, version, rows, codebooks, and what its writer added (weights, settings, ...).

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a Parquet file, or not one of seaalign.
    """
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; check the path, or write it first")
    with open(path, "rb") as file:
        start = file.read(4)
        if not b"PAR1".startswith(start):  # an empty file may have been cut off
            raise ValueError(
                f"{path} is not a readable Parquet file, it begins like something else: `seaalign prepare` makes files "
                "of utterances from corpora, write_utterances and write_pairs from Python"
            )
    try:
        found = (pq.read_schema(path).metadata or {}).get(b"seaalign")
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        raise ValueError(
            f"{path} is not a readable Parquet file ({error}); it may be cut off: delete it and write it again"
        ) from error
    if found is None:
        raise ValueError(
            f"{path} was not written by seaalign: use write_utterances or write_triplets, or a JSONL manifest"
        )
    return dict(json.loads(found))


@contextmanager
def whole_or_nothing(path: Path) -> Iterator[io.BufferedWriter]:
    """A binary file that takes its name only once it is complete and on disk; on any error the old file stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        with open(draft, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        old = "the old file is untouched" if path.exists() else "no file was left behind"
        raise OSError(
            error.errno, f"could not write {path}: {error.strerror or error}; {old}; free some space and run again"
        ) from error
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A folder that takes its name only once it is complete; on any error the old one stays.

    Raises:
        ValueError: the name is that of a file, or of a folder that holds something else than a model or adapters.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder")
    inside = list(folder.iterdir()) if folder.exists() else []
    if inside and (any(path.is_dir() for path in inside) or not {path.name for path in inside} & _MODEL):
        raise ValueError(f"{folder} holds something else than a model, which would be lost: name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft, old = (folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.{kind}") for kind in ("tmp", "old"))
    draft.mkdir()
    try:
        yield draft
        if folder.exists():
            os.replace(folder, old)
        os.replace(draft, folder)
    except BaseException:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON for people to read, whole or not at all."""
    with whole_or_nothing(Path(path)) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())


def without_nan(value: Any) -> Any:
    """The same with None for every number that is not finite: JSON has no NaN.

    >>> without_nan({"wer": [float("nan"), 1.5], "n": 2})
    {'wer': [None, 1.5], 'n': 2}
    """
    if isinstance(value, Mapping):
        return {name: without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Damaged:
    """Stands for a timbre whose bytes could not be read; the rows that need it are refused, with this reason."""

    reason: str


class Blobs(dict[int, bytes]):
    """Timbres as bytes, each object saved once: thousands of rows share a speaker."""

    def of(self, timbre: Any) -> bytes | None:
        if timbre is None:
            return None
        if id(timbre) not in self:
            buffer = io.BytesIO()  # cloned, because saving a view would save all of its storage
            torch.save(
                _pytree.tree_map(lambda x: x.detach().cpu().clone() if isinstance(x, Tensor) else x, timbre), buffer
            )
            self[id(timbre)] = buffer.getvalue()
        return self[id(timbre)]


def write_columns(
    path: Path, kind: str, columns: dict[str, str], rows: list[dict[str, Any]], metadata: dict[str, Any]
) -> None:
    """Write rows of "string", "number", "ids", "floats", "bool" or "blob" columns, with `metadata`, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types, arrays = _types(), {}
    for name, what in columns.items():
        values = [row.get(name) for row in rows]
        arrays[name] = pa.array(values, pa.binary() if what == "blob" else types[what]).cast(types[what])
    about = {**metadata, "kind": kind, "version": VERSION, "rows": len(rows)}
    schema = pa.schema([(name, types[what]) for name, what in columns.items()], {"seaalign": json.dumps(about)})
    with whole_or_nothing(path) as file:
        pq.write_table(pa.table(arrays, schema=schema), file, compression="zstd")


def read_columns(path: Path, kind: str, columns: dict[str, str]) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Columns as lists of texts, numbers, arrays or timbres, and the metadata; faults of the whole file are errors."""
    meta = read_metadata(path)
    if meta["kind"] != kind:
        raise ValueError(f"{path} holds {meta['kind']}, not {kind}: use read_{meta['kind']}")
    if meta["version"] > VERSION:
        raise ValueError(f"{path} has format {meta['version']}, this seaalign reads up to {VERSION}: upgrade seaalign")
    table = table_of(path)
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise ValueError(f"{path} lacks the columns {missing}; another tool changed it: write it again")
    decoded = {}
    for name, what in columns.items():
        try:
            decoded[name] = decode_column(table[name].cast(_types()[what]).combine_chunks(), what)
        except (ValueError, NotImplementedError) as error:  # all of Arrow's errors are among them
            raise ValueError(f"{path}: column {name!r} is not what it should be ({error}): write it again") from error
    return decoded, meta


def table_of(path: Path) -> Any:
    """All of a Parquet file as an Arrow table; a damaged one is an error that names it."""
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); it is damaged: delete it and write it again") from error


def _types() -> dict[str, Any]:
    import pyarrow as pa

    plain = {"string": pa.string(), "ids": pa.list_(pa.int32()), "floats": pa.list_(pa.float32()), "bool": pa.bool_()}
    return {**plain, "number": pa.float64(), "blob": pa.dictionary(pa.int32(), pa.binary())}


def decode_column(array: Any, what: str) -> list[Any]:
    """An Arrow array of a column as texts, numbers, arrays or timbres."""
    if what in ("string", "bool", "number"):
        return list(array.to_pylist())
    if what == "blob":
        loaded = [_timbre(blob) for blob in array.dictionary.to_pylist()]
        return [None if i is None else loaded[i] for i in array.indices.to_pylist()]
    if array.values.null_count:
        raise ValueError("empty cells inside a list")
    values, bounds = array.values.to_numpy(zero_copy_only=False), array.offsets.to_numpy()
    known = array.is_valid().to_numpy(zero_copy_only=False)
    return [values[a:b] if ok else None for a, b, ok in zip(bounds[:-1], bounds[1:], known, strict=True)]


def _timbre(blob: bytes | None) -> Any:
    try:
        return None if blob is None else torch.load(io.BytesIO(blob), weights_only=True)
    # what torch.load meets in broken bytes, it says in all of these ways
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError, EOFError, UnpicklingError) as error:
        said = (str(error) or "too short").splitlines()[0]
        return Damaged(f"timbre: its bytes are damaged ({type(error).__name__}, {said}): write the file again")
