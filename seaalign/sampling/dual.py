"""The two modes of DGSA: each real sentence said expressively and stably, in the same voice."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from seaalign.backbones.base import Backbone, Unsupported, calls, occurrences
from seaalign.backbones.context import naming
from seaalign.functional.sampling import content_key
from seaalign.records import Prompt, Triplet, Utterance
from seaalign.sampling.progress import track

Pairing = Literal["paired", "shuffled"]


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
            "it has not: seaalign.StylePrefix adds both to a DecoderOnly backbone (docs/disentangle.md). SFT, and the "
            "losses of seaalign.functional on pairs of your own, need neither."
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
    made = say_twins(
        backbone, twins(utterances, pairing, seed), temperature=temperature, top_p=top_p, max_len=max_len, batch=batch,
        seed=seed, progress=progress,
    )  # fmt: skip
    require_spoken(made, len(utterances))
    return made


class Twin(NamedTuple):
    """A real utterance, and what a process needs to know of all others to say it twice as it would among them.

    Args:
        utterance: the real one.
        prompt: what to say it from; its own, or with the voice of another.
        before: how many equal prompts come before it in the whole list, with style and without.
    """

    utterance: Utterance
    prompt: Prompt
    before: tuple[int, int]


def twins(utterances: Sequence[Utterance], pairing: Pairing = "paired", seed: int = 0) -> list[Twin]:
    """A whole list of utterances, ready to be cut in parts; arguments and errors as in `dual_mode`."""
    prompts = _prompts(utterances, pairing, seed)
    before = zip(occurrences(prompts), occurrences([prompt.plain() for prompt in prompts]), strict=True)
    return [Twin(*row) for row in zip(utterances, prompts, before, strict=True)]


def say_twins(
    backbone: Backbone,
    part: Sequence[Twin],
    *,
    temperature: float = 1.0,
    top_p: float = 0.9,
    max_len: int | None = None,
    batch: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> list[Triplet]:
    """The triplets of a part of `twins`, as `dual_mode` makes them of the whole; those with an empty sample drop out.

    Arguments as in `dual_mode`.
    """
    require_separation(backbone, "dual-mode sampling")
    limits = [max_len or 2 * len(twin.utterance.tokens) + 20 for twin in part]

    def said(prompts: list[Prompt], before: list[int], what: str) -> list[tuple[Tensor, bool]]:
        return say(
            backbone, prompts, limits, temperature=temperature, top_p=top_p, batch=batch, seed=seed, what=what,
            progress=progress, before=before, ids=[twin.utterance.id for twin in part],
        )  # fmt: skip

    expressive = said([twin.prompt for twin in part], [twin.before[0] for twin in part], "sampling, style on")
    stable = said([twin.prompt.plain() for twin in part], [twin.before[1] for twin in part], "sampling, style off")
    return [
        Triplet(twin.utterance.id, twin.prompt, twin.utterance.tokens, e, s, (True, e_ended, s_ended))
        for twin, (e, e_ended), (s, s_ended) in zip(part, expressive, stable, strict=True)
        if len(e) and len(s)
    ]


def require_spoken(made: Sequence[Triplet], utterances: int) -> None:
    """Warn of triplets that were dropped because a sample of theirs was empty.

    Raises:
        ValueError: all were.
    """
    if len(made) < utterances:
        dropped = f"{utterances - len(made)} of {utterances} triplets dropped"
        message = f"{dropped}: the model ended at once, without a single token"
        if not made:
            raise ValueError(f"{message}; train it first, or check `eos`")
        warnings.warn(message, stacklevel=3)


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
    before: Sequence[int] | None = None,
    ids: Sequence[str] = (),
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
        before: how many equal prompts come before each (P,), where these are a part of a longer list.
        ids: what messages call the prompts (P,).
    """
    said: list[tuple[Tensor, bool]] = [(torch.zeros(0), False)] * len(prompts)
    for rows, turn in track(calls(prompts, batch, limits, before), what, progress):
        generator = torch.Generator().manual_seed(seed + turn)
        most = torch.tensor([limits[i] for i in rows])
        with naming([ids[i] for i in rows] if ids else []):
            speech = backbone.sample([prompts[i] for i in rows], 1, temperature, top_p, most, generator=generator)
        speech = speech.to("cpu")
        for i, tokens, ended in zip(rows, speech.rows(), speech.ended.tolist(), strict=True):
            said[i] = tokens, ended
    return said


def _prompts(utterances: Sequence[Utterance], pairing: Pairing, seed: int) -> list[Prompt]:
    bare = [utterance.id for utterance in utterances if utterance.prompt.style is None]
    if bare:
        needed = "give each the style of another recording of its speaker (see data.prepare)"
        raise ValueError(f"{len(bare)} utterances have no style prefix, first {bare[:3]}: {needed}")
    if pairing not in ("paired", "shuffled"):
        raise ValueError(f"pairing must be 'paired' or 'shuffled', got {pairing!r}")
    prompts = [utterance.prompt for utterance in utterances]
    return prompts if pairing == "paired" else _strangers(prompts, seed)


def _strangers(prompts: list[Prompt], seed: int) -> list[Prompt]:
    if len(prompts) < 2:
        raise ValueError("pairing='shuffled' needs at least two utterances: there is no other voice to take")
    ring = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(seed)).tolist()
    voices = [voice_key(prompt) for prompt in prompts]
    strangers = list(prompts)
    for at, row in enumerate(ring):  # the next one along a random ring with another timbre; if all are alike, the next
        after = ring[at + 1 :] + ring[:at]
        other = prompts[next((i for i in after if voices[i] != voices[row]), after[0])]
        strangers[row] = replace(prompts[row], style=other.style, timbre=other.timbre)
    return strangers


def voice_key(prompt: Prompt) -> tuple[Any, ...]:
    """What tells voices apart where nobody names speakers: equal timbres have equal keys; () without a timbre."""
    leaves = tree_leaves(prompt.timbre)
    return tuple(content_key([leaf], 0) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
