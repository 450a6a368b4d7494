"""Word and character error rate over batches and processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from seaalign.functional.errors import error_counts, rate_of


class ErrorRate(Metric):
    """Errors over reference units of the corpus: word error rate of lists of words, character error rate of strings.

    An empty hypothesis is all deletions, rate 1, never 0.

    Args:
        kwargs: options of ``torchmetrics.Metric``.

    >>> metric = ErrorRate()
    >>> metric.update([["one", "two"], []], [["one", "too"], ["nine", "ten"]])
    >>> metric.compute().item()  # (1 + 2) / (2 + 2)
    0.75
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    plot_lower_bound = 0.0

    errors: Tensor
    total: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("errors", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> None:
        """Add utterances, each a list of words or a string of characters."""
        errors, total = error_counts(hypotheses, references)
        self.errors += errors
        self.total += total

    def compute(self) -> Tensor:
        """() share, not percent. ValueError where the references held nothing."""
        return rate_of(self.errors, self.total)
