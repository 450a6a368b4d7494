"""The paper's figures in miniature; bars and bands are the interval over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from claims import Numbers, interval
from paper import TABLES

ALPHAS = (0.0, 0.25, 0.5, 0.8, 1.0)
LABELS = {"wer": "WER (%)", "entropy": "H_p (bits)", "repetition": "repetition (%)", "f0_std": "F0 std (semitones)"}
PLANE = {
    "recordings": "recordings", "alpha 0.8 styled": "SFT, styled", "rejection": "rejection", "DGSA": "DGSA",
    "no stability": "standard DPO", "no expressivity": "no expressivity", "more SFT on real": "more SFT on real",
}  # fmt: skip


def draw(folder: Path, runs: Sequence[Numbers], rounds: Sequence[dict[str, list[dict[str, float]]]]) -> list[Path]:
    """All figures; returns their files."""
    made = {
        "erosion": erosion(runs),
        "plane": plane(runs),
        "temperature": temperature(runs),
        "dynamics": dynamics(rounds),
    }
    for name, figure in made.items():
        figure.savefig(folder / f"{name}.png", dpi=110)
    return [folder / f"{name}.png" for name in made]


def points(runs: Sequence[Numbers], system: str, key: str) -> tuple[float, float]:
    """Mean and half-width over seeds."""
    mean, low, high = interval([run[system][key] for run in runs if system in run])
    return mean, (high - low) / 2


def axes_of(count: int, width: float, height: float = 3.3) -> tuple[Any, Any]:
    """A figure of so many panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, count)
    for axis in axes:
        axis.grid(alpha=0.3)
    return figure, axes


def erosion(runs: Sequence[Numbers]) -> Any:
    """Figure 1: what the synthetic share does; the paper's values on the right axis."""
    figure, axes = axes_of(4, 13)
    known = [alpha for alpha in ALPHAS if any(f"alpha {alpha:g}" in run for run in runs)]
    for axis, (key, label) in zip(axes, LABELS.items(), strict=True):
        for suffix, name, style in (("", "here, style off", "o-"), (" styled", "here, style on", "s--")):
            values, errors = zip(*(points(runs, f"alpha {alpha:g}{suffix}", key) for alpha in known), strict=True)
            axis.errorbar(known, values, errors, fmt=style, capsize=3, label=name)
        theirs = [(a, y) for a in ALPHAS if (y := TABLES["table 1"].paper(f"alpha {a:g}", key)) is not None]
        if theirs:
            other = axis.twinx()
            other.plot(*zip(*theirs, strict=True), "^:", color="0.5", label="paper (right axis)")
            other.tick_params(axis="y", colors="0.5")
            axis.plot([], [], "^:", color="0.5", label="paper (right axis)")
        axis.set(xlabel="synthetic share α", ylabel=label)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def plane(runs: Sequence[Numbers]) -> Any:
    """Figure 4: stability against expressivity, and the curve that the sweep draws there."""
    figure, axes = axes_of(2, 11, 4.2)
    known = [alpha for alpha in ALPHAS if any(f"alpha {alpha:g}" in run for run in runs)]
    for axis, key in zip(axes, ("entropy", "f0_std"), strict=True):
        sweep = [(points(runs, f"alpha {a:g}", "wer")[0], points(runs, f"alpha {a:g}", key)[0]) for a in known]
        axis.plot(*zip(*sweep, strict=True), "o-", color="0.6", label="SFT, style off, by α")
        for alpha, point in zip(known, sweep, strict=True):
            axis.annotate(f"{alpha:g}", point, textcoords="offset points", xytext=(4, -11), color="0.4", fontsize=8)
        for i, (system, name) in enumerate(PLANE.items()):
            if any(system in run for run in runs):
                (x, dx), (y, dy) = points(runs, system, "wer"), points(runs, system, key)
                axis.errorbar(x, y, dy, dx, fmt="*shvD^P"[i], capsize=2, label=name, color=f"C{i}")
        axis.set(xlabel="WER (%), left is stable", ylabel=f"{LABELS[key]}, up is expressive")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure


def temperature(runs: Sequence[Numbers]) -> Any:
    """Table 9 as a figure: the last iteration of TDSC by temperature."""
    figure, axes = axes_of(3, 10)
    heats = {"coolest": 0.7, "middle": 1.0, "hottest": 1.3}
    for axis, key in zip(axes, ("wer", "entropy", "pass"), strict=True):
        theirs = [TABLES["table 9"].paper(name, key) for name in heats]
        known = {heat: points(runs, name, key) for name, heat in heats.items() if any(name in run for run in runs)}
        if known:
            axis.errorbar(list(known), *zip(*known.values(), strict=True), fmt="o-", capsize=3, label="here")
        other = axis.twinx() if key == "entropy" else axis
        other.plot(list(heats.values()), theirs, "^:", color="0.5", label="paper")
        axis.set(xlabel="temperature", ylabel={"pass": "accepted (%)", **LABELS}[key])
    axes[0].legend(frameon=False)
    return figure


def dynamics(rounds: Sequence[dict[str, list[dict[str, float]]]]) -> Any:
    """Figure 6: the arms of table 4 over their iterations, as the judge hears the candidates at T = 1."""
    figure, axes = axes_of(4, 13)
    shown = {"pass_rate": ("accepted (%)", 100), "error": (LABELS["wer"], 100), "entropy": (LABELS["entropy"], 1)}
    shown |= {"repetition": (LABELS["repetition"], 100)}
    for axis, (key, (label, unit)) in zip(axes, shown.items(), strict=True):
        for i, arm in enumerate(("TDSC", "self-training", "no DPO", "T = 1 only")):
            by_seed = [[row[key] * unit for row in seed[arm] if key in row] for seed in rounds if arm in seed]
            length = min((len(rows) for rows in by_seed), default=0)
            if length:
                values = [interval([rows[k] for rows in by_seed]) for k in range(length)]
                steps = [k + 1 + 0.05 * (i - 1.5) for k in range(length)]  # side by side, or bars hide each other
                axis.errorbar(
                    steps,
                    [v[0] for v in values],
                    [v[2] - v[0] for v in values],
                    fmt="o-",
                    capsize=3,
                    color=f"C{i}",
                    label=arm,
                )
                axis.set_xticks(range(1, length + 1))
        axis.set(xlabel="iteration", ylabel=label)
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)
    return figure
