"""Token statistics over batches and processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from seaalign.functional.entropy import Correction, count_entropy
from seaalign.functional.repetition import repetition_hits
from seaalign.functional.tokens import token_counts, tokens_per_unit
from seaalign.metrics.rows import Rows, as_row, as_rows


class TokenEntropy(Metric):
    """Entropy of the code frequencies, bits (H_p).

    Higher is better only at equal WER: a model that babbles has a high entropy too. The state ``counts`` (V,) may be
    passed to :func:`seaalign.functional.entropy_at` for a comparison at equal token counts.

    Args:
        vocab_size: V, number of codes.
        correction: see :func:`seaalign.functional.count_entropy`.
        kwargs: options of ``torchmetrics.Metric``.

    Source: Geng et al. 2026, eq. 3.

    >>> metric = TokenEntropy(vocab_size=4)
    >>> metric.update(torch.tensor([[0, 1], [2, 2]]))
    >>> metric.compute().item()
    1.5
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0

    counts: Tensor

    def __init__(self, vocab_size: int, correction: Correction | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
        self.correction: Correction | None = correction
        self.add_state("counts", torch.zeros(vocab_size, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, tokens: Rows, lengths: Rows | None = None) -> None:
        """Add utterances: a padded (B, T) tensor with lengths (B,), or a list of (T,) tensors."""
        counts = token_counts(*_taken(tokens, lengths), vocab_size=self.vocab_size)
        self.counts += counts.to(self.counts.device)

    def compute(self) -> Tensor:
        """() bits, fp32. ValueError where no token was added."""
        return count_entropy(self.counts, self.correction).to(self.counts.device, torch.float32)


class RepetitionRate(Metric):
    """Share of positions that begin a run of k + 1 equal tokens.

    Args:
        k: >= 1; 4 is 200 ms at 25 Hz, see :func:`seaalign.functional.repetition_span`.
        pooled: ``False``: mean over the utterances longer than k; ``True``: over all positions.
        kwargs: options of ``torchmetrics.Metric``.

    Source: Geng et al. 2026, eq. 25.

    >>> metric = RepetitionRate()
    >>> metric.update([torch.tensor([7, 7, 7, 7, 7, 1]), torch.tensor([1, 2, 3, 4, 5])])
    >>> metric.compute().item()  # (1/2 + 0) / 2
    0.25
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    hits: Tensor
    positions: Tensor
    rates: Tensor
    utterances: Tensor

    def __init__(self, k: int = 4, pooled: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.k = k
        self.pooled = pooled
        for name in ("hits", "positions", "utterances"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("rates", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, tokens: Rows, lengths: Rows | None = None) -> None:
        """Add utterances: a padded (B, T) tensor with lengths (B,), or a list of (T,) tensors."""
        hits, positions = (part.to(self.hits.device) for part in repetition_hits(*_taken(tokens, lengths), self.k))
        self.hits += hits.sum()
        self.positions += positions.sum()
        self.utterances += (positions > 0).sum()
        self.rates += (hits / positions.clamp(min=1)).sum()

    def compute(self) -> Tensor:
        """The share of positions.

        Returns:
            () share between 0 and 1; NaN where every utterance had k tokens or fewer (then ``utterances`` is 0), since
            0 would be the best rate there is.
        """
        return self.hits / self.positions if self.pooled else self.rates / self.utterances


class TokensPerUnit(Metric):
    """Speech tokens per text unit (word, syllable or character): all tokens over all units.

    Neither more nor less is better; compare with real speech.

    Args:
        kwargs: options of ``torchmetrics.Metric``.

    >>> metric = TokensPerUnit()
    >>> metric.update(torch.tensor([20, 30]), torch.tensor([2, 3]))
    >>> metric.compute().item()
    10.0
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    plot_lower_bound = 0.0

    tokens: Tensor
    units: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("tokens", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("units", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, lengths: Rows, units: Rows) -> None:
        """Add utterances by their speech tokens (B,) and text units (B,), both integers."""
        lengths, units = as_row(lengths, "lengths"), as_row(units, "units")
        if lengths.shape != units.shape:
            raise ValueError(f"lengths {tuple(lengths.shape)} and units {tuple(units.shape)} must have one shape.")
        self.tokens += lengths.sum().to(self.tokens.device)
        self.units += units.sum().to(self.units.device)

    def compute(self) -> Tensor:
        """() tokens per unit. ValueError where no unit was added."""
        return tokens_per_unit(self.tokens, self.units)


def _taken(tokens: Rows, lengths: Rows | None) -> tuple[Any, Tensor | None]:
    return as_rows(tokens, "tokens"), None if lengths is None else as_row(lengths, "lengths")
