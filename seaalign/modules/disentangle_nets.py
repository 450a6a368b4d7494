"""Networks of the `Disentangler`: all small, all masked, so that a row gives the same alone and in company."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seaalign.data.hearing import BANDS, SIZE

Inputs = Literal["audio", "tokens", "features"]


class Entry(nn.Module):
    """Inputs to vectors per frame: a linear layer over features, or one embedding table for each codebook.

    Args:
        kind: what comes in.
        size: width of the features, or how many ids a codebook has.
        codebooks: of tokens.
        dim: of what comes out.
    """

    def __init__(self, kind: Inputs, size: int, codebooks: int, dim: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, dim) for _ in range(codebooks if kind == "tokens" else 0))
        self.scale = nn.BatchNorm1d(size, affine=False) if kind != "tokens" else None
        self.linear = nn.Linear(size, dim) if kind != "tokens" else None

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, F) or (B, T[, K]) to (B, T, dim)."""
        if self.linear is None or self.scale is None:
            ids = x if x.dim() == 3 else x[..., None]
            return torch.stack([table(ids[..., k]) for k, table in enumerate(self.tables)]).sum(0)
        real = x[mask].float()
        known = self.scale(real) if len(real) > 1 or not self.training else real
        return self.linear(x.new_zeros(x.shape, dtype=torch.float32).masked_scatter(mask[..., None], known))


def centred(x: Tensor, mask: Tensor, spread: bool = False) -> Tensor:
    """Each channel about its mean over the utterance, and in units of its spread if asked; 0 in padding.

    What stays the same over an utterance (register, voice, microphone) is what a channel loses here.

    Source: Chou, Yeh, Lee (2019), "One-shot Voice Conversion by Separating Speaker and Content Representations with
    Instance Normalization", sec. 2.2.

    >>> centred(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))[0, :, 0]
    tensor([-1.,  1.,  0.])
    """
    weight = mask[..., None].to(x.dtype)
    count = weight.sum(1, keepdim=True).clamp(min=1)
    x = (x - (x * weight).sum(1, keepdim=True) / count) * weight
    return x / (x.square().sum(1, keepdim=True) / count + 1e-4).sqrt() if spread else x


