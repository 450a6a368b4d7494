"""Word and character error rates over a corpus.

A sequence is a list of words (word error rate) or a plain string, which is compared character by character (character
error rate). Segmentation and normalisation belong to the language and happen before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def edit_distance(hypothesis: Sequence[str], reference: Sequence[str]) -> int:
    """Least number of insertions, deletions and substitutions that turn one sequence into the other.

    Args:
        hypothesis: words, or a string for characters.
        reference: the same kind.

    Returns:
        The Levenshtein distance; that to an empty sequence is the length of the other.

    Raises:
        TypeError: where one is a string and the other a list of words.

    >>> edit_distance("kitten", "sitting"), edit_distance([], ["two", "words"])
    (3, 2)
    """
    if isinstance(hypothesis, str) != isinstance(reference, str):
        raise TypeError(f"cannot compare words with characters: {hypothesis!r} and {reference!r}; split both or none.")
    ids = {unit: number for number, unit in enumerate(dict.fromkeys([*hypothesis, *reference]))}
    target = np.array([ids[unit] for unit in reference], dtype=np.int64)
    ramp = np.arange(len(target) + 1)
    row = ramp
    for number, unit in enumerate(hypothesis, start=1):
        replaced = np.minimum(row[1:] + 1, row[:-1] + (target != ids[unit]))
        # Moving along the row costs 1 per step: subtract the ramp, take the running minimum, add it back.
        row = np.minimum.accumulate(np.concatenate([[number], replaced]) - ramp) + ramp
    return int(row[-1])


def error_counts(hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> tuple[int, int]:
    """Errors and reference units of a corpus, to be added over batches.

    Args:
        hypotheses: one sequence per utterance.
        references: one sequence per utterance, in the same order.

    Returns:
        ``(errors, total)``.

    Raises:
        ValueError: where the numbers of utterances differ.
        TypeError: where a corpus is one string, or words meet characters.

    >>> error_counts([["a", "b"], []], [["a", "c"], ["d"]])
    (2, 3)
    """
    if isinstance(hypotheses, str) or isinstance(references, str):
        raise TypeError("pass a list of utterances, not one string.")
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references.")
    errors = sum(edit_distance(h, r) for h, r in zip(hypotheses, references, strict=True))
    return errors, sum(len(reference) for reference in references)


def error_rate(hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> Tensor:
    """Word or character error rate of a corpus: all errors over all reference units.

    An empty hypothesis is all deletions, rate 1, never 0. The rate exceeds 1 where insertions abound.

    Args:
        hypotheses: one sequence per utterance: words, or a string for characters.
        references: one sequence per utterance, in the same order.

    Returns:
        () share, not percent.

    Raises:
        ValueError: where the references hold no unit at all, or the numbers of utterances differ.
        TypeError: see :func:`error_counts`.

    >>> error_rate([["one", "two"], []], [["one", "too"], ["nine", "ten"]]).item()  # (1 + 2) / (2 + 2)
    0.75
    """
    errors, total = error_counts(hypotheses, references)
    return rate_of(torch.tensor(errors), torch.tensor(total))


def rate_of(errors: Tensor, total: Tensor) -> Tensor:
    """``errors / total``, refusing an empty corpus.

    Args:
        errors: () number of errors.
        total: () number of reference units.

    Returns:
        () share.

    Raises:
        ValueError: where total is 0.
    """
    if int(total) == 0:
        raise ValueError("the references are empty, so the error rate is undefined: check their normalisation.")
    return errors / total
