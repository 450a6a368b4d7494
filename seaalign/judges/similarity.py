"""Is it the speaker's voice? Cosine of speaker embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from seaalign.audio import check, speaker_encoder
from seaalign.judges.base import Criterion
from seaalign.judges.criteria import verdict_of
from seaalign.judges.intelligibility import sounding
from seaalign.records import Candidate, Verdict


class SpeakerSimilarity(Criterion):
    """Rejects candidates in another voice. Score: "similarity", a cosine; -1 for digital silence, which has no voice.

    Args:
        reference: a recording (S,) of the voice by sentence id, or a function from a candidate to one, at the rate of
            the candidate's waveform.
        min_similarity: accept from this cosine on. It depends on the encoder and the channel: look at the cosines of
            recordings of the same and of different speakers first.
        encoder: from waveforms and their rate (Hz) to embeddings (B, D), or a model for
            `seaalign.audio.speaker_encoder`: a name on the Hugging Face hub, downloaded at first use, or a folder.
        device: where such a model runs.

    Raises:
        ValueError: `min_similarity` is no cosine; when judging, a sentence without a reference.
        ImportError: a model is named and speechbrain does not load.

    Source: Desplanques et al., Interspeech 2020 (ECAPA-TDNN).
    """

    name = "similarity"
    needs_audio = True

    def __init__(
        self,
        reference: Mapping[str, Tensor] | Callable[[Candidate], Tensor],
        min_similarity: float = 0.25,
        encoder: str | Callable[[Sequence[Tensor], int], Tensor] = "speechbrain/spkrec-ecapa-voxceleb",
        device: str = "cpu",
    ) -> None:
        if not -1 <= min_similarity <= 1:
            raise ValueError(f"min_similarity is a cosine, from -1 to 1, got {min_similarity}")
        self.reference, self.min_similarity = reference, min_similarity
        self.encoder = speaker_encoder(encoder, device=device) if isinstance(encoder, str) else encoder

    def __call__(self, candidates: Sequence[Candidate]) -> list[Verdict]:
        """Verdicts in the order of the candidates."""
        known: dict[int, tuple[Tensor, Tensor]] = {}  # with the recording, so that its id is not given to another one
        return [self._judge(candidate, known) for candidate in candidates]

    def _judge(self, candidate: Candidate, known: dict[int, tuple[Tensor, Tensor]]) -> Verdict:
        waveform, rate = sounding(candidate)
        if not bool(waveform.abs().max() > 0):
            return verdict_of(self.name, False, {"similarity": -1.0})
        recording = self._recording(candidate)
        if id(recording) not in known:
            known[id(recording)] = recording, self.encoder([recording], rate).flatten()
        own = self.encoder([waveform], rate).flatten()
        value = float(torch.nn.functional.cosine_similarity(own.float(), known[id(recording)][1].float(), dim=0))
        return verdict_of(self.name, not value < self.min_similarity, {"similarity": value})

    def _recording(self, candidate: Candidate) -> Tensor:
        if isinstance(self.reference, Mapping):
            found = self.reference.get(candidate.sentence.id)
            if found is None:
                raise ValueError(f"no reference recording of sentence {candidate.sentence.id!r}: add one under its id")
        else:
            found = self.reference(candidate)
        check(found, f"the reference of {candidate.name}")
        return found
