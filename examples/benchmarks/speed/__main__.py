"""How fast seaalign trains, samples and counts, beside what people use today, on the machine at hand.

    python examples/benchmarks/speed                                        # small model, without TRL
    python examples/benchmarks/speed --trl 1.16=trl16/bin/python --trl 0.28=trl028/bin/python --json speed.json
    python examples/benchmarks/speed --size half-billion --only training    # widths of Qwen2.5-0.5B, four layers
    python examples/benchmarks/speed --size half-billion --device cuda      # all 24 layers, bfloat16 autocast
    LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4 python examples/benchmarks/speed    # all by tcmalloc

training    DGSA steps on triplets (real, expressive, stable speech of one text) with stored reference log-probs; TRL's
            DPOTrainer on the same pairs, (real, expressive) and (real, stable), by its default settings and by its best
            ones; and a loop written by hand. Weights, pairs, batches and optimizer are the same; a run is one step to
            warm up and --steps that count. Useful tokens are those of the three completions with their ends: each is
            owed one forward and one backward pass. Losses and gradients must agree where the softmax runs over the same
            ids: TRL's is over the whole head, and so is that of "seaalign, whole head"; "seaalign" is the library as it
            comes, over speech codes and ends alone; "compiled" is that with `compile_blocks(memory=0.5)`.
sampling    twelve candidates a text, four at each of T = 0.7, 1.0, 1.3, nucleus 0.9, ragged lengths that are the same
            for all: seaalign in one call against `generate` called per text and temperature, per temperature with texts
            batched, and once with a temperature per row.
statistics  H_p and repetition of a corpus against a loop over utterances.

Each variant runs in a fresh process, and they take turns; a table shows medians over --rounds with the least and the
most, and how many times as fast seaalign is. Peak memory: "all" is over the loaded model, "step" leaves out what is
there between steps too, a second model and AdamW's two moments (TRL 1.16's second model stays in the file that it was
mapped from, and does not count); the last column is seaalign's share of "step". With one thread on the CPU time is
processor time, otherwise it is wall time. Exits with 1 where a variant fails or disagrees.

TRL's releases exclude each other, and some exclude the transformers of this environment, so each needs its own:

    uv venv trl16  && uv pip install --python trl16/bin/python  trl==1.16.0 torch==2.12.1
    uv venv trl028 && uv pip install --python trl028/bin/python trl==0.28.0 "transformers<5" "datasets<5" torch==2.12.1
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import rounds as turns
import world
from rounds import Variant
from world import Job

from seaalign.storage import write_json

STATISTICS = [Variant("loop in Python", "tally.py", "loop"), Variant("seaalign", "tally.py", "seaalign")]
SAMPLING = [
    Variant("generate, per text and T", "candidates.py", "each"),
    Variant("generate, texts batched per T", "candidates.py", "batched"),
    Variant("generate, one call, T per row", "candidates.py", "rows"),
    Variant("seaalign", "candidates.py", "seaalign"),
]
OURS = [
    Variant("by hand, naive", "training.py", "hand", whole=True),
    Variant("seaalign, whole head", "training.py", "whole", whole=True),
    Variant("seaalign, checkpointing", "training.py", "checkpoint"),
    Variant("seaalign, compiled", "training.py", "compiled"),
    Variant("seaalign", "training.py", "speech"),
]

KEYS = ("tokens_per_s", "ours", "peak_over_model", "peak_over_start", "ours_memory")
HELP = {"text": "text ids in the vocabulary", "candidates": "of each text, a multiple of three"}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--size", choices=list(world.SIZES), default="small", help="of the model (default: small)")
    made.add_argument("--only", nargs="+", choices=["training", "sampling", "statistics"], help="parts to run")
    made.add_argument(
        "--trl", action="append", default=[], metavar="NAME=PYTHON", help="an interpreter that has TRL; repeatable"
    )
    made.add_argument("--rounds", type=int, default=3, help="how often each variant runs (default: 3)")
    made.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    made.add_argument("--threads", type=int, help="of torch on the CPU (default: 1)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there, whole or not at all")
    one = made.add_argument_group("settings of a size", "for what grows with what; defaults depend on --size")
    for name in ("layers", "text", "triplets", "steps", "texts", "candidates", "utterances", "seed"):
        one.add_argument(f"--{name}", type=int, help=HELP.get(name))
    one.add_argument("--frames", type=int, nargs=2, metavar=("LOW", "HIGH"), help="tokens of a completion")
    one.add_argument("--prompt", type=int, nargs=2, metavar=("LOW", "HIGH"), help="text ids of a prompt")
    return made


def job_of(given: argparse.Namespace) -> Job:
    """The settings: those of the size, then of the device, then what was asked for."""
    job = replace(world.SIZES[given.size], device=given.device)
    if given.device == "cuda" and given.size == "half-billion":
        job = replace(job, **world.ON_GPU)
    if given.candidates is not None and (given.candidates < 3 or given.candidates % 3):
        sys.exit(f"--candidates must be a multiple of three, for three temperatures; got {given.candidates}")
    asked = {key: value for key, value in vars(given).items() if key in asdict(job) and value is not None}
    return replace(job, **{key: tuple(value) if isinstance(value, list) else value for key, value in asked.items()})


def trl_variants(given: list[str]) -> tuple[list[Variant], list[str]]:
    """Rows for the interpreters named, and a line for each release that has none."""
    rows, pythons = [], {name: python for name, _, python in (pair.partition("=") for pair in given)}
    for name, python in pythons.items():
        if not Path(python).is_file():
            sys.exit(f"--trl {name}={python}: no such interpreter; --help says how to make one")
        for mode in ("default", "best"):
            rows.append(Variant(f"TRL {name}, {mode}", "trl_dpo.py", mode, str(Path(python).absolute()), whole=True))
    lines = [line.strip() for line in (__doc__ or "").splitlines() if line.strip().startswith("uv venv")]
    return rows, [
        f"skipped: TRL {name}; make an interpreter and pass --trl {name}={line.split()[2]}/bin/python:\n    {line}"
        for name, line in zip(("1.16", "0.28"), lines, strict=True)
        if name not in pythons
    ]


def table(rows: dict[str, dict[str, Any]], softmax: dict[str, bool] | None = None) -> str:
    """Tokens per second, how many times those seaalign has, peak memory, and seaalign's share of it."""
    head = ("", "tokens/s", "least - most", "seaalign", "peak MB: all", "step", "seaalign")
    form = "{:30} {:>11} {:>23} {:>9} {:>13} {:>6} {:>9}"
    lines = [form.format(*head) + ("  softmax over" if softmax else "")]
    for name, row in rows.items():
        middle = {key: row[key]["median"] if key in row else None for key in KEYS}
        rate, ours, everything, step, share = middle.values()
        span = "{min:,.0f} - {max:,.0f}".format(**row["tokens_per_s"])
        megabytes = (f"{size / 1e6:,.0f}" for size in (everything, step))
        times = ("-" if ratio is None else f"{ratio:.2f} x" for ratio in (ours, share))
        line = form.format(name, f"{rate:,.0f}", span, next(times), *megabytes, next(times))
        lines.append(line + (("  whole head" if softmax[name] else "  speech rows") if softmax else ""))
    return "\n".join(lines)


