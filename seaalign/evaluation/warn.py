"""What a reader must know before believing the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from seaalign.evaluation.recorded import PEOPLE
from seaalign.evaluation.rows import Row


def cautions(settings: Mapping[str, Any], rows: Sequence[Row]) -> list[str]:
    """Of an evaluation as a whole, then of each system.

    Args:
        settings: of the evaluation.
        rows: all answers.
    """
    said, codecs = [], settings["codecs"]
    if settings["texts"] == 1:
        said.append("one text only: there are no intervals and no tests")
    if settings["repeats"] == 1 and any(row.style != "recordings" for row in rows):
        said.append("each text was said once: what the chance of the draws does to the numbers is not averaged out")
    if PEOPLE not in codecs:
        said.append("no recordings of people: errors are not calibrated, and melodies are not compared with people's")
    if settings["transcriber"] is None:
        said.append("no recogniser: errors are not measured")
    spoken = {name: codec for name, codec in codecs.items() if codec is not None}
    mute = [name for name in codecs if name not in spoken]
    if mute:
        said.append(
            f"no speech tokens of {', '.join(mute)}: entropy, repetition and tokens per unit are undefined there"
        )
    if len(set(spoken.values())) > 1:
        told = "; ".join(f"{name}: {codec}" for name, codec in spoken.items())
        said.append(
            f"tokens of different tokenizers are not compared ({told}): their entropies are on different scales"
        )
    return [*said, *(line for name in codecs for line in _of_system(name, [row for row in rows if row.system == name]))]


def _of_system(name: str, rows: Sequence[Row]) -> list[str]:
    problems: dict[str, list[str]] = {}
    for row in rows:
        if row.problem:
            problems.setdefault(row.problem.split(":")[0], []).append(row.prompt)
    lines = [f"{name}: {why}, {len(ids)} of {len(rows)} answers ({_first(ids)})" for why, ids in problems.items()]
    cut = [row.prompt for row in rows if not row.ended]
    if cut:
        lines.append(f"{name}: {len(cut)} of {len(rows)} answers were cut at max_len ({_first(cut)})")
    empty = [row.prompt for row in rows if not row.transcript and not row.problem and row.score("character_errors") > 0]
    if empty:
        lines.append(f"{name}: nothing was understood in {len(empty)} of {len(rows)} answers ({_first(empty)})")
    return lines


def _first(ids: Sequence[str]) -> str:
    return ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
