"""Clips as raters hear them: one rate, one loudness, one format, so that nothing but the speech tells them apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from seaalign import audio
from seaalign.report.players import MP3_RATES
from seaalign.sampling.progress import track

LOUDNESS = -23.0
"""LUFS, of broadcast speech; ITU-R BS.1770 leaves out pauses, so a slow speaker is not made louder."""
SILENT = -60.0
"""LUFS; below it there is nothing to judge."""
PEAK = 10 ** (-1 / 20)
"""Loudest sample; coding may add some."""


def load_all(paths: Sequence[Path]) -> tuple[list[Tensor], int]:
    """Read files at one rate: the highest among them, or the next that MP3 knows.

    Raises:
        ValueError: a file is no sound.
    """
    read = [audio.load(path) for path in track(paths, "reading", True)]
    highest = max(rate for _, rate in read)
    rate = next((known for known in MP3_RATES if known >= highest), MP3_RATES[-1])
    return [audio.resample(wave, own, rate) for wave, own in read], rate


def loudness(waveform: Tensor, rate: int) -> float:
    """Integrated loudness in LUFS of samples (T,). Sounds shorter than its blocks of 0.4 s are measured repeated.

    Source: ITU-R BS.1770-4.
    """
    times = math.ceil(0.8 * rate / len(waveform))
    peak = float(waveform.abs().max())
    if not peak:
        return -math.inf
    # torchaudio's filters clip at 1 and so take loud sound for softer than it is: measured with room above
    scaled = (0.1 / peak) * waveform.double().repeat(times)[None]
    return float(audio.torchaudio().functional.loudness(scaled, rate)) + 20 * math.log10(peak / 0.1)


def levelled(waves: Sequence[Tensor], rate: int, names: Sequence[object]) -> list[Tensor]:
    """The same loudness for all: `LOUDNESS`, or as much below it as keeps the peaks of every one below `PEAK`.

    Nothing is compressed or limited, which would change one system's sound more than another's.

    Args:
        waves: samples (T,) each.
        rate: Hz.
        names: for messages.

    Raises:
        ValueError: one is silent.
    """
    found = [loudness(wave, rate) for wave in track(waves, "measuring", True)]
    for name, value in zip(names, found, strict=True):
        if not value > SILENT:
            raise ValueError(f"{name} is silent or nearly so: leave this text out, or look at what the system did")
    room = [20 * math.log10(PEAK / float(wave.abs().max())) for wave in waves]
    goal = min(LOUDNESS, *(value + more for value, more in zip(found, room, strict=True)))
    return [wave * 10 ** ((goal - value) / 20) for wave, value in zip(waves, found, strict=True)]


def excerpt(waveform: Tensor, rate: int, seconds: float = 3.0) -> Tensor:
    """The part (of at most so many seconds) with the most energy, its ends faded over 10 ms."""
    size, fade = round(seconds * rate), rate // 100
    if len(waveform) > size:
        total = torch.cat([torch.zeros(1, dtype=torch.float64), waveform.double().square().cumsum(0)])
        start = int((total[size:] - total[:-size]).argmax())
        waveform = waveform[start : start + size]
    ramp = torch.ones(len(waveform))
    fade = min(fade, len(waveform) // 2)
    ramp[:fade] = torch.linspace(0, 1, fade)
    ramp[len(ramp) - fade :] = torch.linspace(1, 0, fade)
    return waveform * ramp


def spoil(waveform: Tensor, rate: int, generator: torch.Generator) -> Tensor:
    """Speech that nobody can take for natural or for its speaker, to find raters who do not listen.

    Played 1.5 times as fast, each 120 ms of that backwards (few people follow speech reversed in parts of 100 ms or
    more), in noise 5 dB below.

    Source: Saberi & Perrott 1999, "Cognitive restoration of reversed speech".
    """
    fast = audio.resample(waveform, 3 * (rate // 3), 2 * (rate // 3)) if rate >= 3 else waveform
    backwards = torch.cat([part.flip(0) for part in fast.split(max(1, round(0.12 * rate)))])
    noise = torch.randn(len(backwards), generator=generator)
    return backwards + noise * backwards.square().mean().sqrt() * 10 ** (-5 / 20)


def volume_check(rate: int) -> Tensor:
    """Two seconds of three notes, to set the volume by."""
    t = torch.arange(2 * rate) / rate
    pitch = torch.tensor([262.0, 330.0, 392.0])[(t * 1.5).long().clamp(max=2)]
    swell = torch.sin(math.pi * (t * 1.5 % 1.0))
    return 0.2 * swell * torch.sin(2 * math.pi * torch.cumsum(pitch, 0) / rate)