def training(job: Job, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    rows, skipped = trl_variants(given.trl)
    variants = rows + OURS
    if shutil.which("g++") is None:
        variants = [variant for variant in variants if variant.mode != "compiled"]
        skipped.append("skipped: seaalign, compiled; torch.compile needs a C++ compiler: apt-get install g++")
    print("\n".join(skipped))
    runs, failed = turns.measure(job, folder, variants, given.rounds)
    speech = world.data_of(folder)["triplets"][job.triplets * job.warm :]
    tokens = sum(len(codes) + 1 for row in speech for codes in row["speech"])
    done = turns.summary(job, runs, tokens)
    tolerance = 1e-4 if job.device == "cpu" else 2e-2  # of bfloat16
    agreed = turns.agreement(runs, variants, tolerance)
    print("\n" + table(done, {variant.name: variant.whole for variant in variants}))
    for name, how in agreed.items():
        said = "agrees with" if how["agrees"] else "DIFFERS FROM"
        print(f"{name} {said} {how['with']}: losses within {how['loss']:.1e}, gradients within {how['gradient']:.1e}")
    sound = not failed and all(how["agrees"] for how in agreed.values())
    numbers = {"useful_tokens": tokens, "agreement": agreed, "tolerance": tolerance, "skipped": skipped}
    return {"variants": done, "failed": failed, "sound": sound} | numbers


def sampling(job: Job, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    runs, failed = turns.measure(job, folder, SAMPLING, given.rounds)
    tokens = sum(map(sum, world.data_of(folder)["lengths"]))
    done = turns.summary(job, runs, tokens)
    right = {name: all(run["lengths_as_asked"] for run in many) for name, many in runs.items()}
    print("\n" + table(done))
    sound = not failed and all(right.values())
    return {"variants": done, "failed": failed, "sound": sound, "tokens": tokens, "lengths_as_asked": right}


def statistics(job: Job, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    job = replace(job, device="cpu")
    runs, failed = turns.measure(job, folder, STATISTICS, given.rounds)
    tokens = next((run["tokens"] for many in runs.values() for run in many), 0)
    done = turns.summary(job, runs, tokens)
    print("\n" + table(done))
    values = {name: {key: many[0][key] for key in ("entropy", "repetition")} for name, many in runs.items()}
    same = all(abs(one[key] - other[key]) < 1e-5 for one in values.values() for other in values.values() for key in one)
    return {"variants": done, "failed": failed, "sound": not failed and same, "tokens": tokens, "values": values}


def main(arguments: list[str] | None = None) -> None:
    given = parser().parse_args(arguments)
    job = job_of(given)
    found: dict[str, Any] = {"size": given.size, "rounds": given.rounds, "settings": asdict(job)}
    found["machine"] = {
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "load": os.getloadavg(),
        "allocator": {name: os.environ.get(name) for name in ("LD_PRELOAD", "GLIBC_TUNABLES")},
    }
    print(f"{given.size}: {json.dumps(asdict(job))}")
    sound = True
    with tempfile.TemporaryDirectory(prefix="speed-") as name:
        world.make(job, Path(name))
        for part in (training, sampling, statistics):
            if given.only is None or part.__name__ in given.only:
                print(f"\n=== {part.__name__}")
                found[part.__name__] = part(job, Path(name), given)
                sound &= found[part.__name__]["sound"]
    if given.json is not None:
        write_json(given.json, found)
    if not sound:
        sys.exit("not all variants ran, or not all agree: see above")


if __name__ == "__main__":
    main()
