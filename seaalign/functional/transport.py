"""Optimal transport between Gaussians: the linear map that turns one spread into another and moves least."""

from __future__ import annotations

import torch
from torch import Tensor


def monge_map(source: Tensor, target: Tensor) -> Tensor:
    """The matrix A with A source A^T = target that moves points least: x -> A x, means apart.

    A = source^-1/2 (source^1/2 target source^1/2)^1/2 source^-1/2, symmetric. Of two Gaussians, A (x - mean of the
    one) + mean of the other carries the one into the other; `monge_map(target, source)` is the way back.

    Args:
        source: covariance (D, D), symmetric, positive definite.
        target: the same.

    Raises:
        ValueError: not two square matrices of one size, or a spread of zero or less in some direction.

    Source:
        Dowson, Landau (1982), "The Fréchet distance between multivariate normal distributions"; Peyré, Cuturi (2019),
        "Computational Optimal Transport", remark 2.31.

    Example:
        >>> monge_map(torch.diag(torch.tensor([4.0, 1.0])), torch.eye(2))  # half as wide along the first axis
        tensor([[0.5000, 0.0000],
                [0.0000, 1.0000]])
    """
    if source.dim() != 2 or source.shape != target.shape or source.shape[0] != source.shape[1]:
        raise ValueError(f"covariances must be two (D, D), got {tuple(source.shape)} and {tuple(target.shape)}")
    root, inverse = _power(source, 0.5, "source"), _power(source, -0.5, "source")
    return inverse @ _power(root @ target @ root, 0.5, "target") @ inverse


def _power(matrix: Tensor, power: float, name: str) -> Tensor:
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    if not bool((values > 0).all()):
        raise ValueError(
            f"{name} has a spread of {float(values.min()):g} in some direction: drop what never varies, or add a "
            "little of the identity"
        )
    return (vectors * values.pow(power)) @ vectors.mT
