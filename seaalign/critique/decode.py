"""Candidates to sound, for the judges that listen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from seaalign.backbones.base import Backbone
from seaalign.backbones.sound import rate_of, sound
from seaalign.records import Candidate, Speech


def decoded(candidates: Sequence[Candidate], backbone: Backbone) -> list[Candidate]:
    """The same candidates with their waveforms, on the CPU; an empty answer is zero samples of silence.

    Args:
        candidates: in any order.
        backbone: with the feature "decode" and an attribute `sample_rate` (Hz).

    Raises:
        Unsupported: the backbone cannot decode.
        ValueError: it does not say its sample rate.
    """
    rate = rate_of(backbone, None)
    speech = Speech.pack([candidate.tokens for candidate in candidates], [candidate.ended for candidate in candidates])
    heard = sound(backbone, speech, [candidate.sentence.prompt for candidate in candidates])
    return [
        replace(candidate, waveform=heard.get(row, torch.zeros(0)), sample_rate=rate)
        for row, candidate in enumerate(candidates)
    ]
