"""From mixed tokens to DGSA, over seeds: examples/disentangle_your_backbone.py again and again, as one table.

    python examples/benchmarks/end_to_end_separation.py --seeds 3

Each run makes `FOLDER/SEED/numbers.json` in three to six minutes of a core; runs that are there are not repeated.
DGSA begins twice at one model: on its own pairs, and on pairs of strangers (the paper's "random speaker pairing").
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parent.parent / "disentangle_your_backbone.py"


def main() -> None:
    """Run what is missing, and print mean and standard deviation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="0..SEEDS-1")
    parser.add_argument("--folder", type=Path, default=Path("runs/end_to_end"), help="where runs are kept")
    args, options = parser.parse_known_args()
    runs = []
    for seed in range(args.seeds):
        out = args.folder / str(seed)
        if not (out / "numbers.json").exists():
            arms = ["--pairing", "paired", "shuffled"]
            command = [sys.executable, str(EXAMPLE), "--seed", str(seed), "--out", str(out), *arms, *options]
            subprocess.run(command, check=True)
        runs.append(json.loads((out / "numbers.json").read_text()))
    names = list(runs[0]["SFT"]["style on"])
    print(f"| {len(runs)} seeds | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 1))
    for arm, modes in runs[0].items():
        for mode in modes:
            rows = [[run[arm][mode][name] for run in runs] for name in names]
            cells = [f"{statistics.mean(row):.2f} ± {statistics.stdev(row) if row[1:] else 0:.2f}" for row in rows]
            print(f"| {arm}, {mode} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
