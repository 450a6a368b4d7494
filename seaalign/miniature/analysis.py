"""What is measured on a waveform before anything is learned: mel, F0, word spans between pauses, timbre."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from seaalign.audio import check, log_mel, resample
from seaalign.functional.pitch import f0 as pitch
from seaalign.miniature.spoken import HOP, RATE
from seaalign.miniature.vocoder import N_MELS

PAUSE_MS = 140
"""A run of near silence at least this long is a pause between words; closures inside words are shorter."""
SILENCE_DB = 45.0
"""Near silence: this far below the loud frames of the utterance."""
FRAME_RATE = RATE // HOP


class Frames(NamedTuple):
    """Measurements every 10 ms: log mel (F, N_MELS), F0 in Hz, 0 where unvoiced (F,); word spans (n, 2) in frames."""

    mel: Tensor
    f0: Tensor
    spans: Tensor

    @property
    def active(self) -> Tensor:
        """True inside words (F,)."""
        t = torch.arange(len(self.mel))[:, None]
        return ((t >= self.spans[:, 0]) & (t < self.spans[:, 1])).any(dim=1)


def analyse(waveforms: Sequence[Tensor], rate: int = RATE, f0: Sequence[Tensor | None] | None = None) -> list[Frames]:
    """Measure utterances.

    Args:
        waveforms: Samples (T,) each.
        rate: Their rate (Hz); anything but 8 kHz is resampled.
        f0: Known contours in Hz at 100 frames a second (F,); those that are None are measured, all together.

    Raises:
        ValueError: Empty, NaN or silent audio; the message says which.

    >>> from seaalign.miniature.voice import say
    >>> utterance = say((3, 1), "ada", True, torch.Generator().manual_seed(0))
    >>> len(analyse([utterance.waveform], f0=[utterance.f0])[0].spans)  # two words
    2
    """
    for i, waveform in enumerate(waveforms):
        check(waveform, f"waveform {i}")
    waves = [resample(waveform, rate, RATE) for waveform in waveforms]
    contours: list[Tensor | None] = list(f0) if f0 is not None else [None] * len(waves)
    unknown = [i for i, contour in enumerate(contours) if contour is None]
    if unknown:
        # A pitch frame is centred half a hop after a mel frame of the same number; half a hop of silence aligns them.
        shifted = [pad(waves[i], (HOP // 2, HOP)) for i in unknown]
        for i, contour in zip(unknown, pitch(shifted, RATE, frame_rate=FRAME_RATE), strict=True):
            contours[i] = contour
    rows = []
    for wave, known in zip(waves, contours, strict=True):
        mel = log_mel(wave, RATE, N_MELS, FRAME_RATE)
        fitted = torch.zeros(len(mel))
        if known is not None:
            fitted[: len(known)] = known[: len(mel)]
        rows.append(Frames(mel, fitted, word_spans(wave)))
    return rows


def word_spans(waveform: Tensor, pause_ms: int = PAUSE_MS, silence_db: float = SILENCE_DB) -> Tensor:
    """First and one-past-last 10 ms frame of each stretch of sound between pauses (n, 2).

    Args:
        waveform: Samples at 8 kHz (T,).
        pause_ms: Shortest pause (ms).
        silence_db: Near silence is this far below the 95th percentile of frame energy (dB).

    Raises:
        ValueError: The waveform is silent throughout.
    """
    padded = pad(waveform, (HOP, HOP)).unfold(0, 2 * HOP, HOP)
    level = 10 * torch.log10(padded.square().mean(dim=1) + 1e-12)
    loud = float(torch.quantile(level, 0.95))
    if loud < -90:
        raise ValueError(f"the waveform is silent (95 % of it below {loud:.0f} dB): drop the row, check the recording")
    sound = torch.nonzero(level > loud - silence_db)[:, 0]
    gaps = torch.nonzero(torch.diff(sound) > pause_ms * FRAME_RATE / 1000)[:, 0]
    starts = torch.cat([sound[:1], sound[gaps + 1]])
    ends = torch.cat([sound[gaps], sound[-1:]]) + 1
    return torch.stack([starts, ends], dim=1)


def timbre(frames: Sequence[Frames]) -> Tensor:
    """Who speaks, in 41 numbers: mean log mel over words (N_MELS), then the log of the median F0 in Hz.

    Args:
        frames: One or several utterances of one speaker, pooled.

    Raises:
        ValueError: No utterance given.
    """
    if not frames:
        raise ValueError("a timbre needs at least one reference utterance, got none")
    mel = torch.cat([f.mel[f.active] for f in frames]).mean(dim=0)
    f0 = torch.cat([f.f0[f.f0 > 0] for f in frames])
    median = f0.median() if f0.numel() else torch.tensor(120.0)
    return torch.cat([mel, median.log()[None]])
