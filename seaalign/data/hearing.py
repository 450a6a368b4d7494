"""What is heard of an utterance: pitch, voicing and level of each frame, and its spectrum; targets, and inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from seaalign.audio import check, log_mel, resample
from seaalign.functional.pitch import f0
from seaalign.functional.prosody import Measured, energy, energy_std, f0_range, f0_std, semitones

FRAME_RATE = 100
"""Frames a second at which sound is measured."""
REFERENCE = 100.0
"""Hz from which semitones are counted, the same for everybody."""
BANDS = 40
"""Mel bands of the spectrum."""
SIZE = 3 + BANDS
"""Features of a frame of sound: F0, voicing, level, spectrum."""
STATISTICS = ("F0 std", "F0 range", "energy std", "voiced share")
_DEPTH = 40.0  # dB under the loud frames; what is quieter is the room and the microphone, which give a speaker away
_SILENT = -90.0  # dB


class Heard(NamedTuple):
    """Measurements of one utterance.

    Attributes:
        frames: every 10 ms F0 in semitones above 100 Hz (unvoiced frames: the mean of the voiced ones), voicing (0 or
            1), level in dB, never more than 40 dB under the loud frames, log mel power (T, 3 + BANDS).
        spectrum: mean log mel power of frames with sound, about its mean over bands (BANDS,).
        statistics: what `STATISTICS` names, in semitones, semitones, dB and 0 to 1; NaN where undefined (4,).
        loudest: level that 5 % of the frames exceed, dB.
    """

    frames: Tensor
    spectrum: Tensor
    statistics: Tensor
    loudest: float

    @property
    def silent(self) -> bool:
        """Is there nothing to hear?"""
        return self.loudest < _SILENT

    def at(self, count: int) -> Tensor:
        """F0, voicing and level of `count` frames that share the utterance's time evenly (count, 3)."""
        centres = (torch.arange(count) + 0.5) * (len(self.frames) / count)
        return self.frames[centres.long().clamp(max=len(self.frames) - 1), :3]


def hear(waveforms: Sequence[Tensor], sample_rate: int, rate: int = 16000) -> list[Heard]:
    """Measure utterances.

    Args:
        waveforms: samples in [-1, 1] (S,), each with its own length, of 10 ms at least.
        sample_rate: theirs (Hz).
        rate: the rate they are heard at (Hz), a multiple of 100, 1600 or more: it sets the upper end of the spectrum.

    Raises:
        ValueError: an empty waveform, one with NaN, one that is no mono audio; the message says which.

    Example:
        >>> tone = 0.1 * torch.sin(2 * torch.pi * 200 * torch.arange(16000) / 16000)
        >>> heard = hear([tone], 16000)[0]
        >>> heard.frames.shape, [round(x) for x in heard.frames[50, :3].tolist()]  # an octave above 100 Hz
        (torch.Size([100, 43]), [12, 1, -23])
    """
    for i, wave in enumerate(waveforms):
        check(wave, f"waveform {i}")
        if len(wave) * FRAME_RATE < sample_rate:
            raise ValueError(f"waveform {i} has {len(wave)} samples, less than 10 ms: drop the row")
    waves = [resample(wave.float(), sample_rate, rate) for wave in waveforms]
    contours = f0(waves, rate, FRAME_RATE)
    return [_heard(wave, contour, rate) for wave, contour in zip(waves, contours, strict=True)]


def _heard(wave: Tensor, contour: Tensor, rate: int) -> Heard:
    level, mel = energy(wave, rate, FRAME_RATE), log_mel(wave, rate, BANDS, FRAME_RATE)
    count = min(len(contour), len(level), len(mel))
    contour, level, mel = contour[:count], level[:count], mel[:count]
    loudest = float(level.quantile(0.95))
    active, voiced = level > loudest - _DEPTH, contour > 0
    pitch = semitones(contour, REFERENCE)
    pitch = torch.where(voiced, pitch, pitch[voiced].mean() if voiced.any() else torch.zeros(()))
    frames = torch.stack([pitch, voiced.float(), level.clamp(min=loudest - _DEPTH)], dim=1)
    mean = mel[active].mean(0) if active.any() else mel.mean(0)
    share = (voiced & active).sum() / active.sum().clamp(min=1)
    measured = (f0_std(contour), f0_range(contour), energy_std(level), Measured(share, bool(active.any())))
    statistics = torch.tensor([float(m.value) if m.defined else float("nan") for m in measured])
    return Heard(torch.cat([frames, mel], 1), mean - mean.mean(), statistics, loudest)
