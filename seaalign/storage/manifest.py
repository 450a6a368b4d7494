"""The JSONL door: one utterance per line, for tools that write no Parquet and for people who edit by hand."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from seaalign.records import Prompt, Style, Utterance
from seaalign.storage.rows import OnBad, Refused, check_codes, sift

_KEYS = {"id", "text", "tokens", "style_tokens", "style_text", "timbre", "source"}


def read_manifest(
    path: str | Path, *, vocab_size: int | None = None, on_bad: OnBad = "refuse", refused: list[Refused] | None = None
) -> list[Utterance]:
    """Read a JSONL manifest of utterances that are already tokens.

    Each line is an object: `{"id": "u1", "text": [5, 6], "tokens": [1, 2, 3]}`, and where they exist "style_tokens" and
    "style_text" (ids of the reference recording), "timbre" (a list of numbers, the speaker embedding) and "source"
    ("real" if absent). With K codebooks a token is a list of K ids. A byte-order mark and blank lines are skipped.

    Args:
        path: the file, UTF-8.
        vocab_size: size of the codebook; ids outside are refused. None: only negative ids are.
        on_bad: "refuse" leaves bad lines out and warns with the reasons, "raise" stops at the first.
        refused: a list to fill with what was left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no good line, or a bad one under "raise".

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp(), "real.jsonl")
        >>> _ = path.write_text('{"id": "u1", "text": [5], "tokens": [1, 2]}')
        >>> read_manifest(path)[0].id
        'u1'
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no manifest {path}; check the path")
    return sift(_lines(path, vocab_size), str(path), on_bad, refused)


def _lines(path: Path, vocab_size: int | None) -> Iterator[tuple[str, Any, Callable[[], Utterance]]]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            row = _parse(line.removeprefix(codecs.BOM_UTF8))
            key = row.get("id") if isinstance(row, dict) else f"line {number}"
            yield f"line {number}", key, partial(_utterance, row, vocab_size)


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except ValueError as error:
        return error


def _utterance(row: Any, vocab_size: int | None) -> Utterance:
    if isinstance(row, ValueError):
        raise ValueError(f"not JSON in UTF-8: {row}; every line must be one object")
    if not isinstance(row, dict):
        raise ValueError(f"a line must be an object with id, text and tokens: got {type(row).__name__}")
    unknown, missing = sorted(row.keys() - _KEYS), sorted({"text", "tokens"} - row.keys())
    if unknown or missing:
        raise ValueError(f"keys: unknown {unknown}, missing {missing}; known are {sorted(_KEYS)}")
    if isinstance(row["text"], str):
        raise ValueError(f"text: got the string {row['text'][:40]!r}, need the ids of your own text tokenizer")
    tokens = _ids(row, "tokens")
    check_codes("tokens", tokens, vocab_size)
    style = None
    if row.get("style_tokens") is not None:
        style = Style(_ids(row, "style_tokens"), None if row.get("style_text") is None else _ids(row, "style_text"))
        check_codes("style tokens", style.tokens, vocab_size)
    prompt = Prompt(_ids(row, "text"), style, _timbre(row.get("timbre")))
    return Utterance(row["id"], prompt, tokens, row.get("source", "real"))


def _timbre(numbers: Any) -> torch.Tensor | None:
    if numbers is None:
        return None
    try:
        timbre = torch.tensor(numbers, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"timbre: {str(numbers)[:60]} is not a list of numbers ({error})") from error
    if not bool(timbre.isfinite().all()):  # Python's JSON reads NaN and Infinity, and 1e99 is too much for 32 bits
        bad = timbre.flatten()[~timbre.flatten().isfinite()][0]
        raise ValueError(f"timbre: holds {float(bad)}: every number must be finite; compute the embedding anew")
    return timbre


def _ids(row: dict[str, Any], name: str) -> torch.Tensor:
    try:
        return torch.tensor(row[name])
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name}: {str(row[name])[:60]} is not a list of ids ({error})") from error
