"""A backbone that hums, a recogniser that hears how long it hummed, and people who hum, too."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from seaalign import Prompt, Speech, Style
from seaalign.audio import save
from seaalign.evaluation import Case
from tests.toy import Toy

RATE = 8000
WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight")


def hum(pitches: list[float], seconds: float = 0.05) -> Tensor:
    """A tone that goes through these pitches (Hz)."""
    steps = torch.tensor(pitches).repeat_interleave(int(seconds * RATE))
    return 0.3 * torch.sin(2 * torch.pi * steps.double().cumsum(0) / RATE).float()


class Hummer(Toy):
    """`Toy` with sound: every token is a tone of 50 ms, higher for a higher token and for a higher voice."""

    features = frozenset({"style", "timbre", "decode", "encode"})
    sample_rate = RATE
    vocab_size = 10

    def tokenize(self, text: str) -> list[int]:
        return [len(word) for word in text.split()]

    def decode(self, speech, timbres):
        return [
            hum([110.0 + 10 * float(timbre[0]) + 8 * token for token in row.tolist()])
            for row, timbre in zip(speech.rows(), timbres, strict=True)
        ]

    def encode(self, waveforms, sample_rate):
        return Speech.pack([torch.arange(max(1, int(len(wave) / sample_rate / 0.05))) % 10 for wave in waveforms])

    def timbre(self, waveform, sample_rate):
        return torch.tensor([float(len(waveform) % 3)])


def ear(waveforms: list[Tensor], sample_rate: int) -> list[str]:
    """Hears a word for every quarter second, so that short and long answers are wrong."""
    return [" ".join(WORDS[: round(len(wave) / sample_rate / 0.25)]) for wave in waveforms]


def cases(count: int = 6, folder: Path | None = None) -> list[Case]:
    """Texts of one to four words; with a folder also people who say them, each at the right length."""
    made = []
    for i in range(count):
        words = 1 + i % 4
        prompt = Prompt([w + i % 3 for w in range(words)], Style([i % 10, 3]), torch.tensor([float(i % 3)]))
        path = None
        if folder is not None:
            path = folder / f"person-{i}.wav"
            save(path, hum([120.0 + 6 * ((i * k) % 7) for k in range(5 * words)]), RATE)
        made.append(Case(f"s{i}", " ".join(WORDS[:words]), prompt, path))
    return made
