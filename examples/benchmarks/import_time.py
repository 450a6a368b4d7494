"""How long `import seaalign` takes beside `import lightning`.

Fresh interpreters take turns, so that both see the same machine in the same state.

    python examples/benchmarks/import_time.py --runs 9

Prints medians, their spread, and the ratio of medians. The third row also loads every public name, which is what a
program pays that uses all of the library; it has no bound.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

PROGRAMS = {
    "nothing": "pass",
    "import lightning": "import lightning",
    "import seaalign": "import seaalign",
    "all of seaalign": "import seaalign; [getattr(seaalign, name, None) for name in seaalign.__all__]",
}


def seconds(code: str) -> float:
    """Wall time of a fresh interpreter that runs `code`."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print; exit with 1 if the ratio is above the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9, help="runs of each program, after one that warms the disk cache")
    parser.add_argument("--bound", type=float, default=1.3, help="largest allowed ratio to `import lightning`")
    args = parser.parse_args()
    for code in PROGRAMS.values():
        seconds(code)
    times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(args.runs):
        for name, code in PROGRAMS.items():
            times[name].append(seconds(code))
    for name, taken in times.items():
        print(f"{name:18} median {statistics.median(taken):6.3f} s   min {min(taken):6.3f}   max {max(taken):6.3f}")
    ratio = statistics.median(times["import seaalign"]) / statistics.median(times["import lightning"])
    print(f"ratio of medians, import seaalign / import lightning: {ratio:.2f} (bound {args.bound})")
    sys.exit(ratio > args.bound)


if __name__ == "__main__":
    main()
