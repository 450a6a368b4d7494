"""Products with the weight of a linear layer, on a CPU by the kernel that is faster there.

PyTorch multiplies float32 by MKL, which leaves half of an AMD processor unused. On one core of an EPYC with AVX-512,
512 positions under a head of 6,563 rows and width 256 run at 90 GFLOP/s by it and at 228 by oneDNN, which comes with
PyTorch too; on an older one without, at 66 and 99.

oneDNN keeps what it prepares for a size, 0.6 MB for each of the last thousand, and batches have ever new sizes. So rows
go in blocks, and what is left is filled up with zeros to one of a few sizes.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

_GAINS = 1 << 22  # multiplications: below, the call itself takes longer than what it saves
_ROWS = 512  # of a block


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear(x, weight, bias)` without a gradient; float32 on a CPU by oneDNN, where PyTorch has it.

    Args:
        x: (..., D).
        weight: (V, D).
        bias: (V,) or None.

    Returns:
        (..., V).

    Example:
        >>> product(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        tensor([[11.,  2.]])
    """
    x, weight, bias = x.detach(), weight.detach(), None if bias is None else bias.detach()
    return multiply(x, weight, bias) if _ours(x, weight, bias) else F.linear(x, weight, bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear(x, weight, bias)` with its gradients; products of some size of float32 on a CPU by oneDNN.

    `torch.compile` takes it as it is, as one operator whose cost it knows.

    Args:
        x: (..., D).
        weight: (V, D).
        bias: (V,) or None.

    Returns:
        (..., V).

    Example:
        >>> weight = torch.ones(1024, 64, requires_grad=True)
        >>> linear(torch.ones(2, 64, 64), weight).sum().backward()
        >>> weight.grad.unique()
        tensor([128.])
    """
    # code that is compiled asks neither size nor whether it works: a question of size would compile it anew on both
    # sides, so the operator itself asks that, and who has it compiled has tried before, as `backbones.linears` does
    compiling = torch.compiler.is_compiling()
    gains = compiling or x.numel() * len(weight) >= _GAINS  # the cheapest question, which most small layers end at
    usual = not gains or torch.is_autocast_enabled(x.device.type) or _transformed() or not _takes(x, weight, bias)
    if not usual and (compiling or works()):
        made: Tensor = torch.ops.seaalign.linear(x, weight, bias)
        return made
    return F.linear(x, weight, bias)


def add_product(total: Tensor, one: Tensor, other: Tensor) -> None:
    """`total += one @ other` in place, (M, N) of (M, K) and (K, N); `total` may be wider than they are."""
    if _ours(one, other.t(), None):
        total += multiply_over_rows(one.t(), other)
    elif total.dtype == one.dtype:
        total.addmm_(one, other)
    else:
        total += one @ other


def _transformed() -> bool:
    """Inside torch.func, as jvp and vmap, of whose rules the operator has none?"""
    asked = getattr(torch._C, "_are_functorch_transforms_active", None)
    return asked is not None and not torch.compiler.is_compiling() and bool(asked())


def _ours(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Can oneDNN be called here and now?"""
    return not torch.compiler.is_compiling() and _takes(x, weight, bias) and works()


def _takes(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """What oneDNN is asked for; all else is the usual product's to do, or to refuse by name."""
    parts = [part for part in (x, weight, bias) if part is not None]
    plain = all(
        type(p) in (Tensor, nn.Parameter) and p.is_cpu and p.dtype == torch.float32 and p.layout == torch.strided
        for p in parts
    )
    fits = weight.dim() == 2 and x.dim() > 0 and x.shape[-1] == weight.shape[1] and x.numel() > 0
    return plain and fits and (bias is None or bias.shape == weight.shape[:1])


def multiply_once(x: Tensor, weight: Any, bias: Tensor | None) -> Tensor:
    """oneDNN's product of float32 on the CPU; `weight` may be in its own order (`laid_out`)."""
    bias = None if bias is None else bias.contiguous()  # it would read on beside the strides, and past the end
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return made


def multiply(x: Tensor, weight: Any, bias: Tensor | None) -> Tensor:
    """The same in blocks of rows, so that few sizes are multiplied."""
    made = x.new_empty(*x.shape[:-1], weight.shape[0])
    rows, into = (part.reshape(-1, part.shape[-1]).split(_ROWS) for part in (x, made))
    for some, there in zip(rows, into, strict=True):
        there.copy_(multiply_once(_filled(some), weight, bias)[: len(some)])  # at once, while it is in the cache
    return made


def multiply_over_rows(one: Tensor, other: Tensor) -> Tensor:
    """`one.t() @ other` so, (M, N) of (R, M) and (R, N): the gradient of a weight is such a product."""
    if one.shape[1] > other.shape[1]:  # the kernel copies what is on the left, so the narrower goes there
        return multiply_over_rows(other, one).t().contiguous()
    parts = zip(one.split(_ROWS), other.split(_ROWS), strict=True)
    made, *rest = (multiply_once(_filled(left).t(), _filled(right).t(), None) for left, right in parts)
    for more in rest:
        made += more
    return made


def even(size: int) -> int:
    """The next number of no more than three binary digits and then zeros: 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, ...

    Example:
        >>> [even(size) for size in (7, 9, 33, 129, 300)]
        [7, 10, 40, 160, 320]
    """
    step = 1 << max(0, size.bit_length() - 3)
    return -(-size // step) * step


def _filled(rows: Tensor) -> Tensor:
    """Rows (N, D) and zeros, (even(N), D)."""
    more = even(len(rows)) - len(rows)
    return F.pad(rows, (0, 0, 0, more)) if more else rows


def laid_out(weight: Tensor, rows: int) -> Tensor:
    """A copy of a weight in the order that suits oneDNN's product with so many rows."""
    copy: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)
    return copy


@lru_cache(maxsize=1)
def works() -> bool:
    """Has this PyTorch these kernels, which are not of its public interface, and do they multiply?"""
    if not torch.backends.mkldnn.is_available():
        return False
    # the answer is kept, so it must not hang on what happens to be in force at the first question
    with torch.device("cpu"), torch.autocast("cpu", enabled=False):
        x, weight, bias = (torch.arange(size, dtype=torch.float32) for size in (12, 20, 5))
        x, weight = x.view(3, 4), weight.view(5, 4)
        try:
            made = [multiply_once(x, some, bias) for some in (weight, laid_out(weight, 3))]
        except (AttributeError, RuntimeError, TypeError):
            return False
        return all(torch.equal(one, F.linear(x, weight, bias)) for one in made)


@torch.library.custom_op("seaalign::linear", mutates_args=(), device_types="cpu")
def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, over_rows: bool = False) -> Tensor:
    """`multiply` as an operator, for autograd and compilers."""
    if over_rows:
        return multiply_over_rows(x.t(), weight.t())
    return multiply(x, weight, bias) if x.numel() * len(weight) >= _GAINS else F.linear(x, weight, bias)


@_linear.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, over_rows: bool = False) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, bool], output: Tensor) -> None:
    (x, weight), wanted = inputs[:2], ctx.needs_input_grad
    ctx.save_for_backward(x if wanted[1] else None, weight if wanted[0] else None)  # a frozen layer keeps no input


def _pull(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    wanted, rows = ctx.needs_input_grad, grad.reshape(-1, grad.shape[-1])
    return (
        torch.ops.seaalign.linear(grad, weight.t(), None) if wanted[0] else None,
        torch.ops.seaalign.linear(rows.t(), x.reshape(-1, x.shape[-1]).t(), None, True) if wanted[1] else None,
        rows.sum(0) if wanted[2] else None,
        None,
    )


_linear.register_autograd(_pull, setup_context=_keep)


@register_flop_formula(torch.ops.seaalign.linear)
def _flops(x: Any, weight: Any, bias: Any, *given: Any, out_shape: Any = None, **named: Any) -> int:
    """Of shapes; without it a compiler that saves memory would take this for the cheapest thing to do again."""
    return 2 * math.prod(x) * int(weight[0])
