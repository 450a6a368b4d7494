"""Probes that learn: ridge regression in closed form, and a small network. Neither touches global random state."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from seaalign.audit.splits import group_folds

Reader = Callable[[Tensor], Tensor]
"""Features (N, D) in, predictions (N, K) out."""

_PENALTIES = tuple(10.0**power for power in range(-3, 3))  # per row, as features have variance 1
_INNER = 3
_HIDDEN, _STEPS, _LOOK, _LR, _DECAY = 32, 150, 10, 0.01, 0.01


def standardiser(features: Tensor) -> Reader:
    """A function that shifts and scales columns as they are in these rows (N, D); constant ones become 0."""
    mean, std = features.mean(0), features.std(0, correction=0)
    scale = torch.where(std > 1e-9, 1 / std.clamp(min=1e-9), 0.0)
    return lambda rows: (rows - mean) * scale


def ridge(features: Tensor, targets: Tensor) -> Callable[[Tensor, float], Tensor]:
    """Linear least squares with an intercept, for any penalty: it adds penalty x rows x the squared weights.

    Args:
        features: (N, D).
        targets: (N, K).

    Returns:
        A function from rows (M, D) and a penalty (0 or more) to predictions (M, K).

    Source: Hoerl & Kennard 1970; one eigendecomposition, of whichever of D and N is smaller, serves all penalties.

    Example:
        >>> line = ridge(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]]))
        >>> line(torch.tensor([[1.0]]), 0.0).item(), line(torch.tensor([[2.0]]), 1.0).item()  # half the slope
        (3.0, 4.0)
    """
    middle, mean = features.mean(0), targets.mean(0)
    x, y = features - middle, targets - mean
    wide = x.shape[1] > x.shape[0]
    values, vectors = torch.linalg.eigh(x @ x.T if wide else x.T @ x)
    right = vectors.T @ (y if wide else x.T @ y)
    least = float(values[-1].clamp(min=0)) * 1e-12  # directions without variance but for rounding

    def predict(rows: Tensor, penalty: float) -> Tensor:
        left = (rows - middle) @ (x.T @ vectors if wide else vectors)
        weights = torch.where(values > least, 1 / (values.clamp(min=1e-30) + penalty * len(x)), 0.0)
        return left @ (weights[:, None] * right) + mean

    return predict


def linear(features: Tensor, targets: Tensor, groups: Tensor, labels: Tensor | None, seed: int) -> Reader:
    """Ridge regression whose penalty is the one that predicts held-out groups of these rows best."""
    errors = torch.zeros(len(_PENALTIES), dtype=targets.dtype)
    folds = group_folds(groups, _INNER, seed, labels)
    for fold in folds.unique().tolist():
        out = folds == fold
        scale = standardiser(features[~out])
        fitted = ridge(scale(features[~out]), targets[~out])
        errors += torch.stack([(fitted(scale(features[out]), p) - targets[out]).square().sum() for p in _PENALTIES])
    scale = standardiser(features)
    fitted, penalty = ridge(scale(features), targets), _PENALTIES[int(errors.argmin())]
    return lambda rows: fitted(scale(rows), penalty)


def mlp(features: Tensor, targets: Tensor, groups: Tensor, labels: Tensor | None, seed: int) -> Reader:
    """One hidden layer of 32 units, stopped where held-out groups of these rows are predicted best.

    Labels are learned with cross-entropy, values with squared error.
    """
    out = group_folds(groups, _INNER, seed, labels) == 0
    scale, centre = standardiser(features[~out]), targets[~out].mean(0)
    spread = targets[~out].std(0, correction=0).clamp(min=1e-9) if labels is None else torch.ones(())
    weights = _network(features.shape[1], targets.shape[1], seed, features.dtype)

    def apply(rows: Tensor, w: Sequence[Tensor]) -> Tensor:
        return torch.nn.functional.gelu(scale(rows) @ w[0] + w[1]) @ w[2] + w[3]

    def error(rows: Tensor, w: Sequence[Tensor]) -> Tensor:
        said = apply(features[rows], w)
        if labels is not None:
            return torch.nn.functional.cross_entropy(said, labels[rows])
        return (said - (targets[rows] - centre) / spread).square().mean()

    with torch.enable_grad():
        best = _train(lambda w: error(~out, w), lambda w: float(error(out, w).detach()), weights)
    if labels is not None:
        return lambda rows: apply(rows, best)
    return lambda rows: apply(rows, best) * spread + centre


def _network(inputs: int, outputs: int, seed: int, dtype: torch.dtype) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    first = torch.randn(inputs, _HIDDEN, generator=g, dtype=dtype) / inputs**0.5
    second = torch.randn(_HIDDEN, outputs, generator=g, dtype=dtype) * 0.01  # at the start every answer is the mean
    return [first, torch.zeros(_HIDDEN, dtype=dtype), second, torch.zeros(outputs, dtype=dtype)]


def _train(
    loss: Callable[[list[Tensor]], Tensor], look: Callable[[list[Tensor]], float], weights: list[Tensor]
) -> list[Tensor]:
    """The weights at the step where `look` was lowest."""
    leaves = [w.requires_grad_() for w in weights]
    optimizer = torch.optim.AdamW(leaves, lr=_LR, weight_decay=_DECAY)
    best, lowest = [w.detach().clone() for w in leaves], look(leaves)
    for step in range(1, _STEPS + 1):
        optimizer.zero_grad()
        loss(leaves).backward()
        optimizer.step()
        if step % _LOOK == 0 and (now := look(leaves)) < lowest:
            best, lowest = [w.detach().clone() for w in leaves], now
    return best
