"""The picture of an audit: probes against chance, voices of swapped samples, voice and melody with style on and off."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seaalign.audit.verdict import Separation

_COLOURS = {"leak": "C3", "clear": "C2", "unclear": "C1", "expected": "C0", "measured": "C0"}


def draw(found: Separation, path: Path) -> None:
    """Write a PNG (or what the suffix says)."""
    from matplotlib.figure import Figure

    heard = bool(found.points.get("spread_on"))
    figure = Figure(figsize=(12, 8) if heard else (9, 4.2), layout="constrained")
    axes = figure.subplots(2, 2).flat if heard else [figure.subplots()]
    _probes(axes[0], found)
    if heard:
        _swaps(axes[1], found.points)
        _toggle(axes[2], found.points, "similarity", "cosine with the speaker's voice")
        _toggle(axes[3], found.points, "spread", "F0 std (semitones)")
    figure.suptitle(f"{found.backbone}: {found.status}", fontsize=13, fontweight="bold")
    figure.savefig(path, dpi=110)


def _probes(axis: Any, found: Separation) -> None:
    rows = [f for f in found.findings if f.unit in ("accuracy", "R2") and f.value is not None]
    for at, f in enumerate(reversed(rows)):
        assert f.value is not None and f.low is not None and f.high is not None
        low, high = max(f.low, -0.3), min(max(f.high, -0.3), 1.0)
        axis.plot([low, high], [at, at], color=_COLOURS[f.outcome], lw=3, alpha=0.5)
        axis.plot(max(f.value, -0.3), at, "o", color=_COLOURS[f.outcome])
        if f.bound is not None:
            axis.plot(f.bound, at, "|", color="k", ms=14)
        if f.chance is not None:
            axis.plot(f.chance, at, "|", color="0.6", ms=14)
    axis.set_yticks(range(len(rows)), [f"{f.name} ({f.unit})" for f in reversed(rows)])
    axis.set(xlim=(-0.35, 1.05), title="probes: grey chance, black where a leak begins")
    for name in ("leak", "clear", "unclear", "expected"):
        axis.plot([], [], "o", color=_COLOURS[name], label=name)
    axis.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.3, -0.06), ncol=4)
    axis.grid(alpha=0.3, axis="x")


def _swaps(axis: Any, points: Any) -> None:
    if points.get("swap_style"):
        axis.plot(points["swap_style"], points["swap_timbre"], "o", alpha=0.6, label="swapped samples")
        axis.plot([-1, 1], [-1, 1], color="0.6", lw=1)
        axis.legend(frameon=False)
        axis.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05))
    else:
        axis.text(
            0.5, 0.5, "not listened to:\nno speaker embedder, or one speaker", ha="center", transform=axis.transAxes
        )
    axis.set(xlabel="cosine with the style's speaker", ylabel="cosine with the timbre's speaker")
    axis.set_title("whose voice? above the line the timbre's")
    axis.grid(alpha=0.3)


def _toggle(axis: Any, points: Any, what: str, label: str) -> None:
    off, on = points.get(f"{what}_off", []), points.get(f"{what}_on", [])
    if off:
        axis.plot(off, on, "o", alpha=0.6)
        ends = [min(*off, *on), max(*off, *on)]
        axis.plot(ends, ends, color="0.6", lw=1)
    else:
        axis.text(0.5, 0.5, "not measured", ha="center", transform=axis.transAxes)
    axis.set(xlabel=f"{label}, style off", ylabel="style on")
    axis.set_title("the toggle at fixed timbre" + (": should not leave the line" if what == "similarity" else ""))
    axis.grid(alpha=0.3)
