"""Criteria that read tokens: not stuck, and of a length that fits the text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from seaalign.functional import repetition_rate
from seaalign.judges.base import Criterion
from seaalign.records import Candidate, Sentence, Utterance, Verdict
from seaalign.storage import read_utterances

Unit = Literal["token", "character", "grapheme", "word"]


class Repetition(Criterion):
    """Rejects candidates that get stuck on one token (eq. 16: Rep < tau_r). Score: "repetition", a share.

    Candidates of k tokens or fewer have rate 0; of several codebooks the first, coarsest one is looked at.

    Args:
        max_rate: accept below this share of positions that begin a run of k + 1 equal tokens.
        k: 4 is 200 ms of one token at 25 Hz; `functional.repetition_span` for other frame rates.

    Raises:
        ValueError: a number out of range.

    Source: Geng et al. 2026, eq. 16 and 25.
    """

    name = "repetition"
    needs_audio = False

    def __init__(self, max_rate: float = 0.1, k: int = 4) -> None:
        if not 0 < max_rate <= 1 or k < 1:
            raise ValueError(f"need 0 < max_rate <= 1 and k >= 1, got {max_rate} and {k}")
        self.max_rate, self.k = max_rate, k

    def __call__(self, candidates: Sequence[Candidate]) -> list[Verdict]:
        rows = [c.tokens if c.tokens.dim() == 1 else c.tokens[:, 0] for c in candidates]
        rates = repetition_rate(rows, k=self.k).per_utterance.tolist()
        return [verdict_of(self.name, rate < self.max_rate, {"repetition": rate}) for rate in rates]


class Duration(Criterion):
    """Rejects candidates too short or too long for their text (eq. 16: length within [0.5, 2.0] `|x|`).

    The paper does not state the unit of `|x|`, and tokens per unit differ by script and frame rate. So the expected
    length is `per_unit` frames for each unit of the text, the median over data of the same tokenizer. Both bounds are
    accepted. A candidate that was cut at the length limit did not end, so its length is unknown: it is rejected.
    Score: "tokens_per_unit".

    Args:
        low: shortest, times the expected length.
        high: longest, times the expected length.
        unit: what of the text is counted: "token" (text ids), or of the written sentence "character" (code points that
            are no spaces), "grapheme" (clusters; the same across scripts) or "word".
        per_unit: speech tokens per unit, where they are known.
        data: what to measure them on: utterances or a Parquet file of them, for unit "token"; or (sentence, tokens)
            pairs, which have a written text.

    Raises:
        ValueError: neither `per_unit` nor usable `data`, or a number out of range.

    Source: Geng et al. 2026, eq. 16.

    Example:
        >>> from seaalign.records import Prompt
        >>> said = [Utterance("a", Prompt([1, 2]), range(20)), Utterance("b", Prompt([3]), range(12))]
        >>> Duration(data=said).per_unit  # the median of 10 and 12
        11.0
    """

    name = "length"
    needs_audio = False

    def __init__(
        self,
        low: float = 0.5,
        high: float = 2.0,
        unit: Unit = "token",
        per_unit: float | None = None,
        data: str | Path | Sequence[Utterance | tuple[Sentence, Tensor]] | None = None,
    ) -> None:
        if not 0 <= low < high:
            raise ValueError(f"need 0 <= low < high, got {low} and {high}")
        if per_unit is not None and data is not None:
            raise ValueError(f"per_unit={per_unit} and data both say how long a {unit} is: give one of them")
        if unit not in ("token", "character", "grapheme", "word"):
            raise ValueError(f"unit must be 'token', 'character', 'grapheme' or 'word', got {unit!r}")
        if per_unit is None and data is not None:
            said = read_utterances(data) if isinstance(data, str | Path) else data
            per_unit = _median([_per_unit(item, unit) for item in said])
        if per_unit is None or not per_unit > 0:
            raise ValueError(
                f"Duration does not know how many speech tokens a {unit} of text takes (per_unit={per_unit}): "
                "calibrate it on your SFT data with data=, for instance Duration(data='sft.parquet')"
            )
        self.low, self.high, self.unit, self.per_unit = low, high, unit, float(per_unit)

    def __call__(self, candidates: Sequence[Candidate]) -> list[Verdict]:
        return [self._judge(candidate) for candidate in candidates]

    def _judge(self, candidate: Candidate) -> Verdict:
        count = units(candidate.sentence, self.unit)
        rate = len(candidate.tokens) / count
        within = self.low * self.per_unit <= rate <= self.high * self.per_unit
        return verdict_of(self.name, within and candidate.ended, {"tokens_per_unit": rate})


def units(sentence: Sentence, unit: Unit) -> int:
    """How long a sentence is: text ids, code points that are no spaces, grapheme clusters or words.

    Raises:
        ValueError: it has none, for instance only punctuation.
    """
    if unit == "token":
        return len(sentence.prompt.text)
    if unit == "character":
        return len("".join(sentence.text.split()))
    from seaalign.judges.languages import graphemes, words

    found = (graphemes if unit == "grapheme" else words)(sentence.text, sentence.language)
    if not found:
        raise ValueError(f"sentence {sentence.id!r} has no {unit}: {sentence.text!r}; drop it, or count in characters")
    return len(found)


def verdict_of(name: str, passed: bool, scores: dict[str, float], heard: str | None = None) -> Verdict:
    """Accepted, or rejected by this name."""
    return Verdict.accept(scores, heard) if passed else Verdict.reject(name, scores=scores, transcript=heard)


def _per_unit(item: Utterance | tuple[Sentence, Tensor], unit: Unit) -> float:
    if isinstance(item, Utterance):
        if unit != "token":
            raise ValueError(f"utterances have text ids alone, not {unit}s: pass (sentence, tokens) pairs as data")
        return len(item.tokens) / len(item.prompt.text)
    sentence, tokens = item
    return len(tokens) / units(sentence, unit)


def _median(rates: Sequence[float]) -> float:
    if not rates:
        raise ValueError("there is nothing to calibrate Duration on: data holds no utterance")
    return float(torch.tensor(rates, dtype=torch.float64).quantile(0.5))
