"""From a prosody code to vectors in the space of a language model's embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from seaalign.functional.fsq import fsq_values

_PERIODS = (4, 16, 64, 256)  # frames of the code: rhythm is where things happen, not only in which order


class ProsodyMap(nn.Module):
    """A prosody code of any length as K vectors: K learned queries, each of which begins by looking at its own K-th.

    Args:
        levels: of the FSQ bottleneck that made the ids.
        vectors: K.
        width: D of the embeddings.
        scale: root mean square of a number in them.
        hidden: width inside.

    Example:
        >>> to_vectors = ProsodyMap((5, 5), vectors=3, width=8, scale=0.02)
        >>> to_vectors([torch.tensor([0, 7, 24, 24]), torch.tensor([3])]).shape
        torch.Size([2, 3, 8])
    """

    def __init__(self, levels: Sequence[int], vectors: int, width: int, scale: float, hidden: int = 128) -> None:
        super().__init__()
        self.levels = tuple(levels)
        inputs = len(self.levels) + 2 * len(_PERIODS) + 2
        self.read = nn.Sequential(nn.Conv1d(inputs, hidden, 5, padding=2), nn.GELU(), nn.Conv1d(hidden, hidden, 1))
        self.queries = nn.Parameter(torch.randn(vectors, hidden) * hidden**-0.5)
        self.slots = nn.Parameter(torch.randn(vectors, hidden) * 0.1)
        self.centres = nn.Parameter((torch.arange(vectors) + 0.5) / vectors)
        self.narrow = nn.Parameter(torch.full((vectors,), math.log(2.0 * vectors)))
        self.write = Embedded(hidden, hidden, width, scale)

    def forward(self, codes: Sequence[Tensor]) -> Tensor:
        """Vectors (P, K, D) of P codes, ids (M_p,) each."""
        mask = pad_sequence([torch.ones_like(code, dtype=torch.bool) for code in codes], batch_first=True)
        x = pad_sequence([self._inputs(code) for code in codes], batch_first=True).to(self.queries.dtype)
        heard = self.read(x.transpose(1, 2))  # (P, hidden, M)
        far = (x[:, None, :, -1] - self.centres[:, None]) * self.narrow.exp()[:, None]  # (P, K, M)
        fit = self.queries @ heard * heard.shape[1] ** -0.5 - far.square() / 2
        share = fit.float().masked_fill(~mask[:, None], -torch.inf).softmax(-1).to(heard.dtype)
        pooled: Tensor = self.write(share @ heard.transpose(1, 2) + self.slots)
        return pooled

    def _inputs(self, code: Tensor) -> Tensor:
        """What the bottleneck let through, and where: waves of the place in frames, length, share of the whole."""
        place = torch.arange(len(code), device=code.device, dtype=torch.float32)
        angle = 2 * math.pi * place[:, None] / torch.tensor(_PERIODS, device=code.device)
        length = torch.full_like(place, math.log(len(code)) / 4)
        where = torch.stack([length, (place + 0.5) / len(code)], dim=1)
        return torch.cat([fsq_values(code, self.levels), angle.sin(), angle.cos(), where], dim=1)


class Embedded(nn.Module):
    """Two layers whose outputs are as large as the embeddings beside which they will stand.

    Args:
        inputs: numbers in.
        hidden: numbers between.
        width: D of the embeddings.
        scale: root mean square of a number in them.
    """

    def __init__(self, inputs: int, hidden: int, width: int, scale: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.norm = nn.RMSNorm(width, eps=1e-6)
        nn.init.constant_(self.norm.weight, scale)

    def forward(self, x: Tensor) -> Tensor:
        """Vectors (..., D) of numbers (..., inputs)."""
        normed: Tensor = self.norm(self.layers(x).to(self.norm.weight.dtype))  # under autocast they are of 16 bits
        return normed
