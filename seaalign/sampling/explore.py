"""Exploration for TDSC: many candidates per sentence over a gradient of temperatures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch

from seaalign.backbones.base import Backbone, calls, occurrences
from seaalign.backbones.context import naming
from seaalign.records import Candidate, Sentence


def temperature_gradient(
    iteration: int, fixed: Sequence[float] = (0.7, 1.0), start: float = 0.8, step: float = 0.1
) -> tuple[float, ...]:
    """The temperatures of an iteration: fixed ones, and a hottest one that grows.

    Args:
        iteration: k, from 1.
        fixed: temperatures of every iteration.
        start: of T_max(k) = start + step x k. The paper gives 0.8 + 0.1 k in App. D.2 (1.3 at k = 5), and 1.3 + 0.1
            per iteration in table 12.
        step: the other half of it.

    Source: Geng et al. 2026, eq. 15 and App. D.2.

    Example:
        >>> [round(t, 1) for t in temperature_gradient(5)]
        [0.7, 1.0, 1.3]
    """
    return (*fixed, start + step * iteration)


def frame_limits(sentences: Sequence[Sentence], max_len: int, frames_per_symbol: float | None) -> list[int]:
    """Most frames of a candidate of each sentence: `max_len`, or what its text ids make probable where that is less.

    Args:
        sentences: what to say.
        max_len: of any.
        frames_per_symbol: with L text ids, the limit is `frames_per_symbol` x L + 20; None: `max_len` alone.

    Example:
        >>> from seaalign.records import Prompt
        >>> frame_limits([Sentence("a", "hi", Prompt([1, 2])), Sentence("b", "hello", Prompt([3] * 9))], 50, 4.0)
        [28, 50]
    """
    if not frames_per_symbol:
        return [max_len] * len(sentences)
    return [min(max_len, round(frames_per_symbol * len(sentence.prompt.text)) + 20) for sentence in sentences]


class Turn(NamedTuple):
    """A sentence, and what a process needs to know of all others to say it as it would be said among them.

    Args:
        sentence: what to say.
        before: how many sentences of an equal prompt come before it in the whole list; each draws answers of its own.
    """

    sentence: Sentence
    before: int


def turns(sentences: Sequence[Sentence]) -> list[Turn]:
    """A whole list of sentences, ready to be cut in parts for many processes.

    Example:
        >>> from seaalign.records import Prompt
        >>> texts = [Sentence(f"s{i}", "hello", Prompt([words])) for i, words in enumerate([1, 2, 1])]
        >>> [turn.before for turn in turns(texts)]
        [0, 0, 1]
    """
    before = occurrences([sentence.prompt for sentence in sentences])
    return [Turn(sentence, count) for sentence, count in zip(sentences, before, strict=True)]


def explore(
    backbone: Backbone,
    sentences: Sequence[Sentence],
    temperatures: Sequence[float],
    *,
    top_p: float = 0.9,
    max_len: int | Sequence[int] = 1024,
    batch: int = 16,
    seed: int = 0,
    wanted: Callable[[int], bool] = lambda wave: True,
    before: Sequence[int] | None = None,
) -> Iterator[tuple[int, list[Candidate]]]:
    """Say each sentence once at each temperature, a wave of sentences per call of the sampler.

    In a wave every prompt is read once, every row has its own temperature, and finished rows leave. What a sentence
    draws depends on its prompt and the seed alone, so waves can be shared between processes, or made again after a
    crash, and give the same candidates.

    Args:
        backbone: the policy.
        sentences: what to say.
        temperatures: one per candidate of a sentence (N,), each > 0; repeat one to draw several candidates at it.
        top_p: nucleus mass. The raw sampler: repetition-aware ones would hide what the judge should see.
        max_len: most frames of a candidate, a number or one per sentence.
        batch: sentences per wave; rows in memory are `batch` x N.
        seed: of the draws.
        wanted: which waves to make, by number; the others are passed over.
        before: of each sentence, where these are a part of a longer list; see `turns`.

    Yields:
        The number of the wave, and its candidates: N for each of its sentences.

    Raises:
        ValueError: no temperature, or one that is not above 0: candidates at 0 would all be the same.

    Source: Geng et al. 2026, eq. 15.
    """
    if not temperatures or min(temperatures) <= 0:
        raise ValueError(f"need temperatures above 0, one per candidate, got {list(temperatures)}")
    limits = [max_len] * len(sentences) if isinstance(max_len, int) else list(max_len)
    n, prompts = len(temperatures), [sentence.prompt for sentence in sentences]
    for wave, (rows, turn) in enumerate(calls(prompts, batch, limits, before)):
        if not wanted(wave):
            continue
        with naming([sentences[i].id for i in rows]):
            speech = backbone.sample(
                [prompts[i] for i in rows],
                n,
                torch.tensor(list(temperatures)).repeat(len(rows)),
                top_p,
                torch.tensor([limits[i] for i in rows]).repeat_interleave(n),
                generator=torch.Generator().manual_seed(seed + turn),
            ).to("cpu")
        answers = list(zip(speech.rows(), speech.ended.tolist(), strict=True))
        yield (
            wave,
            [
                Candidate(sentences[i], tokens, ended, float(temperatures[k]), k)
                for at, i in enumerate(rows)
                for k, (tokens, ended) in enumerate(answers[at * n : (at + 1) * n])
            ],
        )
