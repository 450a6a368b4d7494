"""An analysis for the eye: tables for the terminal, one figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from seaalign.listening.analysis import ListeningAnalysis, Statistics
    from seaalign.listening.scores import Row

TITLES = {"nmos": "naturalness (NMOS)", "smos": "speaker similarity (SMOS)", "ab": "preference"}


def tables(analysis: ListeningAnalysis) -> list[Table]:
    """What `seaalign listen analyse` prints."""
    found, every = analysis.screened, {(r["test"], r["system"]): r["mos"] for r in analysis.everyone.scores}
    made = []
    if found.scores:
        rows = [
            [r["test"], r["system"], f"{r['mos']:.2f}", _range(r["low"], r["high"]),
             _range(r["normal_low"], r["normal_high"]), str(r["ratings"]), f"{every[r['test'], r['system']]:.2f}"]
            for r in found.scores
        ]  # fmt: skip
        names = ["test", "system", "MOS", "95 % by rater", "95 % normal", "n", "all raters"]
        made.append(_table("Opinion scores", names, rows))
    if found.differences:
        rows = [
            [r["test"], f"{r['a']} - {r['b']}", f"{r['difference']:+.2f}", _range(r["low"], r["high"]),
             _p(r["p_holm"]), _p(r["p_texts_holm"])]
            for r in found.differences
        ]  # fmt: skip
        names = ["test", "systems", "difference", "95 % by rater", "p raters", "p texts"]
        made.append(_table("Differences (p Holm-corrected)", names, rows))
    if found.preferences:
        rows = [
            [f"{r['a']} : {r['b']}", f"{r['votes_a']} : {r['votes_b']}", str(r["ties"]), f"{100 * r['share']:.0f} %",
             f"{100 * r['low']:.0f} to {100 * r['high']:.0f} %", f"{r['raters_a']} : {r['raters_b']}", _p(r["p_holm"])]
            for r in found.preferences
        ]  # fmt: skip
        names = ["systems", "votes", "ties", "first preferred", "95 % by rater", "raters", "p sign test"]
        made.append(_table("Preferences (p Holm-corrected)", names, rows))
    rows = [[r["test"], r["level"], f"{r['alpha']:.2f}"] for r in found.agreement]
    return [*made, _table("Agreement of raters (Krippendorff's alpha)", ["test", "level", "alpha"], rows)]


def _table(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for i, name in enumerate(names):
        table.add_column(name, justify="left" if i < 2 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # a name of a system is no markup
    return table


def _range(low: float, high: float) -> str:
    return f"{low:.2f} to {high:.2f}"


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}"


def draw(found: Statistics, path: str | Path) -> None:
    """Scores with their intervals by rater, and shares of preferences (PNG, SVG or PDF, by the name)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tests = list(dict.fromkeys(r["test"] for r in [*found.scores, *found.preferences]))
    figure = Figure(figsize=(4.6 * len(tests), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, test in zip(figure.subplots(1, len(tests), squeeze=False)[0], tests, strict=True):
        rows = found.preferences if test == "ab" else [r for r in found.scores if r["test"] == test]
        _panel(axes, test, rows)
    figure.savefig(path, dpi=150)


def _panel(axes: object, test: str, rows: list[Row]) -> None:
    share = test == "ab"
    names = [f"{r['a']} : {r['b']}" if share else r["system"] for r in rows]
    values = [100 * r["share"] if share else r["mos"] for r in rows]
    bounds = [(100 * r["low"], 100 * r["high"]) if share else (r["low"], r["high"]) for r in rows]
    errors = [
        [v - low for v, (low, _) in zip(values, bounds, strict=True)],
        [high - v for v, (_, high) in zip(values, bounds, strict=True)],
    ]
    axes.errorbar(values, range(len(rows)), xerr=errors, fmt="o", capsize=4)  # type: ignore[attr-defined]
    axes.set(  # type: ignore[attr-defined]
        yticks=range(len(rows)), yticklabels=names, title=TITLES[test], ylim=(len(rows) - 0.5, -0.5),
        xlim=(0, 100) if share else (1, 5), xlabel="first preferred, %" if share else "mean score, 95 % by rater",
    )  # fmt: skip
    if share:
        axes.axvline(50, color="black", linewidth=0.8)  # type: ignore[attr-defined]
    axes.grid(alpha=0.3)  # type: ignore[attr-defined]
