"""What a training log has to show: which checkpoint lies where in the plane, and the curves."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from seaalign.report.charts import Point, lines, plane
from seaalign.report.parts import Chapter, Column, Part, Table, number

Series = dict[str, dict[int, float]]
_ERRORS, _ENTROPIES = ("wer", "cer", "error"), ("entropy_corrected", "entropy")
_STAGES = ("train", "val", "test")
_SHOWN = ("loss", *_ERRORS, "rewards", "erosion", "tdsc", "logps", "perplexity")
_HIDDEN = ("seconds", "disk_mb", "texts", "candidates")
_MOST = 24


class Found(NamedTuple):
    """The metrics.csv of a folder, and how many older ones lie beside it."""

    path: Path
    older: int


def find_log(folder: Path) -> Found | None:
    """The newest metrics.csv that CSVLogger wrote in or under a folder."""
    own = folder / "metrics.csv"
    if own.is_file():
        return Found(own, 0)
    versions = [*folder.glob("version_*/metrics.csv"), *folder.glob("*_logs/version_*/metrics.csv")]
    order = sorted(versions, key=lambda path: (int("0" + path.parent.name.rpartition("_")[2]), str(path)))
    return Found(order[-1], len(order) - 1) if order else None


def log_chapter(name: str, folder: Path) -> Chapter:
    """The chapter of a folder with a log.

    Raises:
        ValueError: metrics.csv is no such table.
    """
    found = find_log(folder)
    if found is None:
        raise FileNotFoundError(f"no metrics.csv in {folder}, nor in version_* under it: log with CSVLogger")
    series = read_log(found.path)
    chapter = Chapter(name, f"training log, {found.path.relative_to(folder)}")
    chapter.parts = [_checkpoints(name, series), _curves(name, series)]
    if found.older:
        lie = "versions lie" if found.older > 1 else "version lies"
        chapter.parts[1].lead.append(f"{found.older} older {lie} beside this one, not shown.")
    return chapter


def read_log(path: Path) -> Series:
    """Values by key and step; a value that is logged twice for a step is the later one.

    Raises:
        ValueError: no column "step".
    """
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        table = csv.DictReader(line.replace("\0", "") for line in file)  # as a full disk may leave them
        if "step" not in (table.fieldnames or ()):
            raise ValueError(f"{path} has no column 'step': is it a metrics.csv of CSVLogger?")
        series: Series = {}
        for row in table:
            step = number(row["step"])
            for key, text in row.items():
                value = number(text)
                if key not in ("step", "epoch", None) and value is not None and step is not None:
                    series.setdefault(key, {})[int(step)] = value
    return series


def _checkpoints(name: str, series: Series) -> Part:
    part = Part("Checkpoints")
    errors, bits = _key(series, _ERRORS), _key(series, _ENTROPIES)
    if errors is None or bits is None:
        lacking = [what for what, key in (("error rate (val/wer)", errors), ("H_p (ErosionMonitor)", bits)) if not key]
        part.missing.append(f"The log holds no {' and no '.join(lacking)}, so checkpoints have no place in the plane.")
        return part
    rows = [{"step": step, errors: wer, bits: h} for step, wer, h in joined(series[errors], series[bits])]
    if not rows:
        part.missing.append(f"{errors} and {bits} were never measured at the same step.")
        return part
    points = [Point(f"step {row['step']}", row[errors], row[bits]) for row in rows]
    part.figures.append(plane(f"{name}-plane", points, errors, f"{bits}, bits", joined=True))
    columns = [Column("step", "step", 0), Column(errors, errors, 3), Column(bits, f"{bits}, bits", 3)]
    part.tables.append(Table(f"{name}-checkpoints", "Measured checkpoints", columns, rows))
    return part


def joined(errors: Mapping[int, float], bits: Mapping[int, float]) -> list[tuple[int, float, float]]:
    """Step, error and entropy where both were measured; callbacks count one step more than modules do.

    >>> joined({9: 40.0, 19: 30.0, 29: 20.0}, {10: 5.0, 20: 5.1})
    [(10, 40.0, 5.0), (20, 30.0, 5.1)]
    """
    near = ((step, next((errors[s] for s in (step, step - 1) if s in errors), None), h) for step, h in bits.items())
    return sorted((step, wer, h) for step, wer, h in near if wer is not None)


def _key(series: Series, tails: Sequence[str]) -> str | None:
    """The key that ends in the first of these; validation before training."""
    for tail in tails:
        keys = sorted((key for key in series if key.split("/")[-1] == tail), key=lambda k: (not k.startswith("val"), k))
        if keys:
            return keys[0]
    return None


def _curves(name: str, series: Series) -> Part:
    """A figure per metric, training and validation in one."""
    part = Part("Curves")
    panels: dict[str, Series] = {}
    for key in sorted(series):
        stage, _, rest = key.partition("/")
        title = rest if stage in _STAGES and rest else key
        words = set(title.replace("_", "/").split("/")) | set(title.split("/"))
        if words & set(_SHOWN) and not words & set(_HIDDEN):
            panels.setdefault(title, {})[stage if title != key else "logged"] = series[key]
    order = sorted(panels, key=lambda title: (_rank(title), title))
    for place, title in enumerate(order[:_MOST], 1):
        curves = {stage: ([float(s) for s in at], list(at.values())) for stage, at in panels[title].items()}
        figure = lines(f"{name}-{place:02d}-{_slug(title)}", title, ("step", title), curves, digits=None)
        part.figures.append(figure)
    if len(order) > _MOST:
        part.missing.append(f"{len(order) - _MOST} more curves are in metrics.csv: {', '.join(order[_MOST:])}.")
    if not order:
        part.missing.append("The log holds no loss, reward, error rate or erosion.")
    elif not any("erosion" in title for title in order):
        part.missing.append("Erosion was not watched in this run: add ErosionMonitor to the callbacks.")
    return part


def _rank(title: str) -> int:
    return next((i for i, word in enumerate(_SHOWN) if word in title), len(_SHOWN))


def _slug(title: str) -> str:
    return "".join(c if c.isalnum() and c.isascii() else "-" for c in title)
