"""An evaluation on disk: `evaluation.json` with the numbers, `utterances.parquet` with what they are made of.

RUN/
  evaluation.json       settings, a value with its interval for each system and metric, comparisons, warnings
  utterances.parquet    a row for each system x style x text x repeat: tokens, transcript, F0 contour, scores
  audio/SYSTEM/STYLE/TEXT-REPEAT.wav
  parts/                what is done so far, from which the same command goes on
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seaalign.evaluation.rows import NAN, Row, Style, read_rows, write_rows
from seaalign.storage.columns import without_nan, write_json
from seaalign.storage.lines import require_file

VERSION = 1


@dataclass(frozen=True)
class Score:
    """A metric of a system with its 95 % interval over texts.

    Args:
        value: NaN where undefined.
        low: NaN for fewer than two texts.
        high: NaN for fewer than two texts.
        n: texts on which it could be measured.
    """

    value: float
    low: float = NAN
    high: float = NAN
    n: int = 0


@dataclass(frozen=True)
class Result:
    """What was measured of a system at a style.

    Args:
        name: of the system; "recordings" are those of people.
        style: "on", "off" or "recordings".
        metrics: a `Score` for each that is defined.
        tokens: speech tokens it said, over all repeats.
        alpha: synthetic share of its training data, where the user said so.
        step: of its checkpoint, where known.
    """

    name: str
    style: Style
    metrics: Mapping[str, Score]
    tokens: int = 0
    alpha: float | None = None
    step: int | None = None


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same texts.

    Args:
        metric: which.
        a: name of a system.
        b: name of the other.
        style: at which both generated; that of the one that did, where the other is made of recordings.
        difference: a - b, on the texts that both have.
        low: of its 95 % interval.
        high: of its 95 % interval.
        p: two-sided; NaN where there is nothing to test.
        p_holm: the same, corrected for all tests of the evaluation.
    """

    metric: str
    a: str
    b: str
    style: Style
    difference: float
    low: float = NAN
    high: float = NAN
    p: float = NAN
    p_holm: float = NAN


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything that an evaluation found.

    Args:
        settings: what it was made with, as JSON values.
        systems: in the order given; the recordings of people, where there are some, come first.
        comparisons: of all systems that share a style.
        rows: every answer.
        warnings: what a reader must know before believing the numbers.
    """

    settings: Mapping[str, Any]
    systems: Sequence[Result]
    comparisons: Sequence[Comparison] = ()
    rows: Sequence[Row] = ()
    warnings: Sequence[str] = ()

    def result(self, name: str, style: Style | None = None) -> Result:
        """Of a system; of its first style, where none is named.

        Raises:
            KeyError: there is none.
        """
        for result in self.systems:
            if result.name == name and style in (None, result.style):
                return result
        known = [f"{each.name} ({each.style})" for each in self.systems]
        raise KeyError(f"no system {name!r}{f' with style {style}' if style else ''}; there are {', '.join(known)}")


def write_evaluation(folder: str | Path, evaluation: Evaluation) -> None:
    """Write `evaluation.json` and `utterances.parquet`, each whole or not at all; the first comes last.

    Args:
        folder: made where it is missing.
        evaluation: what was found.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> found = Evaluation({"repeats": 1}, [Result("sft", "off", {"wer": Score(12.5, 10.0, 15.0, 40)})])
        >>> write_evaluation(folder, found)
        >>> read_evaluation(folder).result("sft").metrics["wer"]
        Score(value=12.5, low=10.0, high=15.0, n=40)
    """
    write_rows(Path(folder, "utterances.parquet"), evaluation.rows)
    told = {
        "kind": "evaluation",
        "version": VERSION,
        "settings": dict(evaluation.settings),
        "systems": [asdict(result) for result in evaluation.systems],
        "comparisons": [asdict(comparison) for comparison in evaluation.comparisons],
        "warnings": list(evaluation.warnings),
    }
    write_json(Path(folder, "evaluation.json"), without_nan(told))


def read_evaluation(folder: str | Path) -> Evaluation:
    """Read what `write_evaluation` wrote.

    Args:
        folder: of the evaluation.

    Raises:
        FileNotFoundError: the folder holds none, or one that is not complete yet.
        ValueError: not one of this kind or version.
    """
    path = require_file(Path(folder, "evaluation.json"), "evaluation (the command that makes it has not ended)")
    told = json.loads(path.read_text(encoding="utf-8"))
    if told.get("kind") != "evaluation" or told.get("version", 0) > VERSION:
        raise ValueError(
            f"{path} holds {told.get('kind')} of version {told.get('version')}, this seaalign reads evaluations up to "
            f"version {VERSION}: upgrade seaalign, or name another folder"
        )
    systems = [
        Result(**{**row, "metrics": {name: Score(**_with_nan(score)) for name, score in row["metrics"].items()}})
        for row in told["systems"]
    ]
    comparisons = [Comparison(**_with_nan(row)) for row in told["comparisons"]]
    rows = read_rows(Path(folder, "utterances.parquet"))
    return Evaluation(told["settings"], systems, comparisons, rows, told["warnings"])


def _with_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: NAN if value is None else value for name, value in row.items()}