class Layers(nn.Module):
    """Convolutions over time, each seeing `width` frames."""

    def __init__(self, sizes: Sequence[int], width: int = 5) -> None:
        super().__init__()
        pairs = zip(sizes[:-1], sizes[1:], strict=True)
        self.layers = nn.ModuleList(nn.Conv1d(a, b, width, padding=width // 2) for a, b in pairs)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) to (B, T, E)."""
        for layer in self.layers:
            x = F.gelu(layer((x * mask[..., None]).mT).mT)
        return x * mask[..., None]


def pooled(x: Tensor, mask: Tensor) -> Tensor:
    """Mean and standard deviation over the real frames (B, 2 D)."""
    weight = mask[..., None].to(x.dtype)
    count = weight.sum(1).clamp(min=1)
    mean = (x * weight).sum(1) / count
    deviation = ((x - mean[:, None]).square() * weight).sum(1) / count
    return torch.cat([mean, (deviation + 1e-6).sqrt()], dim=-1)


def code_mask(mask: Tensor, stride: int) -> Tensor:
    """Which steps of the code hold a real frame (B, M), M = ceil(T / stride)."""
    return F.pad(mask, (0, -mask.shape[1] % stride)).unflatten(1, (-1, stride)).any(-1)


class ProsodyEncoder(nn.Module):
    """Inputs to the channels that FSQ rounds, `stride` frames a step, centred over the utterance at every layer.

    Of sound it sees F0, voicing and level, and no spectrum.
    """

    def __init__(self, entry: Entry, dim: int, channels: int, stride: int, spread: bool, only: int | None) -> None:
        super().__init__()
        self.entry, self.first, self.second = entry, Layers((dim, dim)), Layers((dim, dim))
        self.out, self.stride, self.spread, self.only = nn.Linear(dim, channels), stride, spread, only
        nn.init.normal_(self.out.weight, std=4 * dim**-0.5)  # else all ids are the middle one at first, for long

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, ...) to (B, M, C)."""
        if self.only is not None:
            x = centred(x[..., : self.only], mask)
        x = centred(self.entry(x, mask), mask, self.spread)
        x = centred(self.first(x, mask), mask, self.spread)
        x = self.second(x, mask)
        short = code_mask(mask, self.stride)
        rest = -mask.shape[1] % self.stride
        sums = F.pad(x, (0, 0, 0, rest)).unflatten(1, (-1, self.stride)).sum(2)
        counts = F.pad(mask, (0, rest)).unflatten(1, (-1, self.stride)).sum(2).clamp(min=1)
        return centred(self.out(sums / counts[..., None]), short)


class TimbreEncoder(nn.Module):
    """Inputs to one vector: convolutions, statistics over time, a projection of unit variance.

    Source: Snyder et al. (2018), "X-vectors", sec. 2.1 (statistics pooling).
    """

    def __init__(self, entry: Entry, dim: int, size: int) -> None:
        super().__init__()
        self.entry, self.layers, self.out = entry, Layers((dim, dim, dim)), nn.Linear(2 * dim, size)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, ...) to (B, D)."""
        hidden = self.layers(self.entry(x, mask), mask)
        return F.layer_norm(self.out(pooled(hidden, mask)), (self.out.out_features,))


class Decoder(nn.Module):
    """A contour from the code alone, laid into the register that the timbre alone sets.

    F0 = mean(timbre) + range(timbre) x contour(code); level likewise; voicing is the code's. So what is absolute can
    only come from timbre, what moves only from the code, and either can be exchanged.
    """

    def __init__(self, channels: int, timbre: int, dim: int, stride: int) -> None:
        super().__init__()
        self.stride, self.entry = stride, nn.Linear(channels, dim)
        self.layers, self.out = Layers((dim, dim, dim)), nn.Linear(dim, 3)
        self.register = mlp(timbre, dim, 4)
        self.voice = nn.Linear(timbre, BANDS)

    def forward(self, values: Tensor, timbre: Tensor, mask: Tensor) -> Tensor:
        """Code (B, M, C), timbre (B, D), real frames (B, T) to F0 (semitones), logit of voicing, level (B, T, 3)."""
        x = self.entry(values).repeat_interleave(self.stride, 1)[:, : mask.shape[1]]
        f0, voicing, level = self.out(self.layers(x, mask)).unbind(-1)
        at = self.register(timbre)[:, None]
        f0 = 6 + 6 * at[..., 0] + 2 * at[..., 1].exp() * f0
        return torch.stack([f0, voicing, -30 + 10 * at[..., 2] + 8 * at[..., 3].exp() * level], dim=-1)

    def spectrum(self, timbre: Tensor) -> Tensor:
        """Mean log mel power about its mean (B, BANDS)."""
        return self.voice(timbre)


class Reader(nn.Module):
    """An adversary that reads a code: convolutions, statistics over time, two layers."""

    def __init__(self, channels: int, dim: int, out: int) -> None:
        super().__init__()
        self.layers = Layers((channels, dim, dim), 3)
        self.head = mlp(2 * (dim + channels), dim, out)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """(B, M, C) to (B, out)."""
        hidden = self.layers(values, mask)
        return self.head(pooled(torch.cat([values * mask[..., None], hidden], -1), mask))


def mlp(size: int, dim: int, out: int) -> nn.Sequential:
    """Two layers."""
    return nn.Sequential(nn.Linear(size, dim), nn.GELU(), nn.Linear(dim, out))


def entry_of(settings: Any, part: int | None = None) -> Entry:
    """The front end that the settings ask for, over the first `part` features alone where given."""
    size = SIZE if settings["inputs"] == "audio" else settings["size"]
    return Entry(settings["inputs"], part or size, settings["codebooks"], settings["dim"])
