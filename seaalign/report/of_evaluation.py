"""What an evaluation has to show: systems, their plane, comparisons, pitch, and sounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seaalign.evaluation import Comparison, Result, Row, read_evaluation
from seaalign.evaluation.recorded import PEOPLE
from seaalign.report.charts import Point, Range, contours, lines, plane
from seaalign.report.parts import Chapter, Column, Figure, Part, Table, filled, number
from seaalign.report.players import inside, listening

METRICS = {
    "wer": ("WER %", 1),
    "wer_calibrated": ("WER %, calibrated", 1),
    "cer": ("CER %", 1),
    "cer_calibrated": ("CER %, calibrated", 1),
    "entropy": ("H_p bits", 2),
    "repetition": ("repetition %", 2),
    "tokens_per_unit": ("tokens per unit", 1),
    "f0_std": ("F0 std, semitones", 2),
    "f0_std_hz": ("F0 std, Hz", 1),
    "f0_range": ("F0 range", 1),
    "f0_correlation": ("F0 correlation", 2),
    "f0_rmse": ("F0 RMSE", 1),
    "energy_std": ("energy std, dB", 1),
    "similarity": ("similarity", 3),
    "dnsmos": ("DNSMOS", 2),
    "nisqa": ("NISQA", 2),
}
_NO_METRIC = ("name", "style", "alpha", "step", "tokens")
_STEADY = {"wer", "wer_calibrated", "cer", "cer_calibrated", "repetition", "tokens_per_unit"}
_ERRORS, _ENTROPY = ("wer", "cer"), "entropy"
Said = dict[str, dict[str, Row]]


@dataclass(frozen=True)
class Limits:
    """How much may be heard in a chapter.

    Args:
        sentences: at most.
        size: bytes of their sounds in the page.
        seed: of the draw and of the blind order.
    """

    sentences: int
    size: int
    seed: int


def evaluation_chapter(name: str, folder: Path, limits: Limits) -> Chapter:
    """The chapter of an evaluation folder.

    Raises:
        ValueError: it cannot be read.
    """
    if not (folder / "evaluation.json").is_file():
        told = "The evaluation has not ended: it has no evaluation.json yet. The same command goes on with it."
        return Chapter(name, "evaluation", [Part("Systems", missing=[told])])
    found = read_evaluation(folder)
    rows = [_row(result) for result in found.systems]
    said = _first(found.rows)
    known = list(dict.fromkeys(result.name for result in found.systems if result.name != PEOPLE))
    chapter = Chapter(name, "evaluation", warnings=list(found.warnings))
    chapter.parts = [
        _systems(name, rows),
        _plane(name, rows),
        _shares(name, rows),
        _comparisons(name, found.comparisons),
        _pitch(name, said, known),
        _sounds(folder, said, limits, found.settings.get("language")),
    ]
    return chapter


def _row(result: Result) -> dict[str, Any]:
    """One system and mode as a row of a table: metric, metric_low, metric_high."""
    row: dict[str, Any] = {key: getattr(result, key) for key in _NO_METRIC}
    for metric, score in result.metrics.items():
        row |= {metric: score.value, f"{metric}_low": score.low, f"{metric}_high": score.high}
    return row


def _metrics(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Known metrics first, then what else was measured."""
    ends = ("_low", "_high")
    others = sorted({key for row in rows for key in row if not key.endswith(ends)} - {*METRICS, *_NO_METRIC})
    return filled([Column(k, *METRICS.get(k, (k, 3))) for k in [*METRICS, *others]], rows)


_ABOUT = [
    Column("name", "system"),
    Column("style", "style"),
    Column("alpha", "alpha", 2),
    Column("step", "step", 0),
    Column("tokens", "tokens", 0),
]


def _systems(name: str, rows: list[dict[str, Any]]) -> Part:
    part = Part("Systems")
    if not rows:
        part.missing.append("The evaluation holds no system.")
        return part
    metrics = _metrics(rows)
    steady = [column for column in metrics if column.key in _STEADY]
    lively = [column for column in metrics if column.key not in _STEADY]
    for which, title, columns in (
        ("stability", "Stability", steady),
        ("expressivity", "Expressivity and voice", lively),
    ):
        if columns:
            about = filled(_ABOUT if which == "stability" or not steady else _ABOUT[:2], rows)
            part.tables.append(Table(f"{name}-{which}", f"{title}, with 95 % intervals", about + columns, rows))
    return part


def _point(row: Mapping[str, Any], errors: str) -> Point | None:
    x, y = number(row.get(errors)), number(row.get(_ENTROPY))
    if x is None or y is None:
        return None
    kind = "" if row["style"] == PEOPLE != row["name"] else row["style"]  # a synthesiser's files are no people
    return Point(row["name"], x, y, kind, _range(row, errors), _range(row, _ENTROPY))


def _range(row: Mapping[str, Any], key: str) -> Range | None:
    low, high = number(row.get(f"{key}_low")), number(row.get(f"{key}_high"))
    return None if low is None or high is None else (low, high)


def _errors(rows: Sequence[Mapping[str, Any]]) -> str:
    """WER, or CER where no WER was measured."""
    return next((key for key in _ERRORS if any(number(row.get(key)) is not None for row in rows)), _ERRORS[0])


