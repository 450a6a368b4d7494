"""`seaalign demo`: the whole story on a miniature model, from Synthetic Erosion to its repair."""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

DESCRIPTION = """\
See Synthetic Erosion and its repair on a miniature spoken language model, trained here and now:
  1. speech of two kinds: a little expressive, as much flat synthetic as you like;
  2. one language model per synthetic share alpha: word errors fall, and so do entropy and F0 spread;
  3. at alpha = 0.8, DGSA against plain SFT, standard DPO, rejection sampling and more SFT on the real part;
  4. without any real speech, TDSC: the policy learns from what a judge accepts of its own attempts.
Without --fsdd all speech is a toy voice made on the spot: the mechanics are real, the numbers are about a toy."""
EPILOG = """\
examples:
  seaalign demo                                six minutes, no downloads, a toy voice
  seaalign demo --quick                        a look in a minute: small, noisy, all stages
  seaalign demo --fsdd free-spoken-digit-dataset/recordings   real people's recordings
  seaalign demo --seed 3 --json numbers.json   another seed, the numbers for your own plots"""


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
        "--seed",
        type=int,
        default=0,
        help="all random draws start from it (default 0); the same seed repeats the numbers",
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
    if args.workers < 1:
        parser().error(f"--workers {args.workers}: at least one")
    args.out = args.out.resolve()
    if args.out.exists() and not _may_be_replaced(args.out):
        parser().error(f"--out {args.out}: holds something else than an earlier demo; give a new folder")
    console, start = Console(), time.monotonic()
    from seaalign.demo.tasks import Crew

    with Crew(args.workers, console) as crew:
        from seaalign.demo.story import tell  # seconds of imports, which the workers do at the same time

        results = tell(args, crew)
    seconds = time.monotonic() - start
    results |= {
        "seconds": round(seconds, 1),
        "arguments": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
    }
    publish(results, args, console)
    console.print(f"{seconds:.0f} s in all. Results, figures, sounds and checkpoints: {args.out}/")
    return 0


def _may_be_replaced(folder: Path) -> bool:
    """An earlier run's folder, or an empty one."""
    if not folder.is_dir() or folder.resolve() == Path.cwd():
        return False
    return not any(folder.iterdir()) or all((folder / name).is_file() for name in ("results.json", "erosion.png"))


RULE = "Claims; undecided: the 2 sigma interval of the difference (in brackets, over texts) does not settle it"
SMALL = "small sizes: most differences are within noise; verdicts need the full demo"
_COLOURS = {"holds": "green", "undecided": "dim", "does not": "yellow"}


def say_claims(claims: Sequence[dict[str, Any]], quick: bool, console: Console) -> None:
    """A line per claim: the verdict, the numbers, and how far noise reaches."""
    console.print(f"[bold]{RULE}[/]", highlight=False, soft_wrap=True)
    if quick:
        console.print(f"  [yellow]{SMALL}[/]", highlight=False, soft_wrap=True)
    for claim in claims:
        colour = _COLOURS[claim["verdict"]]
        line = f"  [{colour}]{claim['verdict']:<9}[/] {claim['claim']}: {claim['numbers']}"
        if claim["interval"] is not None:
            low, high = claim["interval"]
            line += f" \\[{low:+.2f}, {high:+.2f}]"
        if "tolerance" in claim:
            line += f"; holds where the rise is below {claim['tolerance']:g} points"
        console.print(line, highlight=False, soft_wrap=True)


def publish(results: dict[str, Any], args: argparse.Namespace, console: Console) -> None:
    """Say what held and what did not, and put the run's folder, whole, where the last one was."""
    from seaalign.storage import write_json

    say_claims(results["claims"], args.quick, console)
    draft = args.out.with_name(args.out.name + ".part")
    write_json(draft / "results.json", results)
    old = args.out.with_name(args.out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if args.out.exists():
        args.out.replace(old)
    draft.replace(args.out)
    shutil.rmtree(old, ignore_errors=True)
    if args.json:
        write_json(args.json, results)


__all__ = ["main", "parser"]
