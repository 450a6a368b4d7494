"""Where filtered speech went: counts by source and stage, and what that did to diversity, loops and errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from seaalign.functional.entropy import count_entropy, entropy_at

STAGES = ("readable", "duration", "loops", "error")
"""What is asked of an utterance, in this order; it is refused at the first that it does not pass."""
_UNITS = {"word": "WER", "grapheme": "CER"}


@dataclass
class Heap:
    """Sums over utterances.

    Args:
        codes: how often each token occurs; of several codebooks in the first.
        loops: sum of the repetition rates of those that are long enough to have one.
        long: how many these are.
        errors: wrong words or graphemes of those that were heard.
        units: of how many.
    """

    codes: Counter[int] = field(default_factory=Counter)
    loops: float = 0.0
    long: int = 0
    errors: float = 0.0
    units: int = 0

    def add(self, tokens: Tensor, repetition: float, k: int, errors: float, units: int) -> None:
        """One more: its tokens (T,) or (T, K), its repetition rate over runs of k + 1, and its errors."""
        self.codes.update((tokens if tokens.dim() == 1 else tokens[:, 0]).tolist())
        self.loops += repetition
        self.long += len(tokens) > k
        self.errors += errors
        self.units += units

    def join(self, other: Heap) -> None:
        """Those of another."""
        self.codes.update(other.codes)
        for name in ("loops", "long", "errors", "units"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def counts(self) -> Tensor:
        """Of the tokens that occur (V,)."""
        return torch.tensor(list(self.codes.values()), dtype=torch.int64)


@dataclass
class Tally:
    """One source while it is filtered."""

    refused: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    before: Heap = field(default_factory=Heap)
    after: Heap = field(default_factory=Heap)

    def join(self, other: Tally) -> None:
        """Add another source."""
        self.refused.update(other.refused)
        self.kept += other.kept
        self.before.join(other.before)
        self.after.join(other.after)

    def row(self, source: str, asked: tuple[str, ...]) -> dict[str, Any]:
        """As plain numbers."""
        left = whole = self.kept + sum(self.refused.values())
        stages: dict[str, Any] = {"in": _share(whole, whole)}
        for stage in STAGES:
            left -= self.refused[stage]
            stages[stage] = _share(left, whole) if stage in asked else None
        size = self.after.codes.total()
        both = {"before": self.before, "after": self.after}
        return {
            "source": source,
            "stages": {**stages, "kept": _share(self.kept, whole)},
            "tokens": {name: side.codes.total() for name, side in both.items()},
            # entropy grows with the sample, and fewer tokens are left: before is that of as many
            "entropy": {
                "before": float(entropy_at(self.before.counts, size)) if size else None,
                "after": float(count_entropy(self.after.counts)) if size else None,
            },
            "repetition": {name: _ratio(side.loops, side.long) for name, side in both.items()},
            "error_rate": {name: _ratio(side.errors, side.units) for name, side in both.items()},
        }


@dataclass(frozen=True)
class Sieve:
    """What became of synthetic speech that was filtered.

    Args:
        rows: one per source, then "all": "stages", how many utterances ("count") and which share of all ("percent")
            came "in", passed each of `STAGES` (None where that was not asked), and were "kept"; "tokens"; "entropy"
            (H_p, bits, before and after at the number of tokens kept); "repetition" (mean of eq. 25 over readable ones,
            and over those kept); "error_rate" (wrong units over all units of those that were heard, and of those kept;
            None where nobody listened).
        settings: what was asked, and how the expected length is known.
        notes: what to keep in mind when reading it.
    """

    rows: list[dict[str, Any]]
    settings: Mapping[str, Any]
    notes: list[str]

    @property
    def kept(self) -> int:
        """How many utterances are left."""
        return int(self.rows[-1]["stages"]["kept"]["count"])

    def to_json(self) -> dict[str, Any]:
        """All of it as plain numbers."""
        return {"kind": "filter", "version": 1, "settings": dict(self.settings), "rows": self.rows, "notes": self.notes}

    def __str__(self) -> str:
        """Tables for people."""
        names = ("in", *STAGES, "kept")
        lines = [f"{'source':<16}" + "".join(f"{name:>20}" for name in names)]
        for row in self.rows:
            lines.append(f"{row['source'][:16]:<16}" + "".join(f"{_count(row['stages'][n]):>20}" for n in names))
        rate = _UNITS.get(self.settings["unit"], "error")
        lines += ["", f"{'':<16}{'H_p bits':>20}{'repetition %':>20}{rate + ' %':>20}{'tokens':>26}"]
        for row in self.rows:
            cells = (
                _change(row["entropy"], 1, 3, 20), _change(row["repetition"], 100, 2, 20),
                _change(row["error_rate"], 100, 1, 20), _change(row["tokens"], 1, 0, 26),
            )  # fmt: skip
            lines.append(f"{row['source'][:16]:<16}" + "".join(cells))
        return "\n".join([*lines, "", *self.notes])


def _share(count: int, whole: int) -> dict[str, float]:
    return {"count": count, "percent": 100 * count / whole if whole else 0.0}


def _ratio(above: float, below: int) -> float | None:
    return above / below if below else None


def _count(stage: Mapping[str, float] | None) -> str:
    return "not asked" if stage is None else f"{stage['count']:,} ({stage['percent']:.1f} %)"


def _change(values: Mapping[str, float | None], scale: float, digits: int, width: int) -> str:
    before, after = ("-" if v is None else f"{scale * v:,.{digits}f}" for v in (values["before"], values["after"]))
    return f"{before if before == after == '-' else f'{before} -> {after}':>{width}}"
