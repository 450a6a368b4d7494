"""The drawings of a report, from plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seaalign.report.draw import COLOURS, GREY, INK, look, sheet, short, trend
from seaalign.report.parts import Figure

Range = tuple[float, float]
_PASSED, _WIDE = COLOURS[2], (5.1, 4.1)


@dataclass(frozen=True)
class Point:
    """One system or checkpoint in the plane.

    Args:
        name: of the system.
        x: word errors.
        y: entropy.
        kind: "on" (hollow), "off" (filled), "recordings" (a star) or "".
        x_range: interval of x, or None.
        y_range: interval of y, or None.
    """

    name: str
    x: float
    y: float
    kind: str = ""
    x_range: Range | None = None
    y_range: Range | None = None


def plane(name: str, points: Sequence[Point], x: str, y: str, joined: bool = False) -> Figure:
    """The stability-expressivity plane: right is stable, up is lively.

    Args:
        name: of the files.
        points: at least one.
        x: what its axis says; drawn from bad to good, so that the good corner is at the top right.
        y: what its axis says.
        joined: the points are checkpoints of one run in their order: join them, and name them beside their marks.
    """
    best = [point.name + _mode(point) for point in unbeaten(points)]
    said = f"{len(points)} points. Nothing is both more stable and livelier than: {', '.join(best)}."
    names = list(dict.fromkeys(point.name for point in points if point.kind != "recordings"))
    styles = {point.kind for point in points}
    caption = "Right: fewer errors; up: livelier."
    caption += " Bars: 95 % intervals." if any(point.x_range or point.y_range for point in points) else ""
    caption += " Filled: style prefix off; hollow: on." if "on" in styles else ""
    caption += " Star: recordings." if "recordings" in styles else ""
    with sheet(name, caption, said, _WIDE, wide=True) as paper:
        axes = paper.axes
        handles: dict[str, Any] = {}
        if joined:
            axes.plot([p.x for p in points], [p.y for p in points], color=GREY, linewidth=1, zorder=1)
        for point in points:
            drawn = _point(axes, point, 0 if joined else names.index(point.name) if point.name in names else -1)
            handles.setdefault(point.name + _mode(point), drawn)
            if joined:
                axes.annotate(short(point.name), (point.x, point.y), (5, 5), textcoords="offset points", fontsize=8)
        axes.set(xlabel=f"{x} (fewer to the right)", ylabel=y)
        axes.invert_xaxis()
        axes.margins(0.15 if joined else 0.08)
        if not joined:
            paper.legend(list(handles.values()), list(handles))
    return paper.figure


def unbeaten(points: Sequence[Point]) -> list[Point]:
    """The points that no other one beats in errors and liveliness; recordings do not compete.

    >>> [p.name for p in unbeaten([Point("a", 40, 10.4), Point("b", 45, 10.5), Point("c", 46, 10.3)])]
    ['a', 'b']
    """
    field = [p for p in points if p.kind != "recordings"] or list(points)
    return [p for p in field if not any(o.x <= p.x and o.y >= p.y and (o.x, o.y) != (p.x, p.y) for o in field)]


def lines(
    name: str,
    caption: str,
    axes: tuple[str, str],
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    ranges: Mapping[str, Sequence[Range | None]] | None = None,
    digits: int | None = 1,
    joined: bool = True,
) -> Figure:
    """Curves over a common axis.

    Args:
        name: of the files.
        caption: what they show.
        axes: what the axes say.
        series: x and y by name; no NaN.
        ranges: interval of every y, by name.
        digits: of what is said in words; None: four that count.
        joined: False: points of their own, no curves.
    """
    names = list(series) if len(series) > 1 else ["It"]
    pairs = zip(names, series.values(), strict=True)
    told = [trend(n, y, digits) if joined else f"{n}: {min(y):.4g} to {max(y):.4g}." for n, (_, y) in pairs]
    with sheet(name, caption, " ".join(told)) as paper:
        handles = []
        for index, (label, (x, y)) in enumerate(series.items()):
            marks = {"markersize": 4} if len(x) <= 40 or not joined else {"marker": ""}
            style: dict[str, Any] = {**look(index), "linestyle": "-" if joined else "", **marks}
            handles += paper.axes.plot(x, y, **style)
            for place, reach in zip(x, (ranges or {}).get(label, ()), strict=False):
                _bar(paper.axes, place, reach, handles[-1].get_color())
        paper.axes.set(xlabel=axes[0], ylabel=axes[1])
        _whole_numbers(paper.axes.xaxis, [x for xs, _ in series.values() for x in xs])
        if len(series) > 1:
            paper.legend(handles, list(series))
    return paper.figure


def mixture(name: str, plan: Mapping[str, Any]) -> Figure:
    """The entropy of the mixture over its synthetic share, from plan.json."""
    said = f"The entropy of the mixture {plan['shape']}; this data lies at alpha = {plan['alpha']:.3f}."
    with sheet(name, "Entropy of real and synthetic tokens mixed", said, _WIDE, wide=True) as paper:
        axes = paper.axes
        band = axes.fill_between(plan["alphas"], plan["low"], plan["high"], color="#0072b2", alpha=0.25, linewidth=0)
        (curve,) = axes.plot(plan["alphas"], plan["bits"], color="#0072b2")
        axes.axvspan(*plan["interval"], color="#d55e00", alpha=0.15, linewidth=0)
        peak = axes.axvline(plan["critical"], color="#d55e00", linestyle="--")
        here = axes.axvline(plan["alpha"], color=INK, linestyle=":")
        axes.set(xlabel="synthetic share alpha", ylabel="H of the token mixture, bits", xlim=(0, 1))
        names = ["mixture", "95 %", f"alpha* = {plan['critical']:.3f}", f"this data, alpha = {plan['alpha']:.3f}"]
        paper.legend([curve, band, peak, here], names)
    return paper.figure


def stacked(name: str, caption: str, rows: Mapping[str, Mapping[str, int]], what: str = "candidates") -> Figure:
    """Horizontal bars of counts, one per row, each cut into its causes.

    Args:
        name: of the files.
        caption: what they show.
        rows: count by cause, by row; the cause "accepted" comes first.
        what: is counted.
    """
    causes = list(dict.fromkeys(["accepted", *(cause for row in rows.values() for cause in row)]))
    first, *_, last = [*rows] * 2
    said = " ".join(
        f"{label}: {100 * rows[label].get('accepted', 0) / max(sum(rows[label].values()), 1):.0f} % accepted."
        for label in dict.fromkeys((first, last))
    )
    others = [colour for colour in COLOURS if colour != _PASSED]
    hatches = ("", "///", "...", "xx", "\\\\\\", "++", "oo", "--")
    with sheet(name, caption, said, (_WIDE[0], 1.7 + 0.32 * len(rows)), wide=True) as paper:
        left, handles = dict.fromkeys(rows, 0), []
        for index, cause in enumerate(causes):
            widths = [row.get(cause, 0) for row in rows.values()]
            colour = _PASSED if cause == "accepted" else others[(index - 1) % len(others)]
            bars = paper.axes.barh(
                range(len(rows)), widths, left=list(left.values()), height=0.7,
                color=colour, hatch=hatches[index % len(hatches)], edgecolor="white", linewidth=0.5,
            )  # fmt: skip
            handles.append(bars)
            left = {label: left[label] + width for label, width in zip(rows, widths, strict=True)}
        paper.axes.set(xlabel=what, yticks=range(len(rows)), yticklabels=[short(label) for label in rows])
        paper.axes.invert_yaxis()
        paper.axes.grid(axis="y", visible=False)
        paper.legend(handles, causes, 3)
    return paper.figure


def contours(
    name: str, caption: str, heard: Mapping[str, Sequence[float]], spreads: Mapping[str, float], known: Sequence[str]
) -> Figure:
    """Pitch over time, of one sentence from every system.

    Args:
        name: of the files.
        caption: which sentence.
        heard: Hz at 100 Hz by name, 0 = unvoiced; those that are not `known`, as recordings, are drawn in grey.
        spreads: standard deviation in semitones by name, for the words.
        known: all systems, so that each looks the same in every figure.
    """
    told = ", ".join(f"{label} {value:.1f}" for label, value in spreads.items() if math.isfinite(value))
    said = f"Spread of pitch in semitones: {told}." if told else "No spread of pitch is known for these."
    with sheet(name, caption, said, _WIDE, wide=True) as paper:
        handles = []
        for label, hertz in heard.items():
            style: dict[str, Any] = {"color": GREY, "linewidth": 4, "alpha": 0.5, "zorder": 1}
            if label in known:
                style = {**look(known.index(label)), "markersize": 4, "markevery": 20}
            voiced = [value if value > 0 else math.nan for value in hertz]
            handles += paper.axes.plot([i / 100 for i in range(len(voiced))], voiced, **style)
        paper.axes.set(xlabel="seconds", ylabel="F0, Hz")
        paper.legend(handles, list(heard))
    return paper.figure


def _point(axes: Any, point: Point, index: int) -> Any:
    colour, marker = (GREY, "*") if index < 0 else look(index).values()
    _bar(axes, point.y, point.x_range, colour, across=True)
    _bar(axes, point.x, point.y_range, colour)
    face = "none" if point.kind == "on" else colour
    (drawn,) = axes.plot([point.x], [point.y], marker, color=colour, markersize=9, markerfacecolor=face, zorder=3)
    return drawn


def _bar(axes: Any, place: float, reach: Range | None, colour: str, across: bool = False) -> None:
    if reach is not None:
        ends = (list(reach), [place] * 2)
        axes.plot(*(ends if across else ends[::-1]), color=colour, alpha=0.6, linewidth=1, zorder=2)


def _mode(point: Point) -> str:
    return f" (style {point.kind})" if point.kind in ("on", "off") else ""


def _whole_numbers(axis: Any, values: Sequence[float]) -> None:
    if all(float(value).is_integer() for value in values):
        from matplotlib.ticker import MaxNLocator

        axis.set_major_locator(MaxNLocator(integer=True, nbins=6))
