"""Prompts and answers as plain numbers, for rows that people and other tools read, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seaalign.records import Prompt, Style
from seaalign.records.speech import token_ids
from seaalign.storage.rows import check_codes


def prompt_row(prompt: Prompt) -> dict[str, Any]:
    """A prompt as "text", and what it has of "style_tokens", "style_text" and "timbre".

    Raises:
        ValueError: the timbre is no tensor and no dictionary of tensors, or is not finite.
    """
    row: dict[str, Any] = {"text": prompt.text.tolist()}
    if prompt.style is not None:
        row["style_tokens"] = prompt.style.tokens.tolist()
        if prompt.style.text is not None:
            row["style_text"] = prompt.style.text.tolist()
    return row if prompt.timbre is None else {**row, "timbre": timbre_row(prompt.timbre)}


def timbre_row(timbre: Any) -> Any:
    """A timbre as numbers. Floats of any size come back with 32 bits, integers with 64."""
    if isinstance(timbre, Mapping):
        return {name: _numbers(part) for name, part in timbre.items()}
    return None if timbre is None else _numbers(timbre)


def _numbers(part: Any) -> Any:
    if not isinstance(part, Tensor):
        raise ValueError(
            f"the timbre is no tensor: a table holds one, or a dictionary of them, not a {type(part).__name__}; "
            "use write_pairs, or leave the timbre out with dataclasses.replace(prompt, timbre=None)"
        )
    if not bool(part.isfinite().all()):
        raise ValueError("the timbre is not finite: compute the embedding anew")
    return part.tolist()


def prompt_of(row: Mapping[str, Any], vocab_size: int | None = None) -> Prompt:
    """The prompt of a row of `prompt_row`.

    Raises:
        ValueError: what stands there is no prompt.
    """
    style, timbre = None, row.get("timbre")
    if row.get("style_tokens") is not None:
        style = Style(ids_of(row, "style_tokens"), None if row.get("style_text") is None else ids_of(row, "style_text"))
        check_codes("style tokens", style.tokens, vocab_size)
    if isinstance(timbre, Mapping):  # Parquet has a cell for every name that occurs in the file
        timbre = {name: _tensor(part) for name, part in timbre.items() if part is not None}
    elif timbre is not None:
        timbre = _tensor(timbre)
    return Prompt(ids_of(row, "text"), style, timbre)


def are_ids(value: Any) -> bool:
    """Ids (T,), or (T, K) as lists of lists, and neither text nor messages?"""
    return isinstance(value, list) and not any(isinstance(part, Mapping | str) for part in value[:1])


def ids_of(row: Mapping[str, Any], name: str) -> Tensor:
    """Ids (T,) or (T, K) of a cell."""
    try:
        return token_ids(torch.tensor(row[name]), name, (1, 2))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} is no list of ids: {str(row[name])[:60]} ({error})") from error


def flag_of(row: Mapping[str, Any], name: str) -> bool:
    """True unless the cell says false."""
    flag = row.get(name)
    if flag is not None and not isinstance(flag, bool):
        raise ValueError(f"{name} must be true or false: got {flag!r}")
    return flag is not False


def _tensor(numbers: Any) -> Tensor:
    try:
        tensor = torch.tensor(numbers)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"the timbre holds no numbers: {str(numbers)[:60]} ({error})") from error
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"the timbre is not finite: {str(numbers)[:60]}; compute the embedding anew")
    return tensor
