"""What is known before training: the plan of a mixture, and where filtered speech went."""

from __future__ import annotations

import json
from collections.abc import Set
from pathlib import Path
from typing import Any

from seaalign.report.charts import mixture, stacked
from seaalign.report.parts import Chapter, Column, Part, Table, filled

_NEEDED = {"alpha", "critical", "interval", "alphas", "bits", "low", "high", "sources", "weights", "shape"}
_COLUMNS = [
    Column("name", "source"),
    Column("utterances", "utterances", 0),
    Column("tokens", "tokens", 0),
    Column("entropy", "H bits", 3),
    Column("corrected", "H bits, corrected", 3),
    Column("at_equal", "H bits, equal tokens", 3),
    Column("critical", "alpha* with it alone", 3),
    Column("without", "H of the mixture without it", 3),
]


def plan_chapter(name: str, folder: Path) -> Chapter:
    """The chapter of a folder with plan.json.

    Raises:
        ValueError: the file is none of `seaalign erosion plan`.
    """
    plan = _read(folder / "plan.json", _NEEDED, "plan")
    part = Part("Erosion curve", figures=[mixture(f"{name}-erosion", plan)])
    part.lead.append(f"The entropy of the mixture {plan['shape']}.")
    part.lead.append(
        f"DGSA(alpha={plan['alpha']:.3f}, critical={plan['critical']:.3f}) weighs stability {plan['weights'][0]:.2f}, "
        f"expressivity {plan['weights'][1]:.2f}."
    )
    rows = plan["sources"]
    part.tables.append(Table(f"{name}-sources", "Where the tokens come from", filled(_COLUMNS, rows), rows))
    return Chapter(name, "plan of a mixture", [part])


def filter_chapter(name: str, folder: Path) -> Chapter:
    """The chapter of a folder with funnel.json.

    Raises:
        ValueError: the file is none of `seaalign erosion filter`.
    """
    found = _read(folder / "funnel.json", {"rows", "notes"}, "filter")
    part = Part("Where the utterances went", lead=list(found["notes"]))
    columns, rows = [Column("source", "source")], []
    for given in found["rows"]:
        row: dict[str, Any] = {"source": given["source"]}
        for stage, cell in given["stages"].items():
            row |= {stage: cell and cell["count"], f"{stage} %": cell and cell["percent"]}
        for key, scale in _CHANGES.items():
            row |= {f"{key} {side}": _scaled(value, scale) for side, value in given[key].items()}
        rows.append(row)
    for key in dict.fromkeys(key for row in rows for key in row if key != "source"):
        count = " " not in key or key.startswith("tokens")
        columns.append(Column(key, key, 0 if count else 1 if key.endswith("%") else 2))
    left = {row["source"]: _lost(row) for row in found["rows"]}
    part.figures.append(stacked(f"{name}-filter", "Utterances by the stage that refused them", left, "utterances"))
    caption = "Utterances that passed each stage; entropy in bits at equal tokens, repetition and errors in percent"
    part.tables.append(Table(f"{name}-filter", caption, filled(columns, rows), rows))
    return Chapter(name, "filter of synthetic speech", [part])


_CHANGES = {"entropy": 1, "repetition": 100, "error_rate": 100, "tokens": 1}


def _lost(row: dict[str, Any]) -> dict[str, int]:
    """How many utterances each stage refused, and how many are kept."""
    counts = {"accepted": row["stages"]["kept"]["count"]}
    left = row["stages"]["in"]["count"]
    for stage, cell in row["stages"].items():
        if cell and stage not in ("in", "kept"):
            counts[stage], left = left - cell["count"], cell["count"]
    return counts


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else scale * value


def _read(path: Path, needed: Set[str], command: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): run `seaalign erosion {command}` again") from error
    lacking = needed - set(found)
    if lacking:
        raise ValueError(f"{path} lacks {sorted(lacking)}: is it of `seaalign erosion {command}`?")
    return dict(found)
