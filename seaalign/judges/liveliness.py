"""How lively a candidate sounds: a score to watch, never a reason."""

from __future__ import annotations

from collections.abc import Sequence

from seaalign.functional import f0_std
from seaalign.functional.pitch import f0
from seaalign.judges.base import Criterion
from seaalign.records import Candidate, Verdict


class Liveliness(Criterion):
    """Rejects nothing; adds the score "f0_std", the spread of F0 in semitones, where a candidate has voiced frames.

    Put it into a judge to see in the dashboard of `TDSC` whether exploration finds expressive speech.
    """

    name = "liveliness"
    needs_audio = True
    by_default = False  # True where the user did not give it, so that messages can say where it comes from

    @property
    def fingerprint(self) -> str:
        return type(self).__qualname__

    def __call__(self, candidates: Sequence[Candidate]) -> list[Verdict]:
        found = []
        for candidate in candidates:
            wave, rate = candidate.waveform, candidate.sample_rate
            if wave is None or not rate:
                raise ValueError(f"{candidate.name} has no waveform with a sample rate: decode it first")
            spread = f0_std(f0([wave], rate)[0]) if len(wave) > rate // 20 else None
            known = spread is not None and bool(spread.defined)
            found.append(Verdict.accept({"f0_std": float(spread.value)} if spread and known else {}))
        return found
