"""Fixed-size features of token rows, for probes: how often tokens occur, which follow which, how long, how varied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves


def token_features(rows: Sequence[Tensor], most: int = 128) -> Tensor:
    """Rows of token ids, of any lengths, as features (B, 2 x most + 3).

    Square roots of the shares of tokens and of pairs of neighbours (which makes rare and frequent ones comparable), the
    logarithm of the length, and the shares of frames that repeat the one before and of different tokens. A column holds
    one of the `most` most frequent tokens, and of the rarer ones every `most`-th with it. With several codebooks a
    token is a pair (codebook, id), and pairs of neighbours are formed within a codebook.

    Args:
        rows: ids (T,) or (T, K) each; T may be 0.
        most: columns for tokens, and for pairs.

    Raises:
        ValueError: no rows.

    Example:
        >>> token_features([torch.tensor([7, 7, 7, 2])], most=2)[0, :2].square()  # three quarters and one
        tensor([0.7500, 0.2500])
    """
    if not rows:
        raise ValueError("no token rows: there is nothing to make features of")
    books = [row[:, None] if row.dim() == 1 else row for row in rows]
    width = max((int(row.max()) for row in books if row.numel()), default=0) + 1
    tokens = [(row + width * torch.arange(row.shape[1])).flatten() for row in books]
    follow = [(row[:-1] * width + row[1:] + width**2 * torch.arange(row.shape[1])).flatten() for row in books]
    size = torch.tensor([len(row) for row in books])
    repeats = torch.tensor([float((row[1:] == row[:-1]).float().mean()) if len(row) > 1 else 0.0 for row in books])
    varied = torch.tensor([len(row.unique()) / max(len(row), 1) for row in tokens])
    lengths = torch.stack([size.float().log1p(), repeats, varied], 1)
    return torch.cat([_shares(tokens, most), _shares(follow, most), lengths], 1)


def _shares(rows: Sequence[Tensor], most: int) -> Tensor:
    """Square roots of shares (B, most); the column of an id is its rank by frequency, modulo `most`."""
    ids, place, counts = torch.cat([*rows]).unique(return_inverse=True, return_counts=True)
    rank = torch.empty_like(counts)
    rank[counts.argsort(descending=True, stable=True)] = torch.arange(len(counts))
    owner = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(row) for row in rows]))
    table = torch.zeros(len(rows), most).index_put_((owner, rank[place] % most), torch.ones(()), accumulate=True)
    return (table / table.sum(1, keepdim=True).clamp(min=1)).sqrt()


def timbre_features(timbres: Sequence[Any]) -> Tensor:
    """Timbres as features (B, D): their number tensors, flattened; those that vary in length by mean and spread.

    Raises:
        ValueError: the timbres are not alike in structure, or hold no numbers.

    Example:
        >>> timbre_features([{"x": torch.tensor([1.0, 3.0])}, {"x": torch.tensor([2.0])}]).tolist()
        [[2.0, 1.0], [2.0, 0.0]]
    """
    parts = [[leaf.detach().cpu().float() for leaf in tree_leaves(t) if isinstance(leaf, Tensor)] for t in timbres]
    if len({len(row) for row in parts}) != 1 or not parts[0]:
        raise ValueError(
            "timbres must be tensors, or nests of them, and alike: nothing can be read from them as they are"
        )
    columns = []
    for leaves in zip(*parts, strict=True):
        if len({leaf.shape for leaf in leaves}) == 1:
            columns.append(torch.stack([leaf.flatten() for leaf in leaves]))
        else:  # frames of a prompt recording: (T, D), T differs
            flat = [leaf.reshape(-1, leaf.shape[-1]) if leaf.dim() > 1 else leaf.reshape(-1, 1) for leaf in leaves]
            columns.append(torch.stack([torch.cat([x.mean(0), x.std(0, correction=0)]) for x in flat]))
    return torch.cat(columns, 1)
