"""The statistics of :mod:`seaalign.functional` as torchmetrics: update per batch, compute over batches and processes.

Every state is a sum, so a metric that ran on several processes gives the value of a single one, in any order.
"""

from seaalign.metrics.errors import ErrorRate
from seaalign.metrics.prosody import F0RMSE, EnergyStd, F0Correlation, F0Range, F0Std
from seaalign.metrics.tokens import RepetitionRate, TokenEntropy, TokensPerUnit

__all__ = [
    "F0RMSE",
    "EnergyStd",
    "ErrorRate",
    "F0Correlation",
    "F0Range",
    "F0Std",
    "RepetitionRate",
    "TokenEntropy",
    "TokensPerUnit",
]
