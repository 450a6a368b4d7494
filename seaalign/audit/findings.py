"""What an audit finds, and when a finding is a leak: one rule for all of them, which takes chance and interval along.

The yardstick is a tenth of the way. A reader of labels may come a tenth of the way from chance to certainty (with six
speakers that is 25 %, one and a half times chance); numbers may be told to a tenth of their variance; a style toggle
may move the voice by a tenth of the distance between two speakers. A finding is a leak where its whole interval lies
beyond that, clear where its whole interval lies within, and unclear where the data cannot tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from seaalign.audit.probes import Probe

Outcome = Literal["clear", "leak", "unclear", "expected", "measured", "skipped"]
TOLERANCE = 0.1


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Args:
        name: what was asked.
        outcome: "clear", "leak" or "unclear" by the rule above; "expected" and "measured" are for information;
            "skipped" where it could not be asked.
        value, low, high: what was found and its confidence interval; None where skipped.
        unit: "accuracy", "R2", "share" (of the way between two voices), "bits", "semitones", "cosine", "correlation".
        chance: what knowing nothing gives, where that is a number.
        bound: where a leak begins.
        note: the reason for skipping, or what to keep in mind.
        counts: rows, groups, classes, ... behind the number.
    """

    name: str
    outcome: Outcome
    value: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    chance: float | None = None
    bound: float | None = None
    note: str = ""
    counts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def leaks(self) -> Outcome:
        """The outcome, or what the rule would say of an accuracy that is only for information."""
        if self.outcome != "expected" or self.chance is None or self.low is None or self.high is None:
            return self.outcome
        return weigh(self.low, self.high, self.chance + TOLERANCE * (1 - self.chance))

    @property
    def number(self) -> str:
        """Value and interval, as people read them."""
        if self.value is None or self.low is None or self.high is None:
            return "-"
        if self.unit in ("accuracy", "share"):
            return f"{self.value:.0%} [{self.low:.0%}, {self.high:.0%}]"
        unit = {"bits": " b", "semitones": " st"}.get(self.unit, "")
        value, low, high = (round(x, 2) + 0.0 for x in (self.value, self.low, self.high))  # no minus before a zero
        return f"{value:.2f} [{low:.2f}, {high:.2f}]{unit}"

    @property
    def limit(self) -> str:
        """Chance, and where a leak begins."""
        form = ".0%" if self.unit in ("accuracy", "share") else ".2f"
        parts = [] if self.chance is None else [f"chance {self.chance:{form}}"]
        return ", ".join([*parts, *([] if self.bound is None else [f"leak {self._side} {self.bound:{form}}"])])

    @property
    def _side(self) -> str:
        return "below" if self.bound is not None and self.bound > 0.5 and self.unit == "share" else "above"


def weigh(low: float, high: float, bound: float) -> Outcome:
    """Leak where the whole interval lies above the bound, clear where none of it does.

    Example:
        >>> weigh(0.3, 0.5, 0.25), weigh(0.1, 0.2, 0.25), weigh(0.1, 0.5, 0.25)
        ('leak', 'clear', 'unclear')
    """
    return "leak" if low > bound else "clear" if high <= bound else "unclear"


def skipped(name: str, why: str) -> Finding:
    """A question that could not be asked."""
    return Finding(name, "skipped", note=why)


def of_probes(name: str, probes: Sequence[Probe], outcome: Outcome | None = None, note: str = "") -> Finding:
    """The finding of the probe that reads best: its interval has the highest lower end.

    Args:
        name: what was asked.
        probes: one or several kinds, of the same question; each with an interval wide enough for all of them.
        outcome: instead of the rule's, for what is expected.
        note: for the table.

    Example:
        >>> probe = Probe("accuracy", 0.9, 0.8, 0.95, 0.5, rows=60, groups=30, classes=2)
        >>> of_probes("speaker from x", [probe]).outcome, of_probes("speaker from x", [probe]).limit
        ('leak', 'chance 50%, leak above 55%')
    """
    best = max(probes, key=lambda probe: probe.low)
    bound = best.chance + TOLERANCE * (1 - best.chance)
    others = {f"{p.kind}": round(p.value, 4) for p in probes}
    counts = {"rows": best.rows, "groups": best.groups, "classes": best.classes, "left_out": best.left_out, **others}
    # readers of pure noise are not this wrong: what was learned misled them
    if not outcome and best.measure == "accuracy" and best.high < best.chance:
        outcome, note = "unclear", "worse than chance: too few texts or recordings to learn from"
    return Finding(
        name, outcome or weigh(best.low, best.high, bound), best.value, best.low, best.high, best.measure,
        best.chance if best.measure == "accuracy" else None, None if outcome == "expected" else bound, note, counts,
    )  # fmt: skip


def table(findings: Sequence[Finding]) -> str:
    """Findings as text, one line each, and below them why some were skipped."""
    rows = [("", "found [95 %]", "limits", "")]
    rows += [(f.name, f.number, f.limit, f.outcome) for f in findings if f.outcome != "skipped"]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"  {f.name}: {f.note}" for f in findings if f.note and f.outcome != "skipped"]
    reasons: dict[str, list[str]] = {}
    for f in findings:
        if f.outcome == "skipped":
            reasons.setdefault(f.note, []).append(f.name)
    return "\n".join([*lines, *(f"skipped: {'; '.join(names)}: {why}" for why, names in reasons.items())])
