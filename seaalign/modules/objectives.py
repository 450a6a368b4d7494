"""Between triplets and preference losses: what is scored, which pairs that makes, how the two objectives weigh."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from seaalign.data.batches import TripletBatch
from seaalign.functional.likelihood import sequence_logp
from seaalign.functional.preference import crossover_weights, preference_margin
from seaalign.records import Prompt, Speech

Pair = tuple[Tensor, Tensor, Tensor, Tensor]
"""(chosen, rejected, ref_chosen, ref_rejected), each (G,)."""


class Rows(NamedTuple):
    """What one forward pass scores. Rows come in blocks of G; block 0 is the real speech given the text alone.

    Args:
        prompts: prompts without style, and after them those with style where some rows need it.
        speech: the rows.
        reference: stored log-probs per column under the frozen reference (rows, T+1); None where the batch has none.
        stability: blocks (chosen, rejected) of eq. 8.
        expressivity: blocks (chosen, rejected) of eq. 9.
    """

    prompts: list[Prompt]
    speech: Speech
    reference: Tensor | None
    stability: tuple[int, int]
    expressivity: tuple[int, int]


def rows_to_score(batch: TripletBatch, styled_stability: bool = False) -> Rows:
    """Three rows per triplet given the text alone; or four, where the stability pair is scored with the style prefix.

    Raises:
        ValueError: the batch has stored reference log-probs, but not those with style.
    """
    plain = [prompt.plain() for prompt in batch.prompts]
    if not styled_stability:
        return Rows(plain, batch.speech, batch.plain, (0, 1), (0, 2))
    if batch.plain is not None and batch.styled is None:
        raise ValueError(
            "styled_stability needs reference log-probs with style: make the triplets with TripletData(styled=True)"
        )
    count = len(batch)
    speech = batch.speech
    real, expressive, stable = torch.arange(3 * count, device=speech.tokens.device).split(count)
    index = torch.cat([real, stable, real, expressive])
    owner = speech.prompt[index] + count * (torch.arange(4 * count, device=index.device) >= 2 * count)
    rows = Speech(speech.tokens[index], speech.lengths[index], speech.ended[index], owner)
    reference = None
    if batch.plain is not None and batch.styled is not None:
        styled = torch.nn.functional.pad(batch.styled, (0, batch.plain.shape[1] - batch.styled.shape[1]))
        reference = torch.cat([batch.plain[torch.cat([real, stable])], styled])
    return Rows(plain + batch.prompts, rows, reference, (2, 3), (0, 1))


def pairs(
    rows: Rows, logps: Tensor, ref_logps: Tensor, count: int, reduction: Literal["sum", "mean"]
) -> dict[str, Pair]:
    """(chosen, rejected, ref_chosen, ref_rejected), each (count,), of the two objectives.

    Args:
        rows: what was scored.
        logps: what the policy gave it (rows, T+1).
        ref_logps: what the reference gave it (rows, T+1), stored or live.
        count: triplets in the batch, G.
        reduction: of log-probs over columns.
    """
    scored = rows.speech.scored
    policy = sequence_logp(logps, scored, reduction).view(-1, count)
    reference = sequence_logp(ref_logps, scored, reduction).view(-1, count)
    return {
        name: (policy[chosen], policy[rejected], reference[chosen], reference[rejected])
        for name, (chosen, rejected) in (("stability", rows.stability), ("expressivity", rows.expressivity))
    }


def reward_logs(two: dict[str, Pair], weights: tuple[float, float], beta: float) -> dict[str, Tensor]:
    """What to log of both objectives' pairs; `rewards/margins` and `rewards/accuracies` weigh them as the loss does.

    Args:
        two: from `pairs`.
        weights: of (stability, expressivity).
        beta: rewards are beta times log-ratios.
    """
    margins = {name: preference_margin(*(value.detach() for value in pair)) for name, pair in two.items()}
    chosen, _, ref_chosen, _ = (value.detach() for value in two["expressivity"])
    mixed = list(zip(weights, margins.values(), strict=True))
    return {
        "rewards/margins": beta * torch.stack([w * margin.mean() for w, margin in mixed]).sum(),
        **{f"rewards/margins/{name}": beta * margin.mean() for name, margin in margins.items()},
        "rewards/accuracies": torch.stack([w * (margin > 0).float().mean() for w, margin in mixed]).sum(),
        "logps/chosen": chosen.mean(),
        "logps/drift_chosen": (chosen - ref_chosen).mean(),
        "weights/expressivity": chosen.new_tensor(weights[1]),
    }


def balance(
    alpha: float, critical: float, weights: tuple[float, float] | None, sft_weight: float, below_critical: str
) -> tuple[tuple[float, float], float]:
    """Weights of (stability, expressivity), and of the SFT anchor.

    Raises:
        ValueError: a weight below 0, all of them 0, or an unknown `below_critical`.

    Source: Geng et al. 2026, eq. 13-14 and sec. 5.3.

    Example:
        >>> balance(0.75, 0.5, None, 0.0, "stability")
        ((0.5, 0.5), 0.0)
        >>> balance(0.3, 0.5, None, 0.0, "sft")
        ((0.0, 0.0), 1.0)
    """
    if below_critical not in ("stability", "sft"):
        raise ValueError(f"below_critical must be 'stability' or 'sft', got {below_critical!r}")
    stability, expressivity = crossover_weights(alpha, critical) if weights is None else weights
    if weights is None and below_critical == "sft" and alpha <= critical:
        stability, expressivity, sft_weight = 0.0, 0.0, sft_weight or 1.0
    if min(stability, expressivity, sft_weight) < 0 or stability + expressivity + sft_weight <= 0:
        raise ValueError(
            f"weights must be >= 0 and not all 0: stability {stability}, expressivity {expressivity}, sft {sft_weight}"
        )
    return (float(stability), float(expressivity)), float(sft_weight)


def check_start(
    logps: Tensor, reference: Tensor, scored: Tensor, tolerance: float | None, precision: str = "32-true"
) -> None:
    """Stop where the policy is not the reference before the first step: a fault that no loss curve would show.

    Args:
        logps: the policy's log-probs (rows, T+1).
        reference: those of the reference, stored or live (rows, T+1).
        scored: which columns count (rows, T+1).
        tolerance: mean absolute difference allowed, nats per scored token; None: 0.005, and 0.05 in 16 bit.
        precision: of the Trainer.

    Raises:
        RuntimeError: with the usual causes.
    """
    if tolerance is None:
        tolerance = 0.05 if "16" in precision else 0.005
    apart = (logps.detach().float() - reference).abs()[scored]
    if not float(apart.mean()) <= tolerance:  # written so that NaN fails too
        raise RuntimeError(
            "before the first step the policy must equal the stored reference, or itself without its LoRA layers, but "
            f"their log-probs differ by {float(apart.mean()):.4g} nats per token on average (at most "
            f"{float(apart.max()):.4g}; tolerance {tolerance:g}). Usual causes: dropout active inside forward (set its "
            "rate to 0; that of LoRA layers too, once they have been trained), a layout that is drawn at random in "
            "forward, another checkpoint than the one that made the triplets or scored the pairs, LoRA layers that "
            "were trained before where the reference is the policy without them (merge them into the weights first), "
            "or another precision (then raise tolerance=...). seaalign.testing.check_backbone finds the first two."
        )
