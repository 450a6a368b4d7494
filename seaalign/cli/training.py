"""fit, validate, test, predict: LightningCLI, with short names for what seaalign offers and errors one can act on."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from seaalign.backbones import CSM, VLLM, CausalLM, Chatterbox, CosyVoice, Qwen3TTS
from seaalign.backbones.checkpoints import load_weights
from seaalign.callbacks import (
    ConstraintCheckpoint,
    DriftStop,
    ErosionMonitor,
    SampleAudio,
    SaturationAlert,
    ShardWriter,
    TemperatureCurriculum,
)
from seaalign.cli import COMMANDS
from seaalign.cli.explain import explain, told
from seaalign.data import PairData, ShardData, SpeechData, TextData, TripletData, load_pairs, load_utterances
from seaalign.judges import Duration, Intelligibility, Liveliness, Repetition, RoundTrip, SpeakerSimilarity
from seaalign.judges.transcribers import MMS, ByLanguage, Dolphin, FasterWhisper, Pipeline, SpeechBrain, Whisper
from seaalign.miniature.lm import TextSpeechLM
from seaalign.modules import DGSA, DPO, SFT, TDSC
from seaalign.records import Speech, Utterance
from seaalign.stages import Exploring, Judging, Scoring
from seaalign.testing import BackboneError, check_backbone

SHORT = (
    *(SFT, DGSA, DPO, TDSC, SpeechData, TextData, TripletData, PairData),
    *(Exploring, Judging, Scoring, ShardData, ShardWriter),
    *(TextSpeechLM, CausalLM, CosyVoice, CSM, Chatterbox, Qwen3TTS, VLLM),
    *(ConstraintCheckpoint, DriftStop, ErosionMonitor, SampleAudio, SaturationAlert, TemperatureCurriculum),
    *(Intelligibility, Repetition, Duration, SpeakerSimilarity, RoundTrip, Liveliness),
    *(Whisper, FasterWhisper, Dolphin, MMS, SpeechBrain, Pipeline, ByLanguage),
)
"""Imported classes can be named in YAML without their path; others are named `their.module.Class`."""


class Parser(LightningArgumentParser):
    """Says what is wrong and what was perhaps meant, without forty lines of usage before it.

    Attributes:
        called: the command that was typed; commands that do more or less than `fit` take its arguments.
        lesson: what its help begins with.
    """

    called = "fit"
    lesson = ""

    def format_help(self, formatter: Any = None) -> str:
        """Of the command that was typed; what Lightning says of the Trainer's methods is about these."""
        prog = self.prog
        if " [options] " in prog:
            typed = prog.rpartition(" ")[2]
            typed = self.called if typed == "fit" else typed
            about = COMMANDS[typed].help
            about = f"{about[0].upper()}{about[1:]}{'' if about.endswith('?') else '.'}"
            self.prog, self.description = f"seaalign {typed}", None if self.lesson else about
        try:
            return self.lesson + super().format_help(formatter)  # type: ignore[no-any-return]
        finally:
            self.prog = prog

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with 2."""
        if not self.exit_on_error:  # a parser inside the parser: the outer one reports
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        options = [option.lstrip("-") for action in parser._actions for option in action.option_strings]
        command = parser.prog.replace(" [options]", "").replace("seaalign fit", f"seaalign {self.called}")
        sys.stderr.write(
            f"{command}: error: {explain(message, options, [c.__name__ for c in SHORT])}\nsee `{command} --help`\n"
        )
        sys.exit(2)


class Training(LightningCLI):
    """`--weights` is the one option that LightningCLI lacks: the SFT policy that DGSA starts from."""

    called = "fit"
    lesson = ""

    def __init__(self, args: Sequence[str], **kwargs: Any) -> None:
        alone = not _grouped()
        super().__init__(
            args=list(args),
            parser_class=type("Parser", (Parser,), {"called": self.called, "lesson": self.lesson}),
            parser_kwargs={"prog": "seaalign"},
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            **kwargs,
        )
        if alone and _grouped():  # at the end of the process: the next command of this one takes the group up again
            atexit.unregister(leave)
            atexit.register(leave)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Without LightningCLI's warning that they should come from the command line: they do, one command down."""
        self.config = parser.parse_args(args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """`--weights`."""
        parser.add_argument(
            "--weights",
            type=str | None,
            default=None,
            help="what the model starts from: a checkpoint of `seaalign fit` (its weights alone, unlike ckpt_path), or "
            "weights as the backbone's own code saves them, such as CosyVoice's llm.pt or a Hugging Face folder",
        )

    def instantiate_classes(self) -> None:
        """What a class refuses, in its own words."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            raise ValueError(told(error)) from error

    def after_instantiate_classes(self) -> None:
        """Load `--weights`."""
        path = self._get(self.config, "weights")
        if path is not None:
            load_weights(self.model.backbone, path)


def leave() -> None:
    """Leave the other processes in order.

    Lightning does so for NCCL alone. With gloo a process was now and then aborted as it ended, all its work done
    ("terminate called without an active exception"), and SLURM and torchrun counted the whole job as failed.
    """
    if _grouped():
        torch.distributed.destroy_process_group()


def _grouped() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


class Check(Training):
    """Everything that `fit` does, up to the training itself."""

    called = "check"

    def fit(self, **kwargs: Any) -> None:
        """Check the contract on the first utterances of the data."""
        backbone = getattr(self.model, "backbone", None)
        if backbone is None or self.datamodule is None:
            sys.exit(f"seaalign check needs a module with a backbone, and data; got {type(self.model).__name__}")
        utterances = _utterances(self.datamodule, backbone)[:4]
        try:
            report = check_backbone(
                backbone, [item.prompt for item in utterances], Speech.pack([item.tokens for item in utterances])
            )
        except BackboneError as fault:
            sys.exit(f"{type(backbone).__name__} breaks the contract: {fault}")
        except ValueError as fault:
            sys.exit(f"seaalign check could not be carried out on the first utterances of the data: {fault}")
        print(report)


def _utterances(data: Any, backbone: Any) -> list[Utterance]:
    if isinstance(data, TripletData):
        return load_utterances(data.source, data.vocab_size)
    if isinstance(data, PairData):
        pairs = load_pairs(data.source, data.vocab_size, backbone)
        return [Utterance(pair.id, pair.prompt, pair.chosen) for pair in pairs]
    data.setup("fit")
    return list(data.train)


def _trainer(command: str, argv: Sequence[str]) -> None:
    Training([command, *argv])


def fit(argv: Sequence[str]) -> None:
    """`seaalign fit`."""
    _trainer("fit", argv)


def validate(argv: Sequence[str]) -> None:
    """`seaalign validate`."""
    _trainer("validate", argv)


def test(argv: Sequence[str]) -> None:
    """`seaalign test`."""
    _trainer("test", argv)


def predict(argv: Sequence[str]) -> None:
    """`seaalign predict`."""
    _trainer("predict", argv)


def check(argv: Sequence[str]) -> None:
    """`seaalign check`: takes what `fit` takes."""
    Check(["fit", *argv])