def _plane(name: str, rows: list[dict[str, Any]]) -> Part:
    part, errors = Part("Stability and expressivity"), _errors(rows)
    points = [point for row in rows if (point := _point(row, errors))]
    if not points:
        part.missing.append("No system has both an error rate and an entropy, so there is no plane to draw.")
        return part
    part.figures.append(plane(f"{name}-plane", points, METRICS[errors][0], METRICS[_ENTROPY][0]))
    return part


def _shares(name: str, rows: list[dict[str, Any]]) -> Part:
    part, errors = Part("Erosion over the synthetic share"), _errors(rows)
    known = sorted((row for row in rows if number(row.get("alpha")) is not None), key=lambda row: float(row["alpha"]))
    for metric in (errors, _ENTROPY):
        series: dict[str, tuple[list[float], list[float]]] = {}
        ranges: dict[str, list[Range | None]] = {}
        for row in known:
            value = number(row.get(metric))
            if value is not None:
                label = f"style {row['style']}"
                x, y = series.setdefault(label, ([], []))
                x.append(float(row["alpha"]))
                y.append(value)
                ranges.setdefault(label, []).append(_range(row, metric))
        if any(len(set(x)) > 1 for x, _ in series.values()):
            title, digits = METRICS[metric]
            axes, once = ("synthetic share alpha", title), all(len(set(x)) == len(x) for x, _ in series.values())
            drawn = lines(f"{name}-alpha-{metric}", f"{title} over alpha", axes, series, ranges, digits, once)
            part.figures.append(drawn)
            if not once and not part.lead:
                part.lead.append("Several systems have the same share, so the points are not joined to curves.")
    if not part.figures:
        part.missing.append("No two systems say their synthetic share (alpha) and differ in it: no curve.")
    return part


def _comparisons(name: str, found: Sequence[Comparison]) -> Part:
    part = Part("Comparisons")
    if not found:
        part.missing.append("The evaluation compares no systems.")
        return part
    columns = [
        Column("metric", "metric"), Column("a", "a"), Column("b", "b"), Column("style", "style"),
        Column("difference", "a − b", 3), Column("p", "p", 4), Column("p_holm", "p, Holm", 4),
    ]  # fmt: skip
    order = sorted(found, key=lambda each: [1.0 if math.isnan(p) else p for p in (each.p_holm, each.p)])
    rows = [{**vars(each), "difference_low": each.low, "difference_high": each.high} for each in order]
    for row in rows:
        row["metric"] = METRICS.get(row["metric"], (row["metric"],))[0]
    sure = sum(each.p_holm < 0.05 for each in found)
    part.lead.append(f"{sure} of {len(found)} differences are significant at 5 % after Holm's correction.")
    caption = "Differences between systems on the same sentences, 95 % intervals, two-sided paired tests"
    part.tables.append(Table(f"{name}-comparisons", caption, columns, rows))
    return part


def _first(rows: Sequence[Row]) -> Said:
    """The first repeat of every sentence, by prompt and label; most labels first."""
    found: Said = {}
    for row in sorted(rows, key=lambda row: row.repeat):
        found.setdefault(row.prompt, {}).setdefault(_label(row), row)
    return found


def _label(row: Row) -> str:
    return row.system if row.style == "recordings" else f"{row.system} (style {row.style})"


def _pitch(name: str, said: Said, known: Sequence[str], most: int = 3) -> Part:
    part = Part("Pitch of the same sentence")
    voiced = {
        prompt: {label: row for label, row in rows.items() if bool((row.f0 > 0).any())} for prompt, rows in said.items()
    }
    for prompt in sorted(voiced, key=lambda key: (-len(voiced[key]), key))[:most]:
        for mode in ("off", "on"):
            mine = {label: row for label, row in voiced[prompt].items() if row.style in (mode, "recordings")}
            if len(mine) > 1:
                part.figures.append(_contour(f"{name}-f0-{len(part.figures) + 1}", mode, mine, known))
    if not part.figures:
        part.missing.append("No sentence has a pitch contour from two systems.")
    return part


def _contour(name: str, mode: str, rows: Mapping[str, Row], known: Sequence[str]) -> Figure:
    order = sorted(rows, key=lambda label: label != "recordings")
    names = {label: "recordings" if label == "recordings" else rows[label].system for label in order}
    heard = {names[label]: rows[label].f0.tolist() for label in order}
    spreads = {names[label]: rows[label].score("f0_std") for label in order}
    return contours(name, f"“{rows[order[0]].text}”, style {mode}", heard, spreads, known)


def _sounds(folder: Path, said: Said, limits: Limits, language: Any) -> Part:
    part = Part("Listen")
    sentences: dict[str, tuple[str, dict[str, tuple[Path, str]]]] = {}
    for prompt, rows in said.items():
        for label, row in rows.items():
            path = inside(folder, row.audio)
            if path is not None:
                sentences.setdefault(prompt, (row.text, {}))[1][label] = (path, _truth(label, row))
    heard = listening(sentences, limits.sentences, limits.size, limits.seed, part.missing)
    part.listening = heard and replace(heard, language=language if isinstance(language, str) else "")
    if not sentences:
        part.missing.append("The evaluation kept no sounds, so there is nothing to hear.")
    return part


def _truth(label: str, row: Row) -> str:
    errors, words = number(row.score("word_errors")), number(row.score("words"))
    told = f", word errors: {errors:.0f} in {words:.0f} words" if errors is not None and words else ""
    return f"{label}{told}" + (f", heard as “{row.transcript}”" if row.transcript else "")
