"""Initial weights from a generator that is passed, so that a seeded fit repeats and leaves the global one alone."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def draw_weights(module: nn.Module, generator: torch.Generator) -> None:
    """Redraw every weight of a network in place: normal, scaled by fan-in; embeddings unit normal; biases 0, norms 1.

    >>> layer = nn.Linear(4, 2)
    >>> draw_weights(layer, torch.Generator().manual_seed(0))
    >>> layer.bias.tolist()
    [0.0, 0.0]
    """
    for layer in module.modules():
        if isinstance(layer, nn.Embedding):
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
        elif isinstance(layer, (nn.Linear, nn.Conv1d)):
            scale = layer.weight[0].numel() ** -0.5
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * scale)
            if layer.bias is not None:
                layer.bias.zero_()
        elif isinstance(layer, nn.LayerNorm):
            layer.weight.fill_(1.0)
            layer.bias.zero_()
