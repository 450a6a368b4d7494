"""The losses that modules share: likelihood of utterances, preference between the two answers of a pair."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from seaalign.backbones.base import Backbone
from seaalign.data.batches import PairBatch, SpeechBatch
from seaalign.functional.likelihood import sequence_logp
from seaalign.functional.preference import dpo_loss, preference_margin
from seaalign.modules.averages import global_mean

Logs = dict[str, Tensor]


def likelihood_loss(logps: Tensor, batch: SpeechBatch) -> tuple[Tensor, Logs]:
    """Mean negative log-prob per scored token of all processes (eq. 2, 17), and what to log of this one.

    Args:
        logps: the policy's (B, T+1).
        batch: what it scored.
    """
    scored = batch.speech.scored
    total = -sequence_logp(logps, scored).sum()
    return global_mean(total, scored.sum()), {"loss": total.detach() / scored.sum()}


def pair_loss(
    backbone: Backbone, batch: PairBatch, beta: float, reduction: Literal["sum", "mean"], sft_weight: float
) -> tuple[Tensor, Logs]:
    """DPO of the chosen over the rejected (eq. 18-19), with the negative log-prob per token of the chosen as anchor.

    Args:
        backbone: the policy.
        batch: P pairs with the log-probs of the reference.
        beta: strength of the tie to the reference.
        reduction: of log-probs over columns.
        sft_weight: weight of the anchor.
    """
    scored, count = batch.speech.scored, len(batch)
    logps = backbone(batch.prompts, batch.speech)
    chosen, rejected = sequence_logp(logps, scored, reduction).view(2, count)
    ref_chosen, ref_rejected = sequence_logp(batch.reference, scored, reduction).view(2, count)
    losses = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=beta, reduction="none")
    surprise, tokens = -sequence_logp(logps[:count], scored[:count]).sum(), scored[:count].sum()
    loss = global_mean(losses.sum(), count) + sft_weight * global_mean(surprise, tokens)
    margins = preference_margin(chosen.detach(), rejected.detach(), ref_chosen, ref_rejected)
    return loss, {
        "loss": (losses.mean() + sft_weight * surprise / tokens).detach(),
        "rewards/margins": beta * margins.mean(),
        "rewards/accuracies": (margins > 0).float().mean(),
        "logps/chosen": chosen.detach().mean(),
        "logps/drift_chosen": (chosen.detach() - ref_chosen).mean(),
    }
