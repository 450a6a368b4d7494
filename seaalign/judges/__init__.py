"""Judges: candidates in, verdicts out. Criteria are put together by `Judge`; any function of candidates is one.

Recognisers are in :mod:`seaalign.judges.transcribers`, words and graphemes of a language in
:mod:`seaalign.judges.languages`, a judge for languages without a recogniser in :mod:`seaalign.judges.roundtrip`.
"""

from seaalign.judges.base import Criterion, Judge
from seaalign.judges.cache import VerdictCache
from seaalign.judges.calling import JudgeError
from seaalign.judges.criteria import Duration, Repetition
from seaalign.judges.intelligibility import Intelligibility
from seaalign.judges.liveliness import Liveliness
from seaalign.judges.roundtrip import RoundTrip
from seaalign.judges.similarity import SpeakerSimilarity

__all__ = [
    "Criterion",
    "Duration",
    "Intelligibility",
    "Judge",
    "JudgeError",
    "Liveliness",
    "Repetition",
    "RoundTrip",
    "SpeakerSimilarity",
    "VerdictCache",
]
