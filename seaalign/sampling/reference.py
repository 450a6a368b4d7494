"""The reference policy: as data, its log-probs computed once per token; or live, as the policy without its adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from seaalign.backbones.base import Backbone, Unsupported, evaluating
from seaalign.backbones.context import naming
from seaalign.backbones.lora import adapters_off, has_adapters
from seaalign.functional.batching import batches, frames_of, warn_of_long
from seaalign.records import Pair, Prompt, Speech, Triplet
from seaalign.sampling.progress import track


def reference_logps(
    backbone: Backbone,
    triplets: Sequence[Triplet],
    *,
    max_frames: int = 8000,
    styled: bool = False,
    progress: bool = True,
) -> list[Triplet]:
    """Score the triplets once with the frozen reference policy, per token, so that training needs no second model.

    Args:
        backbone: the frozen SFT checkpoint, the same that sampled.
        triplets: from `dual_mode`.
        max_frames: frames per call: prompts and answers where the backbone packs them, padded ones elsewhere.
        styled: also score (real, expressive) with the style prefix, for `DGSA(styled_stability=True)`.
        progress: show a bar on a terminal.

    Returns:
        The triplets in the same order, with `reference` filled (see `records.Triplet`).

    Raises:
        ValueError: a log-prob is not finite.
    """
    modes = {"plain": 3, "styled": 2} if styled else {"plain": 3}
    prompts = [triplet.prompt if styled else triplet.prompt.plain() for triplet in triplets]
    calls = _batches(backbone, prompts, triplets, max_frames)
    done = list(triplets)
    with evaluating(backbone):
        for rows in track(calls, "reference log-probs", progress):
            group = [triplets[i] for i in rows]
            parts = {mode: score_blocks(backbone, group, count, mode == "plain") for mode, count in modes.items()}
            for k, i in enumerate(rows):
                done[i] = replace(
                    group[k], reference={mode: tuple(block[k] for block in blocks) for mode, blocks in parts.items()}
                )
    return done


def score_blocks(backbone: Backbone, group: Sequence[Triplet], count: int, plain: bool) -> list[list[Tensor]]:
    """Log-probs (T+1,) of the first `count` completions of each triplet: one list for each completion."""
    prompts = [triplet.prompt.plain() if plain else triplet.prompt for triplet in group]
    return _score(backbone, prompts, stack(group).select(torch.arange(count * len(group))), [t.id for t in group])


def pair_logps(
    backbone: Backbone, pairs: Sequence[Pair], *, max_frames: int = 8000, progress: bool = True
) -> list[Pair]:
    """Score pairs once with the frozen reference policy, given the prompt that both answer.

    Args:
        backbone: the reference policy.
        pairs: from `pairs.mine`.
        max_frames: frames per call: prompts and answers where the backbone packs them, padded ones elsewhere.
        progress: show a bar on a terminal.

    Returns:
        The pairs in the same order, with `reference` filled.

    Raises:
        ValueError: a log-prob is not finite.
    """
    done = list(pairs)
    calls = _batches(backbone, [pair.prompt for pair in pairs], pairs, max_frames)
    with evaluating(backbone):
        for rows in track(calls, "reference log-probs", progress):
            group = [pairs[i] for i in rows]
            chosen, rejected = _score(backbone, [p.prompt for p in group], stack(group), [p.id for p in group])
            for i, one, other in zip(rows, chosen, rejected, strict=True):
                done[i] = replace(pairs[i], reference=(one, other))
    return done


def adapterless_logps(backbone: Backbone, prompts: Sequence[Prompt], speech: Speech) -> Tensor:
    """Log-probs of rows under the policy without its LoRA layers: the reference at every moment of their training.

    Eval mode and no gradient; the modes, the layers and what asks for gradients are afterwards as they were.

    Args:
        backbone: the policy, with LoRA layers.
        prompts: P prompts.
        speech: B rows.

    Returns:
        (B, T+1), as `Backbone.forward`.

    Raises:
        Unsupported: there are no LoRA layers.
        ValueError: weights outside of them are trained, so that what is left without them moves too.
    """
    require_adapters(backbone, "a batch without stored reference log-probs")
    with evaluating(backbone), adapters_off(backbone):
        # switched off, adapters ask for no gradient; whatever still does would carry the reference away
        moving = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
        if moving:
            raise ValueError(
                f"{len(moving)} parameters outside the LoRA layers are trained, first {moving[:3]}: with the layers "
                "off the policy would no longer be the reference. Freeze them (requires_grad_(False)), or store the "
                "reference: TripletData or PairData with reference='stored'"
            )
        return backbone(prompts, speech).float()


def require_adapters(backbone: nn.Module, who: str) -> None:
    """Refuse a policy that has no LoRA layers to switch off.

    Raises:
        Unsupported: names both ways out.
    """
    if not has_adapters(backbone):
        raise Unsupported(
            f"{who} needs a reference policy, and {type(backbone).__name__} has no LoRA layers whose absence could be "
            "one. Either store the reference's log-probs: TripletData or PairData with reference='stored' (for rows of "
            "your own sampling.reference_logps or sampling.pair_logps). Or train LoRA layers: "
            "seaalign.backbones.lora.add_lora(backbone)"
        )


def _score(backbone: Backbone, prompts: list[Prompt], speech: Speech, ids: list[str]) -> list[list[Tensor]]:
    """Log-probs (T+1,) of rows in blocks of len(ids): one list for each block."""
    size = len(ids)
    with naming(ids):
        logps = backbone(prompts, speech).float().cpu()
    if not bool(torch.isfinite(logps).all()):
        row = int((~torch.isfinite(logps)).any(-1).nonzero()[0])
        raise ValueError(
            f"a log-prob of {ids[row % size]!r} is not finite: a token has probability 0; look at its tokens"
        )
    cut = [logp[: length + 1].clone() for logp, length in zip(logps, speech.lengths.tolist(), strict=True)]
    return [cut[start : start + size] for start in range(0, len(cut), size)]


def stack(group: Sequence[Triplet] | Sequence[Pair]) -> Speech:
    """G triplets as 3G rows (all real, all expressive, all stable), or G pairs as 2G (all chosen, all rejected).

    The rows of one share its prompt.
    """
    blocks = list(zip(*(item.completions() for item in group), strict=True))
    ended = [flag for block in zip(*(item.ended for item in group), strict=True) for flag in block]
    return Speech.pack([row for block in blocks for row in block], ended, torch.arange(len(group)).repeat(len(blocks)))


def _batches(
    backbone: Backbone, prompts: Sequence[Prompt], items: Sequence[Triplet | Pair], max_frames: int
) -> list[list[int]]:
    """Which items are scored in one call."""
    packed = bool(prompts) and backbone.packs(prompts)
    sizes = [frames_of(prompt, item.completions(), packed) for prompt, item in zip(prompts, items, strict=True)]
    warn_of_long(sizes, max_frames, stacklevel=4)
    return batches(sizes, max_frames, packed)
