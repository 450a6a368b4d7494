"""Linear layers of a model that is scored or trained on a CPU, by the kernel that is faster there."""

from __future__ import annotations

import copyreg
from typing import Any

import torch
from torch import Tensor, nn

from seaalign.functional.products import linear, works


class Linear(nn.Linear):
    """`nn.Linear` by `functional.products.linear`.

    A copy of it, and what comes out of a pickle, is the plain layer.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(..., D) to (..., V)."""
        return linear(input, self.weight, self.bias)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return copyreg._reconstructor, (nn.Linear, object, None), vars(self).copy()  # type: ignore[attr-defined]


def quicken(module: nn.Module) -> None:
    """Make `Linear` of the plain linear layers of a module on a CPU.

    It is for good, as gradient checkpointing calls a layer again in the backward pass, when whoever scored is gone, and
    as compiled code wants the layer that it was compiled for. Weights and their names stay, and so do layers of
    subclasses and layers with a `forward` of somebody's own.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> quicken(layer)
        >>> layer, isinstance(layer, Linear)
        (Linear(in_features=3, out_features=2, bias=True), True)
    """
    if torch.compiler.is_compiling() or not works():
        return
    for child in module.modules():
        if type(child) is nn.Linear and child.weight.device.type == "cpu" and "forward" not in vars(child):
            child.__class__ = Linear
