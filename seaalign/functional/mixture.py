"""Entropy of a mixture of real and synthetic speech, and the share at which it peaks.

``p_alpha = (1 - alpha) p_real + alpha p_syn`` and ``H(alpha) = -sum_v p_alpha log2 p_alpha``, strictly concave in alpha
wherever the two differ. Its slope is

    dH/dalpha = -sum_v (p_syn - p_real) (log2 p_alpha + 1/ln 2) = sum_v (p_real - p_syn) log2 p_alpha

(the constant drops out because both sum to one). With ``log 1/p_alpha``, as eq. 22 of the paper writes it, the factor
in front must be ``(p_syn - p_real)``; with ``(p_real - p_syn)`` the sign would be wrong. Finite differences in the
tests confirm the form used here.

Distributions are given as (V,) floats that sum to one, or as (V,) integer counts, which are normalised here. The dtype
tells which: floats that do not sum to one are an error, not counts. All results are float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Slopes inside (0, 1) stay far below this many bits (-log2 of the smallest float64 is 1074), so clipping to it only
# replaces the infinite slopes at the ends, which a root finder cannot use.
_STEEPEST = 4096.0


def mixture_entropy(p_real: Tensor, p_syn: Tensor, alpha: float | Tensor) -> Tensor:
    """Entropy of the mixture with synthetic share alpha, bits.

    Args:
        p_real: (V,) probabilities, or integer counts, of the codes in real speech.
        p_syn: (V,) the same for synthetic speech.
        alpha: share of synthetic speech, 0 to 1; a number, or a tensor (A,) for a curve.

    Returns:
        () or (A,) bits, float64.

    Raises:
        ValueError: for distributions of different sizes, negative or not summing to one, or alpha outside [0, 1].

    Source: Geng et al. 2026, eq. 4-5.

    >>> mixture_entropy(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 0.5).item()
    1.0
    """
    real, synthetic = _distributions(p_real, p_syn)
    mixture = _mix(real, synthetic, alpha)
    return -torch.special.xlogy(mixture, mixture).sum(-1) / math.log(2.0)


def mixture_entropy_slope(p_real: Tensor, p_syn: Tensor, alpha: float | Tensor) -> Tensor:
    """Derivative of :func:`mixture_entropy` with respect to alpha, bits.

    Args:
        p_real: (V,) probabilities, or integer counts, of the codes in real speech.
        p_syn: (V,) the same for synthetic speech.
        alpha: share of synthetic speech, 0 to 1; a number or a tensor (A,).

    Returns:
        () or (A,) bits per unit of alpha, float64. ``inf`` at alpha = 0 where synthetic speech has codes that real
        speech lacks, ``-inf`` at alpha = 1 in the opposite case.

    Raises:
        ValueError: see :func:`mixture_entropy`.

    Source: Geng et al. 2026, eq. 22; the sign is derived in the module's docstring.

    >>> real, synthetic = torch.tensor([0.5, 0.5]), torch.tensor([0.75, 0.25])
    >>> round(mixture_entropy_slope(real, synthetic, 1.0).item(), 6)  # -1/4 log2(3/4) + 1/4 log2(1/4) = -1/4 log2 3
    -0.396241
    """
    real, synthetic = _distributions(p_real, p_syn)
    mixture = _mix(real, synthetic, alpha)
    return torch.special.xlogy(real - synthetic, mixture).sum(-1) / math.log(2.0)


def critical_ratio(p_real: Tensor, p_syn: Tensor) -> float:
    """The synthetic share alpha* at which the mixture is most diverse; beyond it erosion begins.

    Args:
        p_real: (V,) probabilities, or integer counts, of the codes in real speech.
        p_syn: (V,) the same for synthetic speech.

    Returns:
        alpha* in [0, 1], where the entropy of the mixture is largest: 0 if it only falls with alpha, 1 if it only
        rises. Where it does not change at all (equal distributions) every share is as good, and the answer is 1: no
        amount of synthetic speech erodes anything. Pass it to :func:`crossover_weights` as ``critical`` if below 1.

    Raises:
        ValueError: see :func:`mixture_entropy`.

    Source: Geng et al. 2026, App. B: the root of eq. 22.

    >>> real, synthetic = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    >>> round(critical_ratio(real, synthetic), 9)  # disjoint: 2^0 / (2^1 + 2^0)
    0.333333333
    """
    # Imported here, because most users of this package never need SciPy.
    from scipy.optimize import brentq

    real, synthetic = _distributions(p_real, p_syn)
    difference = real - synthetic

    def slope(alpha: float) -> float:
        value = torch.special.xlogy(difference, _mix(real, synthetic, alpha)).sum()
        return min(max(float(value), -_STEEPEST), _STEEPEST)

    # The slope only falls (H is concave), so its signs at the ends decide whether a root lies between.
    if slope(1.0) >= 0.0:
        return 1.0
    if slope(0.0) <= 0.0:
        return 0.0
    return float(brentq(slope, 0.0, 1.0, xtol=1e-12))


def _mix(real: Tensor, synthetic: Tensor, alpha: float | Tensor) -> Tensor:
    share = torch.as_tensor(alpha, dtype=torch.float64, device=real.device)
    if not bool(((share >= 0.0) & (share <= 1.0)).all()):
        raise ValueError(f"alpha must be a share between 0 and 1, got {alpha}.")
    share = share[..., None]
    return (1.0 - share) * real + share * synthetic


def _distributions(p_real: Tensor, p_syn: Tensor) -> tuple[Tensor, Tensor]:
    if p_real.dim() != 1 or p_real.shape != p_syn.shape:
        raise ValueError(f"p_real {tuple(p_real.shape)} and p_syn {tuple(p_syn.shape)} must both be (V,).")
    return _probabilities(p_real, "p_real"), _probabilities(p_syn, "p_syn")


def _probabilities(values: Tensor, name: str) -> Tensor:
    p = values.detach().double()
    total = float(p.sum())
    if not bool(((p >= 0.0) & torch.isfinite(p)).all()) or total == 0.0:
        raise ValueError(f"{name} must be finite, non-negative and not all zero.")
    # 1e-4 is the rounding that 152,000 fp32 probabilities may have collected.
    if values.is_floating_point() and abs(total - 1.0) > 1e-4:
        raise ValueError(f"{name} sums to {total}, not 1: divide by the sum, or pass integer counts.")
    return p / total
