"""People who do not exist: a source-filter voice that says ten words, expressively or flatly.

Pulses and noise (the glottis, the constriction) pass through moving formant resonances (the vocal tract); one table of
phones, one of speakers. F0 contour and word boundaries are known exactly because they were chosen. It is a toy: its
"expressive" speech is a random walk of F0, duration and energy, not a person's.

Source: Fant, Acoustic Theory of Speech Production (1960); vowel formants after Peterson and Barney (1952), rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from seaalign.miniature.spoken import HOP, RATE, Spoken, check_words
from seaalign.miniature.vocoder import N_FFT, istft, pulses, stft


class Phone(NamedTuple):
    """Targets of one segment: duration (ms), formants (Hz), levels of voice and noise (1: a full vowel), noise band."""

    ms: int
    f1: int
    f2: int
    f3: int
    voice: float
    noise: float = 0.0
    centre: int = 3000
    width: int = 1500


PHONES = {
    "i": Phone(110, 280, 2250, 2950, 0.8), "I": Phone(80, 390, 1990, 2550, 0.9), "e": Phone(100, 530, 1840, 2480, 1.0),
    "V": Phone(110, 640, 1190, 2390, 1.0), "a": Phone(110, 730, 1100, 2440, 1.0), "O": Phone(120, 570, 840, 2410, 1.0),
    "o": Phone(80, 490, 910, 2300, 0.9), "u": Phone(120, 310, 900, 2240, 0.8), "y": Phone(70, 330, 2150, 2750, 0.8),
    "r": Phone(70, 340, 1100, 1550, 0.6), "w": Phone(70, 310, 680, 2200, 0.5), "n": Phone(90, 250, 1350, 2200, 0.35),
    "v": Phone(70, 280, 1050, 2250, 0.3, 0.06), "z": Phone(100, 290, 1700, 2500, 0.25, 0.2, 3700, 600),
    "s": Phone(120, 350, 1700, 2600, 0.0, 0.30, 3800, 500), "f": Phone(100, 350, 1050, 2300, 0.0, 0.12, 2600, 2500),
    "T": Phone(90, 350, 1400, 2550, 0.0, 0.07, 3300, 1500), "h": Phone(25, 500, 1500, 2500, 0.0, 0.1, 2000, 1500),
    "-": Phone(60, 350, 1700, 2600, 0.0), "t": Phone(30, 350, 1750, 2650, 0.0, 0.35, 3500, 700),
    "k": Phone(30, 350, 1900, 2300, 0.0, 0.3, 1900, 500), "#": Phone(0, 500, 1500, 2500, 0.0),
}  # fmt: skip
SPELLING = ("ziro", "wVn", "-tu", "Tri", "fOr", "fayv", "sI-ks", "sevVn", "ey-t", "nayn")
"""Phones of each word; ``-`` is a closure, followed by the burst of a stop."""
PAUSE_MS = 225
"""Median silence between two words; always well above `seaalign.miniature.analysis.PAUSE_MS`."""


@dataclass(frozen=True)
class Speaker:
    """A vocal tract and a larynx.

    Attributes:
        tract: Factor on all formant frequencies (0.9 a long tract, 1.18 a short one).
        f0: Median fundamental frequency (Hz).
        tilt: Fall of the source spectrum (dB per octave above 200 Hz).
        breath: Level of noise mixed into voiced sounds (0 to 1).
        pace: Factor on durations.
    """

    tract: float
    f0: float
    tilt: float
    breath: float
    pace: float


SPEAKERS = {
    "ada": Speaker(1.16, 215, 7.0, 0.10, 1.00), "ben": Speaker(0.95, 105, 5.0, 0.04, 1.05),
    "cho": Speaker(1.10, 180, 4.0, 0.06, 0.92), "dov": Speaker(0.90, 88, 6.5, 0.08, 1.10),
    "eve": Speaker(1.20, 238, 5.5, 0.05, 0.95), "fin": Speaker(1.01, 130, 8.0, 0.03, 1.00),
}  # fmt: skip
"""The voices of the training data."""


def _strangers(count: int) -> dict[str, Speaker]:
    """People spread evenly over what voices can be (a rank-1 lattice: no two alike); short tracts speak higher."""
    people = {}
    for i in range(count):
        a, b, c, d, e = ((0.5 + (i + 1) * step) % 1.0 for step in (0.618034, 0.754878, 0.569840, 0.819173, 0.430160))
        tract = 0.88 + 0.34 * a
        f0 = 85 * 2 ** (1.5 * min(max(0.75 * a + 0.5 * (b - 0.25), 0.0), 1.0))
        people[f"j{i}"] = Speaker(tract, f0, 4 + 4.5 * c, 0.03 + 0.08 * d, 0.92 + 0.18 * e)
    return people


JUDGE_SPEAKERS = _strangers(24)
"""Other voices, heard by the judges only: a judge must not be trained on the speakers it judges."""


def say(words: tuple[int, ...], speaker: str, expressive: bool, generator: torch.Generator) -> Spoken:
    """Say a string of words with pauses of at least 200 ms between them.

    Expressive: F0 walks at random (standard deviation about 2 semitones), durations vary by +-25 %, word energies by
    +-2 dB, formants by 3 %. Flat: F0 stays within 0.1 semitones, durations and energies are those of the table.

    Args:
        words: Indices into `seaalign.miniature.spoken.WORDS`.
        speaker: A name in `SPEAKERS` or `JUDGE_SPEAKERS`.
        expressive: Which of the two ways.
        generator: The only source of randomness.

    Raises:
        ValueError: Empty or unknown words, or an unknown speaker.

    >>> utterance = say((3, 1), "ada", True, torch.Generator().manual_seed(0))
    >>> utterance.boundaries.shape, utterance.source
    (torch.Size([2, 2]), 'expressive')
    """
    words = check_words(words)
    person = SPEAKERS.get(speaker) or JUDGE_SPEAKERS.get(speaker)
    if person is None:
        raise ValueError(f"unknown speaker {speaker!r}: known are {', '.join([*SPEAKERS, *JUDGE_SPEAKERS])}")
    frames, table, owner = _score(words, person, expressive, generator)
    tracks = torch.repeat_interleave(table, frames, dim=0)
    # Articulators move smoothly: formants over 50 ms, levels over 30 ms.
    tracks = torch.cat([_smooth(tracks[:, :3], 5), _smooth(tracks[:, 3:5], 3), tracks[:, 5:]], dim=1)
    f0 = person.f0 * torch.exp2(_melody(len(tracks), expressive, generator) / 12)
    waveform = _sound(tracks, f0, person, generator)
    word_of_frame = torch.repeat_interleave(owner, frames)
    spans = [torch.nonzero(word_of_frame == i)[[0, -1], 0] for i in range(len(words))]
    boundaries = torch.stack(spans) * HOP + torch.tensor([0, HOP])
    voiced = tracks[:, 3] > 0.05
    return Spoken(
        words, waveform, RATE, speaker, "expressive" if expressive else "flat", boundaries, torch.where(voiced, f0, 0.0)
    )


def _score(
    words: tuple[int, ...], person: Speaker, expressive: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Frames per segment (S,), targets per segment (S, 7), word index per segment (S,), -1 in silence."""
    names: list[str] = ["#"]
    owner = [-1]
    for i, word in enumerate(words):
        names += [*SPELLING[word], "#"]
        owner += [i] * len(SPELLING[word]) + [-1]
    table = torch.tensor([PHONES[name] for name in names], dtype=torch.float32)
    owners = torch.tensor(owner)
    count, silent = len(names), owners < 0
    spread = (2 * torch.rand(count, 4, generator=generator) - 1) * float(expressive)
    pace = person.pace * (1 + 0.25 * spread[:, 0])
    milliseconds = torch.where(silent, PAUSE_MS + 25 * spread[:, 0] + 5, table[:, 0] * pace)
    milliseconds[0] = milliseconds[-1] = 50.0
    table[:, 1:4] *= person.tract * (1 + 0.03 * spread[:, 1:4])
    energy = 2.0 * (2 * torch.rand(len(words), generator=generator) - 1) * float(expressive)
    table[:, 4:6] *= 10 ** (torch.where(silent, torch.zeros(()), energy[owners]) / 20)[:, None]
    frames = torch.round(milliseconds / 10).clamp(min=2).long()
    return frames, table[:, 1:], owners


