"""The mathematics, as pure functions: tensors in, tensors out, no state and no randomness of their own.

Preference losses and their weights, statistics of speech tokens, entropy of mixtures, error rates, prosody. Their
twins that add up over batches and processes are in :mod:`seaalign.metrics`.
"""

from seaalign.functional.alignment import align, cepstra
from seaalign.functional.comparison import holm, interval, paired_test, resampled_ratio
from seaalign.functional.dependence import distance_correlation, hsic
from seaalign.functional.entropy import count_entropy, entropy_at
from seaalign.functional.errors import edit_distance, error_rate
from seaalign.functional.fsq import fsq, fsq_values
from seaalign.functional.likelihood import sequence_logp, sft_anchor
from seaalign.functional.mixture import critical_ratio, mixture_entropy, mixture_entropy_slope
from seaalign.functional.pitch import f0
from seaalign.functional.preference import (
    CrossoverWeights,
    cdpo_loss,
    crossover_weights,
    dpo_loss,
    implicit_reward,
    ipo_loss,
    preference_margin,
)
from seaalign.functional.prosody import (
    Measured,
    energy,
    energy_std,
    f0_correlation,
    f0_range,
    f0_rmse,
    f0_std,
    semitones,
)
from seaalign.functional.repetition import Repetition, repetition_rate, repetition_span
from seaalign.functional.separation import (
    gaussian_log_likelihood,
    prosody_regression_loss,
    reconstruction_loss,
    reverse_gradient,
    speaker_adversarial_loss,
    vclub,
)
from seaalign.functional.tokens import token_counts, token_entropy, tokens_per_unit
from seaalign.functional.transport import monge_map

__all__ = [
    "CrossoverWeights",
    "Measured",
    "Repetition",
    "align",
    "cdpo_loss",
    "cepstra",
    "count_entropy",
    "critical_ratio",
    "crossover_weights",
    "distance_correlation",
    "dpo_loss",
    "edit_distance",
    "energy",
    "energy_std",
    "entropy_at",
    "error_rate",
    "f0",
    "f0_correlation",
    "f0_range",
    "f0_rmse",
    "f0_std",
    "fsq",
    "fsq_values",
    "gaussian_log_likelihood",
    "holm",
    "hsic",
    "implicit_reward",
    "interval",
    "ipo_loss",
    "mixture_entropy",
    "mixture_entropy_slope",
    "monge_map",
    "paired_test",
    "preference_margin",
    "prosody_regression_loss",
    "reconstruction_loss",
    "repetition_rate",
    "repetition_span",
    "resampled_ratio",
    "reverse_gradient",
    "semitones",
    "sequence_logp",
    "sft_anchor",
    "speaker_adversarial_loss",
    "token_counts",
    "token_entropy",
    "tokens_per_unit",
    "vclub",
]
