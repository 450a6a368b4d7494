"""Drawing tokens: nucleus sampling without a sort, and uniforms that depend on the row and the step alone.

A stateful generator hands its numbers out in batch order, so what one row draws would depend on its neighbours, on
finished rows and on how a job was cut into waves. Here every row owns a 64-bit key and the uniform of step t is a
hash of (key, t): a row draws the same numbers alone, in company, after compaction and after a restart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_WORD = 1 << 64
_TRIES = 16
_BLOCK = 64  # of ids: in parts of it a row is summed, and one part is looked at closer


def _signed(word: int) -> int:
    word %= _WORD
    return word - _WORD if word >= _WORD // 2 else word


def _shift(word: Tensor, bits: int) -> Tensor:
    # int64 >> copies the sign bit; masking makes it the logical shift that the mixer is defined with
    return (word >> bits) & ((1 << (64 - bits)) - 1)


def uniforms(keys: Tensor, step: int) -> Tensor:
    """One uniform number in [0, 1) per key for this step.

    The mixer is SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), a counter-based generator: no state, any order.

    Args:
        keys: one int64 key per row (B,).
        step: counter >= 0; different steps give independent numbers.

    Returns:
        float64 (B,).

    Example:
        >>> keys = torch.tensor([1, 2, 3])
        >>> bool((uniforms(keys, 5)[1:2] == uniforms(keys[1:2], 5)).all())
        True
    """
    word = keys + _signed((step + 1) * _GOLDEN)
    word = (word ^ _shift(word, 30)) * _signed(_MIX_1)
    word = (word ^ _shift(word, 27)) * _signed(_MIX_2)
    word = word ^ _shift(word, 31)
    return _shift(word, 11).double() * 2.0**-53


def content_key(tensors: Iterable[Tensor | None], salt: int) -> int:
    """A 64-bit key of some tensors' contents and a salt, the same on every machine.

    Example:
        >>> content_key([torch.tensor([1, 2])], 0) == content_key([torch.tensor([1, 2], dtype=torch.int32)], 0)
        True
    """
    digest = hashlib.blake2b(str(salt).encode(), digest_size=8)
    for tensor in tensors:
        if tensor is None:
            digest.update(b"-")
            continue
        values = tensor.detach().to("cpu", torch.float64 if tensor.is_floating_point() else torch.int64).contiguous()
        digest.update(repr(tuple(values.shape)).encode())
        digest.update(values.numpy().tobytes())
    return _signed(int.from_bytes(digest.digest(), "little"))


def nucleus(logits: Tensor, temperature: Tensor, top_p: float, uniform: Tensor) -> Tensor:
    """Draw one id per row from softmax(logits / temperature), cut to the smallest set with mass >= top_p.

    Args:
        logits: (B, V); -inf bans an id.
        temperature: (B,), >= 0; 0 takes the most likely id.
        top_p: mass kept, in (0, 1] (Holtzman et al., ICLR 2020).
        uniform: (B,) in [0, 1): the draw.

    Returns:
        ids (B,).

    Raises:
        ValueError: top_p outside (0, 1].

    Example:
        >>> nucleus(torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([1.0]), 0.5, torch.tensor([0.999])).item()
        1
    """
    share = (logits.float() / temperature.float().clamp_min(1e-6)[:, None]).softmax(-1)
    drawn = draw(share, top_p, uniform)
    return torch.where(temperature > 0, drawn, logits.argmax(-1)) if bool((temperature == 0).any()) else drawn


def draw(share: Tensor, top_p: float, uniform: Tensor) -> Tensor:
    """Draw one id per row from probabilities, cut to the smallest set with mass >= top_p.

    Nothing is sorted: an id is drawn from all of them, and drawn anew until it lies in the set, which it does where
    the ids before it in rank hold less than top_p. That happens 1 / top_p times on average, at one pass over the row.

    Args:
        share: probabilities (B, V), fp32.
        top_p: mass kept, in (0, 1].
        uniform: (B,) in [0, 1): the draw. Later tries are hashes of it.

    Returns:
        ids (B,). Of equal probabilities the lower id ranks first.

    Raises:
        ValueError: top_p outside (0, 1].

    Example:
        >>> share = torch.tensor([[0.1, 0.6, 0.3]] * 3)
        >>> draw(share, 0.9, torch.tensor([0.05, 0.2, 0.8]))  # id 0 is outside: the first row draws again
        tensor([1, 1, 2])
    """
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], got {top_p}")
    # inverted in the order of ids, not of ranks: rounding that swaps two nearly equal ranks must not change the draw
    ids = _inverted(share, uniform)
    if top_p == 1:
        return ids
    out = _outside(share, ids, top_p).nonzero().squeeze(-1)
    seeds, turn = (uniform.double() * 2.0**53).long(), 0
    while len(out):
        turn += 1
        # the likeliest id may have next to no mass itself: then the set is looked up instead of waited for
        within = share[out] if turn < _TRIES else _cut(share[out], top_p)
        ids[out] = _inverted(within, uniforms(seeds[out], turn))
        out = out[_outside(share[out], ids[out], top_p)] if turn < _TRIES else out[:0]
    return ids


def _cut(share: Tensor, top_p: float) -> Tensor:
    """Probabilities with 0 outside the set."""
    ranked, order = share.sort(dim=-1, descending=True, stable=True)
    needed = ranked.cumsum(-1, dtype=torch.float64) - ranked < top_p
    needed[:, 0] = True
    return torch.zeros_like(share).scatter(-1, order, torch.where(needed, ranked, 0.0))


def _inverted(share: Tensor, uniform: Tensor) -> Tensor:
    """The id at which the running sum exceeds uniform x the sum of all: first its block, then its place there."""
    most = share.shape[1]
    full = most - most % _BLOCK
    parts = share[:, :full].unflatten(-1, (-1, _BLOCK)).sum(-1), share[:, full:].sum(-1, keepdim=True)
    sums = torch.cat(parts, dim=-1).double()  # of 64 numbers: in fp64 a copy of all of them would be made first
    mass = sums.cumsum(-1)
    target = uniform.double()[:, None] * mass[:, -1:]
    block = _first_above(mass, target)
    before = (mass - sums).gather(-1, block)
    ids = block * _BLOCK + torch.arange(_BLOCK, device=block.device)
    inside = share.gather(-1, ids.clamp_max(most - 1)).double().masked_fill(ids >= most, 0).cumsum(-1)
    # by rounding the target may lie before its block, whose first id may be one that is banned
    return (block * _BLOCK + _first_above(inside, (target - before).clamp_min(0))).squeeze(-1)


def _first_above(mass: Tensor, target: Tensor) -> Tensor:
    """(B, 1): the first place where a running sum is above the target; by rounding past the end, the last that adds."""
    return torch.minimum(torch.searchsorted(mass, target, right=True), (mass < mass[:, -1:]).sum(-1, keepdim=True))


def _outside(share: Tensor, ids: Tensor, top_p: float) -> Tensor:
    """Do the ids that rank before hold top_p already?"""
    own = share.gather(-1, ids[:, None])
    side = (share - own).sign_()  # 1 before it in rank, 0 itself and its ties, -1 after it
    ties = share.shape[1] - side.abs().sum(-1) > 1
    before = side.relu_().mul_(share).sum(-1)
    if bool(ties.any()):
        lower = torch.arange(share.shape[-1], device=share.device) < ids[:, None]
        before = before + share.where((share == own) & lower, 0.0).sum(-1)
    return before >= top_p
