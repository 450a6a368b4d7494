"""`seaalign demo`: the whole story on a miniature model, from Synthetic Erosion to its repair."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

DESCRIPTION = """\
See Synthetic Erosion and its repair on a miniature spoken language model, trained here and now:
  1. speech of two kinds: a little expressive, as much flat synthetic as you like;
  2. one language model per synthetic share alpha: word errors fall, and so do entropy and F0 spread;
  3. at alpha = 0.8, DGSA against plain SFT, standard DPO, rejection sampling and more SFT on the real part.
Without --fsdd all speech is a toy voice made on the spot: the mechanics are real, the numbers are about a toy."""
EPILOG = """\
examples:
  seaalign demo                                five minutes, no downloads, a toy voice
  seaalign demo --quick                        a look in a minute: small, noisy, all stages
  seaalign demo --fsdd free-spoken-digit-dataset/recordings   real people's recordings
  seaalign demo --seed 3 --json numbers.json   another seed, the numbers for your own plots"""
ALPHA = 0.8


def parser() -> argparse.ArgumentParser:
    """The options of `seaalign demo`."""
    made = argparse.ArgumentParser(
        "seaalign demo", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--fsdd", metavar="PATH", help="folder of the Free Spoken Digit Dataset (8 kHz wavs named 7_jackson_32.wav)"
    )
    made.add_argument("--quick", action="store_true", help="small sizes: every stage in about a minute, noisy numbers")
    made.add_argument(
        "--seed", type=int, default=0, help="of everything (default 0); the same seed repeats the numbers"
    )
    made.add_argument("--out", type=Path, default=Path("runs/demo"), help="where results go (default runs/demo)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    made.add_argument("--workers", type=int, default=2, help="processes side by side, one thread each (default 2)")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    args = parser().parse_args(argv)
    if args.fsdd is not None and not Path(args.fsdd).is_dir():
        parser().error(
            f"--fsdd {args.fsdd}: no such folder; give the folder with the wavs, or leave it out to hear the toy voice"
        )
    from seaalign.demo.story import tell

    console, start = Console(), time.monotonic()
    results = tell(args, console)
    seconds = time.monotonic() - start
    results |= {
        "seconds": round(seconds, 1),
        "arguments": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
    }
    publish(results, args, console)
    console.print(f"{seconds:.0f} s in all. Results, figures, sounds and checkpoints: {args.out}/")
    return 0


def publish(results: dict[str, Any], args: argparse.Namespace, console: Console) -> None:
    """Write results.json, whole or not at all, and say what held and what did not."""
    from seaalign.demo.show import write_json

    for claim in results["claims"]:
        mark = "[green]holds[/]    " if claim["holds"] else "[yellow]does not[/] "
        console.print(f"  {mark} {claim['claim']}: {claim['numbers']}", highlight=False)
    for path in filter(None, (args.out / "results.json", args.json)):
        write_json(Path(path), results)


__all__ = ["main", "parser"]
