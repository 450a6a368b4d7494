"""Preference tables as TRL trains on them, and as people write them: pairs in and out.

A row says the same in up to three ways. As ids of the model: prompt_ids, chosen_ids, rejected_ids, the names of TRL's
tokenised data sets (prompt_input_ids, ... before TRL 0.29 are read too). As texts that a tokenizer turns into these
ids: prompt, chosen, rejected. And in the ids of seaalign, without a backbone: "text" (ids), "chosen", "rejected". Where
a row has several, the ids of seaalign count before those of the model, and these before texts.

Source: github.com/huggingface/trl, docs/source/dataset_formats.md, trl/trainer/dpo_trainer.py, trl/data_utils.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from seaalign.records import Pair, Prompt
from seaalign.storage.columns import whole_or_nothing
from seaalign.storage.lines import Row, json_lines, require_file, require_rows
from seaalign.storage.numbers import are_ids, flag_of, ids_of, prompt_of, prompt_row, timbre_row
from seaalign.storage.rows import OnBad, Refused, check_codes, sift
from seaalign.storage.spelling import ANSWERS, Spells, spell, unspell


def write_preferences(
    path: str | Path,
    pairs: Sequence[Pair],
    backbone: Spells | None = None,
    tokenizer: Any = None,
    *,
    on_bad: OnBad = "refuse",
    refused: list[Refused] | None = None,
) -> None:
    """Write pairs as a preference table, whole or not at all.

    With a backbone the columns prompt_ids, chosen_ids and rejected_ids are those of TRL's tokenised data sets. The end
    token closes an answer that ended. With a tokenizer too, the columns prompt, chosen and rejected are texts that TRL
    turns into exactly these ids: its `DPOTrainer` reads the texts and makes the ids anew. It closes every text that
    does not close with `tokenizer.eos_token`: let that be the end token of speech (before TRL 0.29 there is a second
    one), and know that answers which were cut at the length limit count as ended there.

    Without a backbone the table is in the ids of seaalign, as `read_manifest` has them. Where a prompt cannot be read
    back from its ids (with a style prefix, for instance), its own ids go along in "text", "style_tokens", "style_text"
    and "timbre". Reference log-probs do not go along. What comes back from `read_preferences` is what was written.

    Args:
        path: a file that ends in .jsonl or .parquet; an existing one is replaced at the last moment.
        pairs: at least one.
        backbone: turns prompts and speech into ids of the model, for instance a `CausalLM`.
        tokenizer: the model's `transformers` tokenizer.
        on_bad: "refuse" leaves out pairs that cannot be written and warns with the reasons, "raise" stops at the first.
        refused: a list to fill with what was left out.

    Raises:
        ValueError: another ending, a tokenizer without a backbone, no pair, or a bad one under "raise".
        OSError: the disk is full or the folder cannot be written; the old file is untouched.
    """
    path = Path(path)
    if path.suffix not in (".jsonl", ".parquet"):
        raise ValueError(f"{path}: give a name that ends in .jsonl or .parquet")
    if tokenizer is not None and backbone is None:
        raise ValueError("a tokenizer spells the ids of a model: pass the backbone too")
    given = ((f"pair {i}", pair.id, partial(_row, pair, backbone, tokenizer)) for i, pair in enumerate(pairs))
    rows = require_rows(sift(given, "pairs", on_bad, refused), "pairs")
    with whole_or_nothing(path) as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
        else:
            import pyarrow.parquet as pq

            pq.write_table(_table(rows), file)


def _table(rows: list[dict[str, Any]]) -> Any:
    import pyarrow as pa

    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        try:
            columns[name] = pa.array([row.get(name) for row in rows])
        except (TypeError, ValueError) as error:  # Arrow's errors are among them
            raise ValueError(f"column {name!r} has cells of several kinds ({error}): write a .jsonl file") from error
    return pa.table(columns)


def _row(pair: Pair, backbone: Spells | None, tokenizer: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"id": pair.id}
    if backbone is None:
        row |= prompt_row(pair.prompt)
        for name, tokens, ended in zip(ANSWERS, pair.completions(), pair.ended, strict=True):
            row |= {name: tokens.tolist(), f"{name}_ended": ended}
        return row
    prompt = backbone.prompt_ids(pair.prompt).tolist()
    answers = [
        [*backbone.speech_ids(tokens).tolist(), *([backbone.eos_id] if ended else [])]
        for tokens, ended in zip(pair.completions(), pair.ended, strict=True)
    ]
    if tokenizer is not None:
        row |= zip(("prompt", *ANSWERS), spell(tokenizer, prompt, answers), strict=True)
    row |= zip((f"{name}_ids" for name in ("prompt", *ANSWERS)), (prompt, *answers), strict=True)
    return row if _comes_back(pair.prompt, prompt, backbone) else {**row, **prompt_row(pair.prompt)}


def _comes_back(prompt: Prompt, ids: list[int], backbone: Spells) -> bool:
    try:
        found = backbone.read_prompt(ids)
    except ValueError:
        return False
    if (prompt.style is None) != (found.style is None) or not torch.equal(prompt.text.cpu(), found.text.cpu()):
        return False
    return prompt.style is None and timbre_row(prompt.timbre) == timbre_row(found.timbre)


def read_preferences(
    source: str | Path | Iterable[Mapping[str, Any]],
    backbone: Spells | None = None,
    tokenizer: Any = None,
    *,
    vocab_size: int | None = None,
    on_bad: OnBad = "refuse",
    refused: list[Refused] | None = None,
) -> list[Pair]:
    """Read pairs from a preference table, from here or from elsewhere.

    Rows hold ids of seaalign ({"text": [5, 6], "chosen": [1, 2], "rejected": [1, 1]}, for instance from people who
    listened to A and B, with "style_tokens", "style_text", "timbre", "chosen_ended" and "rejected_ended" where they
    exist), ids of the model, texts with or without a prompt of their own, or conversations. See the top of this file
    for their names, and `unspell` for how a prompt is found that is not given. Ids need a backbone, texts a tokenizer.

    An answer in model ids or text ended where it has the end token. Tables made for TRL often leave it to TRL; answers
    without it are then read as cut, and are trained without an end.

    Args:
        source: a .jsonl or .parquet file, a `datasets.Dataset`, or any rows that are dictionaries.
        backbone: reads ids of the model, for instance a `CausalLM`.
        tokenizer: the model's `transformers` tokenizer.
        vocab_size: size of the codebook; ids outside are refused.
        on_bad: "refuse" leaves bad rows out and warns with the reasons, "raise" stops at the first.
        refused: a list to fill with what was left out.

    Raises:
        FileNotFoundError: no such file.
        TypeError: a dictionary of splits.
        ValueError: no good row, or a bad one under "raise".

    Example:
        >>> rows = [{"id": "ab-1", "text": [5, 6], "chosen": [1, 2, 3], "rejected": [1, 1, 1]}]
        >>> read_preferences(rows)[0].rejected
        tensor([1, 1, 1])
    """
    tokenizer = getattr(backbone, "tokenizer", None) if tokenizer is None else tokenizer
    if isinstance(source, Mapping):
        raise TypeError(f"got splits {sorted(source)}: pass one of them, as source['train']")
    name = str(source) if isinstance(source, str | Path) else "preference table"

    def rows() -> Iterator[Row[Pair]]:
        for where, row in _read(source):
            there = isinstance(row, Mapping) and row.get("id") is not None
            key = row["id"] if there and isinstance(row, Mapping) else where.replace(" ", "-")
            key = str(key) if isinstance(key, int) else key
            yield where, key, partial(_pair, row, key, backbone, tokenizer, vocab_size)

    return require_rows(sift(rows(), name, on_bad, refused), name)


def _read(source: Any) -> Iterator[tuple[str, Any]]:
    """Where each row stands, and the row; an error stands for one that cannot be read."""
    if not isinstance(source, str | Path):
        yield from ((f"row {number}", row) for number, row in enumerate(source))
        return
    path = require_file(source, "preference table")
    if path.suffix in (".jsonl", ".json"):
        yield from ((f"line {number}", row) for number, row in json_lines(path))
        return
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path)
        number = 0
        for batch in table.iter_batches(batch_size=64):  # ids take much room as numbers of Python
            for row in batch.to_pylist():
                yield f"row {number}", row
                number += 1
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is neither .jsonl nor a readable Parquet file ({error}); get it again") from error


def _pair(row: Any, key: str, backbone: Spells | None, tokenizer: Any, vocab_size: int | None) -> Pair:
    if isinstance(row, ValueError):
        raise row
    if not isinstance(row, Mapping):
        raise TypeError(f"a row must be a dictionary of columns: got {type(row).__name__}")
    row = {name: value for name, value in row.items() if value is not None}  # tables have a cell in every column
    own = isinstance(row.get("text"), list)
    if all(are_ids(row.get(name)) for name in ANSWERS):
        tokens = [ids_of(row, name) for name in ANSWERS]
        ended = [flag_of(row, f"{name}_ended") for name in ANSWERS]
        if not own:
            raise ValueError(
                f"the text ids are missing: 'text' must be ids, got {str(row.get('text'))[:40]!r}; tokenise it"
            )
        prompt = prompt_of(row, vocab_size)
    else:
        if backbone is None:
            raise ValueError("the row is in ids or text of a model: pass backbone=, for instance a CausalLM")
        ids = _model_ids(row, backbone, tokenizer)
        prompt = prompt_of(row, vocab_size) if own else backbone.read_prompt(ids[0])
        (*tokens,), (*ended,) = zip(*(backbone.read_speech(answer) for answer in ids[1:]), strict=True)
    for name, codes in zip(ANSWERS, tokens, strict=True):
        if not len(codes):
            raise ValueError(f"{name} is empty: an answer needs speech; leave the row out")
        check_codes(name, codes, vocab_size)
    if ended[0] == ended[1] and torch.equal(*tokens):
        raise ValueError("the answers are the same: a pair says nothing unless they differ")
    return Pair(key, prompt, tokens[0], tokens[1], (ended[0], ended[1]))


def _model_ids(row: dict[str, Any], backbone: Spells, tokenizer: Any) -> list[list[int]]:
    for ending in ("ids", "input_ids"):  # of TRL since 0.29, and before
        names = [f"{what}_{ending}" for what in ("prompt", *ANSWERS)]
        if all(name in row for name in names):
            return [ids_of(row, name).tolist() for name in names]
    if not all(name in row for name in ANSWERS):
        raise ValueError(f"keys are missing: a row needs chosen and rejected, as ids or text; it has {sorted(row)}")
    return unspell(row, tokenizer, backbone)
