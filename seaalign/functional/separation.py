"""Objectives that pull two codes apart, one of prosody and one of timbre, and that keep each of use.

An adversary reads what a code should not say; its gradient is turned around on the way back, so that one optimizer
trains both sides. Reconstruction is counted over real frames alone, and F0 over voiced ones.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None


def reverse_gradient(x: Tensor, strength: float = 1.0) -> Tensor:
    """x on the way forward; on the way back its gradient times -strength.

    What follows learns to read x, what comes before learns to be unreadable; a strength below 1 slows only the latter.

    Args:
        x: any tensor.
        strength: 0 or more.

    Raises:
        ValueError: a negative strength, which would train both sides to agree.

    Source:
        Ganin, Lempitsky (2015), "Unsupervised Domain Adaptation by Backpropagation", sec. 3.2.

    Example:
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> reverse_gradient(x, 0.5).sum().backward()
        >>> x.grad
        tensor([-0.5000, -0.5000])
    """
    if not 0 <= strength < math.inf:
        raise ValueError(f"strength must be 0 or more, got {strength}: the sign is turned here already")
    out: Tensor = _Reverse.apply(x, float(strength))  # type: ignore[no-untyped-call]
    return out


def speaker_adversarial_loss(logits: Tensor, speakers: Tensor) -> Tensor:
    """Cross-entropy of an adversary that names the speaker, over the rows whose speaker is known.

    Args:
        logits: of the adversary, behind `reverse_gradient` (B, S).
        speakers: 0..S-1, or -1 where nobody knows or the speaker was not in training (B,).

    Returns:
        Nats (); log S where the code says nothing; 0 where no speaker is known.

    Source:
        Ganin, Lempitsky (2015), sec. 3.2, with speakers as domains.

    Example:
        >>> speaker_adversarial_loss(torch.zeros(3, 4), torch.tensor([0, 3, -1])).exp()
        tensor(4.)
    """
    if speakers.numel() and not -1 <= int(speakers.min()) <= int(speakers.max()) < logits.shape[-1]:
        raise ValueError(f"speakers must lie in -1..{logits.shape[-1] - 1}, got {speakers.tolist()[:8]}")
    total = F.cross_entropy(logits.float(), speakers, ignore_index=-1, reduction="sum")
    return total / (speakers >= 0).sum().clamp(min=1)


def prosody_regression_loss(predicted: Tensor, statistics: Tensor) -> Tensor:
    """Squared error of an adversary that reads statistics of prosody off the timbre, over those that are defined.

    Args:
        predicted: by the adversary, behind `reverse_gradient` (B, P).
        statistics: standardised, so that 1 is the error of knowing nothing; NaN where undefined (B, P).

    Returns:
        (); 0 where nothing is defined.

    Source:
        Ganin, Lempitsky (2015), sec. 3.2, with a regression in place of the classifier.

    Example:
        >>> prosody_regression_loss(torch.zeros(1, 3), torch.tensor([[1.0, -3.0, float("nan")]]))
        tensor(5.)
    """
    known = torch.isfinite(statistics)
    error = (predicted.float() - torch.where(known, statistics, 0.0)).square()
    return (error * known).sum() / known.sum().clamp(min=1)


def gaussian_log_likelihood(y: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log-density of y under independent Gaussians, nats: what vCLUB's own network is trained to raise.

    Args:
        y: (..., D).
        mean: (..., D).
        log_variance: (..., D).

    Returns:
        Sum over dimensions (...).

    Source:
        Cheng et al. (2020), sec. 3.2: the likelihood that q maximises.

    Example:
        >>> gaussian_log_likelihood(torch.zeros(2), torch.zeros(2), torch.zeros(2))  # -log(2 pi)
        tensor(-1.8379)
    """
    return -0.5 * ((y - mean).square() / log_variance.exp() + log_variance + math.log(2 * math.pi)).sum(-1)


def vclub(y: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """An upper bound of the mutual information of x and y, in nats, from a network q(y|x).

    How much better q(y|x_i) explains its own y_i than the others'. A bound as far as q is right: train q by
    `gaussian_log_likelihood` on detached x and y in the same step, and give this loss to the encoders alone.

    Args:
        y: (B, D).
        mean: of q(y | x_i) (B, D).
        log_variance: of q(y | x_i) (B, D).

    Returns:
        (); 0 for one row. A finite batch may give less than 0.

    Source:
        Cheng et al. (2020), "CLUB: A Contrastive Log-ratio Upper Bound of Mutual Information", sec. 3.2.

    Example:
        >>> vclub(torch.tensor([[0.0], [2.0]]), torch.tensor([[0.0], [2.0]]), torch.zeros(2, 1))
        tensor(1.0000)
    """
    own = gaussian_log_likelihood(y, mean, log_variance)
    others = gaussian_log_likelihood(y[None], mean[:, None], log_variance[:, None])
    return own.mean() - others.mean()


class Reconstruction(NamedTuple):
    """Losses (): F0, voicing, energy."""

    f0: Tensor
    voicing: Tensor
    energy: Tensor


def reconstruction_loss(predicted: Tensor, target: Tensor, mask: Tensor) -> Reconstruction:
    """How far a decoded prosody is from what was said, over real frames; F0 over voiced ones.

    With the code and the timbre of one utterance this is reconstruction. With the timbre of another utterance of the
    same speaker it is cross-reconstruction: it succeeds only if timbre says what the speaker's utterances share.

    Args:
        predicted: F0 (semitones above any fixed pitch), logit of voicing, energy (dB) (B, T, 3).
        target: F0 in the same semitones, voicing (0 or 1), energy (dB) (B, T, 3).
        mask: real frames (B, T).

    Returns:
        Huber loss of F0 in units of 2 semitones, cross-entropy of voicing (nats), Huber loss of energy in units of 6
        dB; each 0 where there is nothing to compare. Huber, because trackers make errors of an octave.

    Source:
        Mathieu et al. (2016), "Disentangling factors of variation in deep representations using adversarial training"
        (two of one class must be able to swap what they share); Huber (1964).

    Example:
        >>> target = torch.tensor([[[4.0, 1.0, -20.0], [0.0, 0.0, -60.0]]])
        >>> loss = reconstruction_loss(target + torch.tensor([2.0, 0.0, 6.0]), target, torch.tensor([[True, False]]))
        >>> loss.f0, loss.energy
        (tensor(0.5000), tensor(0.5000))
    """
    predicted, target = predicted.float(), target.float()
    voiced = mask & (target[..., 1] > 0.5)
    pitch = F.smooth_l1_loss(predicted[..., 0] / 2, target[..., 0] / 2, reduction="none")
    voicing = F.binary_cross_entropy_with_logits(predicted[..., 1], target[..., 1], reduction="none")
    level = F.smooth_l1_loss(predicted[..., 2] / 6, target[..., 2] / 6, reduction="none")
    return Reconstruction(_mean(pitch, voiced), _mean(voicing, mask), _mean(level, mask))


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)
