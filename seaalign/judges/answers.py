"""Is an answer one? What criteria and decoders return is checked here, and put together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from seaalign.audio import check
from seaalign.records import Candidate, Verdict


def checked(answer: Any, count: int) -> list[Verdict]:
    """The verdicts, if there is one for each candidate and each is one."""
    if isinstance(answer, str) or not isinstance(answer, Sequence):
        raise TypeError(f"it returned {answer!r}, expected a list of {count} verdicts")
    if len(answer) != count:
        raise ValueError(f"it returned {len(answer)} verdicts for {count} candidates")
    return [_sound_verdict(verdict) for verdict in answer]


def _sound_verdict(verdict: Any) -> Verdict:
    if not isinstance(verdict, Verdict):
        raise TypeError(f"it returned {verdict!r} among its verdicts, expected a Verdict")
    if verdict.status == "error":
        raise RuntimeError(f"it could not say: {'; '.join(map(str, verdict.reasons))}")
    scores = {str(name): float(value) for name, value in verdict.scores.items()}
    wrong = {name: value for name, value in scores.items() if not math.isfinite(value)}
    if wrong:
        raise ValueError(f"its scores {wrong} are not finite")
    return replace(verdict, scores=scores)


def decoded(answer: Any, asked: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that were asked for, with what `decode` gave each of them to hear."""
    if not isinstance(answer, Sequence) or len(answer) != len(asked):
        got = f"{len(answer)} candidates" if isinstance(answer, Sequence) else repr(answer)
        raise ValueError(f"it returned {got} for {len(asked)}")
    names = [getattr(candidate, "name", repr(candidate)) for candidate in answer]
    if names != [candidate.name for candidate in asked]:
        raise ValueError(f"it returned the candidates {names[:4]} for {[c.name for c in asked[:4]]}: keep their order")
    return [replace(c, waveform=d.waveform, sample_rate=d.sample_rate) for c, d in zip(asked, answer, strict=True)]


def audible(candidate: Candidate) -> Candidate:
    """The candidate, if it can be listened to."""
    if candidate.waveform is None or not candidate.sample_rate:
        raise ValueError(f"{candidate.name} has no {'waveform' if candidate.waveform is None else 'sample_rate'}")
    if candidate.waveform.shape != (0,):  # nothing to hear is the judge's to reject, no fault of the decoder
        check(candidate.waveform, candidate.name)
    return candidate


def merged(verdicts: Mapping[str, Verdict]) -> Verdict:
    """One verdict of several, by the names of the criteria that gave them."""
    scores: dict[str, float] = {}
    for criterion, verdict in verdicts.items():
        for name, value in verdict.scores.items():
            scores[f"{criterion}.{name}" if name in scores else name] = value
    reasons = tuple(criterion for criterion, verdict in verdicts.items() if not verdict.ok)
    transcript = next((v.transcript for v in verdicts.values() if v.transcript is not None), None)
    return Verdict("reject" if reasons else "ok", reasons, scores, transcript)
