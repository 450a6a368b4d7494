"""Texts to say, from files that people edit: a line each, or JSON objects whose text is tokenised already."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from seaalign.records import Prompt, Sentence
from seaalign.storage.rows import OnBad, Refused, sift

Tokenize = Callable[[str], Sequence[int]]


def read_texts(
    path: str | Path,
    tokenize: Tokenize | None = None,
    *,
    timbres: Sequence[Any] = (None,),
    language: str | None = None,
    on_bad: OnBad = "refuse",
    refused: list[Refused] | None = None,
) -> list[Sentence]:
    """Read sentences, one per line.

    A `.jsonl` line is an object `{"id": "s1", "text": "hello", "ids": [7, 4]}`, "language" and "id" optional; "ids" may
    be missing where `tokenize` is given. Any other file is plain text, numbered by line. A byte-order mark and blank
    lines are skipped, and a text that came before is refused: it would count twice.

    Args:
        path: the file, UTF-8.
        tokenize: text to text ids.
        timbres: voices, dealt to the sentences in turn.
        language: of the sentences that do not say theirs.
        on_bad: "refuse" leaves bad lines out and warns with the reasons, "raise" stops at the first.
        refused: a list to fill with what was left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not UTF-8, no good line, or plain text without a tokenizer.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path} with texts; check the path")
    structured = path.suffix in (".jsonl", ".json")
    if tokenize is None and not structured:
        raise ValueError(f"{path} is plain text: pass tokenize=, a function from a text to the model's text ids")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}): convert it, for instance with iconv") from error
    if not any(line.strip() for line in lines):
        raise ValueError(f"{path} holds no text: write a sentence on each line")
    voices = list(timbres) or [None]
    seen: dict[str, int] = {}

    def rows() -> Iterator[tuple[str, Any, Callable[[], Sentence]]]:
        count = 0
        for number, line in enumerate(lines, 1):
            if line.strip():
                row = _object(line) if structured else {"text": line.strip()}
                key = row.get("id", f"{path.stem}-{number}") if isinstance(row, dict) else None
                voice = voices[count % len(voices)]
                yield f"line {number}", key, partial(_sentence, row, key, number, tokenize, voice, language, seen)
                count += 1

    return sift(rows(), str(path), on_bad, refused)


def _object(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        return {"broken": str(error)}


def _sentence(
    row: Any,
    key: Any,
    number: int,
    tokenize: Tokenize | None,
    timbre: Any,
    language: str | None,
    seen: dict[str, int],
) -> Sentence:
    if not isinstance(row, dict) or "broken" in row:
        raise ValueError(f"not a JSON object: {row['broken'] if isinstance(row, dict) else row!r}")
    strange = row.keys() - {"id", "text", "ids", "language"}
    if strange:
        raise ValueError(f"unknown keys: {sorted(strange)}; a line has id, text, ids and language")
    text = row.get("text")
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"the text is missing: got {text!r}")
    if text in seen:
        raise ValueError(f"duplicate text: the same as line {seen[text]}")
    ids = row.get("ids")
    if ids is None:
        if tokenize is None:
            raise ValueError("there are no ids: add them, or pass tokenize=")
        ids = tokenize(text)
    sentence = Sentence(key, text, Prompt(ids, timbre=timbre), row.get("language", language))
    seen[text] = number
    return sentence
