"""Conditional flow matching from tokens and timbre to mel, F0 and voicing.

The network predicts the clean target x1 from a noisy one x_t = (1 - t) x_0 + t x1, x_0 ~ N(0, temperature^2); the
velocity of the flow is then (x1_hat - x_t) / (1 - t). With one Euler step this is a plain regressor, and further steps
refine it, so training costs no more than a regressor's.

Source: Lipman et al., Flow Matching for Generative Modeling (2023), eq. 20-23 (optimal-transport path).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Residual dilated convolution over time; positions beyond the mask stay zero."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        """Map (B, N, width) to the same shape; mask (B, N, 1)."""
        inner = self.conv((self.norm(h) * mask).transpose(1, 2)).transpose(1, 2)
        return (h + self.out(F.gelu(inner))) * mask


class Flow(nn.Module):
    """x1-predicting network.

    Args:
        contents: Content codes, the pause included.
        prosodies: Prosody classes, the pause included.
        timbre: Numbers in a timbre vector.
        channels: Numbers predicted per token.
        width: Channels of the hidden layers.
    """

    def __init__(self, contents: int, prosodies: int, timbre: int, channels: int, width: int = 112) -> None:
        super().__init__()
        self.channels = channels
        self.content = nn.Embedding(contents, width)
        self.prosody = nn.Embedding(prosodies, width)
        self.timbre = nn.Linear(timbre, width)
        self.noisy = nn.Linear(channels + 1, width)
        self.blocks = nn.ModuleList([Block(width, dilation) for dilation in (1, 2, 4, 1, 2)])
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, channels))

    def forward(self, x_t: Tensor, t: Tensor, content: Tensor, prosody: Tensor, timbre: Tensor, mask: Tensor) -> Tensor:
        """Clean target (B, N, channels) from a noisy one of that shape at time t (B,); mask (B, N) is 1 on tokens."""
        keep = mask[..., None]
        time = t[:, None, None].expand(*x_t.shape[:2], 1)
        h = self.noisy(torch.cat([x_t, time], dim=-1)) + self.content(content) + self.prosody(prosody)
        h = (h + self.timbre(timbre)[:, None]) * keep
        for block in self.blocks:
            h = block(h, keep)
        return self.head(h)

    def loss(self, x1: Tensor, weight: Tensor, noise: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        """Mean absolute error of the predicted target where `weight` (B, N, channels) is positive.

        Args:
            x1: Clean target (B, N, channels).
            weight: Weight of each number.
            noise: x_0 (B, N, channels), already scaled.
            t: Time in [0, 1) (B,).
            condition: content, prosody, timbre, mask, as in `forward`.
        """
        mix = t[:, None, None]
        error = (self((1 - mix) * noise + mix * x1, t, *condition) - x1).abs()
        return (error * weight).sum() / weight.sum().clamp(min=1)

    @torch.no_grad()
    def integrate(self, noise: Tensor, steps: int, *condition: Tensor) -> Tensor:
        """Follow the flow from x_0 (B, N, channels) to x1 in `steps` Euler steps."""
        x = noise
        for i in range(steps):
            t = torch.full((len(x),), i / steps)
            clean = self(x, t, *condition)
            # velocity (clean - x) / (1 - t), for a time 1 / steps
            x = x + (clean - x) / (steps - i)
        return x
