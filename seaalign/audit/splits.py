"""Which rows may teach a probe and which may examine it: rows that share a text or an utterance stay on one side."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor


def together(*keys: Sequence[Hashable]) -> list[int]:
    """Groups of rows that share at least one key, through any chain of rows.

    Args:
        keys: one or several keys per row, (N,) each: utterances, texts, ...

    Returns:
        The number of each row's group (N,), in the order of first appearance.

    Raises:
        ValueError: the keys are of different lengths.

    Example:
        >>> together(["u1", "u1", "u2", "u3"], ["hello", "bye", "bye", "ok"])  # u1 and u2 share "bye"
        [0, 0, 0, 1]
    """
    if len({len(key) for key in keys}) != 1:
        raise ValueError(f"each key needs one value per row, got lengths {[len(key) for key in keys]}")
    parent = list(range(len(keys[0])))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for key in keys:
        first: dict[Hashable, int] = {}
        for i, value in enumerate(key):
            parent[root(i)] = root(first.setdefault(value, i))
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(i), len(numbers)) for i in range(len(parent))]


def group_folds(groups: Tensor, count: int, seed: int, labels: Tensor | None = None) -> Tensor:
    """The fold of each row (N,), 0..count-1: groups stay whole, labels are spread evenly.

    Args:
        groups: number of each row's group (N,).
        count: folds; fewer where there are fewer groups.
        seed: of the order in which groups are dealt.
        labels: class of each row (N,), 0..C-1.

    Raises:
        ValueError: all rows are of one group, so that nothing could be held out.

    Example:
        >>> group_folds(torch.tensor([0, 0, 1, 1]), 5, seed=0).unique(return_counts=True)[1].tolist()
        [2, 2]
    """
    _, groups = groups.unique(return_inverse=True)
    total = int(groups.max()) + 1 if len(groups) else 0
    if total < 2:
        raise ValueError(
            f"{len(groups)} rows of {total} group(s): a probe needs two texts, one to learn from and one to "
            "be examined on"
        )
    count = min(count, total)
    labels = torch.zeros_like(groups) if labels is None else labels
    held = torch.zeros(total, int(labels.max()) + 1).index_put_((groups, labels), torch.ones(()), accumulate=True)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    order = order[
        held[order].sum(1).argsort(descending=True, stable=True)
    ]  # the large ones first: they fit badly later
    folds, full = torch.zeros(total, dtype=torch.long), torch.zeros(count, held.shape[1])
    for group in order.tolist():
        # where its classes are rarest, and of those folds the emptiest
        crowd = full @ held[group] + full.sum(1) / (len(groups) + 1)
        folds[group] = fold = int(crowd.argmin())
        full[fold] += held[group]
    return folds[groups]
