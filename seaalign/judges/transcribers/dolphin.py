"""Dolphin, for forty languages of Asia, Lao among them. Source: Meng et al. 2025, arXiv 2503.20212."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from seaalign.judges.transcribers.base import SHORTEST, Engine, place, require

WINDOW = 30  # seconds: it was trained on no more at a time
LEAST = 0.1  # seconds: its first layers need seven frames, 85 ms; what is shorter gets silence after it


class Dolphin(Engine):
    """Dolphin by dataoceanai-dolphin, language and region forced.

    What is longer than 30 s is heard in pieces of 30 s, one after another.

    Args:
        model: "small" or "base".
        language: of every waveform; another one asked for is an error.
        region: country whose variety is spoken ("LA", "TH", ...).
        device: default: the GPU where there is one.
        folder: where the weights are, or are downloaded to; default: ~/.cache/dolphin/MODEL.

    Raises:
        ImportError: dataoceanai-dolphin is missing.
    """

    def __init__(
        self,
        model: str = "small",
        language: str = "lo",
        region: str = "LA",
        device: str | torch.device | None = None,
        folder: str | Path | None = None,
    ) -> None:
        super().__init__(f"dolphin-{model}", language=language, region=region)
        self._said = {"lang_sym": language, "region_sym": region, "predict_time": False}
        where = Path(folder) if folder else Path.home() / ".cache" / "dolphin" / model
        with undisturbed():
            self._package = require("dolphin", "dolphin", "Dolphin")
            self._model = self._package.load_model(model, where, str(place(device)))

    def recognise(self, waveforms: list[Tensor], sample_rate: int, language: str | None) -> list[str]:
        if language not in (None, self._said["lang_sym"]):
            raise ValueError(
                f"this Dolphin listens for {self._said['lang_sym']!r} and was asked for {language!r}: construct one "
                "for each language and route with ByLanguage"
            )
        return [self._one(waveform, sample_rate) for waveform in waveforms]

    def _one(self, waveform: Tensor, rate: int) -> str:
        pieces = [piece for piece in waveform.split(WINDOW * rate) if len(piece) >= SHORTEST * rate]
        padded = [torch.nn.functional.pad(piece, (0, max(0, int(LEAST * rate) - len(piece)))) for piece in pieces]
        heard = [self._package.transcribe(self._model, piece[None], **self._said) for piece in padded]
        return " ".join(result.text_nospecial.strip() for result in heard)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Importing dolphin sets up logging and silences warnings for the whole program: undone here."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        with warnings.catch_warnings():
            yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers
        logging.getLogger("dolphin").setLevel(logging.NOTSET)  # it tells every text at level INFO
