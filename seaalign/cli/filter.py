"""`seaalign erosion filter`: which synthetic utterances are worth training on."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from rich.console import Console

from seaalign.cli.explain import told
from seaalign.cli.prepare import READERS, Format
from seaalign.cli.training import Parser
from seaalign.data.filter import filter_utterances
from seaalign.judges.transcribers import Transcriber
from seaalign.records import Recording
from seaalign.storage import Refused
from seaalign.storage.streams import utterances_metadata

ABOUT = """\
Keep what of synthetic speech is worth training on: a length that fits its text, no loops, and, where a recogniser is
given, understood. Length and loops need tokens alone; the recogniser needs the corpus that `seaalign prepare` made them
of, for the texts and the sound. Files may be larger than memory; killed, the same command goes on.
"""


def _parser() -> Parser:
    parser = Parser(prog="seaalign erosion filter", description=ABOUT)
    add = parser.add_argument
    add("--config", action="config", help="YAML file with any of these settings")
    add("--synthetic", nargs="+", type=str, required=True, help="utterances of systems (Parquet)")
    add("--out", type=str, required=True, help="folder for kept.parquet, refused.jsonl and funnel.json")
    add("--real", nargs="+", type=str, default=[], help="utterances of people (Parquet): how long a text should take")
    add("--per_unit", type=float | None, default=None, help="instead: frames per text id")
    add("--low", type=float, default=0.8, help="shortest, times the expected length")
    add("--high", type=float, default=1.5, help="longest")
    add("--max_repetition", type=float, default=0.1, help="keep below this share of frames in runs of k + 1")
    add("--k", type=int, default=4, help="4: 200 ms of one token at 25 Hz")
    parser.add_subclass_arguments(
        Transcriber,
        "transcriber",
        required=False,
        fail_untyped=False,
        help="who listens: Whisper, MMS, ...; none: nobody",
    )
    add("--max_error", type=float, default=0.4, help="keep below this error; the paper: 0.4 for Thai, 0.5 for Lao")
    add("--unit", type=Literal["word", "grapheme"], default="word", help="of the error")
    add("--format", type=Format, default=None, help="what the corpus is, as for `seaalign prepare`")
    add("--input", nargs="+", type=str, default=[], help="the corpus; several where there are several")
    add("--language", type=str | None, default=None, help="of recordings that do not say theirs: th, lo, ...")
    return parser


def filter_(argv: Sequence[str]) -> int:
    """`seaalign erosion filter`."""
    parser = _parser()
    given = parser.parse_args(list(argv))
    if given.transcriber is not None and not (given.format and given.input):
        sys.exit("a recogniser needs texts and sound: name the corpus with --format and --input, as `seaalign prepare`")
    refused: list[Refused] = []
    for path in (*given.synthetic, *given.real):
        utterances_metadata(path)
    recordings = _recordings(given, refused) if given.transcriber is not None else []
    try:  # last, as it may have gigabytes to load
        transcriber = parser.instantiate(given).transcriber
    except ValueError as error:
        raise ValueError(told(error)) from error
    sieve = filter_utterances(
        given.synthetic, given.out, real=given.real, per_unit=given.per_unit, low=given.low, high=given.high,
        max_repetition=given.max_repetition, k=given.k, transcriber=transcriber,
        recordings=recordings, unread=refused, max_error=given.max_error,
        unit=given.unit,
    )  # fmt: skip
    console = Console()
    console.print(str(sieve), highlight=False, soft_wrap=True, markup=False)
    console.print(f"\n{given.out} has kept.parquet, refused.jsonl and funnel.json", highlight=False, soft_wrap=True)
    return 0 if sieve.kept else _nothing(given.out)


def _recordings(given: object, refused: list[Refused]) -> list[Recording]:
    found: list[Recording] = []
    sound = {"audio": True} if given.format == "cosyvoice" else {}  # type: ignore[attr-defined]
    with warnings.catch_warnings():  # what cannot be read is counted in the funnel, with its reason
        warnings.simplefilter("ignore", UserWarning)
        for path in given.input:  # type: ignore[attr-defined]
            found += READERS[given.format](path, refused=refused, **sound)  # type: ignore[attr-defined]
    spoken = given.language  # type: ignore[attr-defined]
    return [one if one.language or not spoken else replace(one, language=spoken) for one in found]


def _nothing(out: str) -> int:
    print(f"seaalign: error: nothing was kept; {out}/refused.jsonl has the reasons", file=sys.stderr)
    return 1
