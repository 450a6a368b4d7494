"""The recogniser that judges: waveform to words, by convolutions and CTC.

Judges learn from recordings and voices that neither the tokenizer nor the language model has heard, natural and
vocoded. A judge that has heard people only takes flawless synthetic speech for nonsense and would turn every comparison
upside down. Train two with different seeds and sizes, and let the second only report.

Source: Graves et al., Connectionist Temporal Classification (2006).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seaalign.audio import check, log_mel, resample
from seaalign.miniature.analysis import FRAME_RATE, analyse
from seaalign.miniature.draw import draw_weights
from seaalign.miniature.flow import Block
from seaalign.miniature.spoken import RATE, WORDS, Spoken
from seaalign.miniature.vocoder import N_MELS, vocode

BLANK = len(WORDS)


class Ear(nn.Module):
    """CTC recogniser of the ten words; frames of 40 ms.

    Args:
        width: Hidden channels.
        depth: Residual convolutions after the two that reduce the frame rate.
    """

    def __init__(self, width: int = 96, depth: int = 3) -> None:
        super().__init__()
        self.settings = {"width": width, "depth": depth}
        self.first = nn.Conv1d(N_MELS, width, 5, stride=2, padding=2)
        self.second = nn.Conv1d(width, width, 5, stride=2, padding=2)
        self.blocks = nn.ModuleList([Block(width, (1, 2)[i % 2]) for i in range(depth)])
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, BLANK + 1))

    def forward(self, mel: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities (B, N, 11) of words and blank, and how many of the N frames count (B,).

        Args:
            mel: Normalised log mel, zero beyond `lengths` (B, F, N_MELS).
            lengths: Frames of each row (B,).
        """
        h = mel.transpose(1, 2)
        for layer in (self.first, self.second):
            lengths = (lengths + 1) // 2
            h = F.gelu(layer(h))
            h = h * (torch.arange(h.shape[2])[None] < lengths[:, None])[:, None]
        mask = (torch.arange(h.shape[2])[None] < lengths[:, None]).float()[..., None]
        h = h.transpose(1, 2)
        for block in self.blocks:
            h = block(h, mask)
        return self.head(h).log_softmax(dim=-1), lengths

    @torch.no_grad()
    def transcribe(self, waveforms: Sequence[Tensor], rate: int = RATE, batch: int = 64) -> list[tuple[int, ...]]:
        """Words heard in each waveform, by greedy decoding; an empty tuple where none is heard.

        Args:
            waveforms: Samples (T,) each.
            rate: Their rate (Hz).
            batch: Waveforms at once; the result does not depend on it.

        Raises:
            ValueError: Empty or NaN audio: a judge never takes a broken file for a wrong answer.
        """
        mels = [listen(wave, rate, f"waveform {i}") for i, wave in enumerate(waveforms)]
        order = sorted(range(len(mels)), key=lambda i: len(mels[i]))
        heard: list[tuple[int, ...]] = [()] * len(mels)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            logp, lengths = self(*_stack([mels[i] for i in rows]))
            for i, best, length in zip(rows, logp.argmax(dim=-1), lengths.tolist(), strict=True):
                merged = torch.unique_consecutive(best[:length]).tolist()
                heard[i] = tuple(symbol for symbol in merged if symbol != BLANK)
        return heard

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write settings and weights, tensors and numbers only; `Ear.load` reads them back."""
        torch.save({"settings": self.settings, "state": self.state_dict()}, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Ear:
        """Read what `save` wrote."""
        stored = torch.load(path, weights_only=True)
        ear = cls(**stored["settings"])
        ear.load_state_dict(stored["state"])
        return ear


def listen(waveform: Tensor, rate: int = RATE, name: str = "waveform") -> Tensor:
    """Log mel (F, N_MELS) with gain and colour of the recording taken out: band means over the louder half are zero."""
    check(waveform, name)
    mel = log_mel(resample(waveform, rate, RATE), RATE, N_MELS, FRAME_RATE)
    return level(mel)


def level(mel: Tensor) -> Tensor:
    """Normalise log mel (F, N_MELS): the louder half of the frames gets mean zero in each band."""
    loudness = mel.mean(dim=1)
    loud = mel[loudness >= loudness.median()]
    return ((mel - loud.mean(dim=0)) / 2).clamp(min=-4)


def vocoded(spoken: Sequence[Spoken], seed: int = 0) -> list[Tensor]:
    """Each utterance resynthesised by the vocoder, every second one with its spectrum smoothed.

    Decoded speech is smoother than natural speech; a judge that never heard that would punish the decoder for it.
    """
    waves = []
    for i, frames in enumerate(analyse([s.waveform for s in spoken], f0=[s.f0 for s in spoken])):
        mel = frames.mel
        if i % 2:
            mel = F.avg_pool1d(F.pad(mel.T[None], (1, 1), mode="replicate"), 3, stride=1)[0].T
        waves.append(vocode(mel[None], frames.f0[None], seed + i)[0])
    return waves


def fit(
    ear: Ear,
    lessons: Sequence[tuple[Tensor, tuple[int, ...]]],
    steps: int = 400,
    batch: int = 32,
    lr: float = 4e-3,
    seed: int = 0,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> list[float]:
    """Train a recogniser from scratch, in place; the number of steps, not the clock, says when it ends.

    Args:
        ear: Its weights are drawn anew from `seed`.
        lessons: Waveform at 8 kHz and the words in it.
        steps: Gradient steps.
        batch: Utterances per step.
        lr: Peak learning rate (one cosine).
        seed: Source of all randomness.
        progress: Called once around the steps.

    Returns:
        Loss of every step.

    Raises:
        ValueError: No lessons.
    """
    if not lessons:
        raise ValueError("no lessons: give at least one waveform with its words")
    generator = torch.Generator().manual_seed(seed)
    draw_weights(ear, generator)
    mels = [listen(wave, RATE, f"lesson {i}") for i, (wave, _) in enumerate(lessons)]
    optimizer = torch.optim.AdamW(ear.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.15)
    losses = []
    for _ in progress(range(steps)):
        rows = torch.randint(len(mels), (batch,), generator=generator).tolist()
        logp, lengths = ear(*_stack([_disturb(mels[i], generator) for i in rows]))
        words = torch.tensor([word for i in rows for word in lessons[i][1]])
        counts = torch.tensor([len(lessons[i][1]) for i in rows])
        loss = F.ctc_loss(logp.transpose(0, 1), words, lengths, counts, blank=BLANK, zero_infinity=True)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(ear.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses


def _disturb(mel: Tensor, generator: torch.Generator) -> Tensor:
    """Another pace, another vocal tract, a random colour, a little noise, one masked band: the ear may lean on none."""
    pace, tract, start, width = torch.rand(4, generator=generator).tolist()
    bands = round(N_MELS * (0.94 + 0.12 * tract))
    size = (max(int(len(mel) * (0.85 + 0.3 * pace)), 8), bands)
    mel = F.interpolate(mel[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
    mel = F.pad(mel, (0, max(N_MELS - bands, 0)), mode="replicate")[:, :N_MELS]
    tilt = torch.randn(2, generator=generator) * 0.3
    slope = torch.linspace(-1, 1, N_MELS)
    colour = tilt[0] * slope + tilt[1] * (slope**2 - 1 / 3)
    out = mel + colour + 0.15 * torch.randn(mel.shape, generator=generator)
    first = int(start * (N_MELS - 6))
    out[:, first : first + int(7 * width)] = 0
    return out


def _stack(mels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    return nn.utils.rnn.pad_sequence(list(mels), batch_first=True), torch.tensor([len(mel) for mel in mels])
