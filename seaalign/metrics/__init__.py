"""The statistics of :mod:`seaalign.functional` as torchmetrics: update per batch, compute over batches and processes.

Every state is a sum, so a metric that ran on several processes gives the value of a single one, in any order.
"""

from seaalign.metrics.errors import ErrorRate
from seaalign.metrics.tokens import RepetitionRate, TokenEntropy, TokensPerUnit

__all__ = ["ErrorRate", "RepetitionRate", "TokenEntropy", "TokensPerUnit"]
