"""What the demo shows: tables on screen, figures, a results file, and sounds to listen to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from seaalign.audio import save
from seaalign.demo.evaluate import METRICS, Outcome
from seaalign.miniature.spoken import WORDS

Summary = dict[str, tuple[float, float]]
_DIGITS = {"wer": 1, "repetition": 1, "tokens_per_word": 1}


def table(title: str, rows: dict[str, Summary], console: Console) -> None:
    """One row per system, value +- one sigma per metric."""
    grid = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    grid.add_column("", no_wrap=True)
    for label in METRICS.values():
        grid.add_column(label, justify="right", no_wrap=True)
    for name, summary in rows.items():
        grid.add_row(name, *(_cell(*summary[key], _DIGITS.get(key, 2)) for key in METRICS))
    console.print(grid, "")


def _cell(value: float, sigma: float, digits: int) -> str:
    return f"{value:.{digits}f}±{sigma:.{digits}f}".replace("±0.", "±.")


def slug(name: str) -> str:
    """A system's name as a file name.

    >>> slug("α 0.8 off"), slug("standard DPO")
    ('alpha-0.8-off', 'standard-dpo')
    """
    return "-".join(name.lower().replace("α", "alpha").replace(",", "").split())


def write_sounds(folder: Path, outcomes: dict[str, Outcome], texts: Sequence[Sequence[int]], count: int = 3) -> None:
    """The first test sentences from every system, named after what should be heard."""
    for name, outcome in outcomes.items():
        place = folder / slug(name)
        place.mkdir(parents=True, exist_ok=True)
        for i in range(min(count, len(outcome.waveforms))):
            said = "-".join(WORDS[word] for word in texts[i])
            save(place / f"{i}_{said}.wav", outcome.waveforms[i], 8000)


def plot_sweep(path: Path, alphas: Sequence[float], off: Sequence[Summary], on: Sequence[Summary]) -> None:
    """Synthetic Erosion: word errors, entropy and F0 spread against the synthetic share, style off and on."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, key, label in zip(
        axes, ("wer", "entropy", "f0_std"), ("WER (%)", "H_p (bits)", "F0 std (semitones)"), strict=True
    ):
        for rows, name, style in ((off, "style off", "o-"), (on, "style on", "s--")):
            values, errors = zip(*(row[key] for row in rows), strict=True)
            axis.errorbar(alphas, values, errors, fmt=style, capsize=3, label=name)
        axis.set(xlabel="synthetic share α", ylabel=label, xticks=list(alphas))
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    figure.suptitle("Synthetic Erosion: more synthetic speech, fewer word errors, less prosody")
    figure.savefig(path, dpi=130)


def plot_plane(path: Path, systems: dict[str, Summary]) -> None:
    """The stability-expressivity plane: word errors against F0 spread and entropy, one point per system."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axis, key, label in zip(
        figure.subplots(1, 2), ("entropy", "f0_std"), ("H_p (bits)", "F0 std (semitones)"), strict=True
    ):
        for i, (name, row) in enumerate(systems.items()):
            (x, dx), (y, dy) = row["wer"], row[key]
            axis.errorbar(x, y, dy, dx, fmt="oshvD^P*X"[i % 9], capsize=2, label=name, color=f"C{i}")
        axis.set(xlabel="WER (%), lower is better", ylabel=f"{label}, higher is livelier")
        axis.grid(alpha=0.3)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=130)


ROUNDS = {
    "pass_rate": ("pass %", 100),
    "error": ("error %", 100),
    "entropy": ("H_p b", 1),
    "f0_std": ("F0 st", 1),
    "repetition": ("rep %", 100),
    "tokens_per_unit": ("tok/word", 1),
    "pairs": ("pairs", 1),
}


def rounds_table(rows: list[dict[str, Any]], console: Console) -> None:
    """A row per iteration: what the judge heard at the temperature nearest to 1."""
    grid = Table(
        title="TDSC, iteration by iteration, as the judge hears the candidates at T = 1", title_justify="left",
        title_style="bold", box=None, padding=(0, 1, 0, 0), pad_edge=False,
    )  # fmt: skip
    for label in ("k", *(label for label, _ in ROUNDS.values())):
        grid.add_column(label, justify="right", no_wrap=True)
    for row in rows or [{"iteration": "nothing accepted"}]:
        values = [f"{row[key] * scale:.1f}" if key in row else "-" for key, (_, scale) in ROUNDS.items()]
        grid.add_row(str(row["iteration"]), *values)
    console.print(grid, "")


def plot_rounds(path: Path, rows: list[dict[str, Any]]) -> None:
    """TDSC over its iterations: how many candidates pass, how wrong, how varied and how lively they are at T = 1."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.2), layout="constrained")
    shown = {"pass_rate": "accepted (%)", "error": "word errors (%)", "entropy": "H_p (bits)", "f0_std": "F0 std (st)"}
    for axis, (key, label) in zip(figure.subplots(1, len(shown)), shown.items(), strict=True):
        points = [(row["iteration"], row[key] * ROUNDS[key][1]) for row in rows if key in row]
        if points:
            axis.plot(*zip(*points, strict=True), "o-")
        axis.set(xlabel="iteration", ylabel=label, xticks=[row["iteration"] for row in rows])
        axis.grid(alpha=0.3)
        if ROUNDS[key][1] == 100:
            axis.set_ylim(bottom=0)
    figure.suptitle("Self-critique: what the judge hears, iteration by iteration")
    figure.savefig(path, dpi=130)
