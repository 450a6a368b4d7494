"""`seaalign prepare`: a corpus on disk, in another tool's format, becomes a file of utterances that training reads."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal

from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console

from seaalign.cli.backbone import parsed
from seaalign.data.prepare import prepare as make
from seaalign.records import Recording
from seaalign.storage import (
    Refused,
    read_common_voice,
    read_cosyvoice,
    read_dataset,
    read_kaldi,
    read_ljspeech,
    read_nemo,
    write_utterances,
)


def _dataset(path: str, **settings: Any) -> list[Recording]:
    """A folder of `datasets.save_to_disk`."""
    try:
        from datasets import load_from_disk
    except ImportError as error:
        raise ImportError('reading Hugging Face datasets needs pip install "seaalign[hf]"') from error
    found = load_from_disk(path)
    if isinstance(found, dict):
        raise ValueError(f"{path} holds the parts {sorted(found)}: name the folder of one of them")
    return read_dataset(found, **settings)


READERS: dict[str, Callable[..., list[Recording]]] = {
    "cosyvoice": read_cosyvoice,
    "nemo": read_nemo,
    "common_voice": read_common_voice,
    "ljspeech": read_ljspeech,
    "kaldi": read_kaldi,
    "dataset": _dataset,
}
Format = Literal["cosyvoice", "nemo", "common_voice", "ljspeech", "kaldi", "dataset"]
References = Literal["speaker", "self", "none"]


def _options(parser: LightningArgumentParser) -> None:
    parser.add_argument("--format", type=Format, required=True, help="what the corpus is; cosyvoice: a data.list")
    parser.add_argument(
        "--input",
        type=str,
        required=True,
        help="cosyvoice: data.list; nemo: the manifest; common_voice: the .tsv; others: the folder",
    )
    parser.add_argument("--output", type=str, required=True, help="Parquet file to write")
    parser.add_argument(
        "--references",
        type=References,
        default="speaker",
        help="whose style and timbre: another of the speaker, or ...",
    )
    parser.add_argument(
        "--timbre", type=bool, default=False, help="compute timbres from sound (needed to decode later)"
    )
    parser.add_argument("--max_frames", type=int | None, default=None, help="refuse utterances of more speech tokens")
    parser.add_argument("--speech_source", type=str, default="real", help="or the name of the system that made it")


def prepare(argv: Sequence[str]) -> None:
    """`seaalign prepare`."""
    about = "Turn a corpus into utterances: text ids, speech tokens, style and timbre of another recording."
    backbone: Any  # the abilities asked for below are no part of the contract
    given, backbone = parsed("prepare", about, argv, _options)
    if not hasattr(backbone, "tokenize"):
        sys.exit(f"seaalign prepare needs a backbone with tokenize(text), {type(backbone).__name__} has none")
    if given.timbre and not hasattr(backbone, "timbre"):
        sys.exit(f"--timbre needs a backbone with timbre(waveform, sample_rate), {type(backbone).__name__} has none")
    settings: dict[str, Any] = {"audio": True} if given.format == "cosyvoice" and given.timbre else {}
    refused: list[Refused] = []
    made = make(
        READERS[given.format](given.input, source=given.speech_source, refused=refused, **settings),
        backbone.tokenize,
        backbone,
        references=None if given.references == "none" else given.references,
        timbre=backbone.timbre if given.timbre else None,
        max_frames=given.max_frames,
        vocab_size=backbone.vocab_size,
        refused=refused,
    )
    write_utterances(given.output, made)
    _report(given.output, len(made), refused)


def _report(output: str, count: int, refused: Sequence[Refused]) -> None:
    """What was written, and every refused row with its reason in a file beside it."""
    console = Console(stderr=True)
    console.print(f"wrote {count} utterances to {output}", highlight=False, soft_wrap=True)
    if refused:
        note = f"{output}.refused.tsv"
        with open(note, "w", encoding="utf-8") as file:
            file.writelines(f"{item.where}\t{item.id}\t{item.reason}\n" for item in refused)
        console.print(f"{len(refused)} rows were refused; the reasons are in {note}", highlight=False, soft_wrap=True)
