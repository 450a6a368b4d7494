"""Who speaks: a speaker embedding in closed form, so that "does it still sound like them" has a number.

Statistics of an utterance (mean and spread of each mel band, mean log F0) are projected so that people differ
most and utterances of one person least; the cosine of two projections is their similarity.

Source: Fisher, The Use of Multiple Measurements in Taxonomic Problems (1936), its within-speaker covariance shrunk.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from seaalign.miniature.analysis import Frames, analyse
from seaalign.miniature.spoken import RATE, Spoken
from seaalign.miniature.vocoder import N_MELS

_NUMBERS = 2 * N_MELS + 1


class Speakers:
    """Speaker embedding learned from utterances of people, best from the judges' split and half of it vocoded.

    Args:
        mean: Mean of the statistics over speakers (81,).
        basis: Projection (81, D).
    """

    def __init__(self, mean: Tensor, basis: Tensor) -> None:
        self.mean, self.basis = mean, basis

    @classmethod
    def fit(cls, waveforms: Sequence[Tensor], speakers: Sequence[str], most: int = 16, shrink: float = 0.1) -> Speakers:
        """Solve for the projection; no iterations, no randomness.

        Args:
            waveforms: Samples at 8 kHz (T,) each.
            speakers: Who speaks in each.
            most: Dimensions of the embedding, fewer if there are not more speakers.
            shrink: Share of a diagonal covariance mixed into the within-speaker one.

        Raises:
            ValueError: Fewer than two speakers, or one of them with a single utterance.
        """
        names = sorted(set(speakers))
        label = torch.tensor([names.index(name) for name in speakers])
        count = torch.bincount(label, minlength=len(names))
        if len(names) < 2 or int(count.min()) < 2:
            raise ValueError(
                f"{dict(zip(names, count.tolist(), strict=True))}: need two speakers, two utterances of each"
            )
        x = torch.stack([_statistics(frames) for frames in analyse(waveforms)])
        centres = torch.zeros(len(names), _NUMBERS).index_add_(0, label, x) / count[:, None]
        spread = (x - centres[label]).double()
        within = spread.T @ spread / (len(x) - len(names))
        within = (1 - shrink) * within + shrink * torch.diag(within.diagonal() + 1e-6)
        values, vectors = torch.linalg.eigh(within)
        whiten = vectors * values**-0.5
        between = (centres - centres.mean(dim=0)).double() @ whiten
        variance, turn = torch.linalg.eigh(between.T @ between / len(names))
        keep = slice(-min(most, len(names) - 1), None)
        # Between-speaker variance in units of the within-speaker one. Unscaled, the one direction in which people
        # differ most (F0) would decide the cosine alone; directions that hardly differ count by their reliability.
        ratio = variance[keep].clamp(min=0)
        scale = ratio / (ratio + 1) ** 1.5
        return cls(centres.mean(dim=0), (whiten @ turn[:, keep] * scale).float())

    def embed(self, waveforms: Sequence[Tensor], rate: int = RATE) -> Tensor:
        """Unit vectors (B, D); the dot product of two is their similarity, 1 for the same voice."""
        x = torch.stack([_statistics(frames) for frames in analyse(waveforms, rate)])
        return torch.nn.functional.normalize((x - self.mean) @ self.basis, dim=-1)

    def similarity(self, waveforms: Sequence[Tensor], references: Sequence[Tensor], rate: int = RATE) -> Tensor:
        """Cosine similarity of each waveform to the reference of the same row (B,), in [-1, 1]."""
        if len(waveforms) != len(references):
            raise ValueError(f"{len(waveforms)} waveforms but {len(references)} references: give one each")
        return (self.embed(waveforms, rate) * self.embed(references, rate)).sum(dim=-1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the two tensors; `Speakers.load` reads them back."""
        torch.save({"mean": self.mean, "basis": self.basis}, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Speakers:
        """Read what `save` wrote."""
        return cls(**torch.load(path, weights_only=True))


def fit_speakers(spoken: Sequence[Spoken], vocoded: Sequence[Tensor] = ()) -> Speakers:
    """`Speakers.fit` on utterances, and on resyntheses of the first ``len(vocoded)`` of them."""
    names = [one.speaker for one in spoken]
    return Speakers.fit([*(one.waveform for one in spoken), *vocoded], [*names, *names[: len(vocoded)]])


def _statistics(frames: Frames) -> Tensor:
    """Mean of each band relative to the loudness, its spread, and mean log F0 (81,)."""
    mel = frames.mel[frames.active].clamp(min=-8)
    mean = mel.mean(dim=0)
    voiced = frames.f0[frames.f0 > 0]
    pitch = voiced.log().mean() if voiced.numel() else torch.tensor(4.8)
    # F0 counts as much as several bands: it is one number, but the most telling one.
    return torch.cat([mean - mean.mean(), mel.std(dim=0, correction=0), 3 * pitch[None]])
