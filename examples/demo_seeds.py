"""The demo over several seeds, as one table: one run is an anecdote.

    python examples/demo_seeds.py --seeds 5 --fsdd free-spoken-digit-dataset/recordings

Each run writes `runs/seeds/SEED.json`; runs that are there are not repeated, so an interrupted series goes on. The
table (Markdown) shows mean and standard deviation over seeds, and in how many runs each claim held.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

COLUMNS = {"wer": "WER %", "entropy": "H_p bits", "prosody_entropy": "prosody bits", "f0_std": "F0 std st"}
COLUMNS |= {"repetition": "repetition %", "similarity": "SIM", "tokens_per_word": "tokens/word"}


def collect(folder: Path, seeds: int, options: list[str]) -> list[dict]:
    """Run what is missing, read everything."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(seeds):
        path = folder / f"{seed}.json"
        if not path.exists():
            out = str(folder / f"run-{seed}")
            command = [sys.executable, "-m", "seaalign.cli", "demo", "--seed", str(seed), "--out", out]
            subprocess.run([*command, "--json", str(path), *options], check=True)
    return [json.loads((folder / f"{seed}.json").read_text()) for seed in range(seeds)]


def markdown(part: str, runs: list[dict]) -> str:
    """One row per system of "sweep" or "systems"."""
    lines = ["| | " + " | ".join(COLUMNS.values()) + " |", "|---|" + "---|" * len(COLUMNS)]
    for system in runs[0][part]:
        cells = []
        for key in COLUMNS:
            values = [run[part][system][key][0] for run in runs]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            digits = 1 if key in ("wer", "repetition", "tokens_per_word") else 2
            cells.append(f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}")
        lines.append(f"| {system} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def verdicts(runs: list[dict]) -> str:
    """In how many runs each claim held."""
    rows = zip(*(run["claims"] for run in runs), strict=True)
    held = [f"| {row[0]['claim']} | {sum(claim['holds'] for claim in row)} of {len(row)} |" for row in rows]
    return "\n".join(["| claim | held in |", "|---|---|", *held])


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("runs/seeds"))
    args, options = parser.parse_known_args()
    runs = collect(args.folder, args.seeds, options)
    print(f"{runs[0]['source']}; seconds per run: {', '.join(str(round(run['seconds'])) for run in runs)}\n")
    for part in ("sweep", "systems"):
        print(markdown(part, runs), end="\n\n")
    print(verdicts(runs))


if __name__ == "__main__":
    main()
