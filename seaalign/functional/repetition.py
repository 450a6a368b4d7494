"""How often speech gets stuck on one token: the repetition rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from seaalign.functional.tokens import blocks


class Repetition(NamedTuple):
    """Repetition of a corpus and of each utterance; every value is a share between 0 and 1."""

    rate: Tensor
    """() mean over the utterances where the rate is defined; 0 if there is none. The corpus value to report."""
    pooled: Tensor
    """() share of all positions of the corpus; long utterances count for more."""
    per_utterance: Tensor
    """(B,) share of each utterance; 0 where undefined."""
    defined: Tensor
    """(B,) False where the utterance has k tokens or fewer, so no position to look at."""


def repetition_rate(tokens: Tensor | Sequence[Tensor], lengths: Tensor | None = None, k: int = 4) -> Repetition:
    """Share of positions that begin a run of k + 1 equal tokens.

    Of the N - k positions i of an utterance, those with ``y_i = y_(i+1) = ... = y_(i+k)``. The corpus value is the mean
    over utterances, because eq. 25 defines a value per utterance and because one runaway utterance that loops to the
    length limit must not outweigh a hundred normal ones; ``pooled`` is the share over all positions.

    Args:
        tokens: utterances, see :mod:`seaalign.functional.tokens`.
        lengths: (B,) tokens per row of a padded tensor.
        k: >= 1. The default 4 is 200 ms of one token at 25 Hz; see :func:`repetition_span` for other frame rates.

    Returns:
        :class:`Repetition`; its first field is the corpus value.

    Raises:
        ValueError: for k < 1 and for shapes or dtypes that do not fit.

    Source: Geng et al. 2026, eq. 25.

    >>> repetition_rate([torch.tensor([7, 7, 7, 7, 7, 1]), torch.tensor([3, 3])]).per_utterance.tolist()
    [0.5, 0.0]
    """
    hits, positions = repetition_hits(tokens, lengths, k)
    defined = positions > 0
    rates = hits / positions.clamp(min=1)
    return Repetition(
        rate=rates.sum() / defined.sum().clamp(min=1),
        pooled=hits.sum() / positions.sum().clamp(min=1),
        per_utterance=rates,
        defined=defined,
    )


def repetition_hits(
    tokens: Tensor | Sequence[Tensor], lengths: Tensor | None = None, k: int = 4
) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of :func:`repetition_rate`, per utterance.

    Args:
        tokens: utterances, see :mod:`seaalign.functional.tokens`.
        lengths: (B,) tokens per row of a padded tensor.
        k: >= 1.

    Returns:
        (B,) repeated positions and (B,) positions ``max(0, N - k)``, both int64.

    Raises:
        ValueError: see :func:`repetition_rate`.

    >>> repetition_hits(torch.tensor([7, 7, 7, 7, 7, 1]))
    (tensor([1]), tensor([2]))
    """
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}: a run needs at least two tokens.")
    parts = [_hits(stream, sizes, k) for stream, sizes in blocks(tokens, lengths)]
    hits, positions = zip(*parts, strict=True)
    return torch.cat(hits), torch.cat(positions)


def _hits(stream: Tensor, sizes: Tensor, k: int) -> tuple[Tensor, Tensor]:
    ends = sizes.cumsum(0)
    if stream.numel() <= k:
        return torch.zeros_like(sizes), (sizes - k).clamp(min=0)
    run = stream[1:] == stream[:-1]  # run[i]: y_i = y_(i+1), in the concatenation of all utterances
    inner = ends[(ends > 0) & (ends < stream.numel())]
    run[inner - 1] = False  # no run crosses from one utterance into the next
    width = 1
    while width < k:  # after each step run[i] says: `width` equalities in a row; doubling takes log2 k passes
        step = min(width, k - width)
        run = run[:-step] & run[step:]
        width += step
    starts = run.nonzero().flatten()  # sorted, and few: counting them by bisection beats a running sum over all tokens
    before = torch.searchsorted(starts, torch.stack([ends - sizes, ends]))
    return before[1] - before[0], (sizes - k).clamp(min=0)


def repetition_span(milliseconds: float, frame_rate: float) -> int:
    """The k of :func:`repetition_rate` for a duration: the shortest run of equal tokens that lasts as long.

    k + 1 tokens last ``(k + 1) / frame_rate`` seconds, so k = 4 is 200 ms at 25 Hz and k = 9 the same 200 ms at 50 Hz.

    Args:
        milliseconds: least duration of a run that counts as repetition.
        frame_rate: tokens per second, Hz.

    Returns:
        k >= 1.

    Raises:
        ValueError: where the duration is not longer than one frame, so that every token would count.

    >>> repetition_span(200, frame_rate=25), repetition_span(200, frame_rate=12.5)
    (4, 2)
    """
    if not (frame_rate > 0.0 and math.isfinite(milliseconds)):
        raise ValueError(f"need a finite duration and a frame rate > 0, got {milliseconds} ms and {frame_rate} Hz.")
    frames = math.ceil(milliseconds * frame_rate / 1000.0 - 1e-9)
    if frames < 2:
        raise ValueError(
            f"{milliseconds} ms is no more than one token at {frame_rate} Hz: ask for more than {1000 / frame_rate} ms."
        )
    return frames - 1
