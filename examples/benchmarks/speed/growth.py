"""How time and memory of seaalign grow: with triplets a step, length of an answer, vocabulary, candidates of a prompt.

    python examples/benchmarks/speed/growth.py --out docs/growth.png

The small model of the benchmark; one setting moves at a time, the others keep to one length, so that a slope is that of
its own axis. Each point is the median of --rounds fresh processes, one thread, processor time. The numbers go beside
the picture as JSON; the lines through them are in proportion, drawn from the first point.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import rounds as turns
import world
from rounds import Variant
from world import Job

from seaalign.storage import write_json

BASE = Job(triplets=2, texts=1, prompt=(90, 90), frames=(225, 225))
SPEECH = Variant("seaalign", "training.py", "speech")
WHOLE = Variant("softmax over all ids", "training.py", "whole")
DRAWN = Variant("seaalign", "candidates.py", "seaalign")
# name of the axis, its places, the settings there, what is run, and what a unit of time is
AXES: tuple[tuple[str, Sequence[int], Any, Sequence[Variant], str], ...] = (
    ("triplets a step", (1, 2, 4, 8), lambda n: {"triplets": n}, (SPEECH,), "s a step"),
    ("tokens of an answer", (75, 150, 300, 600), lambda n: {"frames": (n, n)}, (SPEECH,), "s a step"),
    ("ids in the vocabulary", (7_564, 40_000, 156_940), lambda n: {"text": n - 6_564}, (SPEECH, WHOLE), "s a step"),
    ("candidates of a prompt", (3, 12, 48, 192), lambda n: {"candidates": n}, (DRAWN,), "s a prompt"),
)


def measured(rounds: int) -> list[dict[str, Any]]:
    """A row for each point: axis, place, variant, seconds and bytes."""
    rows = []
    for axis, places, settings, variants, unit in AXES:
        for place in places:
            job = replace(BASE, **settings(place))
            with tempfile.TemporaryDirectory(prefix="growth-") as folder:
                world.make(job, Path(folder))
                runs, failed = turns.measure(job, Path(folder), variants, rounds, say=lambda line: None)
            if failed:
                raise SystemExit("\n".join(failed.values()))
            parts = 1 if unit.endswith("prompt") else job.steps
            for name, many in runs.items():
                seconds = statistics.median(run[turns.clock_of(job)] for run in many) / parts
                size = statistics.median(run["peak_over_start"] for run in many)
                rows.append({"axis": axis, "place": place, "variant": name, "seconds": seconds, "bytes": size})
                print(f"{axis} {place:>7,}  {name:20} {seconds:7.3f} {unit}  {size / 1e6:8,.0f} MB", flush=True)
    return rows


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Time above, memory below, an axis per column."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, len(AXES), figsize=(13, 6), sharex="col", layout="constrained")
    for column, (axis, _, _, variants, unit) in enumerate(AXES):
        for line, (key, scale, label) in enumerate((("seconds", 1.0, unit), ("bytes", 1e6, "MB over the model"))):
            panel = panels[line, column]
            for variant, mark in zip(variants, ("o-", "s--"), strict=False):
                points = [row for row in rows if row["axis"] == axis and row["variant"] == variant.name]
                x, y = ([row[what] for row in points] for what in ("place", key))
                panel.plot(x, [value / scale for value in y], mark, label=variant.name)
            first = next(row for row in rows if row["axis"] == axis)
            line_up = [first[key] / scale * at / first["place"] for at in x]
            panel.plot(x, line_up, ":", color="grey", label="in proportion")
            panel.set(xscale="log", yscale="log", ylabel=label, xlabel=axis if line else "")
            panel.set_xticks(x, [f"{at:,}" for at in x])
            panel.yaxis.set_major_formatter("{x:g}")
            for side in (panel.xaxis, panel.yaxis):
                side.set_minor_formatter("")
            panel.grid(alpha=0.3, which="both")
            if line == 0:
                panel.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> None:
    made = argparse.ArgumentParser(
        prog="growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=Path, default=Path("growth.png"), help="the picture (default: growth.png)")
    made.add_argument("--rounds", type=int, default=1, help="processes per point (default: 1)")
    given = made.parse_args(arguments)
    rows = measured(given.rounds)
    write_json(given.out.with_suffix(".json"), rows)
    picture(rows, given.out)


if __name__ == "__main__":
    main()
