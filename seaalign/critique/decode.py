"""Candidates to sound, for the judges that listen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from seaalign.backbones.base import Backbone
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
    rate = getattr(backbone, "sample_rate", None)
    if not rate:
        raise ValueError(
            f"{type(backbone).__name__} has no attribute sample_rate (Hz), which judges that listen need: set it"
        )
    silence = torch.zeros(0)
    made = [replace(candidate, waveform=silence, sample_rate=rate) for candidate in candidates]
    spoken = [i for i, candidate in enumerate(candidates) if len(candidate.tokens)]
    if spoken:
        speech = Speech.pack([candidates[i].tokens for i in spoken], [candidates[i].ended for i in spoken])
        timbres = [candidates[i].sentence.prompt.timbre for i in spoken]
        for i, waveform in zip(spoken, backbone.decode(speech, timbres), strict=True):
            made[i] = replace(made[i], waveform=waveform.detach().float().cpu())
    return made
