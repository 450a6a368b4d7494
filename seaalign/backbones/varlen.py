"""All pieces of a packed row in one call of the variable-length kernel of flash attention, on a GPU in 16 bits.

One call of the fused kernel per piece is thousands of launches a step. `torch.nn.attention.varlen.varlen_attn` takes
many sequences at once, and the queries of one need not be its keys: those of an answer are its own positions, and its
keys are its prompt's and its own. No kernel is believed unseen: the first call for a kind of heads compares it with
plain attention, and where it fails or differs, pieces are attended to one by one.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from inspect import signature
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

TRIED = (70, 40, 0, 150, 1, 5, 30, 64), (0, 0, 0, 0, 0, 5, 5, 7)
"""Pieces, and the prompt of each, on which the kernel is tried: shorter and longer than its blocks, one without any."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Pieces of one row as the kernel reads them; those without a position are no sequence at all.

    Args:
        places: where in the row each key is (K,), sequence by sequence.
        uses: which of the K keys stand for position 0, for position 1, ... (K,).
        first: where in `uses` those of each position begin (S,).
        queries: where the queries of each sequence begin, and all end (N + 1,) int32.
        keys: where its keys do (N + 1,) int32.
        longest: most queries of a sequence, and most keys.
    """

    places: Tensor
    uses: Tensor
    first: Tensor
    queries: Tensor
    keys: Tensor
    longest: tuple[int, int]

    @classmethod
    def of(cls, sizes: Sequence[int], prompts: Sequence[int], device: torch.device) -> Layout:
        """Lay pieces out.

        Args:
            sizes: positions of each piece (N,).
            prompts: which piece a piece sees beside itself (N,); a prompt names itself.
            device: where the tensors go.

        Example:
            >>> layout = Layout.of((2, 1, 0), (0, 0, 0), torch.device("cpu"))
            >>> layout.places.tolist(), layout.uses.tolist(), layout.first.tolist()
            ([0, 1, 0, 1, 2], [0, 2, 1, 3, 4], [0, 2, 4])
            >>> layout.queries.tolist(), layout.keys.tolist(), layout.longest
            ([0, 2, 3], [0, 2, 5], (2, 3))
        """
        spans = [torch.arange(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]
        seen = [[i] if prompts[i] == i else [prompts[i], i] for i, size in enumerate(sizes) if size]
        queries = [sizes[pieces[-1]] for pieces in seen]
        keys = [sum(sizes[i] for i in pieces) for pieces in seen]
        places = torch.cat([spans[i] for pieces in seen for i in pieces])
        counts = torch.bincount(places, minlength=sum(sizes))
        order = [x.to(device) for x in (places, places.argsort(stable=True), counts.cumsum(0) - counts)]
        begins = [torch.tensor([0, *accumulate(x)], dtype=torch.int32, device=device) for x in (queries, keys)]
        return cls(order[0], order[1], order[2], begins[0], begins[1], (max(queries), max(keys)))


def attend_at_once(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float | None = None) -> Tensor:
    """What `packing.attend` gives, from one call of the kernel.

    Args:
        query: (1, H, S, D), of 16 bits, on a GPU.
        key: (1, H', S, D).
        value: (1, H', S, D).
        layout: of its pieces.
        scale: of the products; default D ** -0.5.

    Returns:
        (1, H, S, D).

    Source:
        Dao 2023, "FlashAttention-2" (https://arxiv.org/abs/2307.08691). Since its version 2.1 the causal mask of fewer
        queries than keys ends at the bottom right: the last query sees all keys.
    """
    from torch.nn.attention import varlen

    kernel: Any = varlen.varlen_attn
    q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    # PyTorch 2.11 takes grouped heads as they are, 2.12 when it is told so
    told = {"enable_gqa": True} if k.shape[1] != q.shape[1] and _can_be_told(kernel) else {}
    out: Tensor = kernel(
        q.contiguous(),
        _Again.apply(k, layout),
        _Again.apply(v, layout),
        layout.queries,
        layout.keys,
        *layout.longest,
        scale=q.shape[-1] ** -0.5 if scale is None else scale,
        window_size=(-1, 0),  # a tuple, by which it knows the causal mask
        **told,
    )
    return out.transpose(0, 1)[None]


@cache
def _can_be_told(kernel: Any) -> bool:
    return "enable_gqa" in signature(kernel).parameters


class _Again(torch.autograd.Function):
    """Rows of a tensor, those of prompts again and again.

    The gradient of `index_select` is summed by atomic additions in 16 bits: each is rounded, and their order is another
    in each run. A bag of rows is summed in float32, in one order, and rounded once.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: Layout) -> Tensor:
        ctx.layout = layout
        return x.index_select(0, layout.places)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        summed = F.embedding_bag(ctx.layout.uses, grad.flatten(1), ctx.layout.first, mode="sum")
        return summed.unflatten(1, grad.shape[1:]), None


def at_once(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """May `attend_at_once` do it? Shapes as there; the kernel is tried the first time that it could.

    `torch.backends.cuda.enable_flash_sdp(False)` turns it off, as it does flash attention elsewhere. What
    `torch.compile` traces goes without it, as nothing can be tried there.
    """
    if torch.compiler.is_compiling() or not query.shape[2] or key.shape[-1] != value.shape[-1] or not _takes(value):
        return False
    return _agrees(query.shape[1], key.shape[1], value.shape[-1], value.dtype, value.device)


def _takes(x: Tensor) -> bool:
    """Numbers and heads that the kernel is made for."""
    half, width = x.dtype in (torch.bfloat16, torch.float16), x.shape[-1]
    return x.is_cuda and half and width % 8 == 0 and width <= 256 and torch.backends.cuda.flash_sdp_enabled()


@cache
def _agrees(heads: int, kinds: int, width: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Compare the kernel with plain attention in float32, values and gradients, and warn where it will not be used."""
    # whatever is going on around it: gradients off, autocast, or checkpointing, which would count what is saved here
    plain = saved_tensors_hooks(lambda x: x, lambda x: x)
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False), plain:
        try:
            reason = _why_not(heads, kinds, width, dtype, device)
        except torch.OutOfMemoryError:  # says nothing of the kernel
            raise
        except Exception as error:  # no kernel for this GPU, this build, these heads
            reason = f"{type(error).__name__}: {error}"
    if reason:
        warnings.warn(f"attention of packed rows is one call per piece, not one of varlen_attn: {reason}", stacklevel=4)
    return not reason


def _why_not(heads: int, kinds: int, width: int, dtype: torch.dtype, device: torch.device) -> str:
    (sizes, prompts), scale = TRIED, 0.7 * width**-0.5
    generator = torch.Generator().manual_seed(0)
    x, weights = (
        torch.randn(1, count, sum(sizes), width, generator=generator, device="cpu").to(device, dtype)
        for count in (heads + 2 * kinds, heads)
    )
    made = [part.contiguous().requires_grad_() for part in x.split([heads, kinds, kinds], dim=1)]
    ours = attend_at_once(made[0], made[1], made[2], Layout.of(sizes, prompts, device), scale)
    owner = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    seen = (owner == owner[:, None]) | (owner == torch.tensor(prompts)[owner][:, None])
    exact, mask = [part.float() for part in made], seen.tril().to(device)
    settings: Any = {"attn_mask": mask, "scale": scale, "enable_gqa": kinds != heads}
    theirs = F.scaled_dot_product_attention(*exact, **settings)
    found = (ours, *torch.autograd.grad(ours, made, weights))
    right = (theirs, *torch.autograd.grad(theirs, made, weights.float()))
    named = ("values", "gradients of queries", "gradients of keys", "gradients of values")
    for name, one, other in zip(named, found, right, strict=True):
        # position by position: what is wrong in one must not drown in the others
        gap, whole = (torch.linalg.vector_norm(part.detach(), dim=(0, 1, 3)) for part in (one - other, other))
        if not bool((gap <= 0.05 * whole + 0.005 * whole.square().mean().sqrt()).all()):
            return f"its {name} are not those of plain attention"
    return ""
