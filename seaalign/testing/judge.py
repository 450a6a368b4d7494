"""`check_judge`: what a judge must keep to, so that what it accepts means something."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from seaalign.judges import Criterion, Judge
from seaalign.judges.base import Decode, Rule
from seaalign.records import Candidate, Verdict
from seaalign.testing.backbone import Report


class JudgeFault(AssertionError):
    """A judge breaks a rule; the message names it, with the candidate, the likely cause and the next step."""


def _fault(rule: str, seen: str, cause: str, step: str) -> JudgeFault:
    return JudgeFault(f"{rule}: {seen}.\n  likely cause: {cause}\n  next step: {step}")


class _Probe:
    """A judge without its cache, and what it is asked about."""

    def __init__(
        self, judge: Judge | Criterion | Rule, candidates: Sequence[Candidate], decode: Decode | None, atol: float
    ) -> None:
        self.judge = (judge if isinstance(judge, Judge) else Judge(judge, retries=0)).using(None)
        self.candidates, self.decode, self.atol = list(candidates), decode, atol
        self.verdicts = self.ask(self.candidates)

    def ask(self, candidates: Sequence[Candidate]) -> list[Verdict]:
        return self.judge(candidates, self.decode)

    @property
    def listeners(self) -> list[Criterion]:
        return [criterion for criterion in self.judge.criteria if criterion.needs_audio]

    def compare(self, verdicts: Sequence[Verdict], rule: str, cause: str, step: str) -> None:
        for candidate, new, old in zip(self.candidates, verdicts, self.verdicts, strict=True):
            if not _same(new, old, self.atol):
                raise _fault(rule, f"{candidate.name} got {_said(old)}, then {_said(new)}", cause, step)


def check_judge(
    judge: Judge | Criterion | Rule,
    candidates: Sequence[Candidate],
    decode: Decode | None = None,
    *,
    atol: float = 1e-4,
) -> Report:
    """Check that a judge, a criterion or a plain function of candidates can be relied on; call it in your own tests.

    Its cache is neither read nor written.

    Args:
        judge: what to check.
        candidates: at least two, with tokens; better some of each kind: good, bad, of several languages and lengths.
        decode: as for a judge, where the candidates have no waveforms and it listens.
        atol: how far scores may lie apart between two calls.

    Returns:
        Rules and outcomes.

    Raises:
        JudgeFault: names the rule that is broken.
        JudgeError: the judge failed on one of the candidates.
        ValueError: fewer than two candidates, or one without tokens.

    Example:
        >>> from seaalign.judges import Repetition
        >>> from seaalign.records import Prompt, Sentence
        >>> hello = Sentence("s", "hello", Prompt([1]))
        >>> stuck, lively = Candidate(hello, torch.zeros(20).long()), Candidate(hello, torch.arange(20), index=1)
        >>> print(check_judge(Repetition(), [stuck, lively]))
        one verdict each, finite scores           passed
        the same verdict twice                    passed
        verdicts follow their candidates          passed
        batch == single                           passed
        a candidate without tokens is rejected    passed
        silence is not accepted                   skipped: nothing listens
        a missing waveform is an error, no score  skipped: nothing listens
    """
    if len(candidates) < 2 or not all(len(candidate.tokens) for candidate in candidates):
        raise ValueError(f"check_judge needs at least two candidates, all with tokens, got {len(candidates)}")
    probe = _Probe(judge, candidates, decode, atol)  # fails by itself on wrong numbers, types and scores
    results = [("one verdict each, finite scores", "passed")]
    for name, rule in _RULES:
        skipped = rule(probe)
        results.append((name, "passed" if skipped is None else f"skipped: {skipped}"))
    return Report(tuple(results))


def _twice(probe: _Probe) -> str | None:
    probe.compare(
        probe.ask(probe.candidates),
        "the same candidate gets another verdict the second time",
        "sampling inside a recogniser, dropout that is on, or state kept from call to call",
        "decode greedily, call .eval(), keep no state",
    )
    return None


def _order(probe: _Probe) -> str | None:
    probe.compare(
        probe.ask(probe.candidates[::-1])[::-1],
        "verdicts do not follow their candidates",
        "the answers are sorted, for instance by length or language, and not put back",
        "remember each candidate's place and fill a list by place",
    )
    return None


def _alone(probe: _Probe) -> str | None:
    probe.compare(
        [probe.ask([candidate])[0] for candidate in probe.candidates],
        "a verdict depends on who else is in the batch",
        "padding is heard, or scores are ranked or normalised within the batch",
        "mask the padding, or go through the batch one by one; thresholds must be fixed numbers",
    )
    return None


def _empty(probe: _Probe) -> str | None:
    for candidate in probe.candidates:
        nothing = replace(candidate, tokens=candidate.tokens[:0], waveform=None, sample_rate=None)
        if probe.judge([nothing], probe.decode)[0].ok:
            raise _fault(
                "a candidate without tokens is accepted",
                candidate.name,
                "__call__ is overridden",
                "reject what is empty",
            )
    return None


def _silence(probe: _Probe) -> str | None:
    if not probe.listeners:
        return "nothing listens"
    for candidate in probe.candidates:
        quiet = replace(candidate, waveform=torch.zeros(16_000), sample_rate=16_000)
        verdict = probe.ask([quiet])[0]
        if verdict.ok:
            raise _fault(
                "a second of silence is accepted",
                f"{candidate.name} got {_said(verdict)}",
                "an empty transcript counts as no error, or as missing",
                "give it the worst score: nothing said is everything wrong",
            )
    return None


def _missing(probe: _Probe) -> str | None:
    if not probe.listeners:
        return "nothing listens"
    candidate = replace(probe.candidates[0], waveform=None, sample_rate=None)
    for criterion in probe.listeners:
        try:
            answer = criterion([candidate])
        except Exception:  # whatever it raises: it did not answer
            continue
        if any(isinstance(verdict, Verdict) and verdict.status != "error" for verdict in answer or ()):
            raise _fault(
                "an error becomes a verdict",
                f"{criterion.name!r} says {_said(answer[0])} of {candidate.name}, which has no waveform to hear",
                "an exception is caught and counted as a score",
                "let exceptions through, or return Verdict.failed(message): the judge tries again and then stops",
            )
    return None


_RULES: tuple[tuple[str, Callable[[_Probe], str | None]], ...] = (
    ("the same verdict twice", _twice),
    ("verdicts follow their candidates", _order),
    ("batch == single", _alone),
    ("a candidate without tokens is rejected", _empty),
    ("silence is not accepted", _silence),
    ("a missing waveform is an error, no score", _missing),
)


def _same(one: Verdict, other: Verdict, atol: float) -> bool:
    if (one.status, one.reasons, one.transcript) != (other.status, other.reasons, other.transcript):
        return False
    return set(one.scores) == set(other.scores) and all(
        abs(value - other.scores[name]) <= atol for name, value in one.scores.items()
    )


def _said(verdict: Verdict) -> str:
    heard = "" if verdict.transcript is None else f" {verdict.transcript!r}"
    return f"{verdict.status}{list(verdict.reasons) or ''} {dict(verdict.scores)}{heard}"
