"""Drawing tokens: nucleus sampling by inverse CDF, and uniforms that depend on the row and the step alone.

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
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], got {top_p}")
    scaled = logits.float() / temperature.float().clamp_min(1e-6)[:, None]
    ranked, order = scaled.sort(dim=-1, descending=True, stable=True)
    share = ranked.softmax(-1).double()
    # the mass before an id decides whether it is still needed: the first id always is
    needed = share.cumsum(-1) - share < top_p
    needed[:, 1:] &= (temperature > 0)[:, None]
    # inverted in the order of ids, not of ranks: rounding that swaps two nearly equal ranks must not change the draw
    mass = torch.zeros_like(share).scatter(-1, order, torch.where(needed, share, 0.0)).cumsum(-1)
    index = torch.searchsorted(mass, uniform[:, None] * mass[:, -1:], right=True)
    return index.clamp_max(logits.shape[-1] - 1).squeeze(-1)
