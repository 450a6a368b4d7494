"""Prompts to candidates: the two modes of DGSA, the temperature gradient of TDSC, and the reference's log-probs."""

from seaalign.sampling.dual import Pairing, dual_mode, require_separation, say
from seaalign.sampling.explore import explore, temperature_gradient
from seaalign.sampling.reference import pair_logps, reference_logps, score_blocks, stack

__all__ = [
    "Pairing",
    "dual_mode",
    "explore",
    "pair_logps",
    "reference_logps",
    "require_separation",
    "say",
    "score_blocks",
    "stack",
    "temperature_gradient",
]
