"""`seaalign listen build` and `seaalign listen analyse`: would a listener agree?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from seaalign.listening import (
    Screening,
    analyse_listening,
    build_listening_test,
    count_votes,
    languages,
    read_evaluation_clips,
    read_manifests,
    write_votes,
)
from seaalign.listening.build import LARGEST
from seaalign.listening.design import TESTS
from seaalign.listening.tables import tables
from seaalign.storage import Refused, read_utterances

ABOUT = """\
A listening test without a server. `build` makes one HTML page per rater: send it by mail or memory stick, it opens from
disk and asks nothing of a network. Raters send back a small file each, and `analyse` makes tables of them.

  seaalign listen build --evaluation runs/eval --tests nmos ab --language lo --raters 20 --texts 25 --out test
  seaalign listen analyse test results/*.json --out analysis
"""
BUILD = """\
Pages go to OUT/pages, one per rater; OUT/key.json says what each clip is: keep it, and keep it to yourself. Every rater
hears every system on the same texts, in an order of their own. Recordings of people, and the same spoiled, are hidden
among the clips to find raters who do not listen: they are the system "recordings", or --people.

  seaalign listen build --evaluation runs/eval --tests nmos --language th --out test
  seaalign listen build --system sft=sft.jsonl --system dgsa=dgsa.jsonl --people people.jsonl --tests smos --out test

A manifest is one line for each clip: {"id": "text 1", "text": "...", "audio": "wavs/1.wav"}, for smos with "reference",
a recording of the speaker. The same id is the same text in all of them.
"""
ANALYSE = """\
Mean opinion scores with 95 % intervals (by rater, and the normal one), every two systems compared, preferences, and how
far raters agree: of raters who passed the screening, and of all. OUT gets analysis.json, CSV tables and a figure.

  seaalign listen analyse test results/*.json --out analysis
  seaalign listen analyse test results/*.json --out analysis --pairs pairs.parquet --prompts real.parquet
"""


def listen(argv: Sequence[str]) -> int:
    """`seaalign listen`."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("seaalign listen", description=ABOUT, formatter_class=plain)
    parts = parser.add_subparsers(dest="part", metavar="build|analyse", required=True)
    _build_arguments(parts.add_parser("build", help="pages for raters", description=BUILD, formatter_class=plain))
    _analyse_arguments(parts.add_parser("analyse", help="their answers", description=ANALYSE, formatter_class=plain))
    given = parser.parse_args(argv)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    return _build(given, parser, console) if given.part == "build" else _analyse(given, console)


def _build_arguments(build: argparse.ArgumentParser) -> None:
    add = build.add_argument
    add("--evaluation", type=Path, metavar="RUN", help="folder of `seaalign evaluate`, with its audio")
    add("--style", default="on", choices=["on", "off"], help="of the evaluation: with or without style (default: on)")
    add("--references", type=Path, metavar="FILE", help="for smos: the file of texts evaluated, with voice or audio")
    add("--system", action="append", default=[], type=_named, metavar="NAME=FILE", help="a system and its manifest")
    add("--only", nargs="+", metavar="NAME", help="judge these systems alone")
    add("--people", type=Path, metavar="FILE", help="manifest of recordings to screen raters with")
    add("--tests", nargs="+", default=["nmos"], choices=TESTS, help="sections of the page (default: nmos)")
    add("--compare", nargs="+", type=_two, metavar="A:B", help="for ab: which systems (default: every two)")
    add("--raters", type=int, default=20, help="(default: 20)")
    add("--texts", type=int, help="each rater hears so many, in every system (default: all); raters share out the rest")
    add("--screening", type=int, default=2, help="recordings, and as many spoiled ones, in each section (default: 2)")
    add("--again", type=int, default=0, help="clips in each section that come twice (default: 0)")
    add("--no-ties", action="store_true", help="ab: raters must prefer one")
    add("--language", default="en", help=f"{', '.join(languages())}, or a file of your own (default: en)")
    add("--consent", help="what raters agree to, in their language")
    add("--seed", type=int, help="all random draws start from it (default: a new one, kept in the key)")
    add("--out", type=Path, required=True, help="a new folder")


def _analyse_arguments(analyse: argparse.ArgumentParser) -> None:
    add = analyse.add_argument
    add("folder", type=Path, help="of the test, with its key.json")
    add("results", nargs="+", type=Path, help="files that raters sent back")
    add("--out", type=Path, required=True, help="folder for the analysis")
    add("--gold-high", type=int, default=4, help="a recording must get this or more (default: 4)")
    add("--gold-low", type=int, default=2, help="spoiled speech must get this or less (default: 2)")
    add("--gold-share", type=float, default=0.75, help="share of these clips judged so that passes (default: 0.75)")
    add("--partial", action="store_true", help="use files that are not complete")
    add("--pairs", type=Path, metavar="FILE", help="write what ab preferred: .parquet for training, or .jsonl")
    add(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="for --pairs: utterances (Parquet) whose ids are those of the texts",
    )
    add("--votes", type=int, default=3, help="for --pairs: least votes that decide (default: 3)")
    add("--draws", type=int, default=2000, help="of the bootstrap (default: 2000)")
    add("--seed", type=int, default=0)


def _named(text: str) -> tuple[str, Path]:
    name, found, path = text.partition("=")
    if not (name and found and path):
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=FILE, as dgsa=dgsa.jsonl")
    return name, Path(path)


def _two(text: str) -> tuple[str, str]:
    first, found, second = text.partition(":")
    if not (first and found and second):
        raise argparse.ArgumentTypeError(f"{text!r}: write A:B, as dgsa:sft")
    return first, second


def _build(given: argparse.Namespace, parser: argparse.ArgumentParser, console: Console) -> int:
    if bool(given.evaluation) == bool(given.system):
        parser.error("give --evaluation RUN, or --system NAME=FILE for each system")
    refused: list[Refused] = []
    if given.evaluation:
        clips = read_evaluation_clips(given.evaluation, given.style, given.references, refused)
    else:
        clips = read_manifests(dict(given.system), refused=refused)
    people = read_manifests({"people": given.people}, refused=refused) if given.people else None
    built = build_listening_test(
        clips, given.out, given.tests, raters=given.raters, ties=not given.no_ties, language=given.language,
        consent=given.consent, seed=given.seed, texts=given.texts, systems=given.only, compare=given.compare,
        people=people, screening=given.screening, again=given.again,
    )  # fmt: skip
    trials = ", ".join(f"{count} {name}" for name, count in built.trials.items())
    console.print(f"{len(built.pages)} pages in {built.folder / 'pages'}: {trials} each")
    console.print(
        f"at least {built.seconds / 60:.0f} minutes of listening, pages up to {built.largest / 1e6:.1f} MB; "
        f"{len(refused)} rows refused"
    )
    if built.largest > LARGEST:
        console.print(f"pages over {LARGEST / 1e6:.0f} MB are slow on phones and too large to mail: lower --texts")
    console.print(f"send each rater one page; keep {built.folder / 'key.json'} to yourself, and keep a copy")
    return 0


def _analyse(given: argparse.Namespace, console: Console) -> int:
    rule = Screening(given.gold_high, given.gold_low, given.gold_share)
    found = analyse_listening(
        given.folder, given.results, rule, partial=given.partial, draws=given.draws, seed=given.seed
    )
    for table in tables(found):
        console.print(table)
    out = [row["rater"] for row in found.raters if not row["passed"]]
    console.print(
        f"{len(found.raters)} raters, {found.screened.raters} passed the screening; out: {', '.join(out) or '-'}"
    )
    if not any(row["gold"] for row in found.raters):
        console.print("there were no screening clips: raters who did not listen are among these")
    for item in found.refused[:10]:
        console.print(f"refused {item.where}: {item.reason}")
    if len(found.refused) > 10:
        console.print(f"and {len(found.refused) - 10} more; analysis.json lists them all")
    console.print(f"wrote {', '.join(str(path) for path in found.save(given.out))}")
    if given.pairs:
        votes = count_votes(found.passed(), given.votes)
        asked = read_utterances(given.prompts) if given.prompts else []
        if any(u.tokens.dim() > 1 for u in asked):
            raise ValueError(
                f"{given.prompts} has several codebooks, of which evaluations keep one: no pairs from there"
            )
        prompts = {u.id: u.prompt for u in asked}
        console.print(f"pairs: {votes.funnel}")
        console.print(write_votes(given.pairs, votes, found.key["clips"], prompts))
    return 0
