"""What the plan of a mixture has to show."""

from __future__ import annotations

import json
from pathlib import Path

from seaalign.report.charts import mixture
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
    path = folder / "plan.json"
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): run `seaalign erosion plan` again") from error
    lacking = _NEEDED - set(plan)
    if lacking:
        raise ValueError(f"{path} lacks {sorted(lacking)}: is it of `seaalign erosion plan`?")
    part = Part("Erosion curve", figures=[mixture(f"{name}-erosion", plan)])
    part.lead.append(f"The entropy of the mixture {plan['shape']}.")
    part.lead.append(
        f"DGSA(alpha={plan['alpha']:.3f}, critical={plan['critical']:.3f}) weighs stability {plan['weights'][0]:.2f}, "
        f"expressivity {plan['weights'][1]:.2f}."
    )
    rows = plan["sources"]
    part.tables.append(Table(f"{name}-sources", "Where the tokens come from", filled(_COLUMNS, rows), rows))
    return Chapter(name, "plan of a mixture", [part])
