"""The losses that modules share: likelihood of utterances, preference between the two answers of a pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from seaalign.backbones.base import Backbone
from seaalign.backbones.context import naming
from seaalign.data.batches import PairBatch, SpeechBatch
from seaalign.functional.likelihood import sequence_logp
from seaalign.functional.preference import cdpo_loss, ipo_loss, preference_margin
from seaalign.modules.averages import global_mean
from seaalign.records import Prompt, Speech
from seaalign.sampling.reference import adapterless_logps

Logs = dict[str, Tensor]
Objective = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def require_finite(logps: Tensor, scored: Tensor, ids: Sequence[str]) -> None:
    """Stop at the first log-prob that is not a number, while the weights and the last checkpoint are still good.

    Not under float16 autocast, where the Trainer's gradient scaler leaves such a step out and goes on.

    Args:
        logps: the policy's (B, T+1).
        scored: which columns count (B, T+1).
        ids: of the items, whose rows come in blocks of len(ids); none: rows are called by their number.

    Raises:
        ValueError: names the row and the token.
    """
    kind = logps.device.type
    if torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16:
        return
    lost = scored & ~logps.detach().isfinite()
    if bool(lost.any()):
        row, column = lost.nonzero()[0].tolist()
        name = f"row {row}" if not ids else f"row {row} of the batch, of {ids[row % len(ids)]!r},"
        raise ValueError(
            f"{int(lost.any(-1).sum())} of {len(lost)} rows have log-probs that are not finite: {name} has "
            f"{float(logps.detach()[row, column])} at token {column}. No step was made with it, and the last "
            "checkpoint is untouched. Where it is every row, the weights are lost: lower the learning rate. Where it "
            "is one, look at its tokens"
        )


def likelihood_loss(logps: Tensor, batch: SpeechBatch) -> tuple[Tensor, Logs]:
    """Mean negative log-prob per scored token of all processes (eq. 2, 17), and what to log of this one.

    Args:
        logps: the policy's (B, T+1).
        batch: what it scored.

    Raises:
        ValueError: a log-prob is not finite.
    """
    require_finite(logps, batch.speech.scored, batch.ids)
    scored = batch.speech.scored
    total = -sequence_logp(logps, scored).sum()
    return global_mean(total, scored.sum()), {"loss": total.detach() / scored.sum()}


def policy_and_reference(
    backbone: Backbone, prompts: Sequence[Prompt], speech: Speech, stored: Tensor | None, ids: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Log-probs (B, T+1) of rows under the policy, and under the reference.

    Args:
        backbone: the policy.
        prompts: P prompts.
        speech: B rows.
        stored: what the reference gave the rows (B, T+1); None: the reference is the policy without its LoRA layers,
            and scores them now.
        ids: of the items, for messages; see `require_finite`.

    Raises:
        Unsupported: nothing is stored, and there are no LoRA layers.
        ValueError: a log-prob of the policy is not finite, or a row is longer than it reads.
    """
    with naming(ids):
        reference = adapterless_logps(backbone, prompts, speech) if stored is None else stored
        logps = backbone(prompts, speech)
    require_finite(logps, speech.scored, ids)
    return logps, reference


def pair_objective(loss: str, beta: float, label_smoothing: float = 0.0) -> Objective:
    """The loss per pair, of (chosen, rejected, ref_chosen, ref_rejected), each (P,).

    Args:
        loss: "dpo", conservative DPO where `label_smoothing` is above 0; or "ipo".
        beta: strength of the tie to the reference.
        label_smoothing: share of pairs whose label is believed wrong.

    Raises:
        ValueError: another name, or "ipo" with label smoothing.
    """
    if loss == "dpo":
        return partial(cdpo_loss, beta=beta, label_smoothing=label_smoothing, reduction="none")
    if loss != "ipo" or label_smoothing:
        raise ValueError(f"loss must be 'dpo', or 'ipo' without label_smoothing; got {loss!r} with {label_smoothing}")
    return partial(ipo_loss, beta=beta, reduction="none")


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
    both = policy_and_reference(backbone, batch.prompts, batch.speech, batch.reference, batch.ids)
    return preference_loss(*both, batch, pair_objective("dpo", beta), beta, reduction, sft_weight)


def preference_loss(
    logps: Tensor,
    reference: Tensor,
    batch: PairBatch,
    objective: Objective,
    beta: float,
    reduction: Literal["sum", "mean"],
    sft_weight: float,
) -> tuple[Tensor, Logs]:
    """A loss per pair with the anchor, averaged over the pairs of all processes, and what to log of this one.

    Args:
        logps: the policy's (2P, T+1).
        reference: the reference's (2P, T+1).
        batch: what was scored.
        objective: from `pair_objective`.
        beta: rewards are beta times log-ratios.
        reduction: of log-probs over columns.
        sft_weight: weight of the negative log-prob per token of the chosen.
    """
    scored, count = batch.speech.scored, len(batch)
    chosen, rejected = sequence_logp(logps, scored, reduction).view(2, count)
    ref_chosen, ref_rejected = sequence_logp(reference, scored, reduction).view(2, count)
    losses = objective(chosen, rejected, ref_chosen, ref_rejected)
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
