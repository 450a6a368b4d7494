"""Weights of linear layers in the order in which the CPU's kernels read them, while rows are drawn.

A step multiplies a few dozen rows with every weight once. The usual product lays a weight out anew each time, which for
so few rows takes as long as the arithmetic; here it is laid out once a call of `sample`, in a copy that goes with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seaalign.backbones.linears import Linear
from seaalign.functional.products import laid_out, multiply, multiply_once, works

Head = Callable[[], tuple[Tensor, Tensor | None] | None]
_ROWS = 48  # that the order is chosen for; it is good for fewer and for more
_FEW = 64  # rows: zeros beside them cost more than what is kept for so many sizes


class Product:
    """`F.linear` with one weight, from a copy in the order of the kernel; made at the first call that gains by it."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias
        self.copy: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """(..., D) to (..., V)."""
        gains = x.dtype == torch.float32 and x.numel() > x.shape[-1]  # one row is read as fast as memory gives it
        if not gains or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return F.linear(x, self.weight, self.bias)
        if self.copy is None:
            self.copy = laid_out(self.weight, _ROWS)
        few = x.numel() <= _FEW * x.shape[-1]
        return (multiply_once if few else multiply)(x, self.copy, self.bias)


@contextmanager
def reordered(module: nn.Module, head: Head | None = None) -> Iterator[None]:
    """Linear layers of float32 on the CPU multiply by `Product` inside; every other layer stays as it is.

    Weights must not change meanwhile.

    Args:
        module: with the layers.
        head: gives weight (V, D) and bias (V,) of the product that `module.logits` is; None where it is something else.
    """
    layers = [child for child in module.modules() if _takes(child)] if works() else []
    put: list[tuple[nn.Module, str, Product]] = [(at, "forward", Product(at.weight, at.bias)) for at in layers]
    if put and head is not None and (parts := head()) is not None and _reads(parts[0]):
        put.append((module, "logits", Product(*parts)))
    for at, name, product in put:
        vars(at)[name] = product
    try:
        yield
    finally:
        for at, name, _ in put:
            vars(at).pop(name, None)


def _takes(child: Any) -> TypeGuard[nn.Linear]:
    """Plain linear layers: no subclass, no weight that is computed, sharded or quantised, nobody else's `forward`."""
    plain = type(child) in (nn.Linear, Linear) and type(child.weight) is nn.Parameter and "forward" not in vars(child)
    return plain and _reads(child.weight) and not child._forward_pre_hooks


def _reads(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32
