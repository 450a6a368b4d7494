"""Drawing for the page: small SVGs that take its colours, the same bytes for the same data."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

from seaalign.report.parts import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito, without the palest
MARKERS = "osD^vPX*"
INK = "#1b1e23"  # becomes the colour of the page's text
GREY = "#808080"
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: small, and in a font that knows its script
    "text.parse_math": False,  # names come from data
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "axes.titlesize": 10,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


class Sheet:
    """Axes to draw on, and the figure that comes of them.

    Attributes:
        axes: of matplotlib.
        figure: what was drawn, once the `with` block of `sheet` is over.
    """

    figure: Figure

    def __init__(self, axes: Any) -> None:
        self.axes = axes

    def legend(self, handles: Sequence[Any], names: Sequence[str], columns: int = 2) -> None:
        """Below the axes, where it hides nothing."""
        said = [short(name) for name in names]
        self.axes.figure.legend(handles, said, loc="outside lower center", ncols=min(columns, len(said)))


@contextmanager
def sheet(
    name: str, caption: str, said: str, size: tuple[float, float] = (3.7, 2.8), wide: bool = False
) -> Iterator[Sheet]:
    """Draw inside the block; `figure` of what it gives is there after it.

    Args:
        name: of the files, of letters, digits and dashes.
        caption: what it shows.
        said: what is to be seen in it.
        size: inches.
        wide: takes the whole width of the page.
    """
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    # a script that the PNG's font lacks is drawn as boxes there; the page has its own fonts
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        canvas = Canvas(figsize=size, layout="constrained")
        paper = Sheet(canvas.subplots())
        yield paper
        svg, png = io.StringIO(), io.BytesIO()
        empty: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.savefig(svg, format="svg", metadata=empty, transparent=True)
        canvas.savefig(png, format="png", metadata={"Software": None}, dpi=150, facecolor="white")
    text = svg.getvalue()
    paper.figure = Figure(name, caption, said, inline(text, name, f"{caption}. {said}"), text, png.getvalue(), wide)


def inline(svg: str, name: str, said: str) -> str:
    """An SVG of matplotlib as it can stand in a page beside others: named, in the page's ink, ids of its own.

    Args:
        svg: the file.
        name: what its ids begin with.
        said: its name for those who do not see it.

    >>> inline('<?xml?><svg><g id="a"/><use xlink:href="#b"/><g id="b"/></svg>', "f", "up & down")
    '<svg role="img" aria-label="up &amp; down"><g/><use xlink:href="#f-b"/><g id="f-b"/></svg>'
    """
    body = svg[svg.index("<svg") :].strip()
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", body))
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{name}-", body)
    body = re.sub(r"(<svg[^>]*?)>", lambda m: f'{m[1]} role="img" aria-label="{escape(said)}">', body, count=1)
    return re.sub(r">\s+<", "><", body.replace(INK, "currentColor"))


def short(name: str, most: int = 30) -> str:
    r"""A name as a legend can show it.

    >>> short("_a\x00" + "b" * 40)
    '\u200b_a?bbbbbbbbbbbbbbbbbbbbbbbbbbb…'
    """
    shown = "".join(c if c.isprintable() else "?" for c in name)
    shown = shown if len(shown) <= most + 1 else f"{shown[:most]}…"
    return f"\u200b{shown}" if shown.startswith("_") else shown  # matplotlib hides such labels


def look(index: int) -> dict[str, str]:
    """Colour and marker of the index-th system; both differ, so that either is enough."""
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}


def trend(what: str, values: Sequence[float], digits: int | None = 1) -> str:
    """A curve in words; without `digits`, numbers have four that count.

    >>> trend("WER", [75.0, 36.2]), trend("H_p", [10.2, 10.5, 10.2], 2)
    ('WER falls from 75.0 to 36.2.', 'H_p goes from 10.20 to 10.20, with 10.50 as its highest on the way.')
    """
    form = ".4g" if digits is None else f".{digits}f"
    first, last = values[0], values[-1]
    if len(values) == 1 or min(values) == max(values):
        return f"{what} is {first:{form}}{' throughout' if len(values) > 1 else ''}."
    span = f"from {first:{form}} to {last:{form}}"
    if max(values) <= max(first, last) and min(values) >= min(first, last):
        return f"{what} {'rises' if last > first else 'falls'} {span}."
    peak, word = (max(values), "highest") if max(values) > max(first, last) else (min(values), "lowest")
    return f"{what} goes {span}, with {peak:{form}} as its {word} on the way."
