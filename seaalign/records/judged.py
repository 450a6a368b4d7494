"""What the self-critique loop passes on: sentences to say, candidates that say them, and verdicts on those."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from seaalign.records.speech import Prompt


@dataclass(frozen=True, eq=False)
class Sentence:
    """A text to say, of which no recording exists.

    Args:
        id: unique within a run.
        text: as people write it; judges compare with it what they hear.
        prompt: the same as text ids, with the voice to say it in.
        language: code of the language, for judges that choose by it ("th", "lo", "km", ...), or None.

    Raises:
        ValueError: the id or the text is empty.

    Example:
        >>> Sentence("greeting", "hello there", Prompt([7, 4])).prompt.text.tolist()
        [7, 4]
    """

    id: str
    text: str
    prompt: Prompt
    language: str | None = None

    def __post_init__(self) -> None:
        if not self.id or not self.text.strip():
            raise ValueError(f"a sentence needs an id and a text, got id {self.id!r} and text {self.text!r}")


@dataclass(frozen=True, eq=False)
class Candidate:
    """One attempt of the model to say a sentence.

    Args:
        sentence: what it should say.
        tokens: speech tokens (T,) or (T, K); T may be 0.
        ended: did it end by itself, or was it cut at the length limit?
        temperature: at which it was sampled.
        index: which attempt at the sentence this is, from 0.
        waveform: samples (S,), once it is decoded; judges that listen need it.
        sample_rate: of the waveform, Hz.
    """

    sentence: Sentence
    tokens: Tensor
    ended: bool = True
    temperature: float = 1.0
    index: int = 0
    waveform: Tensor | None = None
    sample_rate: int | None = None

    @property
    def name(self) -> str:
        """How messages call it: the sentence's id and the number of the attempt."""
        return f"{self.sentence.id}#{self.index}"


@dataclass(frozen=True)
class Verdict:
    """What a judge says of a candidate (eq. 16): accepted, rejected with reasons, or no answer.

    Args:
        status: "ok", "reject", or "error" where the judge itself failed. An error is never a score.
        reasons: names of the criteria that rejected it, or what went wrong.
        scores: numbers by name. "error" is the share of wrong units by which candidates are ranked, 0 = perfect.
        transcript: what was heard, where somebody listened.

    Example:
        >>> verdict = Verdict.reject("repetition", scores={"repetition": 0.4})
        >>> verdict.ok, verdict.reasons
        (False, ('repetition',))
    """

    status: Literal["ok", "reject", "error"]
    reasons: tuple[str, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    transcript: str | None = None

    def __post_init__(self) -> None:
        if self.status not in ("ok", "reject", "error"):
            raise ValueError(f"a verdict is 'ok', 'reject' or 'error', got {self.status!r}")
        if (self.status == "ok") == bool(self.reasons):
            raise ValueError(f"'ok' has no reasons, the others need one; got {self.status!r} with {self.reasons}")

    @property
    def ok(self) -> bool:
        """Accepted?"""
        return self.status == "ok"

    @classmethod
    def accept(cls, scores: Mapping[str, float] | None = None, transcript: str | None = None) -> Verdict:
        """Accepted."""
        return cls("ok", (), dict(scores or {}), transcript)

    @classmethod
    def reject(cls, *reasons: str, scores: Mapping[str, float] | None = None, transcript: str | None = None) -> Verdict:
        """Rejected, by the names of the criteria."""
        return cls("reject", reasons, dict(scores or {}), transcript)

    @classmethod
    def failed(cls, message: str) -> Verdict:
        """The judge could not say; the message tells why."""
        return cls("error", (message,))
