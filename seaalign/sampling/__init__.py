"""Prompts to candidates: the two modes of DGSA, the temperature gradient of TDSC, and the reference's log-probs."""

from seaalign.sampling.dual import Pairing, Twin, dual_mode, require_separation, say, say_twins, twins
from seaalign.sampling.explore import Turn, explore, frame_limits, temperature_gradient, turns
from seaalign.sampling.reference import pair_logps, reference_logps, score_blocks, stack

__all__ = [
    "Pairing",
    "Turn",
    "Twin",
    "dual_mode",
    "explore",
    "frame_limits",
    "pair_logps",
    "reference_logps",
    "require_separation",
    "say",
    "say_twins",
    "score_blocks",
    "stack",
    "temperature_gradient",
    "turns",
    "twins",
]
