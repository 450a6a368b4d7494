"""Arms of self-critique on the miniature, over several seeds: which part of TDSC does what.

    python examples/tdsc_arms.py --fsdd free-spoken-digit-dataset/recordings --seeds 3
    python examples/tdsc_arms.py --arms TDSC "TDSC without ASR" --seeds 1       # the toy voice, two arms
    python examples/tdsc_arms.py --prior 200 --arms TDSC                        # an expressive prior first

Each seed builds its world once (two minutes) under `--folder`; what is there is not made again. With `--prior` the
policy first learns, for so many steps, the expressive speech with its words renamed, as if of another language, so that
there is prosody for temperature to find. The table (Markdown) shows what the reporter, which never filters, hears.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import statistics
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch
import torch

from seaalign.demo import evaluate, scarce, show, world
from seaalign.miniature.codec import Codec

N_TOKENS = 2500
COLUMNS = {"wer": "WER %", "entropy": "H_p bits", "f0_std": "F0 std st", "repetition": "repetition %"}
COLUMNS |= {"similarity": "SIM", "tokens_per_word": "tokens/word"}


def build(folder: Path, path: str | None, sizes: world.Sizes, seed: int) -> None:
    """Speech, codec, ears: everything but the policies."""
    if (folder / "speaker.pt").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    world.record(folder, path, sizes, seed)
    world.tokenize(folder, sizes, seed)
    world.teach(folder, "judge.pt", 96, sizes, seed + 1)
    world.teach(folder, "reporter.pt", 80, sizes, seed + 2)
    world.recognise_speakers(folder, seed)


def listen(folder: Path, name: str, seed: int) -> dict[str, Any]:
    """What the reporter hears."""
    outcome = evaluate.assess(folder, name, name, False, seed + 1000)
    return evaluate.summarise(outcome, Codec.load(folder / "codec.pt"), N_TOKENS)


def run(folder: Path, arms: list[str], sizes: world.Sizes, seed: int) -> dict[str, Any]:
    """All arms of one seed from one policy."""
    scarce.sft(folder, sizes, seed)
    found = {"systems": {"SFT": listen(folder, scarce.BASE, seed)}, "rounds": {}}
    for arm in arms:
        name = f"{show.slug(arm)}-prior-{sizes.prior_steps}"
        shutil.rmtree(folder / name, ignore_errors=True)  # of an earlier call with other settings
        try:
            found["rounds"][arm] = scarce.criticise(folder, name, arm, sizes, seed)
        except ValueError as error:  # a recogniser that learned too little refuses to judge
            print(f"seed {seed}, {arm}: {error}", flush=True)
            continue
        found["systems"][arm] = listen(folder, name, seed)
        wer = found["systems"][arm]["wer"][0]
        print(f"seed {seed}, {arm}: WER {found['systems']['SFT']['wer'][0]:.1f} -> {wer:.1f}", flush=True)
    return found


def markdown(runs: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over seeds, and the pass rates of every seed."""
    lines = [
        "| | " + " | ".join(COLUMNS.values()) + " | accepted % per iteration |",
        "|---|" + "---|" * (len(COLUMNS) + 1),
    ]
    for system in dict.fromkeys(system for one in runs for system in one["systems"]):
        cells = []
        for key in COLUMNS:
            values = [one["systems"][system][key][0] for one in runs if system in one["systems"]]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            digits = 2 if key in ("entropy", "f0_std", "similarity") else 1
            cells.append(f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}")
        rates = [", ".join(f"{100 * row['pass_rate']:.0f}" for row in one["rounds"].get(system, [])) for one in runs]
        count = sum(system in one["systems"] for one in runs)
        missing = f" ({count} of {len(runs)} seeds)" if count < len(runs) else ""
        lines.append(f"| {system}{missing} | " + " | ".join(cells) + f" | {'; '.join(rates).strip('; ')} |")
    return "\n".join(lines)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fsdd", metavar="PATH", help="recorded digits; default: the toy voice")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    known = [*scarce.ARMS, *scarce.MORE_ARMS]
    parser.add_argument("--arms", nargs="+", choices=known, default=known)
    parser.add_argument(
        "--prior", type=int, default=0, metavar="STEPS", help="pretraining on renamed expressive speech"
    )
    parser.add_argument("--sft-steps", type=int, help="of the base policy; default: the demo's")
    parser.add_argument("--rounds", type=int, help="iterations; default: the demo's")
    parser.add_argument("--folder", type=Path, default=Path("runs/tdsc-arms"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger(lightning.pytorch.__name__).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    sizes = replace(world.Sizes(), prior_steps=args.prior)
    sizes = replace(sizes, scarce_steps=args.sft_steps or sizes.scarce_steps, rounds=args.rounds or sizes.rounds)
    runs = []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        folder = args.folder / f"world-{'fsdd' if args.fsdd else 'toy'}-{seed}"
        build(folder, args.fsdd, sizes, seed)
        runs.append(run(folder, args.arms, sizes, seed))
    if args.json:
        args.json.write_text(json.dumps(runs, indent=1))
    print(markdown(runs))


if __name__ == "__main__":
    main()
