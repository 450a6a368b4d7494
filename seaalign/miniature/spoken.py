"""What both sources of speech hand over: words, waveform, and where each word lies.

The miniature lives at 8 kHz with parameters every 10 ms (`RATE`, `HOP`), the rate of the recorded digits, so that the
embedded voice and real recordings share tokenizer, decoder, vocoder and judges.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RATE = 8000
"""Sample rate of everything in the miniature (Hz)."""
HOP = 80
"""Samples between two parameter frames: 100 frames a second."""
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
"""The vocabulary; a text is a tuple of indices into it."""


@dataclass(frozen=True)
class Spoken:
    """One utterance of known text.

    Attributes:
        words: Indices into `WORDS`.
        waveform: Samples in [-1, 1] (T,).
        rate: Sample rate (Hz).
        speaker: Who speaks.
        source: ``"expressive"``, ``"real"`` or ``"flat"``.
        boundaries: First and one-past-last sample of each word (len(words), 2).
        f0: Exact fundamental frequency every `HOP` samples, Hz, 0 where unvoiced (F,); None where it must be measured.
    """

    words: tuple[int, ...]
    waveform: Tensor
    rate: int
    speaker: str
    source: str
    boundaries: Tensor
    f0: Tensor | None = None

    @property
    def seconds(self) -> float:
        """Duration (s)."""
        return self.waveform.numel() / self.rate

    @property
    def text(self) -> str:
        """The words, spelled."""
        return " ".join(WORDS[w] for w in self.words)


def check_words(words: tuple[int, ...] | list[int]) -> tuple[int, ...]:
    """Return `words` as a tuple, or say which of them cannot be spoken.

    Raises:
        ValueError: Empty text, or an index outside the vocabulary.

    >>> check_words([3, 1])
    (3, 1)
    """
    if len(words) == 0:
        raise ValueError("empty text: there is nothing to say; drop the row or give at least one word index")
    wrong = [w for w in words if not 0 <= int(w) < len(WORDS)]
    if wrong:
        raise ValueError(f"unknown word indices {wrong}: the vocabulary has 0..{len(WORDS) - 1} ({', '.join(WORDS)})")
    return tuple(int(w) for w in words)


def f0_std(f0: Tensor) -> float:
    """Standard deviation of the voiced frames of a contour, in semitones (0.0 when fewer than two are voiced).

    Args:
        f0: Hz, 0 where unvoiced (F,).

    >>> round(f0_std(torch.tensor([100.0, 0.0, 200.0])), 3)  # an octave apart: +-6 semitones
    6.0
    """
    voiced = f0[f0 > 0]
    if voiced.numel() < 2:
        return 0.0
    return float((12.0 * torch.log2(voiced.double())).std(correction=0))
