"""Products with the weight of a linear layer, on a CPU by the kernel that is faster there.

PyTorch multiplies float32 by MKL. On an AMD EPYC, 512 positions under a head of 6,563 rows and width 256 run at 66
GFLOP/s by it and at 99 by oneDNN, which comes with PyTorch too.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


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
    ours = not torch.compiler.is_compiling() and _takes(x, weight, bias) and works()
    return multiply(x, weight, bias) if ours else F.linear(x, weight, bias)


def _takes(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """What oneDNN is asked for; all else is the usual product's to do, or to refuse by name."""
    parts = [part for part in (x, weight, bias) if part is not None]
    plain = all(
        type(p) is Tensor and p.is_cpu and p.dtype == torch.float32 and p.layout == torch.strided for p in parts
    )
    fits = weight.dim() == 2 and x.dim() > 0 and x.shape[-1] == weight.shape[1] and x.numel() > 0
    return plain and fits and (bias is None or bias.shape == weight.shape[:1])


def multiply(x: Tensor, weight: Any, bias: Tensor | None) -> Tensor:
    """oneDNN's product of float32 on the CPU; `weight` may be in its own order (`laid_out`)."""
    bias = None if bias is None else bias.contiguous()  # it would read on beside the strides, and past the end
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return made


def laid_out(weight: Tensor, rows: int) -> Tensor:
    """A copy of a weight in the order that suits oneDNN's product with so many rows."""
    copy: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)
    return copy


@lru_cache(maxsize=1)
def works() -> bool:
    """Has this PyTorch these kernels, which are not of its public interface, and do they multiply?"""
    if not torch.backends.mkldnn.is_available():
        return False
    x, weight, bias = torch.arange(12.0).view(3, 4), torch.arange(20.0).view(5, 4), torch.arange(5.0)
    try:
        made = [multiply(x, some, bias) for some in (weight, laid_out(weight, 3))]
    except (AttributeError, RuntimeError, TypeError):
        return False
    return all(torch.equal(one, F.linear(x, weight, bias)) for one in made)
