"""The paper in miniature: its tables 1, 3, 4, 7, 8, 9 and figures 1, 4, 5, 6, over seeds, with a verdict per claim."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import claims
import pieces
import schedule
import tables

from seaalign.storage import write_json

EPILOG = """\
examples:
  python examples/reproduce --fsdd free-spoken-digit-dataset/recordings      real speech, three seeds, under an hour
  python examples/reproduce --quick --seeds 2                       every stage in a minute or two: a toy voice, noise
  python examples/reproduce --fsdd PATH --device cuda --scale 4     four times the speech and steps, trained on a GPU
  python examples/reproduce --results runs/reproduce/results.json   the tables of a finished run again

what happens
  Each seed draws its own utterances and test texts, fits its own codec and judges, and trains its own policies: one
  per synthetic share; from the one at 0.8 the arms of DGSA; from another that never had real speech, those of TDSC.
  The recogniser that filters never reports. Then every claim of the paper is asked of the seeds together, by a rule
  that is printed before anything runs.

files under --out
  results.json   everything by seed          tables.md      tables beside the paper's, claims with verdicts
  *.png          the figures                 seed-N/        checkpoints and tokens; pieces/ says what is done
  A run that was stopped or killed goes on with the same command: finished pieces are files, and are not done again.

Listeners have no counterpart: where the paper has NMOS or SMOS stand F0 std and SIM, and neither is a listener."""


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        "python examples/reproduce", description=__doc__, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    made.add_argument("--fsdd", metavar="PATH", help="folder of the Free Spoken Digit Dataset; without it, a toy voice")
    made.add_argument("--out", type=Path, default=Path("runs/reproduce"), help="default runs/reproduce")
    made.add_argument(
        "--seeds", type=int, default=3, help="how many; intervals need two, and narrow with more (default 3)"
    )
    made.add_argument("--first-seed", type=int, default=1, help="the first (default 1; sizes were chosen on seed 0)")
    made.add_argument("--workers", type=int, default=2, help="processes of one thread each (default 2)")
    made.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where policies train (default cpu)")
    made.add_argument("--scale", type=float, default=1.0, help="times the speech, texts and steps (default 1)")
    made.add_argument("--quick", action="store_true", help="tiny sizes: that it works, not what comes out")
    made.add_argument("--results", type=Path, metavar="FILE", help="print the tables of a results.json; run nothing")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, and write tables and figures; returns the exit code."""
    args = parser().parse_args(argv)
    if args.results:
        print(tables.everything([run["numbers"] for run in json.loads(args.results.read_text())["runs"]]))
        return 0
    if args.fsdd is not None and not Path(args.fsdd).is_dir():
        parser().error(
            f"--fsdd {args.fsdd}: no such folder; give the one with the wavs, or leave it out for the toy voice"
        )
    if args.seeds < 1 or args.workers < 1 or not args.scale > 0:
        parser().error(f"--seeds {args.seeds}, --workers {args.workers}, --scale {args.scale}: all must be above 0")
    sizes = pieces.scaled(pieces.QUICK if args.quick else pieces.SIZES, args.scale, args.device)
    asked = {"fsdd": args.fsdd, "sizes": asdict(sizes)}
    claim_folder(args.out, asked)
    print(f"{len(claims.CLAIMS)} claims.\n{claims.RULE}\n", flush=True)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    folders = [args.out / f"seed-{seed}" for seed in seeds]
    plans = [pieces.plan(args.fsdd, sizes, seed) for seed in seeds]
    schedule.run(list(zip(folders, plans, strict=True)), args.workers)
    runs = [collect(folder, plan) for folder, plan in zip(folders, plans, strict=True)]
    minutes = sum(run["cpu_seconds"] for run in runs) / 60
    write_json(args.out / "results.json", {**asked, "cpu_minutes": round(minutes, 1), "runs": runs})
    text = tables.everything([run["numbers"] for run in runs])
    (args.out / "tables.md").write_text(text)
    import figures

    figures.draw(args.out, [run["numbers"] for run in runs], [run["rounds"] for run in runs])
    print(f"{runs[0]['source']}\n\n{text}\n{minutes:.0f} core-minutes in all. Results, tables and figures: {args.out}/")
    return 0


def claim_folder(out: Path, asked: dict[str, Any]) -> None:
    """Refuse a folder that other settings began; they would mix.

    Raises:
        SystemExit: with what differs.
    """
    file = out / "settings.json"
    wanted = json.loads(json.dumps(asked))
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_json(file, wanted)
    elif (there := json.loads(file.read_text())) != wanted:
        parts = {**wanted["sizes"], "fsdd": wanted["fsdd"]}, {**there["sizes"], "fsdd": there["fsdd"]}
        odd = sorted(name for name in parts[0] if parts[0][name] != parts[1].get(name))
        parser().error(
            f"--out {out} was begun with other settings ({', '.join(odd)}): give another folder, or delete it"
        )


def collect(folder: Path, plan: Sequence[schedule.Piece]) -> dict[str, Any]:
    """One seed's pieces as numbers: system -> metric -> value."""
    found = {piece.name: json.loads(schedule.path_of(folder, piece.name).read_text()) for piece in plan}
    numbers: claims.Numbers = {}
    for name, piece in found.items():
        if name.startswith("heard-"):
            numbers |= {s: {key: value[0] for key, value in row.items()} for s, row in piece["result"].items()}
    critique = {p.arguments["arm"]: found[p.name]["result"] for p in plan if "arm" in p.arguments}
    numbers |= by_temperature(critique["TDSC"]["temperatures"]) | by_iteration(critique["TDSC"]["rounds"])
    sweep = [(a, row) for a in (f"alpha {alpha:g}" for alpha in ALPHAS) if (row := numbers.get(a))]
    curve = [(row["wer"], row["entropy"]) for _, row in sweep]
    numbers["frontier"] = {"wer": claims.frontier(curve, numbers["DGSA"]["entropy"])}
    return {
        "source": found["speech"]["result"],
        "cpu_seconds": round(sum(piece["seconds"]["cpu"] for piece in found.values()), 1),
        "numbers": numbers,
        "rounds": {arm: result["rounds"] for arm, result in critique.items()},
    }


ALPHAS = pieces.SIZES.alphas


def by_temperature(rows: Sequence[dict[str, Any]]) -> claims.Numbers:
    """The last iteration's candidates by temperature, in per cent, as systems of their own."""
    rows = sorted(rows, key=lambda row: row["temperature"])
    return {
        name: {
            "wer": 100 * row["error"], "entropy": row["entropy"], "repetition": 100 * row["repetition"],
            "pass": 100 * row["pass_rate"], "share": 100 * row["share"],
        }
        for name, row in zip(("coolest", "middle", "hottest"), rows, strict=False)
        if row["error"] is not None
    }  # fmt: skip


def by_iteration(rows: Sequence[dict[str, Any]]) -> claims.Numbers:
    """The first and last iteration's candidates at T = 1."""
    parts = {"wer": ("error", 100), "entropy": ("entropy", 1), "repetition": ("repetition", 100)}
    parts |= {"f0_std": ("f0_std", 1), "pass": ("pass_rate", 100)}
    ends = {"first iteration": rows[0], "last iteration": rows[-1]} if len(rows) > 1 else {}
    return {name: {k: row[key] * by for k, (key, by) in parts.items() if key in row} for name, row in ends.items()}


if __name__ == "__main__":
    raise SystemExit(main())
