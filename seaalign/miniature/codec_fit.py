"""Training of the codec: PCA and k-means in closed loops, then the flow by gradient descent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from seaalign.miniature.analysis import Frames
from seaalign.miniature.codec import CLASSES, Codec
from seaalign.miniature.draw import draw_weights

Progress = Callable[[Iterable[int]], Iterable[int]]
"""Wraps the iterable of steps, for instance by a progress bar; the identity does nothing."""


_FLAT = 0.5
"""An utterance whose F0 varies by less than this many semitones is flat."""


def fit(
    codec: Codec,
    frames: Sequence[Frames],
    timbres: Tensor,
    steps: int = 400,
    batch: int = 24,
    crop: int = 48,
    lr: float = 3e-3,
    seed: int = 0,
    progress: Progress = iter,
) -> list[float]:
    """Fit tokenizer and decoder to analysed speech; the number of steps, not the clock, says when it ends.

    Args:
        codec: An untrained codec; changed in place. Its weights are drawn anew from `seed`.
        frames: Analysed utterances, expressive and flat ones mixed.
        timbres: Timbre of each utterance's speaker (B, 41), best from other utterances too.
        steps: Gradient steps of the flow.
        batch: Crops per step.
        crop: Tokens per crop.
        lr: Peak learning rate (one cosine).
        seed: Source of all randomness.
        progress: Called once around the steps.

    Returns:
        Loss of every step.

    Raises:
        ValueError: No utterances, or fewer windows of speech than content codes.
    """
    if not frames or len(frames) != len(timbres):
        raise ValueError(f"{len(frames)} utterances and {len(timbres)} timbres: give at least one and one timbre each")
    generator = torch.Generator().manual_seed(seed)
    fit_tokens(codec, frames, timbres, generator)
    draw_weights(codec.flow, generator)
    _place_codes(codec, generator)
    pool = _crops(codec, frames, timbres)
    optimizer = torch.optim.AdamW(codec.flow.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    losses = []
    for _ in progress(range(steps)):
        rows = torch.randint(len(pool), (batch,), generator=generator).tolist()
        tokens, targets, weights = zip(*(_crop(pool[i], crop, generator) for i in rows), strict=True)
        condition = codec.condition(tokens, timbres[rows])
        x1, weight = (torch.nn.utils.rnn.pad_sequence(list(part), batch_first=True) for part in (targets, weights))
        noise = codec.temperature * torch.randn(x1.shape, generator=generator)
        loss = codec.flow.loss(x1, weight, noise, torch.rand(batch, generator=generator), *condition)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(codec.flow.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses


def fit_tokens(codec: Codec, frames: Sequence[Frames], timbres: Tensor, generator: torch.Generator) -> None:
    """Fit PCA, content codes and F0 edges of the tokenizer in place."""
    parts = [codec.windows(f, row) for f, row in zip(frames, timbres, strict=True)]
    mel = torch.cat([p[0] for p in parts])
    pitches = [p[1][p[2]] for p in parts]
    if len(mel) < codec.codes:
        raise ValueError(f"{len(mel)} windows of speech cannot fill {codec.codes} content codes: give more speech")
    codec.mean.copy_(mel.mean(dim=0))
    centred = mel - codec.mean
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    codec.basis.copy_(vectors[:, -codec.basis.shape[1] :])
    codec.centroids.copy_(kmeans(centred @ codec.basis, codec.codes, generator))
    # Quintiles of the speech that has prosody: flat utterances must fall into the middle bin, not define it.
    moving = [pitch for pitch in pitches if pitch.numel() > 1 and float(pitch.std()) > _FLAT]
    if moving:
        codec.edges.copy_(torch.quantile(torch.cat(moving), torch.linspace(0, 1, CLASSES)[1:-1]))
    else:
        codec.edges.copy_(_FLAT * torch.tensor([-1.5, -0.5, 0.5, 1.5]))


def kmeans(points: Tensor, k: int, generator: torch.Generator, rounds: int = 20, most: int = 20_000) -> Tensor:
    """Centroids (k, D) of points (N, D) by Lloyd's algorithm; an empty cluster takes a random point.

    >>> points = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
    >>> sorted(round(float(c), 2) for c in kmeans(points, 2, torch.Generator().manual_seed(1)))
    [0.05, 5.05]
    """
    points = points[torch.randperm(len(points), generator=generator)[:most]]
    centroids = points[:k].clone()
    for _ in range(rounds):
        nearest = torch.cdist(points, centroids).argmin(dim=1)
        total = torch.zeros_like(centroids).index_add_(0, nearest, points)
        count = torch.bincount(nearest, minlength=k)
        spare = points[torch.randint(len(points), (k,), generator=generator)]
        centroids = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], spare)
    return centroids


@torch.no_grad()
def _place_codes(codec: Codec, generator: torch.Generator) -> None:
    """Start the embeddings where their centroids lie, so that the decoder need not learn which codes sound alike."""
    place = (codec.centroids - codec.centroids.mean(dim=0)) / codec.centroids.std(dim=0).mean().clamp(min=1e-6)
    table = codec.flow.content.weight[: codec.codes]
    directions = torch.randn(place.shape[1], table.shape[1], generator=generator) * place.shape[1] ** -0.5
    table.mul_(0.3).add_(place @ directions)


def _crops(codec: Codec, frames: Sequence[Frames], timbres: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    return [(codec.tokenize(f, row), *codec.targets(f, row)) for f, row in zip(frames, timbres, strict=True)]


def _crop(row: tuple[Tensor, Tensor, Tensor], length: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    spare = len(row[0]) - length
    start = int(torch.randint(spare + 1, (1,), generator=generator)) if spare > 0 else 0
    return row[0][start : start + length], row[1][start : start + length], row[2][start : start + length]
