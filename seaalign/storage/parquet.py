"""Utterances and triplets as Parquet: one row each, tokens as lists, timbres as bytes that hold tensors alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seaalign.records import Prompt, Style, Triplet, Utterance
from seaalign.storage.columns import Blobs, Damaged, read_columns, write_columns
from seaalign.storage.rows import OnBad, Refused, check_codes, sift

PROMPT = {"id": "string", "text": "ids", "style_tokens": "ids", "style_text": "ids", "timbre": "blob"}
_UTTERANCE = {**PROMPT, "source": "string", "tokens": "ids"}
_SPOKEN = ("real", "expressive", "stable")
_REFERENCE = tuple(("plain", name) for name in _SPOKEN) + tuple(("styled", name) for name in _SPOKEN[:2])
_TRIPLET = {
    **PROMPT,
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
    books = same_codebooks((u.id, u.tokens) for u in utterances)
    pickled = Blobs()
    rows = [{**prompt_row(u.id, u.prompt, pickled), "source": u.source, "tokens": flat(u.tokens)} for u in utterances]
    write_columns(Path(path), "utterances", _UTTERANCE, rows, {**(metadata or {}), "codebooks": books})


def write_triplets(
    path: str | Path,
    triplets: Sequence[Triplet],
    metadata: dict[str, Any] | None = None,
    *,
    allow_empty: bool = False,
) -> None:
    """Write triplets with their reference log-probs to Parquet, whole or not at all.

    Arguments and errors as in `write_utterances`; `allow_empty` is for parts of a file, of which some may hold none.
    """
    books = same_codebooks(((t.id, tokens) for t in triplets for tokens in t.completions()), allow_empty)
    pickled = Blobs()
    rows = []
    for triplet in triplets:
        row = prompt_row(triplet.id, triplet.prompt, pickled)
        for name, tokens, ended in zip(_SPOKEN, triplet.completions(), triplet.ended, strict=True):
            row |= {name: flat(tokens), f"{name}_ended": ended}
        for mode, values in (triplet.reference or {}).items():
            row |= {f"reference_{mode}_{n}": v.float().cpu().numpy() for n, v in zip(_SPOKEN, values, strict=False)}
        rows.append(row)
    write_columns(Path(path), "triplets", _TRIPLET, rows, {**(metadata or {}), "codebooks": books})


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
    columns, meta = read_columns(Path(path), "utterances", _UTTERANCE)

    def build(i: int) -> Utterance:
        tokens = tokens_of("tokens", columns["tokens"][i], meta["codebooks"], vocab_size)
        return Utterance(
            columns["id"][i],
            prompt_of(columns, i, meta["codebooks"], vocab_size),
            tokens,
            columns["source"][i] or "real",
        )

    rows = ((f"row {i}", key, partial(build, i)) for i, key in enumerate(columns["id"]))
    return sift(rows, str(path), on_bad, refused)


def read_triplets(
    path: str | Path, *, vocab_size: int | None = None, on_bad: OnBad = "refuse", refused: list[Refused] | None = None
) -> list[Triplet]:
    """Read triplets with their reference log-probs from Parquet. Arguments and errors as in `read_utterances`."""
    columns, meta = read_columns(Path(path), "triplets", _TRIPLET)

    def build(i: int) -> Triplet:
        spoken = [tokens_of(name, columns[name][i], meta["codebooks"], vocab_size) for name in _SPOKEN]
        flags = [bool(columns[f"{name}_ended"][i]) for name in _SPOKEN]
        reference: dict[str, tuple[Tensor, ...]] = {}
        for (mode, name), tokens in zip(_REFERENCE, spoken + spoken[:2], strict=True):
            values = columns[f"reference_{mode}_{name}"][i]
            if values is not None:
                reference[mode] = (
                    *reference.get(mode, ()),
                    logps_of(f"{mode} log-probs of {name}", values, len(tokens)),
                )
        prompt = prompt_of(columns, i, meta["codebooks"], vocab_size)
        real, expressive, stable = spoken
        return Triplet(
            columns["id"][i], prompt, real, expressive, stable, (flags[0], flags[1], flags[2]), reference or None
        )

    rows = ((f"row {i}", key, partial(build, i)) for i, key in enumerate(columns["id"]))
    return sift(rows, str(path), on_bad, refused)


def flat(tokens: Tensor | None) -> np.ndarray | None:
    """Ids (T,) or (T, K) as one list of 32-bit numbers."""
    return None if tokens is None else tokens.reshape(-1).to("cpu", torch.int32).numpy()


def prompt_row(key: str, prompt: Prompt, pickled: Blobs) -> dict[str, Any]:
    """The columns that say what was asked."""
    tokens, text = (prompt.style.tokens, prompt.style.text) if prompt.style else (None, None)
    values = {"style_tokens": flat(tokens), "style_text": flat(text), "timbre": pickled.of(prompt.timbre)}
    return {"id": key, "text": flat(prompt.text), **values}


def same_codebooks(rows: Iterable[tuple[str, Tensor]], allow_empty: bool = False) -> int | None:
    """Their number, or None for rows (T,); an error where rows differ."""
    first: tuple[str, int | None] | None = None
    for key, tokens in rows:
        books = None if tokens.dim() == 1 else tokens.shape[1]
        first = first or (key, books)
        if books != first[1]:
            raise ValueError(
                f"{key!r} has {books} codebooks but {first[0]!r} has {first[1]}: write them to separate files"
            )
    if first is None and not allow_empty:
        raise ValueError("there is nothing to write: the list is empty")
    return first[1] if first else None


def prompt_of(columns: dict[str, list[Any]], i: int, books: int | None, vocab_size: int | None) -> Prompt:
    """The prompt of row i."""
    style = None
    if columns["style_tokens"][i] is not None:
        text = columns["style_text"][i]
        tokens = tokens_of("style tokens", columns["style_tokens"][i], books, vocab_size)
        style = Style(tokens, None if text is None else torch.tensor(text, dtype=torch.long))
    text, timbre = columns["text"][i], columns["timbre"][i]
    if isinstance(timbre, Damaged):
        raise ValueError(timbre.reason)
    return Prompt(torch.tensor([] if text is None else text, dtype=torch.long), style, timbre)


def tokens_of(name: str, values: np.ndarray | None, books: int | None, vocab_size: int | None) -> Tensor:
    """Checked ids (T,) or (T, K)."""
    if values is None or not len(values):
        raise ValueError(f"{name} are empty: drop the row, or check its audio")
    if books and len(values) % books:
        raise ValueError(f"{name}: {len(values)} ids do not divide into {books} codebooks: write the file again")
    tokens = torch.tensor(values, dtype=torch.long)
    tokens = tokens.view(-1, books) if books else tokens
    check_codes(name, tokens, vocab_size)
    return tokens


def logps_of(name: str, values: np.ndarray, length: int) -> Tensor:
    """Checked log-probs (T+1,)."""
    if len(values) != length + 1:
        raise ValueError(f"{name}: {len(values)} values for {length} tokens and the end: sample the triplets anew")
    if not np.isfinite(values).all():
        raise ValueError(
            f"{name} are not finite at column {int(np.argmin(np.isfinite(values)))}: sample the triplets anew"
        )
    return torch.tensor(values, dtype=torch.float32)
