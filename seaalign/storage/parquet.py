"""Utterances and triplets as Parquet:

one row each, tokens as lists, what belongs to the whole file as JSON in the schema's metadata.

Files appear whole or not at all: they are written beside their place and moved there when every byte is on disk.
"""

from __future__ import annotations

import io
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree

from seaalign.records import Prompt, Style, Triplet, Utterance
from seaalign.storage.rows import OnBad, Refused, check_codes, sift

_VERSION = 1
_PROMPT = {"id": "string", "text": "ids", "style_tokens": "ids", "style_text": "ids", "timbre": "blob"}
_UTTERANCE = {**_PROMPT, "source": "string", "tokens": "ids"}
_SPOKEN = ("real", "expressive", "stable")
_REFERENCE = tuple(("plain", name) for name in _SPOKEN) + tuple(("styled", name) for name in _SPOKEN[:2])
_TRIPLET = {
    **_PROMPT,
    **{name: "ids" for name in _SPOKEN},
    **{f"{name}_ended": "bool" for name in _SPOKEN},
    **{f"reference_{mode}_{name}": "floats" for mode, name in _REFERENCE},
}


def write_utterances(path: str | Path, utterances: Sequence[Utterance], metadata: dict[str, Any] | None = None) -> None:
    """Write utterances to Parquet, whole or not at all.

    Args:
        path: the file; an existing one is replaced at the last moment.
        utterances: at least one; all with the same number of codebooks.
        metadata: what else the file should say of itself (JSON); see `read_metadata`.

    Raises:
        ValueError: nothing to write, or the codebooks differ.
        OSError: the disk is full or the folder cannot be written; the old file is untouched.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp(), "real.parquet")
        >>> write_utterances(path, [Utterance("a", Prompt([1, 2]), [7, 7, 8])])
        >>> read_utterances(path)[0].tokens
        tensor([7, 7, 8])
    """
    books = _codebooks((u.id, u.tokens) for u in utterances)
    pickled = _Blobs()
    rows = [{**_prompt_row(u.id, u.prompt, pickled), "source": u.source, "tokens": _flat(u.tokens)} for u in utterances]
    _write(Path(path), "utterances", _UTTERANCE, rows, {**(metadata or {}), "codebooks": books})


def write_triplets(path: str | Path, triplets: Sequence[Triplet], metadata: dict[str, Any] | None = None) -> None:
    """Write triplets with their reference log-probs to Parquet, whole or not at all.

    Arguments and errors as in `write_utterances`.
    """
    books = _codebooks((t.id, tokens) for t in triplets for tokens in t.completions())
    pickled = _Blobs()
    rows = []
    for triplet in triplets:
        row = _prompt_row(triplet.id, triplet.prompt, pickled)
        for name, tokens, ended in zip(_SPOKEN, triplet.completions(), triplet.ended, strict=True):
            row |= {name: _flat(tokens), f"{name}_ended": ended}
        for mode, values in (triplet.reference or {}).items():
            row |= {f"reference_{mode}_{n}": v.float().cpu().numpy() for n, v in zip(_SPOKEN, values, strict=False)}
        rows.append(row)
    _write(Path(path), "triplets", _TRIPLET, rows, {**(metadata or {}), "codebooks": books})


def read_utterances(
    path: str | Path, *, vocab_size: int | None = None, on_bad: OnBad = "refuse", refused: list[Refused] | None = None
) -> list[Utterance]:
    """Read utterances from Parquet.

    Args:
        path: a file of `write_utterances`.
        vocab_size: size of the codebook; ids outside are refused. None: only negative ids are.
        on_bad: "refuse" leaves bad rows out and warns with the reasons, "raise" stops at the first.
        refused: a list to fill with what was left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file (the message says what is missing), or no good row.
    """
    columns, meta = _read(Path(path), "utterances", _UTTERANCE)

    def build(i: int) -> Utterance:
        tokens = _tokens("tokens", columns["tokens"][i], meta["codebooks"], vocab_size)
        return Utterance(
            columns["id"][i], _prompt(columns, i, meta["codebooks"], vocab_size), tokens, columns["source"][i] or "real"
        )

    rows = ((f"row {i}", key, partial(build, i)) for i, key in enumerate(columns["id"]))
    return sift(rows, str(path), on_bad, refused)


