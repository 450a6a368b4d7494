"""The nouns of seaalign, with their shapes: prompts and speech, utterances and triplets, candidates and verdicts.

These records are what flows between the stages (see docs/architecture.md). They hold tensors and nothing clever: an
adapter, a user's own sampler or a data loader can build them in one line. `storage` writes them to Parquet and reads
them back.
"""

from seaalign.records.judged import Candidate, Sentence, Verdict
from seaalign.records.recording import Recording
from seaalign.records.speech import Prompt, Speech, Style
from seaalign.records.spoken import Pair, Triplet, Utterance

__all__ = [
    "Candidate",
    "Pair",
    "Prompt",
    "Recording",
    "Sentence",
    "Speech",
    "Style",
    "Triplet",
    "Utterance",
    "Verdict",
]
