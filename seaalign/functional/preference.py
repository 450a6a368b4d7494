"""Preference losses and the weights that balance them.

Everything here starts from log-probabilities, so any model that can score a sequence can be aligned with it.
Whether those are sums or means over tokens, and what beta belongs to which: :mod:`seaalign.functional.likelihood`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from seaalign.functional.likelihood import upcast

Reduction = Literal["mean", "sum", "none"]


class CrossoverWeights(NamedTuple):
    """Weights of the two DGSA objectives; they sum to one."""

    stability: float
    expressivity: float


def preference_margin(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor) -> Tensor:
    """How much more than the reference the policy prefers the chosen completion: Delta, nats, without beta.

    Args:
        chosen: (B,) policy log-probs of the chosen completions.
        rejected: (B,) policy log-probs of the rejected completions.
        ref_chosen: (B,) reference log-probs of the chosen completions.
        ref_rejected: (B,) reference log-probs of the rejected completions.

    Returns:
        (B,) margins; 0 where policy and reference agree. ``beta * margin`` is the usual ``rewards/margins``.

    Raises:
        ValueError: where shapes differ (broadcasting (B,) with (B, 1) would silently pair everything with
            everything) or a value is not finite; the message names the rows.

    Source: Geng et al. 2026, eq. 12.

    >>> preference_margin(*torch.tensor([[-10.0], [-12.0], [-11.0], [-12.0]])).tolist()
    [1.0]
    """
    named = {"chosen": chosen, "rejected": rejected, "ref_chosen": ref_chosen, "ref_rejected": ref_rejected}
    shapes = {name: tuple(value.shape) for name, value in named.items()}
    if chosen.dim() != 1 or len(set(shapes.values())) != 1:
        raise ValueError(f"the four log-probs must all be (B,), got {shapes}.")
    margin = (upcast(chosen) - upcast(ref_chosen)) - (upcast(rejected) - upcast(ref_rejected))
    # One check on the result costs one device sync; sums and differences never make an inf or NaN finite again.
    if not bool(torch.isfinite(margin.detach()).all()):
        rows = {name: (~torch.isfinite(value)).nonzero().flatten().tolist() for name, value in named.items()}
        raise ValueError(
            f"log-probs are not finite, by row { ({n: bad for n, bad in rows.items() if bad}) }: a token has "
            "probability 0 (masked logits?) or the model diverged; drop these pairs or look at their tokens."
        )
    return margin


def implicit_reward(logp: Tensor, ref_logp: Tensor, beta: float = 0.1) -> Tensor:
    """Reward that DPO implies for a completion: ``beta * (logp - ref_logp)``.

    Args:
        logp: (B,) policy log-probs, nats.
        ref_logp: (B,) reference log-probs, nats.
        beta: strength of the tie to the reference.

    Returns:
        (B,) rewards, nats. Gradients flow; detach before logging.

    Source: Rafailov et al. 2023, "Direct Preference Optimization", eq. 5 without the partition function.

    >>> implicit_reward(torch.tensor([-10.0]), torch.tensor([-12.0]), beta=0.5).tolist()
    [1.0]
    """
    return beta * (upcast(logp) - upcast(ref_logp))


def dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    beta: float = 0.1,
    reduction: Reduction = "mean",
) -> Tensor:
    """DPO: ``-log sigmoid(beta * Delta)``.

    Args:
        chosen: (B,) policy log-probs of the chosen completions, nats.
        rejected: (B,) policy log-probs of the rejected completions.
        ref_chosen: (B,) reference log-probs of the chosen completions.
        ref_rejected: (B,) reference log-probs of the rejected completions.
        beta: > 0, strength of the tie to the reference; 0.1 is meant for summed log-probs.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` (then (B,), to weight pairs yourself).

    Returns:
        Loss in nats; ln 2 where policy and reference agree.

    Raises:
        ValueError: see :func:`preference_margin`; also for beta <= 0 and a mean over no pairs.

    Source: Geng et al. 2026, eq. 11-12; Rafailov et al. 2023, eq. 7.

    >>> loss = dpo_loss(*torch.tensor([[-10.0], [-12.0], [-11.0], [-12.0]]), beta=1.0)  # Delta = 1
    >>> round(loss.item(), 4)  # ln(1 + 1/e)
    0.3133
    """
    margin = preference_margin(chosen, rejected, ref_chosen, ref_rejected)
    return _reduce(-F.logsigmoid(_positive(beta) * margin), reduction)


def cdpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    beta: float = 0.1,
    label_smoothing: float = 0.1,
    reduction: Reduction = "mean",
) -> Tensor:
    """Conservative DPO: labels are flipped with probability ``label_smoothing``, so the margin has a finite optimum.

    ``-(1 - eps) log sigmoid(beta Delta) - eps log sigmoid(-beta Delta)``, smallest where
    ``beta Delta = ln((1 - eps) / eps)``.

    Args:
        chosen: (B,) policy log-probs of the chosen completions, nats.
        rejected: (B,) policy log-probs of the rejected completions.
        ref_chosen: (B,) reference log-probs of the chosen completions.
        ref_rejected: (B,) reference log-probs of the rejected completions.
        beta: > 0, as in :func:`dpo_loss`.
        label_smoothing: eps in [0, 0.5), the share of pairs whose label is believed wrong; 0 gives DPO.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        Loss in nats; ln 2 where policy and reference agree.

    Raises:
        ValueError: see :func:`dpo_loss`; also for ``label_smoothing`` outside [0, 0.5).

    Source: Mitchell 2023, "A note on DPO with noisy preferences and relationship to IPO".

    >>> pair = torch.tensor([[-10.0], [-12.0], [-11.0], [-12.0]])
    >>> round(cdpo_loss(*pair, beta=1.0, label_smoothing=0.1).item(), 4)  # 0.9 * 0.3133 + 0.1 * 1.3133
    0.4133
    """
    if not 0.0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must be in [0, 0.5), got {label_smoothing}: at 0.5 labels say nothing.")
    logits = _positive(beta) * preference_margin(chosen, rejected, ref_chosen, ref_rejected)
    losses = -(1.0 - label_smoothing) * F.logsigmoid(logits) - label_smoothing * F.logsigmoid(-logits)
    return _reduce(losses, reduction)


def ipo_loss(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    beta: float = 0.1,
    reduction: Reduction = "mean",
) -> Tensor:
    """IPO: ``(Delta - 1 / (2 beta))**2``; the margin is pulled to a target, so separable pairs cannot run away.

    Real against generated speech is nearly always separable, which is when DPO's margin grows without end.

    Args:
        chosen: (B,) policy log-probs of the chosen completions, nats. IPO is often run on means
            (``sequence_logp(..., reduction="mean")``), which keeps the target independent of length.
        rejected: (B,) policy log-probs of the rejected completions.
        ref_chosen: (B,) reference log-probs of the chosen completions.
        ref_rejected: (B,) reference log-probs of the rejected completions.
        beta: > 0, the paper's tau. 0.1 asks for a margin of 5 nats: per sequence on sums, per token on means.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        Loss in nats squared; ``1 / (4 beta**2)`` where policy and reference agree.

    Raises:
        ValueError: see :func:`dpo_loss`.

    Source: Azar et al. 2023, "A General Theoretical Paradigm to Understand Learning from Human Preferences", eq. 17.

    >>> ipo_loss(*torch.tensor([[-10.0], [-12.0], [-11.0], [-12.0]]), beta=0.1).item()  # (1 - 5)^2
    16.0
    """
    margin = preference_margin(chosen, rejected, ref_chosen, ref_rejected)
    return _reduce((margin - 1.0 / (2.0 * _positive(beta))).square(), reduction)


def crossover_weights(alpha: float, critical: float = 0.5) -> CrossoverWeights:
    """Weights of the stability and the expressivity objective at synthetic share alpha.

    ``expressivity = max(0, (alpha - critical) / (1 - critical))`` and ``stability = 1 - expressivity``. At or below the
    critical share nothing has eroded yet and the weights are (1, 0): DPO on the stability triplets alone.

    Args:
        alpha: synthetic share of the training data, 0 to 1.
        critical: share at which erosion begins, in [0, 1); 0.5 in the paper, or from :func:`critical_ratio`.

    Returns:
        ``(stability, expressivity)``, which sum to one.

    Raises:
        ValueError: for a share outside its range. ``critical = 1`` means that diversity never falls with more
            synthetic data: there is no crossover to weight.

    Source: Geng et al. 2026, eq. 13-14.

    >>> crossover_weights(0.75)
    CrossoverWeights(stability=0.5, expressivity=0.5)
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must be a share between 0 and 1, got {alpha}.")
    if not 0.0 <= critical < 1.0:
        raise ValueError(
            f"critical must be in [0, 1), got {critical}; at 1 nothing erodes, so use the weights (1, 0) directly."
        )
    expressivity = max(0.0, (alpha - critical) / (1.0 - critical))
    return CrossoverWeights(stability=1.0 - expressivity, expressivity=expressivity)


def _positive(beta: float) -> float:
    if not beta > 0.0:
        raise ValueError(f"beta must be > 0, got {beta}.")
    return beta


def _reduce(losses: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if reduction != "mean":
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}.")
    if losses.numel() == 0:
        raise ValueError("no pairs: the mean loss of an empty batch is undefined; skip the batch.")
    return losses.mean()
