"""What a report is made of, apart from how it looks: chapters (one per run), their parts, tables and figures."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Row = Mapping[str, Any]


class Column(NamedTuple):
    """One column of a table.

    Args:
        key: in the rows; `key_low` and `key_high` beside it, if any, are its interval.
        title: what the head says, with the unit.
        digits: after the point; None: the column holds text.
    """

    key: str
    title: str
    digits: int | None = None


class Cell(NamedTuple):
    """What is shown, the interval behind it, and what it is sorted by."""

    text: str
    spread: str
    order: str


@dataclass(frozen=True)
class Table:
    """A table, for the page and as CSV.

    Args:
        name: of its file.
        caption: what it shows.
        columns: in their order; the first names the rows.
        rows: a value per column; None and NaN are shown as a dash.

    Example:
        >>> table = Table("t", "WER", [Column("name", "system"), Column("wer", "WER %", 1)],
        ...               [{"name": "SFT", "wer": 38.94, "wer_low": 36.0, "wer_high": 41.5}])
        >>> [cell.text + cell.spread for cell in table.cells()[0]]
        ['SFT', '38.9 [36.0, 41.5]']
        >>> print(table.csv(), end="")
        name,wer,wer_low,wer_high
        SFT,38.94,36.0,41.5
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]

    def cells(self) -> list[list[Cell]]:
        """Rows of cells."""
        return [[_cell(row, column) for column in self.columns] for row in self.rows]

    def csv(self) -> str:
        """All values with all their digits."""
        keys = [name for column in self.columns for name in self._with_interval(column.key)]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(keys)
        writer.writerows([_plain(row.get(key)) for key in keys] for row in self.rows)
        return out.getvalue()

    def _with_interval(self, key: str) -> list[str]:
        more = [f"{key}_{end}" for end in ("low", "high")]
        return [key, *(name for name in more if any(name in row for row in self.rows))]


@dataclass(frozen=True)
class Figure:
    """A drawing.

    Args:
        name: of its files.
        caption: what it shows.
        said: what one is to see in it: for those who cannot see it, and for those in a hurry.
        svg: as it stands in the page.
        file: SVG file.
        png: PNG file.
        wide: takes the whole width.
    """

    name: str
    caption: str
    said: str
    svg: str
    file: str
    png: bytes
    wide: bool = False


class Clip(NamedTuple):
    """A label, the sound as a data: URI, and what is told once it is revealed."""

    label: str
    uri: str
    truth: str


class Sentence(NamedTuple):
    """The same sentence from every system, in an order of its own."""

    id: str
    text: str
    clips: list[Clip]


@dataclass(frozen=True)
class Listening:
    """What can be heard.

    Args:
        sentences: those in the page.
        total: how many there were.
        why: what left out the others.
        language: of the texts, for screen readers: "lo"; "" where it is not known.
    """

    sentences: list[Sentence]
    total: int
    why: str
    language: str = ""


@dataclass
class Part:
    """A heading with what stands under it.

    Args:
        title: the heading.
        lead: sentences that say what is to be seen.
        figures: drawn side by side, as they fit.
        tables: below them.
        missing: what could not be shown, and why.
        listening: players.
    """

    title: str
    lead: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    listening: Listening | None = None


@dataclass
class Chapter:
    """What one run has to show.

    Args:
        name: of the run.
        kind: what it is, in words.
        parts: in the order of the page.
        warnings: to stand on top of the page.
    """

    name: str
    kind: str
    parts: list[Part] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def number(value: Any) -> float | None:
    """The value as a number one can draw, or None.

    >>> number("3"), number(float("nan")), number(None), number(True)
    (3.0, None, None, 1.0)
    """
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def filled(columns: Iterable[Column], rows: Sequence[Row]) -> list[Column]:
    """The columns in which some row has something."""
    return [c for c in columns if any(_plain(row.get(c.key)) not in ("", None) for row in rows)]


def _cell(row: Row, column: Column) -> Cell:
    if column.digits is None:
        text = str(_plain(row.get(column.key)))
        return Cell(text or "–", "", text)
    value = number(row.get(column.key))
    if value is None:
        return Cell("–", "", "")
    low, high = (number(row.get(f"{column.key}_{end}")) for end in ("low", "high"))
    spread = "" if low is None or high is None else f" [{_fixed(low, column.digits)}, {_fixed(high, column.digits)}]"
    return Cell(_fixed(value, column.digits), spread, repr(value))


def _fixed(value: float, digits: int) -> str:
    """So many digits; what they would make 0, and is not, has one of its own: 4e-05."""
    text = f"{value:.{digits}f}"
    return f"{value:.0e}" if value and not float(text) else text


def _plain(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value