def _melody(frames: int, expressive: bool, generator: torch.Generator) -> Tensor:
    """Semitones around the speaker's median (F,): a smoothed random walk with its mean removed."""
    steps = torch.randn(frames, generator=generator)
    spread = 2.0 * (0.8 + 0.4 * torch.rand((), generator=generator)) if expressive else torch.tensor(0.1)
    walk = _smooth(torch.cumsum(steps, 0)[:, None], 9)[:, 0]
    walk = walk - walk.mean()
    return (walk / walk.std(correction=0).clamp(min=1e-3) * spread).clamp(-7, 7)


def _smooth(tracks: Tensor, width: int) -> Tensor:
    """Centred moving average of (F, C) over `width` frames, edges repeated."""
    padded = F.pad(tracks.T[None], (width // 2, width // 2), mode="replicate")
    return F.avg_pool1d(padded, width, stride=1)[0].T


def _sound(tracks: Tensor, f0: Tensor, person: Speaker, generator: torch.Generator) -> Tensor:
    """Waveform ((F - 1) * HOP,) of formants, levels and noise bands (F, 7) and F0 (F,)."""
    hertz = torch.linspace(0, RATE / 2, N_FFT // 2 + 1)
    fourth = torch.full_like(tracks[:, :1], 3500 * person.tract)
    centre = torch.cat([tracks[:, :3], fourth], dim=1)[..., None]
    width = 50 + 0.04 * centre
    resonance = centre**2 / torch.hypot(centre**2 - hertz**2, hertz * width)
    tilt = 10 ** (-person.tilt * torch.log2(hertz.clamp(min=200) / 200) / 20)
    voice = resonance.prod(dim=1) * tilt
    voice = voice / voice.square().mean(dim=1, keepdim=True).sqrt()
    hiss = torch.exp(-0.5 * ((hertz - tracks[:, 5:6]) / tracks[:, 6:7]) ** 2) + 0.02
    hiss = hiss / hiss.square().mean(dim=1, keepdim=True).sqrt()
    harmonic = stft(pulses(f0[None]))[0].T
    noise = stft(torch.randn(1, (len(f0) - 1) * HOP, generator=generator))[0].T
    high = torch.sigmoid((hertz - 2000) / 400)
    spectrum = harmonic * voice * tracks[:, 3:4]
    spectrum = spectrum + noise * (voice * high * person.breath * 2 * tracks[:, 3:4] + hiss * tracks[:, 4:5])
    return istft(0.1 * spectrum.T[None], (len(f0) - 1) * HOP)[0].clamp(-1, 1)
