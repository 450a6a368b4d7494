"""Rows without padding: answers that share a prompt stand behind it in one sequence, and read it once.

A batch is one row [prompt | y1 | y2 | y3 | prompt | y1 | ...] of pieces. Everything but attention works on positions
one by one and never notices. In attention a piece sees its prompt and itself, so each piece is one call of the fused
kernel, or all of them are one (`varlen`), and no mask of the whole row exists. DGSA's triplets cost the prompt once
instead of three times, and no row costs what the longest one does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right

from seaalign.backbones.caches import parameters_of
from seaalign.backbones.context import windowed
from seaalign.backbones.varlen import Layout, at_once, attend_at_once

IMPLEMENTATION = "seaalign_packed"
"""What Hugging Face models call attention that knows of packing and sharing; without either it is their "sdpa"."""


@dataclass(frozen=True, eq=False)
class Packing:
    """Pieces of one sequence.

    Args:
        sizes: positions of each piece (N,).
        prompts: which piece a piece sees beside itself, one before it (N,); a prompt names itself.
    """

    sizes: tuple[int, ...]
    prompts: tuple[int, ...]

    @classmethod
    def of(cls, heads: Sequence[int], tails: Sequence[int], owners: Sequence[int]) -> tuple[Packing, list[int]]:
        """Put each prompt of a batch before its answers.

        Args:
            heads: positions of each prompt (P,).
            tails: positions of each row (B,).
            owners: the prompt of each row (B,); prompts of no row are left out.

        Returns:
            The packing, and what its pieces are: i for prompt i, P + b for row b.

        Example:
            >>> Packing.of([2, 9, 3], [4, 5, 6], [2, 0, 2])
            (Packing(sizes=(2, 5, 3, 4, 6), prompts=(0, 0, 2, 2, 2)), [0, 4, 2, 3, 5])
        """
        rows: dict[int, list[int]] = {}
        for row, owner in enumerate(owners):
            rows.setdefault(owner, []).append(row)
        order, prompts = list[int](), list[int]()
        for owner in sorted(rows):
            prompts += [len(order)] * (1 + len(rows[owner]))
            order += [owner, *(len(heads) + row for row in rows[owner])]
        sizes = [heads[i] if i < len(heads) else tails[i - len(heads)] for i in order]
        return cls(tuple(sizes), tuple(prompts)), order

    @property
    def starts(self) -> list[int]:
        """Where each piece begins (N,)."""
        return list(accumulate(self.sizes, initial=0))[:-1]

    def positions(self, device: Any) -> Tensor:
        """Position ids (1, S): those of an answer go on where its prompt ends."""
        before = [0 if prompt == i else self.sizes[prompt] for i, prompt in enumerate(self.prompts)]
        sizes = torch.tensor(self.sizes)
        shift = torch.tensor(before) - torch.tensor(self.starts)
        return (torch.arange(int(sizes.sum())) + shift.repeat_interleave(sizes)).to(device)[None]

    def layout(self, device: torch.device) -> Layout:
        """For the kernel that takes all pieces at once; made once for all layers on a device."""
        known: dict[torch.device, Layout] = self.__dict__.setdefault("_layouts", {})
        if device not in known:
            known[device] = Layout.of(self.sizes, self.prompts, device)
        return known[device]


@torch.compiler.disable  # sizes of pieces are numbers in Python: each batch would be compiled anew
def attend(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scale: float | None = None, dropout: float = 0.0
) -> Tensor:
    """Causal attention of a packed row: each piece sees its prompt, and itself up to each position.

    Args:
        query: (1, H, S, D).
        key: (1, H', S, D); H is a multiple of H' (grouped-query attention).
        value: (1, H', S, D).
        packing: S positions.
        scale: of the products; default D ** -0.5.
        dropout: share of the weights that are left out.

    Returns:
        (1, H, S, D).

    Example:
        >>> x = torch.randn(1, 2, 9, 4)
        >>> packing = Packing((3, 2, 4), (0, 0, 0))
        >>> apart = F.scaled_dot_product_attention(*[torch.cat([x[:, :, :3], x[:, :, 5:]], 2)] * 3, is_causal=True)
        >>> torch.allclose(attend(x, x, x, packing)[:, :, 5:], apart[:, :, 3:], atol=1e-6)
        True
    """
    # under autocast rotary positions leave queries and keys wider than values
    query, key = query.to(value.dtype), key.to(value.dtype)
    if not dropout and at_once(query, key, value):
        return attend_at_once(query, key, value, packing.layout(value.device), scale)
    settings: Any = {"scale": scale, "dropout_p": dropout, "enable_gqa": key.shape[1] != query.shape[1]}
    # split, not slices: the gradient of a slice is as long as the whole row
    queries, keys, values = (x.split(packing.sizes, dim=2) for x in (query, key, value))
    out = []
    for i, (q, k, v) in enumerate(zip(queries, keys, values, strict=True)):
        prompt = packing.prompts[i]
        if prompt == i:
            out.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, **settings))
        elif packing.sizes[i]:
            k, v = torch.cat([keys[prompt], k], dim=2), torch.cat([values[prompt], v], dim=2)
            mask = causal_lower_right(q.shape[2], k.shape[2])
            out.append(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **settings))
    return torch.cat(out, dim=2)


def why_not_packed(body: Callable[..., Any], call: Callable[..., tuple[Tensor, Any]], like: Tensor) -> str:
    """Try it: "" where the body gives packed pieces the features that separate rows have, else why it does not.

    Args:
        body: the transformer.
        call: `(x (1, S, D), mask, positions (1, S), cache, use_cache, packing) -> (features (1, S, D), cache)`.
        like: embeddings (L, D) of its size, type and scale.
    """
    reason = takes_packing(body)
    if reason:
        return reason
    packing = Packing((3, 2, 4, 2, 1), (0, 0, 0, 3, 3))
    noise = torch.randn(sum(packing.sizes), like.shape[1], generator=torch.Generator().manual_seed(0))
    x = noise.to(like) * like.float().std().clamp_min(1e-3).to(like.dtype)
    pieces, worst = x.split(packing.sizes), 0.0
    try:
        packed = call(x[None], None, packing.positions(x.device), None, False, packing)[0][0].split(packing.sizes)
        for i, prompt in enumerate(packing.prompts):
            if prompt != i:
                row = torch.cat([pieces[prompt], pieces[i]])[None]
                positions = torch.arange(row.shape[1], device=x.device)[None]
                apart = call(row, None, positions, None, False, None)[0][0].float()
                gap = torch.cat([packed[prompt], packed[i]]).float() - apart
                worst = max(worst, float(gap.abs().max() / apart.abs().max()))
    except torch.OutOfMemoryError:  # says nothing of the body
        forget(body)
        raise
    except Exception as error:  # whatever a foreign model makes of it, separate rows are right
        reason = f"{type(error).__name__}: {error}"
    else:
        if not worst <= (1e-4 if exact(like) else 5e-2):
            reason = f"packed, its features are {worst:.2g} (of the largest) from those of separate rows"
    if reason:
        forget(body)
    return reason


def exact(like: Tensor) -> bool:
    """Are numbers of this kind, here and now, so exact that two ways to the same feature agree within 1e-4?"""
    return like.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(like.device.type)


def takes_packing(body: Callable[..., Any]) -> str:
    """Let a body know of packing: "" where it does, else why it does not.

    A Hugging Face model with "sdpa" attention is told to use `attend`; without packing its attention stays what it was.
    Any other body takes an argument `packing` and calls `attend` itself.
    """
    if "packing" in parameters_of(body):
        return ""
    config: Any = getattr(body, "config", None)
    kind = getattr(config, "_attn_implementation", None)
    if kind is None:
        return "its body has no argument `packing`, and is no Hugging Face model"
    if kind not in ("sdpa", IMPLEMENTATION):
        return f"its attention is {kind!r}: load the model with attn_implementation='sdpa'"
    # Some families window by their mask alone, which is not made here. Asked before a model gets our attention, and not
    # at every packed call after it.
    if kind != IMPLEMENTATION and windowed(config):
        return "some of its layers see less than all that is before"
    try:
        _register()
    except ImportError:
        return "this version of transformers has no attention interface"
    _attention(config, IMPLEMENTATION)
    return ""


def forget(body: Callable[..., Any]) -> None:
    """The attention of a Hugging Face body as it was before `takes_packing`."""
    config: Any = getattr(body, "config", None)
    if getattr(config, "_attn_implementation", None) == IMPLEMENTATION:
        _attention(config, "sdpa")


def _attention(config: Any, kind: str) -> None:
    """Of this model alone: their own setter also changes the models inside and beside it, such as a codec."""
    name = "_attn_implementation_internal"
    setattr(config, name if name in vars(config) else "_attn_implementation", kind)


def _register() -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if IMPLEMENTATION in ALL_ATTENTION_FUNCTIONS:
        return
    ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, _forward)
    try:
        from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    except ImportError:  # before 4.53 masks were the models' own business
        return
    ALL_MASK_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


def _forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    packing: Packing | None = None,
    sharing: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in each layer."""
    if packing is None and sharing is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    odd = [name for name in ("sliding_window", "softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]
    if odd:
        raise NotImplementedError(f"attention of packed or shared rows has no {', '.join(odd)}")
    if packing is None:
        heard: Tensor = sharing.attend(query, key, value, module.layer_idx, scaling)
        return heard.transpose(1, 2).contiguous(), None
    return attend(query, key, value, packing, scaling, dropout).transpose(1, 2).contiguous(), None
