"""A slow kernel in the place of `varlen_attn`, by its documentation, which insists on what the real one asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen as torch_varlen

from seaalign.backbones import varlen


def slow_kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool = False,
) -> Tensor:
    """Sequence by sequence and head by head; the causal mask ends at the bottom right."""
    assert window_size == (-1, 0) and isinstance(window_size, tuple)
    assert all(x.is_contiguous() and x.dim() == 3 for x in (query, key, value))
    assert enable_gqa == (query.shape[1] != key.shape[1])
    exact, parts = torch.promote_types(query.dtype, torch.float32), []
    for x, ends, most in ((query, cu_seq_q, max_q), (key, cu_seq_k, max_k), (value, cu_seq_k, max_k)):
        sizes = ends.diff().tolist()
        assert ends.dtype == torch.int32 and ends[0] == 0 and ends[-1] == len(x) and max(sizes) == most
        assert min(sizes) > 0  # kernels have been known to fail on sequences of nothing
        parts.append(x.split(sizes))
    out = []
    for q, k, v in zip(*parts, strict=True):
        heads = []
        for h in range(q.shape[1]):
            at = h * k.shape[1] // q.shape[1]
            asked, seen, heard = (x.to(exact) for x in (q[:, h], k[:, at], v[:, at]))
            last = torch.arange(len(q))[:, None] + len(k) - len(q)
            scores = (asked @ seen.T * scale).masked_fill(torch.arange(len(k)) > last, -torch.inf)
            heads.append(scores.softmax(-1) @ heard)
        out.append(torch.stack(heads, 1))
    return torch.cat(out).to(query.dtype)


@contextmanager
def in_its_place(
    kernel: Callable[..., Any] = slow_kernel, signed: Callable[..., Any] = slow_kernel
) -> Iterator[list[int]]:
    """`kernel`, with the signature of `signed`, as if this were a GPU; yields the sequences of each of its calls."""
    calls: list[int] = []

    @wraps(signed)
    def counting(*args: Any, **named: Any) -> Any:
        calls.append(len(args[3]) - 1)
        return kernel(*args, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_varlen, "varlen_attn", counting)
        patch.setattr(varlen, "_takes", lambda x: True)
        varlen._agrees.cache_clear()
        yield calls
    varlen._agrees.cache_clear()
