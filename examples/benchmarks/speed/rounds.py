"""Processes that take turns: each round runs every variant once, in a fresh process."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from world import Job

NOISE = 16e6  # bytes that come and go by themselves
HERE = Path(__file__).resolve().parent
Runs = dict[str, list[dict[str, Any]]]


class Variant(NamedTuple):
    """One row of a table.

    Attributes:
        name: as it is printed.
        file: the program in this folder that runs it.
        mode: what that program calls it.
        python: the interpreter.
        whole: does its softmax run over the whole head?
    """

    name: str
    file: str
    mode: str
    python: str = sys.executable
    whole: bool = False


class Failed(RuntimeError):
    """A process did not end well; the message holds the last lines that it wrote."""


def once(job: Job, folder: Path, variant: Variant, number: int) -> dict[str, Any]:
    """Run a variant once, in a process of its own.

    Raises:
        Failed: it did not write what it measured.
    """
    out = folder / f"{variant.file}-{variant.mode}-{number}.json"
    log = folder / "process.log"
    here = {
        **{name: str(job.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")},
        **{name: str(folder / "huggingface") for name in ("HF_HOME", "HF_DATASETS_CACHE")},
        **{name: "1" for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS", "TQDM_DISABLE")},
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [variant.python, str(HERE / variant.file), str(folder), variant.mode, str(out)]
    with open(log, "w") as file:
        done = subprocess.run(command, env={**os.environ, **here}, stdout=file, stderr=subprocess.STDOUT)
    if not out.exists():
        raise Failed(f"{variant.name}: exit status {done.returncode}\n" + "\n".join(log.read_text().splitlines()[-6:]))
    found: dict[str, Any] = json.loads(out.read_text())
    out.unlink()
    if (gradient := out.with_suffix(".grad")).exists():
        found["gradient"] = torch.load(gradient)
        gradient.unlink()
    return found


def measure(
    job: Job, folder: Path, variants: Sequence[Variant], rounds: int, say: Callable[[str], None] = print
) -> tuple[Runs, dict[str, str]]:
    """What each variant measured in each round; and of those that failed, and so take no further part, why.

    Args:
        job: the settings.
        folder: with what `world.make` wrote.
        variants: the rows.
        rounds: how often each runs.
        say: where progress goes.
    """
    runs: Runs = {variant.name: [] for variant in variants}
    failed = dict[str, str]()
    for number in range(rounds):
        for variant in variants:
            if variant.name in failed:
                continue
            try:
                run = once(job, folder, variant, number)
                runs[variant.name].append(run)
                seconds, peak = run[clock_of(job)], run["peak_over_start"] / 1e6
                say(f"round {number + 1}/{rounds}  {variant.name}: {seconds:.3g} s, {peak:,.0f} MB")
            except Failed as error:
                failed[variant.name] = str(error)
                del runs[variant.name]
                say(f"FAILED {error}")
    return runs, failed


def clock_of(job: Job) -> str:
    """With one thread the processor's time, which other jobs disturb least; else only the wall knows."""
    return "cpu_s" if job.device == "cpu" and job.threads == 1 else "wall_s"


def summary(job: Job, runs: Runs, tokens: int) -> dict[str, dict[str, Any]]:
    """Median, least and most of each variant.

    "ours" is how many times as fast the variant named "seaalign" is, and "ours_memory" its peak over this one's: ratios
    within a round, where both saw the machine in the same state.

    Args:
        job: the settings.
        runs: from `measure`.
        tokens: useful tokens of one run.
    """
    clock, rows = clock_of(job), {}
    for name, many in runs.items():
        both = list(zip(many, runs.get("seaalign", []), strict=False))
        values = {
            "tokens_per_s": [tokens / run[clock] for run in many],
            "tokens_per_wall_s": [tokens / run["wall_s"] for run in many],
            "peak_over_model": [run["peak_over_model"] for run in many],
            "peak_over_start": [run["peak_over_start"] for run in many],
            "ours": [run[clock] / ours[clock] for run, ours in both],
            "ours_memory": [
                ours["peak_over_start"] / run["peak_over_start"] for run, ours in both if run["peak_over_start"] > NOISE
            ],
        }
        rows[name] = {"runs": len(many), "clock": clock, "versions": many[0]["versions"]} | {
            what: {"median": statistics.median(found), "min": min(found), "max": max(found)}
            for what, found in values.items()
            if found
        }
    return rows


def agreement(runs: Runs, variants: Sequence[Variant], tolerance: float) -> dict[str, dict[str, Any]]:
    """How far losses and gradients of the variants with the same softmax are from those of the first one that ran.

    Losses of all steps count: the first is ln 2 whoever computes it, the later ones depend on the gradients before.

    Args:
        runs: from `measure`.
        variants: the rows.
        tolerance: largest difference of a loss, and of the gradient relative to its norm.
    """
    same = [variant.name for variant in variants if variant.whole and variant.name in runs]
    found = {}
    for name in same[1:]:
        first, other = runs[same[0]][0], runs[name][0]
        loss = max(abs(a - b) for a, b in zip(other["losses"], first["losses"], strict=True))
        apart = float((other["gradient"] - first["gradient"]).norm() / first["gradient"].norm())
        good = loss <= tolerance and apart <= tolerance
        found[name] = {"with": same[0], "losses": other["losses"], "loss": loss, "gradient": apart, "agrees": good}
    return found
