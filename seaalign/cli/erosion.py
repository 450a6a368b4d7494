"""`seaalign erosion plan | filter`: what synthetic speech will do to a corpus, before a model learns from it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from seaalign.report import erosion_plan
from seaalign.storage.columns import write_json

ABOUT = """\
The entropy of real and synthetic speech tokens mixed, at every share: where it peaks (alpha*), how sure that is, what
each system adds, and the weights that DGSA takes. Nothing is trained. Files are read in parts, so they may be larger
than memory; each `source` in the synthetic files is a system of its own. From audio: `seaalign prepare` makes them.

  seaalign erosion plan --real real.parquet --synthetic tts_a.parquet tts_b.parquet --out plan
"""


def erosion(argv: Sequence[str]) -> int:
    """`seaalign erosion`."""
    if argv[:1] == ["filter"]:  # names classes, as `seaalign fit` does
        from seaalign.cli.filter import filter_

        return filter_(argv[1:])
    parser = argparse.ArgumentParser("seaalign erosion", description="Before training, from token files.")
    parts = parser.add_subparsers(dest="part", metavar="plan|filter", required=True)
    parts.add_parser("filter", help="which synthetic utterances are worth training on")
    plan = parts.add_parser(
        "plan",
        help="what a share of synthetic speech will do",
        description=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    plan.add_argument("--real", nargs="+", required=True, metavar="FILE", help="utterances of people (Parquet)")
    plan.add_argument("--synthetic", nargs="+", required=True, metavar="FILE", help="utterances of systems (Parquet)")
    plan.add_argument("--alpha", type=float, help="synthetic share to plan for (default: that of the tokens)")
    plan.add_argument("--out", type=Path, help="folder for plan.json and plan.png")
    plan.add_argument("--draws", type=int, default=200, help="of the 95 %% intervals (default: 200)")
    plan.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    made = erosion_plan(given.real, given.synthetic, given.alpha, given.draws, given.seed)
    console = Console()
    console.print(str(made), highlight=False, soft_wrap=True, markup=False)
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        write_json(given.out / "plan.json", made.to_json())
        made.figure(given.out / "plan.png")
        console.print(
            f"\nwrote {given.out / 'plan.json'} and {given.out / 'plan.png'}", highlight=False, soft_wrap=True
        )
    return 0
