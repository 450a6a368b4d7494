"""fit, validate, test, predict: LightningCLI, with short names for what seaalign offers and errors one can act on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pickle import UnpicklingError
from typing import Any, NoReturn

import torch
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from seaalign.callbacks import ErosionMonitor, SampleAudio, TemperatureCurriculum
from seaalign.cli.explain import explain, reasons
from seaalign.data import SpeechData, TextData, TripletData, load_utterances
from seaalign.judges import Duration, Intelligibility, Liveliness, Repetition, RoundTrip, SpeakerSimilarity
from seaalign.judges.transcribers import MMS, ByLanguage, Dolphin, FasterWhisper, Pipeline, SpeechBrain, Whisper
from seaalign.miniature.lm import TextSpeechLM
from seaalign.modules import DGSA, SFT, TDSC
from seaalign.records import Speech, Utterance
from seaalign.testing import BackboneError, check_backbone

SHORT = (
    *(SFT, DGSA, TDSC, SpeechData, TextData, TripletData, TextSpeechLM),
    *(ErosionMonitor, SampleAudio, TemperatureCurriculum),
    *(Intelligibility, Repetition, Duration, SpeakerSimilarity, RoundTrip, Liveliness),
    *(Whisper, FasterWhisper, Dolphin, MMS, SpeechBrain, Pipeline, ByLanguage),
)
"""Imported classes can be named in YAML without their path; others are named `their.module.Class`."""


class Parser(LightningArgumentParser):
    """Says what is wrong and what was perhaps meant, without forty lines of usage before it."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with 2."""
        if not self.exit_on_error:  # a parser inside the parser: the outer one reports
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        options = [option.lstrip("-") for action in parser._actions for option in action.option_strings]
        command = parser.prog.replace(" [options]", "")
        sys.stderr.write(
            f"{command}: error: {explain(message, options, [c.__name__ for c in SHORT])}\nsee `{command} --help`\n"
        )
        sys.exit(2)


class Training(LightningCLI):
    """`--weights CHECKPOINT` is the one option that LightningCLI lacks: the SFT policy that DGSA starts from."""

    def __init__(self, args: Sequence[str], **kwargs: Any) -> None:
        super().__init__(
            args=list(args),
            parser_class=Parser,
            parser_kwargs={"prog": "seaalign"},
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            **kwargs,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Without LightningCLI's warning that they should come from the command line: they do, one command down."""
        self.config = parser.parse_args(args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """`--weights`."""
        parser.add_argument(
            "--weights",
            type=str | None,
            default=None,
            help="checkpoint whose weights the model starts from; unlike ckpt_path, only the weights",
        )

    def instantiate_classes(self) -> None:
        """What a class refuses, in its own words."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            raise ValueError(reasons(str(error))) from error

    def after_instantiate_classes(self) -> None:
        """Load `--weights`."""
        path = self._get(self.config, "weights")
        if path is None:
            return
        state = _weights(path)
        try:
            self.model.load_state_dict(state)
        except RuntimeError as error:
            first = "; ".join(line.strip() for line in str(error).splitlines()[:2])
            sys.exit(f"seaalign: error: {path} does not fit: give the model the class and the sizes it had. {first}")


def _weights(path: str) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return dict(state.get("state_dict", state))
    # broken or foreign bytes make torch.load fail in all of these ways; AttributeError: a tensor is no checkpoint
    except (UnpicklingError, RuntimeError, LookupError, EOFError, ValueError, TypeError, AttributeError) as error:
        first = (str(error) or "it is empty").splitlines()[0]
        raise ValueError(
            f"--weights {path} is no checkpoint that could be read ({type(error).__name__}: {first}): give a file that "
            "`seaalign fit` or torch.save wrote, with tensors alone"
        ) from error


class Check(Training):
    """Everything that `fit` does, up to the training itself."""

    def fit(self, **kwargs: Any) -> None:
        """Check the contract on the first utterances of the data."""
        backbone = getattr(self.model, "backbone", None)
        if backbone is None or self.datamodule is None:
            sys.exit(f"seaalign check needs a module with a backbone, and data; got {type(self.model).__name__}")
        utterances = _utterances(self.datamodule)[:4]
        try:
            report = check_backbone(
                backbone, [item.prompt for item in utterances], Speech.pack([item.tokens for item in utterances])
            )
        except BackboneError as fault:
            sys.exit(f"{type(backbone).__name__} breaks the contract: {fault}")
        except ValueError as fault:
            sys.exit(f"seaalign check could not be carried out on the first utterances of the data: {fault}")
        print(report)


def _utterances(data: Any) -> list[Utterance]:
    if isinstance(data, TripletData):
        return load_utterances(data.source, data.vocab_size)
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
