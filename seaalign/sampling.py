"""Prompts to candidates: the two modes of DGSA, and the reference policy's log-probs of what came out."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from seaalign.backbones.base import Backbone, Unsupported, calls, evaluating
from seaalign.functional.sampling import content_key
from seaalign.records import Prompt, Speech, Triplet, Utterance

Pairing = Literal["paired", "shuffled"]
_Item = TypeVar("_Item")


def require_separation(backbone: Backbone, who: str) -> None:
    """Refuse a backbone that cannot switch the style prefix without touching the speaker.

    Raises:
        Unsupported: "style" or "timbre" is missing from `backbone.features`; the message says what to use instead.
    """
    missing = [name for name in ("style", "timbre") if name not in backbone.features]
    if missing:
        raise Unsupported(
            f"{who} needs a backbone with the features 'style' and 'timbre', and {type(backbone).__name__} does not "
            f"declare {missing}. If the model has them, pass them on in an adapter and name them in its `features`; if "
            "it has not: SFT, and the losses of seaalign.functional on pairs of your own, need neither."
        )


def dual_mode(
    backbone: Backbone,
    utterances: Sequence[Utterance],
    *,
    temperature: float = 1.0,
    top_p: float = 0.9,
    max_len: int | None = None,
    batch: int = 64,
    seed: int = 0,
    pairing: Pairing = "paired",
    progress: bool = True,
) -> list[Triplet]:
    """Say each real sentence twice more: expressively (style on) and stably (style off), in the same voice.

    The result does not depend on `batch` (see `say`). A triplet in which a sample is empty (no tokens at all) is
    dropped, and a warning counts them: there is nothing to compare.

    Args:
        backbone: the frozen SFT checkpoint; needs the features "style" and "timbre".
        utterances: real ones, each with a style prefix.
        temperature: > 0.
        top_p: nucleus mass.
        max_len: most frames of a sample. Default: twice the frames of the real utterance and 20 more.
        batch: prompts per call.
        seed: of the draws, and of the partners under "shuffled".
        pairing: "paired" takes style and timbre from the utterance itself. "shuffled" takes both from another
            utterance, drawn at random among those of another timbre (any other where all are alike): the paper's
            ablation "random speaker pairing" (table 7), in which the pair no longer differs in prosody alone.
        progress: show a bar on a terminal.

    Returns:
        Triplets in the order of `utterances`, without reference log-probs.

    Raises:
        Unsupported: the backbone lacks a feature.
        ValueError: an utterance has no style prefix, or every sample was empty.

    Source: Geng et al. 2026, eq. 6-7; table 7.
    """
    require_separation(backbone, "dual-mode sampling")
    prompts = _prompts(utterances, pairing, seed)
    lengths = [len(utterance.tokens) for utterance in utterances]
    limits = [max_len or 2 * length + 20 for length in lengths]
    how: dict[str, Any] = {
        "temperature": temperature,
        "top_p": top_p,
        "batch": batch,
        "seed": seed,
        "progress": progress,
    }
    expressive = say(backbone, prompts, limits, what="sampling, style on", **how)
    stable = say(backbone, [prompt.plain() for prompt in prompts], limits, what="sampling, style off", **how)
    made = [
        Triplet(utterance.id, prompt, utterance.tokens, e, s, (True, e_ended, s_ended))
        for utterance, prompt, (e, e_ended), (s, s_ended) in zip(utterances, prompts, expressive, stable, strict=True)
        if len(e) and len(s)
    ]
    if len(made) < len(utterances):
        empty = len(utterances) - len(made)
        message = f"{empty} of {len(utterances)} triplets dropped: the model ended at once, without a single token"
        if not made:
            raise ValueError(f"{message}; train it first, or check `eos`")
        warnings.warn(message, stacklevel=2)
    return made


def say(
    backbone: Backbone,
    prompts: Sequence[Prompt],
    limits: Sequence[int],
    *,
    temperature: float,
    top_p: float,
    batch: int,
    seed: int,
    what: str = "sampling",
    progress: bool = True,
) -> list[tuple[Tensor, bool]]:
    """One answer to each prompt, whatever `batch` is: its tokens (T,) and whether it ended.

    Equal prompts stand in different calls with different seeds, so that each gets an answer of its own.

    Args:
        backbone: the policy.
        prompts: P prompts.
        limits: most frames of each (P,).
        temperature: > 0.
        top_p: nucleus mass.
        batch: prompts per call.
        seed: of the draws.
        what: the title of the progress bar.
        progress: show a bar on a terminal.
    """
    said: list[tuple[Tensor, bool]] = [(torch.zeros(0), False)] * len(prompts)
    for rows, turn in _track(calls(prompts, batch, limits), what, progress):
        generator = torch.Generator().manual_seed(seed + turn)
        most = torch.tensor([limits[i] for i in rows])
        speech = backbone.sample([prompts[i] for i in rows], 1, temperature, top_p, most, generator=generator).to("cpu")
        for i, tokens, ended in zip(rows, speech.rows(), speech.ended.tolist(), strict=True):
            said[i] = tokens, ended
    return said


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
        max_frames: padded frames per call.
        styled: also score (real, expressive) with the style prefix, for `DGSA(styled_stability=True)`.
        progress: show a bar on a terminal.

    Returns:
        The triplets in the same order, with `reference` filled (see `records.Triplet`).

    Raises:
        ValueError: a log-prob is not finite.
    """
    modes = {"plain": 3, "styled": 2} if styled else {"plain": 3}
    batches = _batches([3 * max(len(tokens) for tokens in triplet.completions()) for triplet in triplets], max_frames)
    done = list(triplets)
    with evaluating(backbone):
        for rows in _track(batches, "reference log-probs", progress):
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
    speech = stack(group).select(torch.arange(count * len(group)))
    logps = backbone(prompts, speech).float().cpu()
    if not bool(torch.isfinite(logps).all()):
        row = int((~torch.isfinite(logps)).any(-1).nonzero()[0])
        raise ValueError(
            f"a log-prob of triplet {group[row % len(group)].id!r} is not finite: a token has probability 0; look at "
            "its tokens"
        )
    cut = [logp[: length + 1].clone() for logp, length in zip(logps, speech.lengths.tolist(), strict=True)]
    return [cut[block * len(group) : (block + 1) * len(group)] for block in range(count)]


