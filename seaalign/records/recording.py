"""What a corpus says of an utterance before its text and its sound are tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from seaalign.records.speech import set_fields, token_ids

Audio: TypeAlias = Path | bytes | tuple[Tensor, int]
"""A file, the bytes of one, or samples (S,) in [-1, 1] and their rate (Hz)."""


@dataclass(frozen=True, eq=False)
class Recording:
    """A sentence that somebody said, as corpora describe it; `seaalign.data.prepare` makes an `Utterance` of it.

    Args:
        id: unique within a corpus.
        text: as people write it.
        audio: the path of a file, the bytes of one, or (samples (S,), rate in Hz); None where tokens are enough.
        tokens: speech tokens (T,) or (T, K), where somebody made them already.
        speaker: who speaks; None where nobody knows. Style references are chosen among recordings of one speaker.
        language: code of the language, or None.
        source: "real", or the name of the system that synthesised it.
        timbre: what the decoder needs to know of the speaker, where the corpus holds it.
        start: where in the audio the utterance begins (seconds).
        duration: how long it is (seconds); None = to the end. Known durations cost nothing to keep, so that of a whole
            file may stand here too.

    Raises:
        TypeError: a field is of another kind.
        ValueError: the id or the text is empty, tokens hold nothing, or start and duration are no times.

    Example:
        >>> Recording("u1", "hello there", "clips/u1.wav", speaker="ann").audio.name
        'u1.wav'
    """

    id: str
    text: str
    audio: Audio | str | None = None
    tokens: Tensor | None = None
    speaker: str | None = None
    language: str | None = None
    source: str = "real"
    timbre: Any = None
    start: float | None = None
    duration: float | None = None

    def __post_init__(self) -> None:
        for name in ("id", "text", "source"):
            _require(isinstance(getattr(self, name), str), name, "a text", getattr(self, name))
        for name in ("speaker", "language"):
            value = getattr(self, name)
            _require(value is None or (isinstance(value, str) and value != ""), name, "a text or None", value)
        if not self.id or not self.text.strip():
            raise ValueError(f"a recording needs an id and a text: got id {self.id!r} and text {self.text[:40]!r}")
        set_fields(self, audio=_audio(self.audio))
        if self.tokens is not None:
            set_fields(self, tokens=token_ids(self.tokens, f"tokens of recording {self.id!r}", (1, 2)))
            if not len(self.tokens):
                raise ValueError(f"tokens of recording {self.id!r} are empty: leave them out, or drop the row")
        if self.start is not None:
            set_fields(self, start=_seconds("start", self.start, 0.0))
        if self.duration is not None:
            set_fields(self, duration=_seconds("duration", self.duration, None))


def _require(good: bool, name: str, kind: str, value: Any) -> None:
    if not good:
        raise TypeError(f"{name} must be {kind}, got {str(value)[:40]!r} ({type(value).__name__})")


def _audio(given: Any) -> Audio | None:
    if given is None or isinstance(given, bytes | Path):
        return given
    if isinstance(given, str):
        return Path(given)
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise TypeError(f"audio must be a path, bytes, (samples, rate) or None, got {type(given).__name__}")
    samples, rate = torch.as_tensor(given[0]), int(given[1])
    if samples.dim() != 1 or not samples.is_floating_point():
        raise ValueError(
            f"audio: samples must be (S,) floats in [-1, 1], got {tuple(samples.shape)} {samples.dtype}: mix channels "
            "down, and divide 16-bit numbers by 32768"
        )
    if rate <= 0:
        raise ValueError(f"audio: the sample rate must be above 0 Hz, got {given[1]}")
    return samples.float(), rate


def _seconds(name: str, value: Any, least: float | None) -> float:
    _require(isinstance(value, int | float) and not isinstance(value, bool), name, "a number of seconds", value)
    low = value <= 0 if least is None else value < least
    if low or not math.isfinite(value):
        raise ValueError(f"{name} must be {'above 0' if least is None else '0 or more'} seconds, got {value}")
    return float(value)
