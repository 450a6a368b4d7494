"""One answer of a system with everything measured on it, and a table of such rows as Parquet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from seaalign.storage.columns import read_columns, read_metadata, write_columns

NAN = math.nan
Style = Literal["on", "off", "recordings"]

SCORES = (
    *("word_errors", "words", "character_errors", "characters", "wer_calibrated", "cer_calibrated", "duration"),
    *("f0_std", "f0_std_hz", "f0_range", "f0_correlation", "f0_rmse", "energy_std", "similarity", "repetition"),
)
"""Numbers that every row has; NaN where undefined. Further ones come from measures of the user's."""
_TEXTS = ("system", "style", "prompt", "text", "audio", "transcript", "problem")
_LISTS = {"tokens": "ids", "f0": "floats"}


@dataclass(frozen=True, eq=False)
class Row:
    """One answer of a system: a text, said once.

    Args:
        system: its name.
        style: "on", "off", or "recordings" where nobody generated.
        prompt: id of the text.
        text: as people write it.
        repeat: from 0.
        tokens: speech tokens (T,); of K codebooks the first. None where there are none.
        ended: did it end by itself? True for recordings.
        audio: path of the sound, relative to the folder of the evaluation; "" where there is none.
        transcript: what the recogniser heard.
        f0: contour in Hz at 100 frames a second, 0 where unvoiced (F,).
        problem: why something could not be measured; "" where all could.
        scores: numbers by name, those of `SCORES` and the user's own; NaN where undefined.
    """

    system: str
    style: Style
    prompt: str
    text: str
    repeat: int = 0
    tokens: Tensor | None = None
    ended: bool = True
    audio: str = ""
    transcript: str = ""
    f0: Tensor = field(default_factory=lambda: torch.zeros(0))
    problem: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)

    def score(self, name: str) -> float:
        """A number by name; NaN where it is undefined."""
        return self.scores.get(name, NAN)


def _columns(scores: Sequence[str]) -> dict[str, str]:
    numbers = dict.fromkeys(("repeat", *scores), "number")
    return {**dict.fromkeys(_TEXTS, "string"), **_LISTS, "ended": "bool", **numbers}


def write_rows(path: Path, rows: Sequence[Row], metadata: Mapping[str, Any] | None = None) -> None:
    """Rows as Parquet of the kind "evaluated", one column per score."""
    names = [*dict.fromkeys((*SCORES, *(name for row in rows for name in row.scores)))]
    made = [
        {
            **{name: getattr(row, name) for name in (*_TEXTS, "ended", "repeat")},
            "tokens": None if row.tokens is None else row.tokens.cpu().numpy(),
            "f0": row.f0.cpu().numpy(),
            **{name: row.score(name) for name in names},
        }
        for row in rows
    ]
    write_columns(path, "evaluated", _columns(names), made, {**(metadata or {}), "scores": names})


def read_rows(path: Path) -> list[Row]:
    """Read what `write_rows` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, or a damaged one.
    """
    names = read_metadata(path).get("scores", [])
    found, _ = read_columns(path, "evaluated", _columns(names))
    rows = []
    for values in zip(*found.values(), strict=True):
        row = dict(zip(found, values, strict=True))
        scores = {name: float(row.pop(name)) for name in names}
        tokens = None if row["tokens"] is None else torch.tensor(row["tokens"], dtype=torch.long)
        made = {**row, "repeat": int(row["repeat"]), "tokens": tokens, "f0": torch.tensor(row["f0"])}
        rows.append(Row(**made, scores=scores))
    return rows
