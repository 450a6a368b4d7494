"""What self-critique has to show: its dynamics, what each temperature gave, and where candidates went."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seaalign.critique import Loop
from seaalign.report.charts import lines, stacked
from seaalign.report.parts import Chapter, Column, Part, Table, filled, number

Round = tuple[int, dict[str, Any]]
_CURVES = {  # key in dashboard.json -> title, factor, digits
    "error": ("error %", 100, 1),
    "entropy": ("H_p bits", 1, 2),
    "pass_rate": ("pass rate %", 100, 1),
    "f0_std": ("F0 std, semitones", 1, 2),
    "repetition": ("repetition %", 100, 2),
}


def critique_chapter(name: str, folder: Path) -> Chapter:
    """The chapter of the work folder of TDSC.

    Raises:
        ValueError: a file in it is damaged.
    """
    rounds, missing = _rounds(folder)
    chapter = Chapter(name, "self-critique (TDSC)")
    chapter.parts = [_dynamics(name, folder, rounds), _temperatures(name, rounds), _funnel(name, rounds)]
    chapter.parts[0].missing += missing
    return chapter


def _rounds(folder: Path) -> tuple[list[Round], list[str]]:
    found, missing = [], []
    for path in sorted(folder.glob("round-*")):
        number_of = path.name.removeprefix("round-")
        if not number_of.isdigit():
            continue
        if (path / "round.json").is_file():
            found.append((int(number_of), _read(path / "round.json")))
        else:
            waves = len(list(path.glob("wave-*.parquet")))
            told = f"{waves} waves of candidates are sampled" if waves else "nothing is sampled yet"
            missing.append(f"Iteration {int(number_of)} is not complete ({told}); the same command goes on with it.")
    return found, missing


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): it is damaged, delete it and go on with the run") from error


def _numbers(folder: Path, rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """A row per iteration; one that was mined but not trained on is not in dashboard.json yet."""
    board = folder / "dashboard.json"
    known = {row["iteration"]: row for row in _read(board)} if board.is_file() else {}
    loop = Loop(folder, None)
    return [{"iteration": k, **(known.get(k) or loop.numbers(k))} for k, _ in rounds]


def _dynamics(name: str, folder: Path, rounds: Sequence[Round]) -> Part:
    part = Part("Dynamics")
    if not rounds:
        part.missing.append("No iteration is complete, so there are no numbers yet.")
        return part
    rows = [
        {
            **row,
            **{key: row[key] * factor for key, (_, factor, _) in _CURVES.items() if number(row.get(key)) is not None},
        }
        for row in _numbers(folder, rounds)
    ]
    part.lead.append(
        "Errors, entropy and repetition are those of the temperature nearest to 1, so that they compare while the "
        "hottest one grows; they are of what the policy said at the start of the iteration."
    )
    for key, (title, _, digits) in _CURVES.items():
        at = [(row["iteration"], row[key]) for row in rows if number(row.get(key)) is not None]
        if len(at) > 1:
            series = {title: ([float(k) for k, _ in at], [float(value) for _, value in at])}
            axes = ("iteration", title)
            part.figures.append(
                lines(f"{name}-{key.replace('_', '-')}", f"{title} by iteration", axes, series, digits=digits)
            )
        elif not at and key == "f0_std":
            part.missing.append("F0 was not measured: the judge does not listen, or nothing was voiced.")
    if len(rows) == 1:
        part.missing.append("One iteration is complete: curves begin with the second.")
    columns = [Column("iteration", "iteration", 0), *(Column(k, t, d) for k, (t, _, d) in _CURVES.items())]
    columns += [Column("candidates", "candidates", 0), Column("accepted", "accepted", 0), Column("pairs", "pairs", 0)]
    caption = "Iterations: what was said, accepted and paired"
    part.tables.append(Table(f"{name}-iterations", caption, filled(columns, rows), rows))
    return part


def _temperatures(name: str, rounds: Sequence[Round]) -> Part:
    part = Part("By temperature")
    rows = [
        {**row, "iteration": k, **{key: 100 * row[key] for key in _SHARES if number(row.get(key)) is not None}}
        for k, stats in rounds
        for row in stats["temperatures"]
    ]
    if not rows:
        part.missing.append("No candidate was judged yet.")
        return part
    caption = "Temperatures in every iteration; entropies of an iteration are at equal numbers of tokens"
    part.tables.append(Table(f"{name}-temperatures", caption, filled(_BY_TEMPERATURE, rows), rows))
    return part


_SHARES = ("error", "repetition", "pass_rate", "share")
_BY_TEMPERATURE = [
    Column("iteration", "iteration", 0),
    Column("temperature", "T", 2),
    Column("error", "error %", 1),
    Column("entropy", "H_p bits", 2),
    Column("repetition", "repetition %", 2),
    Column("pass_rate", "pass %", 1),
    Column("share", "share of accepted %", 1),
    Column("frames", "frames", 1),
    Column("candidates", "candidates", 0),
    Column("winners", "winners", 0),
    Column("losers", "losers", 0),
]


def _funnel(name: str, rounds: Sequence[Round]) -> Part:
    part, bars = Part("Where candidates went"), {f"iteration {k}": _causes(stats) for k, stats in rounds}
    if not bars:
        part.missing.append("No iteration was mined yet.")
        return part
    part.lead.append("A candidate is counted under the first criterion that refused it.")
    part.figures.append(stacked(f"{name}-funnel", "Candidates by what became of them", bars))
    causes = list(dict.fromkeys(cause for counts in bars.values() for cause in counts))
    rows = []
    for (k, _), counts in zip(rounds, bars.values(), strict=True):
        total = sum(counts.values())
        shares = {f"{cause} %": 100 * counts.get(cause, 0) / max(total, 1) for cause in causes}
        rows.append(
            {"iteration": k, "candidates": total, **{cause: counts.get(cause, 0) for cause in causes}, **shares}
        )
    columns = [Column("iteration", "iteration", 0), Column("candidates", "candidates", 0)]
    columns += [column for c in causes for column in (Column(c, c, 0), Column(f"{c} %", "%", 1))]
    part.tables.append(Table(f"{name}-funnel", "Candidates by what became of them", columns, rows))
    texts = [{"iteration": k, **stats["texts"]} for k, stats in rounds]
    of_texts = [Column(key, key.replace("_", " "), 0) for key in texts[0]]
    part.tables.append(Table(f"{name}-texts", "Texts by what they gave", of_texts, texts))
    return part


def _causes(stats: dict[str, Any]) -> dict[str, int]:
    """Candidates by what became of them, over all temperatures."""
    counts = {"accepted": sum(row["accepted"] for row in stats["temperatures"])}
    for row in stats["temperatures"]:
        for cause, count in row["refused"].items():
            counts[cause] = counts.get(cause, 0) + count
    return counts
