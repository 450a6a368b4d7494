"""`seaalign report`: one page of what runs left on disk."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

ABOUT = """\
One page that shows what runs left on disk, opens from disk, asks nothing of any network, and holds its own sounds.
A RUN is a folder, known by what lies in it; several go onto one page:
  seaalign evaluate      evaluation.json: systems, plane of errors and entropy, comparisons, pitch, players
  seaalign tdsc          dashboard.json, round-*/: dynamics, table by temperature, funnel
  a training log         metrics.csv of CSVLogger, also in version_*/: checkpoints in the plane, curves
  seaalign erosion plan  plan.json: entropy over the synthetic share; filter: funnel.json
What a run lacks is said on the page. Beside it lie tables/*.csv and figures/*.svg, *.png."""
EPILOG = """\
The players are blind: letters instead of names, in another order for every sentence, until you reveal them. Keys: 1-9
play, space stops and goes on, arrows change the sentence, r reveals.

examples:
  seaalign report runs/evaluation --out report
  seaalign report runs/plan runs/tdsc runs/sft/lightning_logs/version_0 runs/evaluation --title "Lao, second try\""""


def report(argv: Sequence[str]) -> int:
    """`seaalign report`."""
    parser = argparse.ArgumentParser(
        "seaalign report", description=ABOUT, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder that a run wrote")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder to write (default: report)")
    parser.add_argument("--title", default="seaalign report", help="title of the page")
    parser.add_argument("--sentences", type=int, default=10, help="most sentences to hear per evaluation (default: 10)")
    parser.add_argument(
        "--seed", type=int, default=0, help="the choice of sentences and the blind order follow from it (default: 0)"
    )
    given = parser.parse_args(argv)
    from seaalign.report import build_report

    page = build_report(given.runs, given.out, given.title, given.sentences, given.seed)
    print(f"wrote {page} ({page.stat().st_size / 1e6:.1f} MB), {given.out / 'tables'} and {given.out / 'figures'}")
    return 0
