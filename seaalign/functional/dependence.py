"""How much two sets of vectors depend on each other, without a network: 0 where not at all.

Both are measured within a batch, see dependence of any form, and have a gradient: less of it is an objective.
"""

from __future__ import annotations

import torch
from torch import Tensor

_TINY = 1e-12


def hsic(x: Tensor, y: Tensor, bandwidth: float | None = None) -> Tensor:
    """Hilbert-Schmidt independence criterion with Gaussian kernels (the biased estimate, never below 0).

    Args:
        x: (B, D).
        y: (B, E).
        bandwidth: of both kernels; None = the median distance of each, without a gradient.

    Returns:
        tr(KHLH) / (B - 1)^2 (). It shrinks with 1/B even for independent rows: compare at equal B.

    Raises:
        ValueError: fewer than 2 rows, unequal numbers of rows, or a bandwidth not above 0.

    Source:
        Gretton, Bousquet, Smola, Schoelkopf (2005), "Measuring Statistical Dependence with Hilbert-Schmidt Norms",
        eq. 9.

    Example:
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> hsic(x, x, bandwidth=1.0)  # (1 - exp(-1/2))^2
        tensor(0.1548)
    """
    _check(x, y)
    if bandwidth is not None and not bandwidth > 0:
        raise ValueError(f"bandwidth must be above 0, got {bandwidth}; None takes the median distance")
    kernels = [_centred(torch.exp(-_squared(v) / (2 * _width(v, bandwidth) ** 2))) for v in (x.float(), y.float())]
    return (kernels[0] * kernels[1]).sum() / (len(x) - 1) ** 2


def distance_correlation(x: Tensor, y: Tensor) -> Tensor:
    """Distance correlation: 0 only for independence (in the limit), 1 where y is x moved, turned and scaled.

    Args:
        x: (B, D).
        y: (B, E).

    Returns:
        Between 0 and 1 (); 0 where one side does not vary. Far above 0 for few rows of many dimensions, even if they
        are independent.

    Raises:
        ValueError: fewer than 2 rows, or unequal numbers of rows.

    Source:
        Szekely, Rizzo, Bakirov (2007), "Measuring and testing dependence by correlation of distances", its
        empirical version.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0]])
        >>> distance_correlation(x, 5 - 3 * x), distance_correlation(x, (x - 1).abs())  # the second is 10^(-1/4)
        (tensor(1.), tensor(0.5623))
    """
    _check(x, y)
    a, b = (_centred((_squared(v.float()) + _TINY).sqrt()) for v in (x, y))
    covariance, scale = (a * b).mean(), (a.square().mean() * b.square().mean() + _TINY**2).sqrt()
    return (covariance.clamp(min=0) / (scale + _TINY) + _TINY).sqrt()


def _squared(x: Tensor) -> Tensor:
    return (x[:, None] - x[None]).square().sum(-1)


def _width(x: Tensor, bandwidth: float | None) -> Tensor | float:
    if bandwidth is not None:
        return bandwidth
    with torch.no_grad():
        distances = _squared(x).sqrt()[~torch.eye(len(x), dtype=torch.bool, device=x.device)]
        return distances.median().clamp(min=_TINY**0.5)


def _centred(matrix: Tensor) -> Tensor:
    return matrix - matrix.mean(0, keepdim=True) - matrix.mean(1, keepdim=True) + matrix.mean()


def _check(x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 2:
        raise ValueError(
            f"need two matrices with the same 2 rows or more, got {tuple(x.shape)} and {tuple(y.shape)}: one row tells "
            "nothing of dependence"
        )
