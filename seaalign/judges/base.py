"""A judge and the criteria it is made of: candidates in, one verdict for each out, or an error that stops the run.

A judge fails closed. Whatever a criterion does but answer (an exception, None, too few verdicts, NaN) is no verdict: it
is asked again, then once for every candidate alone, and then the run stops with the candidate named.
"""

from __future__ import annotations

import copy
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from seaalign.judges.answers import audible, checked, decoded, merged
from seaalign.judges.cache import VerdictCache, batches, unjudged, verdict_key
from seaalign.judges.calling import persistently
from seaalign.judges.fingerprint import described
from seaalign.judges.transcribers.routing import names_of
from seaalign.records import Candidate, Verdict

Decode = Callable[[Sequence[Candidate]], Sequence[Candidate]]
Rule = Callable[[Sequence[Candidate]], Sequence[Verdict]]


class Criterion(ABC):
    """One thing that is asked of candidates. Subclass it and give `__call__`; a plain function is a criterion too.

    Attributes:
        name: stands in a verdict's reasons where this criterion rejects.
        needs_audio: does it listen? Then its candidates carry `waveform` (S,) and `sample_rate` (Hz), and only those
            that passed everything that does not listen are decoded for it.
    """

    name: str
    needs_audio: bool = False

    @abstractmethod
    def __call__(self, candidates: Sequence[Candidate]) -> list[Verdict]:
        """One verdict for each candidate, in order; the same one whatever others are in the call."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """Class and settings as text. Verdicts are kept under it: override it where the attributes do not tell all."""
        return described(vars(self))


class Judge:
    """Criteria put together: a candidate is accepted if every one accepts it.

    Criteria on tokens are all asked; those that listen are asked about the survivors alone, so a candidate that passes
    length and repetition and is not understood has the reasons `("intelligibility",)`. The reasons are the names of the
    criteria that rejected it. Scores are put together; one that two criteria give stays the first one's, the other's is
    called "criterion.score". A candidate without tokens and waveform, or one that decodes to no sample, is rejected as
    "empty".

    Args:
        *criteria: at least one, of different names. A plain function of candidates is named after itself and listens,
            unless it has an attribute `needs_audio = False`.
        retries: how often a failed batch is tried again.
        timeout: seconds a criterion, or `decode`, may take for a batch, loading of models included; None = any time.
            One that hangs is not asked again. Its thread is left behind and does not keep the program from ending.
        batch: candidates per call of a criterion.
        cache: where verdicts are kept and looked up. They hold for one decoder: use another file with another one.

    Raises:
        TypeError: something that is no criterion.
        ValueError: no criterion, two of one name, or a number out of range.

    Source: Geng et al. 2026, eq. 16.

    Example:
        >>> import torch
        >>> from seaalign.records import Prompt, Sentence
        >>> def brief(candidates):
        ...     return [Verdict.accept() if len(c.tokens) < 3 else Verdict.reject("brief") for c in candidates]
        >>> brief.needs_audio = False
        >>> hello = Sentence("s", "hello", Prompt([1]))
        >>> candidates = [Candidate(hello, torch.arange(n)) for n in (0, 2, 4)]
        >>> [verdict.reasons for verdict in Judge(brief)(candidates)]
        [('empty',), (), ('brief',)]
    """

    def __init__(
        self,
        *criteria: Criterion | Rule,
        retries: int = 2,
        timeout: float | None = None,
        batch: int = 32,
        cache: VerdictCache | None = None,
    ) -> None:
        if not criteria:
            raise ValueError("a judge needs at least one criterion, as in Judge(Repetition(), Duration(per_unit=...))")
        if retries < 0 or batch < 1 or (timeout is not None and not timeout > 0):
            raise ValueError(
                f"a judge needs retries >= 0, batch >= 1 and timeout > 0 or None, got {retries}, {batch}, {timeout}"
            )
        self.criteria = tuple(_as_criterion(criterion) for criterion in criteria)
        names = [criterion.name for criterion in self.criteria]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"several criteria are called {twice}: set .name of one, so that reasons tell them apart")
        self.retries, self.timeout, self.batch, self.cache = retries, timeout, batch, cache

    @property
    def listeners(self) -> list[str]:
        """Names of the recognisers that its criteria ask: whoever reports should be another one."""
        ears = [criterion.transcriber for criterion in self.criteria if hasattr(criterion, "transcriber")]
        return [name for ear in ears for name in names_of(ear)]

    @property
    def fingerprint(self) -> str:
        """Of the criteria and their settings, in order."""
        return " & ".join(
            f"{type(c).__module__}.{type(c).__qualname__} {c.name} {c.fingerprint}" for c in self.criteria
        )

    def using(self, cache: VerdictCache | None) -> Judge:
        """The same judge with another cache."""
        other = copy.copy(self)
        other.cache = cache
        return other

    def __call__(self, candidates: Sequence[Candidate], decode: Decode | None = None) -> list[Verdict]:
        """One verdict for each candidate, in order: "ok" or "reject", never "error".

        Args:
            candidates: what to judge.
            decode: returns the candidates it is given with `waveform` (S,) and `sample_rate`. It is called only if a
                criterion listens, and only for candidates that every criterion on tokens accepted.

        Raises:
            JudgeError: a criterion or `decode` failed; verdicts on the batches before are in the cache.
            ValueError: a criterion listens, and there is neither a waveform nor `decode`.
        """
        if self.cache is None:
            keys = [str(index) for index in range(len(candidates))]
        else:
            fingerprint = self.fingerprint
            keys = [verdict_key(candidate, fingerprint) for candidate in candidates]
        made: dict[str, Verdict] = {}
        for group in batches(unjudged(keys, candidates, self.cache), self.batch):
            judged = dict(zip(group, self._judged(list(group.values()), decode), strict=True))
            if self.cache is None:
                made |= judged
            else:
                self.cache.put(judged)
        return [made[key] if self.cache is None else self.cache[key] for key in keys]

    def _judged(self, candidates: list[Candidate], decode: Decode | None) -> list[Verdict]:
        said: list[dict[str, Verdict]] = [
            {"empty": Verdict.reject("empty")} if _is_empty(c) else {} for c in candidates
        ]
        everyone = list(range(len(candidates)))
        for criterion in self.criteria:
            if not criterion.needs_audio:
                self._ask(criterion, candidates, everyone, said)
        listening = [criterion for criterion in self.criteria if criterion.needs_audio]
        left = [index for index in everyone if all(verdict.ok for verdict in said[index].values())]
        if listening and left:
            heard = self._heard([candidates[index] for index in left], decode, listening[0].name)
            for index, candidate in zip(left, heard, strict=True):
                if candidate.waveform is not None and not len(candidate.waveform):
                    said[index]["empty"] = Verdict.reject("empty")
            loud = [i for i, index in enumerate(left) if "empty" not in said[index]]
            for criterion in listening if loud else ():
                self._ask(criterion, [heard[i] for i in loud], [left[i] for i in loud], said)
        return [merged(verdicts) for verdicts in said]

    def _ask(
        self, criterion: Criterion, candidates: list[Candidate], places: list[int], said: list[dict[str, Verdict]]
    ) -> None:
        def answers(batch: Sequence[Candidate]) -> list[Verdict]:
            return checked(criterion(batch), len(batch))

        found = persistently(answers, candidates, f"criterion {criterion.name!r}", self.retries, self.timeout)
        for place, verdict in zip(places, found, strict=True):
            said[place][criterion.name] = verdict

    def _heard(self, candidates: list[Candidate], decode: Decode | None, listener: str) -> list[Candidate]:
        silent = [candidate for candidate in candidates if candidate.waveform is None]
        if silent and decode is None:
            raise ValueError(
                f"criterion {listener!r} listens, but {len(silent)} of {len(candidates)} candidates have no waveform, "
                f"first {silent[0].name}: pass decode= (candidates -> candidates with waveform and sample_rate)"
            )

        def sound(batch: Sequence[Candidate]) -> list[Candidate]:
            missing = [candidate for candidate in batch if candidate.waveform is None]
            found = iter(decoded(decode(missing), missing) if decode and missing else [])
            return [audible(next(found) if c.waveform is None else c) for c in batch]

        return persistently(sound, candidates, "decode", self.retries, self.timeout)


class _Function(Criterion):
    """A plain callable as a criterion."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        inner = rule.func if isinstance(rule, functools.partial) else rule
        self.name = str(getattr(rule, "name", None) or getattr(inner, "__name__", type(inner).__name__))
        self.needs_audio = bool(getattr(rule, "needs_audio", True))

    def __call__(self, candidates: Sequence[Candidate]) -> list[Verdict]:
        return self.rule(candidates)  # type: ignore[return-value]  # checked by the judge

    @property
    def fingerprint(self) -> str:
        return described(self.rule)


def _as_criterion(thing: Any) -> Criterion:
    if isinstance(thing, type):
        raise TypeError(f"{thing.__name__} is a class: construct it, as in {thing.__name__}(...)")
    if isinstance(thing, Judge):
        raise TypeError("a judge is no criterion: pass what it is made of, as in Judge(*judge.criteria, another)")
    if not callable(thing):
        raise TypeError(f"{thing!r} is no criterion: pass one, or a function (candidates) -> list of verdicts")
    return thing if isinstance(thing, Criterion) else _Function(thing)


def _is_empty(candidate: Candidate) -> bool:
    return len(candidate.tokens) == 0 and candidate.waveform is None
