"""`seaalign evaluate`: systems say the same texts, and what they said is measured and compared."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from seaalign.backbones import Backbone
from seaalign.cli.explain import told
from seaalign.cli.training import SHORT, Parser
from seaalign.evaluation import Evaluation, Policy, Recorded, Score, System, Texts
from seaalign.evaluation import evaluate as run
from seaalign.evaluation.fleurs import Fleurs
from seaalign.judges.transcribers import Transcriber

ABOUT = """\
seaalign evaluate --config FILE --out RUN: what came of training, with intervals, and what of it is beyond chance.

Systems are policies (a backbone and the weights of a run) and recordings of any synthesiser (a folder of ID.wav), mixed
as you like. The texts are a JSONL file, {"id": "s1", "text": "hello"} a line; with "audio", a person saying it, errors
are calibrated by the recogniser's own, and melodies compared. Killed, the same command goes on; add systems later.

  seaalign evaluate --config examples/evaluate.yaml --out runs/eval
  seaalign evaluate --config examples/fleurs.yaml --out runs/fleurs-lo --texts.init_args.folder data/fleurs
  seaalign report runs/eval                                               the same as a page, with players

RUN/evaluation.json has the numbers, RUN/utterances.parquet every answer, RUN/audio what one can hear.
"""
SHOWN = {
    "wer": ("WER %", 1),
    "wer_calibrated": ("WER % beyond people's", 1),
    "cer": ("CER %", 1),
    "cer_calibrated": ("CER % beyond people's", 1),
    "entropy": ("H_p bits", 3),
    "repetition": ("repetition %", 2),
    "tokens_per_unit": ("tokens per character", 2),
    "f0_std": ("F0 std st", 2),
    "f0_std_hz": ("F0 std Hz", 1),
    "f0_range": ("F0 range st", 2),
    "f0_correlation": ("F0 correlation", 2),
    "f0_rmse": ("F0 RMSE st", 2),
    "energy_std": ("energy std dB", 2),
    "similarity": ("similarity", 3),
}
CLASSES = (*SHORT, Policy, Recorded, Fleurs)
"""Imported classes can be named in YAML without their path."""


def _evaluate(
    systems: list[System],
    texts: str | Texts,
    out: str,
    transcriber: Transcriber | None = None,
    by_words: bool = True,
    similarity: str | None = None,
    predictors: list[str] = [],  # noqa: B006  # jsonargparse shows it
    backbone: Backbone | None = None,
    encode_recordings: bool = False,
    repeats: int = 3,
    repetition_k: int = 4,
    filtered_by: list[str] = [],  # noqa: B006
    draws: int = 1000,
    batch: int = 16,
) -> Evaluation:
    """Get the settings of `evaluation.evaluate` that a file can name."""
    return run(
        systems, texts, out, transcriber=transcriber, by_words=by_words, similarity=similarity, predictors=predictors,
        backbone=backbone, encode_recordings=encode_recordings, repeats=repeats, repetition_k=repetition_k,
        filtered_by=filtered_by, draws=draws, batch=batch,
    )  # fmt: skip


_evaluate.__doc__ = run.__doc__


def evaluate(argv: Sequence[str]) -> int:
    """`seaalign evaluate`."""
    kind = type("Parser", (Parser,), {"called": "evaluate", "lesson": ABOUT + "\n"})
    parser = kind(prog="seaalign evaluate", description=None, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with the settings below")
    parser.add_argument(
        "--device", type=str | None, default=None, help="of the backbones; default: a GPU where there is one"
    )
    parser.add_function_arguments(_evaluate, fail_untyped=False)
    given = parser.parse_args(list(argv))
    try:
        made = parser.instantiate(given).as_dict()
    except ValueError as error:
        raise ValueError(told(error)) from error
    made.pop("config", None)
    device = made.pop("device") or ("cuda" if torch.cuda.is_available() else "cpu")
    for backbone in {made["backbone"], *(getattr(system, "backbone", None) for system in made["systems"])}:
        if backbone is not None:
            backbone.to(device)
    show(_evaluate(**made), made["out"])
    return 0


def show(found: Evaluation, out: str, console: Console | None = None) -> None:
    """The numbers as a table, the differences beyond chance, and the warnings."""
    console = console or Console()
    console.print(_title(found), highlight=False, soft_wrap=True)
    table = Table(box=None)
    table.add_column("", no_wrap=True)
    for result in found.systems:
        table.add_column(f"{escape(result.name)}\n{result.style}", justify="right", overflow="fold")
    measured = {name for result in found.systems for name in result.metrics}
    for name in (*SHOWN, *sorted(measured - set(SHOWN))):
        if name in measured:
            title, digits = SHOWN.get(name, (name, 2))
            table.add_row(title, *(_cell(result.metrics.get(name), digits) for result in found.systems))
    console.print(table)
    real = [each for each in found.comparisons if each.p_holm < 0.05]
    if found.comparisons:
        console.print(f"\n{len(real)} of {len(found.comparisons)} differences are beyond chance (p < 0.05 after Holm):")
    for each in real:
        name = SHOWN.get(each.metric, (each.metric, 2))[0]
        console.print(
            f"  {name}, style {each.style}: {each.a} - {each.b} = {each.difference:+.3g} "
            f"[{each.low:.3g}, {each.high:.3g}], p = {each.p_holm:.2g}",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
    for line in found.warnings:
        console.print(f"note: {line}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"{out} has evaluation.json, utterances.parquet and audio/.", highlight=False, soft_wrap=True)


def _title(found: Evaluation) -> str:
    told = found.settings
    count = f", entropy at {told['entropy_tokens']} tokens" if told.get("entropy_tokens") else ""
    return f"{told['texts']} texts, {told['repeats']} repeats, 95 % intervals over texts{count}"


def _cell(score: Score | None, digits: int) -> str:
    if score is None or math.isnan(score.value):
        return "-"
    if math.isnan(score.low):
        return f"{score.value:.{digits}f}"
    return f"{score.value:.{digits}f} \\[{score.low:.{digits}f}, {score.high:.{digits}f}]"