def read_triplets(
    path: str | Path, *, vocab_size: int | None = None, on_bad: OnBad = "refuse", refused: list[Refused] | None = None
) -> list[Triplet]:
    """Read triplets with their reference log-probs from Parquet. Arguments and errors as in `read_utterances`."""
    columns, meta = _read(Path(path), "triplets", _TRIPLET)

    def build(i: int) -> Triplet:
        spoken = [_tokens(name, columns[name][i], meta["codebooks"], vocab_size) for name in _SPOKEN]
        flags = [bool(columns[f"{name}_ended"][i]) for name in _SPOKEN]
        reference: dict[str, tuple[Tensor, ...]] = {}
        for (mode, name), tokens in zip(_REFERENCE, spoken + spoken[:2], strict=True):
            values = columns[f"reference_{mode}_{name}"][i]
            if values is not None:
                reference[mode] = (*reference.get(mode, ()), _logps(f"{mode} log-probs of {name}", values, len(tokens)))
        prompt = _prompt(columns, i, meta["codebooks"], vocab_size)
        real, expressive, stable = spoken
        return Triplet(
            columns["id"][i], prompt, real, expressive, stable, (flags[0], flags[1], flags[2]), reference or None
        )

    rows = ((f"row {i}", key, partial(build, i)) for i, key in enumerate(columns["id"]))
    return sift(rows, str(path), on_bad, refused)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What a file says of itself:

    kind, version, codebooks, counts and what its writer added (weights, layout, settings, seed).
    """
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; check the path, or write it first")
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


class _Blobs(dict[int, bytes]):
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


def _flat(tokens: Tensor | None) -> np.ndarray | None:
    return None if tokens is None else tokens.reshape(-1).to("cpu", torch.int32).numpy()


def _prompt_row(key: str, prompt: Prompt, pickled: _Blobs) -> dict[str, Any]:
    tokens, text = (prompt.style.tokens, prompt.style.text) if prompt.style else (None, None)
    values = {"style_tokens": _flat(tokens), "style_text": _flat(text), "timbre": pickled.of(prompt.timbre)}
    return {"id": key, "text": _flat(prompt.text), **values}


def _codebooks(rows: Iterable[tuple[str, Tensor]]) -> int | None:
    first: tuple[str, int | None] | None = None
    for key, tokens in rows:
        books = None if tokens.dim() == 1 else tokens.shape[1]
        first = first or (key, books)
        if books != first[1]:
            raise ValueError(
                f"{key!r} has {books} codebooks but {first[0]!r} has {first[1]}: write them to separate files"
            )
    if first is None:
        raise ValueError("there is nothing to write: the list is empty")
    return first[1]


def _write(
    path: Path, kind: str, columns: dict[str, str], rows: list[dict[str, Any]], metadata: dict[str, Any]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {
        "string": pa.string(),
        "ids": pa.list_(pa.int32()),
        "floats": pa.list_(pa.float32()),
        "bool": pa.bool_(),
        "blob": pa.dictionary(pa.int32(), pa.binary()),
    }
    arrays = {}
    for name, what in columns.items():
        values = [row.get(name) for row in rows]
        arrays[name] = (
            pa.array(values, pa.binary()).dictionary_encode() if what == "blob" else pa.array(values, types[what])
        )
    about = {**metadata, "kind": kind, "version": _VERSION, "rows": len(rows)}
    schema = pa.schema([(name, types[what]) for name, what in columns.items()], {"seaalign": json.dumps(about)})
    with whole_or_nothing(path) as file:
        pq.write_table(pa.table(arrays, schema=schema), file, compression="zstd")


def _read(path: Path, kind: str, columns: dict[str, str]) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    import pyarrow.parquet as pq

    meta = read_metadata(path)
    if meta["kind"] != kind:
        raise ValueError(f"{path} holds {meta['kind']}, not {kind}: use read_{meta['kind']}")
    if meta["version"] > _VERSION:
        raise ValueError(
            f"{path} has format version {meta['version']}, this seaalign reads up to {_VERSION}: upgrade seaalign"
        )
    try:
        table = pq.read_table(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); it is damaged: delete it and write it again") from error
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise ValueError(
            f"{path} lacks the columns {missing}; it was changed by hand or by another tool: write it again"
        )
    return {name: _column(path, name, what, table[name]) for name, what in columns.items()}, meta


def _column(path: Path, name: str, what: str, column: Any) -> list[Any]:
    import pyarrow as pa

    array = pa.chunked_array(column).combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    if what in ("string", "bool"):
        return list(array.to_pylist())
    if what == "blob":
        array = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
        loaded = [torch.load(io.BytesIO(blob), weights_only=True) for blob in array.dictionary.to_pylist()]
        return [None if i is None else loaded[i] for i in array.indices.to_pylist()]
    if array.values.null_count:
        raise ValueError(f"{path}: column {name!r} has empty cells inside its lists; write the file again")
    values, bounds = array.values.to_numpy(zero_copy_only=False), array.offsets.to_numpy()
    known = array.is_valid().to_numpy(zero_copy_only=False)
    return [values[a:b] if ok else None for a, b, ok in zip(bounds[:-1], bounds[1:], known, strict=True)]


def _prompt(columns: dict[str, list[Any]], i: int, books: int | None, vocab_size: int | None) -> Prompt:
    style = None
    if columns["style_tokens"][i] is not None:
        text = columns["style_text"][i]
        tokens = _tokens("style tokens", columns["style_tokens"][i], books, vocab_size)
        style = Style(tokens, None if text is None else torch.tensor(text, dtype=torch.long))
    text = columns["text"][i]
    return Prompt(torch.tensor([] if text is None else text, dtype=torch.long), style, columns["timbre"][i])


def _tokens(name: str, values: np.ndarray | None, books: int | None, vocab_size: int | None) -> Tensor:
    if values is None or not len(values):
        raise ValueError(f"{name} are empty: drop the row, or check its audio")
    if books and len(values) % books:
        raise ValueError(f"{name}: {len(values)} ids do not divide into {books} codebooks: write the file again")
    tokens = torch.tensor(values, dtype=torch.long)
    tokens = tokens.view(-1, books) if books else tokens
    check_codes(name, tokens, vocab_size)
    return tokens


def _logps(name: str, values: np.ndarray, length: int) -> Tensor:
    if len(values) != length + 1:
        raise ValueError(f"{name}: {len(values)} values for {length} tokens and the end: sample the triplets anew")
    if not np.isfinite(values).all():
        raise ValueError(
            f"{name} are not finite at column {int(np.argmin(np.isfinite(values)))}: sample the triplets anew"
        )
    return torch.tensor(values, dtype=torch.float32)