def stack(group: Sequence[Triplet]) -> Speech:
    """G triplets as 3G rows: all real, all expressive, all stable. Those of a triplet share its prompt."""
    rows = [row for block in zip(*(triplet.completions() for triplet in group), strict=True) for row in block]
    ended = [flag for block in zip(*(triplet.ended for triplet in group), strict=True) for flag in block]
    return Speech.pack(rows, ended, torch.arange(len(group)).repeat(3))


def _batches(frames: list[int], max_frames: int) -> list[list[int]]:
    """Indices in order of size, in batches of padded size <= max_frames; a single item may exceed it."""
    batches: list[list[int]] = [[]]
    for i in sorted(range(len(frames)), key=frames.__getitem__):
        if batches[-1] and (len(batches[-1]) + 1) * frames[i] > max_frames:
            batches.append([])
        batches[-1].append(i)
    return batches if frames else []


def _prompts(utterances: Sequence[Utterance], pairing: Pairing, seed: int) -> list[Prompt]:
    bare = [utterance.id for utterance in utterances if utterance.prompt.style is None]
    if bare:
        needed = "give each the style of its own reference recording"
        raise ValueError(f"{len(bare)} utterances have no style prefix, first {bare[:3]}: {needed}")
    if pairing not in ("paired", "shuffled"):
        raise ValueError(f"pairing must be 'paired' or 'shuffled', got {pairing!r}")
    prompts = [utterance.prompt for utterance in utterances]
    return prompts if pairing == "paired" else _strangers(prompts, seed)


def _strangers(prompts: list[Prompt], seed: int) -> list[Prompt]:
    if len(prompts) < 2:
        raise ValueError("pairing='shuffled' needs at least two utterances: there is no other voice to take")
    ring = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(seed)).tolist()
    voices = [_voice(prompt) for prompt in prompts]
    strangers = list(prompts)
    for at, row in enumerate(ring):  # the next one along a random ring with another timbre; if all are alike, the next
        after = ring[at + 1 :] + ring[:at]
        other = prompts[next((i for i in after if voices[i] != voices[row]), after[0])]
        strangers[row] = replace(prompts[row], style=other.style, timbre=other.timbre)
    return strangers


def _voice(prompt: Prompt) -> tuple[Any, ...]:
    leaves = tree_leaves(prompt.timbre)
    return tuple(content_key([leaf], 0) if isinstance(leaf, Tensor) else leaf for leaf in leaves)


def _track(items: Sequence[_Item], what: str, progress: bool) -> Iterable[_Item]:
    if not progress or not sys.stderr.isatty():
        return items
    from rich.console import Console
    from rich.progress import track

    return track(items, what, console=Console(stderr=True), transient=True)
