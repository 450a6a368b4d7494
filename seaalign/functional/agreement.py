"""How far people who rated the same things agree, beyond what chance gives."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Level = Literal["nominal", "ordinal", "interval"]


def krippendorff_alpha(ratings: Tensor, level: Level = "ordinal") -> float:
    """Krippendorff's alpha: 1 = all agree, 0 = as by chance, below 0 = they contradict each other.

    Args:
        ratings: (U, R) what each rater said of each unit; NaN where a rater did not hear it. Units that fewer than two
            raters heard say nothing about agreement and are left out.
        level: what a difference between two values means: "nominal" (all the same), "ordinal" (how many ratings lie
            between them), "interval" (their distance squared).

    Returns:
        Alpha; NaN where no two ratings of a unit exist or all ratings are one value, which leaves nothing to agree on.

    Raises:
        ValueError: not (U, R), or another level.

    Source: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", University of Pennsylvania.

    Example:
        >>> krippendorff_alpha(torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [3.0, float("nan")]]))
        1.0
    """
    if ratings.dim() != 2:
        raise ValueError(f"ratings must be (units, raters), got shape {tuple(ratings.shape)}")
    if level not in ("nominal", "ordinal", "interval"):
        raise ValueError(f"level must be 'nominal', 'ordinal' or 'interval', got {level!r}")
    ratings = ratings.double()
    ratings = ratings[(~ratings.isnan()).sum(1) >= 2]
    values = ratings[~ratings.isnan()].unique()
    if len(values) < 2:
        return float("nan")
    counts = (ratings[:, :, None] == values).sum(1).double()  # (U, V): NaN equals nothing
    heard = counts.sum(1, keepdim=True)
    together = (counts.T @ (counts / (heard - 1))) - torch.diag((counts / (heard - 1)).sum(0))
    total = together.sum(1)
    apart = _distance(values, total, level)
    expected = (torch.outer(total, total) * apart).sum() / (total.sum() - 1)
    return float(1 - (together * apart).sum() / expected)


def _distance(values: Tensor, total: Tensor, level: Level) -> Tensor:
    if level == "nominal":
        return (values[:, None] != values).double()
    # ordinal: from the middle of one value's ratings to the middle of the other's
    place = values if level == "interval" else total.cumsum(0) - total / 2
    return (place[:, None] - place).square()
