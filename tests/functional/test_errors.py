"""Edit distance and error rates."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaalign.functional import edit_distance, error_rate

WORDS = st.lists(st.sampled_from(["one", "two", "a b", ""]), max_size=7)


def slow_distance(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    @cache
    def d(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        return min(d(i - 1, j) + 1, d(i, j - 1) + 1, d(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return d(len(a), len(b))


def test_golden():
    assert edit_distance("kitten", "sitting") == 3  # k-s, e-i, +g
    # 1 substitution, 2 deletions, 0 errors, 1 insertion: 4 errors over 2 + 2 + 1 + 0 units
    hypotheses = [["one", "two"], [], ["six"], ["ten"]]
    references = [["one", "too"], ["nine", "ten"], ["six"], []]
    assert error_rate(hypotheses, references).item() == pytest.approx(4 / 5)


@given(a=WORDS, b=WORDS)
def test_distance_agrees_with_slow_implementation(a, b):
    assert edit_distance(a, b) == slow_distance(tuple(a), tuple(b)) == edit_distance(b, a)


@given(a=WORDS, b=WORDS, c=WORDS)
def test_distance_is_a_metric(a, b, c):
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)
    assert abs(len(a) - len(b)) <= edit_distance(a, b) <= max(len(a), len(b))


@given(reference=WORDS.filter(bool))
def test_an_empty_transcript_is_all_wrong(reference):
    assert error_rate([[]], [reference]).item() == 1.0
    assert error_rate([""], ["".join(reference) + "x"]).item() == 1.0


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="references are empty"):
        error_rate([["word"]], [[]])
    with pytest.raises(ValueError, match="references are empty"):
        error_rate([], [])
    with pytest.raises(ValueError, match="2 hypotheses for 1 references"):
        error_rate(["a", "b"], ["a"])
    with pytest.raises(TypeError, match="words with characters"):
        error_rate([["one", "two"]], ["one two"])
    with pytest.raises(TypeError, match="not one string"):
        error_rate("one two", "one two")
