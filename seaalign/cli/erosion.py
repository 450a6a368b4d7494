"""`seaalign erosion plan | filter`: what synthetic speech will do to a corpus, before a model learns from it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from seaalign.cli.explain import explain, near

USAGE = """\
usage: seaalign erosion plan | filter ...

Before training, from files of speech tokens.

  plan    what a share of synthetic speech will do
  filter  which synthetic utterances are worth training on

`seaalign erosion plan --help` and `seaalign erosion filter --help` explain them.
"""
PLAN = """\
The entropy of real and synthetic speech tokens mixed, at every share: where it peaks (alpha*), how sure that is, what
each system adds, and the weights that DGSA takes. Nothing is trained. Files are read in parts, so they may be larger
than memory; each `source` in the synthetic files is a system of its own. From audio: `seaalign prepare` makes them.

  seaalign erosion plan --real real.parquet --synthetic tts_a.parquet tts_b.parquet --out plan
"""


def erosion(argv: Sequence[str]) -> int:
    """`seaalign erosion`."""
    part = argv[0] if argv else ""
    if part in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if part == "plan":
        return plan(argv[1:])
    if part == "filter":  # names classes, as `seaalign fit` does, and takes as long to load
        from seaalign.cli.filter import filter_

        return filter_(argv[1:])
    said = f"no {part!r}{near(part, ('plan', 'filter'))}" if part else "say which: plan or filter."
    print(f"seaalign erosion: error: {said}\nsee `seaalign erosion --help`", file=sys.stderr)
    return 2


class _Parser(argparse.ArgumentParser):
    """Says what was perhaps meant."""

    def error(self, message: str) -> NoReturn:
        """Exit with 2."""
        options = [option.lstrip("-") for action in self._actions for option in action.option_strings]
        self.exit(2, f"{self.prog}: error: {explain(message, options)}\nsee `{self.prog} --help`\n")


def plan(argv: Sequence[str]) -> int:
    """`seaalign erosion plan`."""
    parser = _Parser("seaalign erosion plan", description=PLAN, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", nargs="+", required=True, metavar="FILE", help="utterances of people (Parquet)")
    parser.add_argument("--synthetic", nargs="+", required=True, metavar="FILE", help="utterances of systems (Parquet)")
    parser.add_argument("--alpha", type=float, help="synthetic share to plan for (default: that of the tokens)")
    parser.add_argument("--out", type=Path, help="folder for plan.json and plan.png")
    parser.add_argument("--draws", type=int, default=200, help="of the 95 %% intervals (default: 200)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    from seaalign.report import erosion_plan
    from seaalign.storage.columns import write_json

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
