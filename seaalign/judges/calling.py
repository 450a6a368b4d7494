"""Asking something that may fail or hang: again, then about each candidate alone, then an error that names it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from seaalign.records import Candidate

Answer = TypeVar("Answer")
Call = Callable[[Sequence[Candidate]], "list[Answer]"]


class JudgeError(RuntimeError):
    """A judge failed, so the run stops: no verdict is better than a wrong one.

    Attributes:
        who: what failed: a criterion, or "decode".
        candidates: names of the candidates it was asked about; one, where the guilty one was found.
        sentence: the text of the first of them.
    """

    def __init__(self, message: str, who: str = "", candidates: Sequence[str] = (), sentence: str = "") -> None:
        super().__init__(message)
        self.who, self.candidates, self.sentence = who, tuple(candidates), sentence


def persistently(
    call: Call[Answer], candidates: Sequence[Candidate], who: str, retries: int, timeout: float | None
) -> list[Answer]:
    """The answers of a call about a batch.

    Args:
        call: raises, or returns one answer per candidate.
        candidates: the batch, at least one.
        who: how messages call it.
        retries: tries after the first.
        timeout: seconds per try, or None.

    Raises:
        JudgeError: it failed to the end, or did not answer in time.
    """
    cause: Exception = RuntimeError("never asked")
    for _ in range(1 + retries):
        try:
            return _within(timeout, call, candidates, who)
        except JudgeError:
            raise
        except Exception as error:  # whatever a judge of somebody's own may raise
            cause = error
    if len(candidates) > 1:  # alone, each of them: names the guilty one, and passes where the batch was too large
        return [answer for one in candidates for answer in persistently(call, [one], who, retries, timeout)]
    one = candidates[0]
    raise JudgeError(
        f"{who} failed {1 + retries} times on candidate {one.name}, {_quoted(one)}: {type(cause).__name__}: {cause}. "
        "Nothing is accepted or rejected unheard: mend it, or drop the sentence, and run again",
        *_about(who, candidates),
    ) from cause


def _within(timeout: float | None, call: Call[Answer], candidates: Sequence[Candidate], who: str) -> list[Answer]:
    def quietly() -> list[Answer]:
        with torch.no_grad():  # set for each thread anew
            return call(candidates)

    if timeout is None:
        return quietly()
    done: list[Any] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            done.append(quietly())
        except BaseException as error:  # raised again where the answer is awaited
            failed.append(error)

    thread = threading.Thread(target=work, name=f"seaalign {who}", daemon=True)
    thread.start()
    thread.join(timeout)
    if failed:
        raise failed[0]
    if not done:
        span = candidates[0].name if len(candidates) == 1 else f"{candidates[0].name} ... {candidates[-1].name}"
        raise JudgeError(
            f"{who} did not answer within {timeout:g} s on a batch of {len(candidates)} candidates ({span}; the first "
            f"is {_quoted(candidates[0])}): see whether it hangs, or give it a longer timeout or a smaller batch",
            *_about(who, candidates),
        )
    return done[0]  # type: ignore[no-any-return]


def _about(who: str, candidates: Sequence[Candidate]) -> tuple[str, list[str], str]:
    return who, [candidate.name for candidate in candidates], candidates[0].sentence.text


def _quoted(candidate: Candidate) -> str:
    text = candidate.sentence.text
    return repr(text if len(text) <= 80 else text[:77] + "...")
