"""Rules on what scores and gradients depend on. Each returns None (passed) or a reason; a broken rule raises."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from seaalign.backbones.base import evaluating
from seaalign.records import Prompt, Speech
from seaalign.testing.faults import fault
from seaalign.testing.probe import Probe


def alignment(probe: Probe) -> str | None:
    """Changing token t leaves columns before t alone, changes column t, and is heard of by column t+1."""
    row = max(probe.speech.rows(), key=len)
    others = [(t, _other(probe, row[t])) for t in (0, 1, len(row) - 2, len(row) - 1)]
    variants = [torch.cat([row[:t], other[None], row[t + 1 :]]) for t, other in others if other is not None]
    places = [t for t, other in others if other is not None]
    if not places:
        return "speech holds a single token id: nothing to exchange it for"
    scores = probe.score(Speech.pack([row, *variants], prompt=[0] * (1 + len(variants))), probe.prompts[:1])
    base, delta = scores[0], (scores[1:] - scores[0]).abs()
    moved = delta > probe.atol + probe.rtol * base.abs()
    if not moved.any():
        raise fault("scores ignore the tokens", f"exchanging the tokens {places} changes no column")
    firsts = [int(line.nonzero()[0]) if line.any() else len(base) for line in moved]
    for i, (t, first) in enumerate(zip(places, firsts, strict=True)):
        if first < t:
            left = all(f == t - 1 for f, t in zip(firsts, places, strict=True) if t > 0)
            numbers = f"changing token {t} changes column {first} by {float(delta[i, first]):.4g}"
            raise fault("mask off by one, shifted left" if left else "score sees the future", numbers)
    for i, t in enumerate(places):
        if delta[i, t] <= probe.tiny and _deaf(probe, row, t):
            numbers = f"changing token {t} leaves its own column as it was (change {float(delta[i, t]):.2g})"
            raise fault("mask off by one, shifted right", numbers)
    near = max(float(delta[i, t + 1]) for i, t in enumerate(places))
    far = max((float(delta[i, t + 2 :].max()) for i, t in enumerate(places) if t + 2 < len(base)), default=0.0)
    if near <= probe.tiny and far > probe.atol:
        numbers = f"changing token t moves column t+2 by {far:.4g} but column t+1 by {near:.2g} at most"
        raise fault("mask off by one, features early", numbers)
    _books(probe, row)
    return None


def _deaf(probe: Probe, row: Tensor, t: int) -> bool:
    """Is column t the same whatever frame t is? Two frames alone may have one log-prob by chance."""
    variants = [torch.cat([row[:t], frame[None], row[t + 1 :]]) for frame in probe.alphabet]
    scores = probe.score(Speech.pack(variants, prompt=[0] * len(variants)), probe.prompts[:1])[:, t]
    return float(scores.max() - scores.min()) <= probe.tiny


def _other(probe: Probe, frame: Tensor) -> Tensor | None:
    """A frame of the alphabet that differs, in as many codebooks as possible."""
    differs = (probe.alphabet != frame).reshape(len(probe.alphabet), -1).sum(-1)
    return probe.alphabet[differs.argmax()] if differs.any() else None


def _books(probe: Probe, row: Tensor) -> None:
    """With K codebooks (T, K), every one of them counts."""
    if row.dim() == 1:
        return
    t, variants = len(row) // 2, [row]
    for book, ids in enumerate(probe.alphabet.T):
        variants.append(row.clone())
        variants[-1][t, book] = ids[(ids != row[t, book]).long().argmax()]
    scores = probe.score(Speech.pack(variants, prompt=[0] * len(variants)), probe.prompts[:1])
    for book, variant in enumerate(variants[1:]):
        if not torch.equal(variant, row) and (scores[book + 1, t] - scores[0, t]).abs() <= probe.tiny:
            numbers = f"changing codebook {book} of frame {t} leaves column {t} as it was"
            raise fault("a codebook is not scored", numbers)


def shared(probe: Probe) -> str | None:
    """Rows that share a prompt score, and pull at the weights, as if each had brought its own copy."""
    speech, name = probe.padded(0, 0), "shared prompt differs from separate prompts"
    owner = [int(i == 1 and len(probe.prompts) > 1) for i in range(len(speech))]  # 0, 1, 0, 0: neighbours differ
    together = Speech(speech.tokens, speech.lengths, speech.ended, torch.tensor(owner))
    apart, copies = Speech(speech.tokens, speech.lengths, speech.ended), [probe.prompts[p] for p in owner]
    got, want = probe.score(together), probe.score(apart, copies)
    if probe.apart(got, want).any():
        raise fault(name, f"shared against separate, {probe.worst(got, want)}")
    if not trainable(probe):
        return "values only: no parameter requires a gradient"
    _same_gradient(probe, name, (together, probe.prompts), (apart, copies))
    return None


def gradient(probe: Probe) -> str | None:
    """Some parameter gets a gradient, a finite one, and what lies in the padding has no part in it."""
    if not trainable(probe):
        return "no parameter requires a gradient"
    grads = gradients(probe, probe.speech, probe.prompts)
    largest = max((float(g.abs().max()) for g in grads.values() if g.numel()), default=0.0)
    if largest == 0:
        raise fault("no gradient", f"the largest entry is 0 over {len(grads)} parameters with a gradient")
    if not math.isfinite(largest):
        raise fault("gradient is not finite", f"its largest entry is {largest}")
    one, other = probe.padded(2, 0), probe.padded(2, -1)
    _same_gradient(probe, "gradient flows through padding", (one, probe.prompts), (other, probe.prompts))
    return None


def trainable(probe: Probe) -> bool:
    """Is there anything to train?"""
    return any(p.requires_grad for p in probe.backbone.parameters())


def gradients(probe: Probe, speech: Speech, prompts: list[Prompt]) -> dict[str, Tensor]:
    """Gradient of a weighted sum of the rows' log pi, by parameter name; the parameters' own .grad is put back."""
    named = [(name, p) for name, p in probe.backbone.named_parameters() if p.requires_grad]
    kept = [p.grad for _, p in named]
    try:
        for _, p in named:
            p.grad = None
        sums = probe.forward(speech, prompts).sum(-1)
        if sums.requires_grad:  # backward(), not autograd.grad(): reentrant checkpointing knows only the former
            (sums * torch.linspace(0.5, 1.5, len(sums), device=sums.device)).sum().backward()
        return {name: p.grad.float() for name, p in named if p.grad is not None}
    finally:
        for (_, p), grad in zip(named, kept, strict=True):
            p.grad = grad


_Input = tuple[Speech, list[Prompt]]


def _same_gradient(probe: Probe, name: str, one: _Input, other: _Input) -> None:
    a, b = gradients(probe, *one), gradients(probe, *other)
    total = math.sqrt(sum(float(g.norm()) ** 2 for g in b.values()))
    for key in a.keys() | b.keys():
        x, y = (g[key].cpu() if key in g else torch.zeros(()) for g in (a, b))
        gap, scale = float((x - y).norm()), float(y.norm())
        # a parameter whose gradient is nearly nothing is measured against the whole gradient
        if gap > 10 * probe.rtol * max(scale, 1e-2 * total):
            raise fault(name, f"the gradient of {key!r} differs by {gap:.4g} (its norm: {scale:.4g})")


def style(probe: Probe) -> str | None:
    """The style prefix, where offered, changes the score."""
    if "style" not in probe.backbone.features:
        return "'style' is not in features"
    styled = next((prompt for prompt in probe.prompts if prompt.style is not None), None)
    if styled is None:
        return "no prompt has a style: give one to test the toggle"
    row = max(probe.speech.rows(), key=len)
    scores = probe.score(Speech.pack([row, row]), [styled, styled.plain()])
    gap = float((scores[0] - scores[1]).abs().max())
    if gap <= probe.atol:
        raise fault("style is ignored", f"scores with and without the style prefix differ by {gap:.2g} at most")
    return None


def policy_is_reference(probe: Probe) -> None:
    """Scored as policy (train mode, gradient) and as reference (eval, none), a pair has margin 0 and DPO loss ln 2."""
    from seaalign.functional import dpo_loss

    policy = probe.forward(probe.speech).detach().sum(-1)
    with evaluating(probe.backbone):
        reference = probe.score(probe.speech).sum(-1)
    margin = float((policy[0] - reference[0]) - (policy[1] - reference[1]))
    loss = float(dpo_loss(policy[:1], policy[1:2], reference[:1], reference[1:2], beta=1.0))
    slack = probe.atol * 10 + probe.rtol * float(policy.abs().max())
    if abs(margin) > slack or abs(loss - math.log(2)) > slack:
        numbers = f"the same weights give margin {margin:.4g} and loss {loss:.6f}, not 0 and ln 2 = 0.693147"
        raise fault("policy and reference differ", numbers)
