from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaalign.listening.clips import Clip
from seaalign.listening.design import design
from seaalign.listening.order import Slot, mixed_in, rounds, texts_of, williams
from tests.listening.simulated import made_clips


@given(st.integers(1, 9))
def test_williams_balances_places_and_neighbours(n):
    square = williams(n)
    assert len(square) == (n if n % 2 == 0 else 2 * n)
    places = Counter((place, one) for row in square for place, one in enumerate(row))
    neighbours = Counter(pair for row in square for pair in pairwise(row))
    assert set(places.values()) == {len(square) // n} and len(places) == n * n
    assert len(neighbours) == n * (n - 1) and len(set(neighbours.values())) <= 1


def test_a_square_needs_conditions():
    with pytest.raises(ValueError, match="got 0"):
        williams(0)


@given(st.integers(2, 8), st.integers(1, 5), st.integers(0, 30), st.integers())
def test_every_text_in_every_condition_once_and_never_twice_in_a_row(texts, conditions, rater, seed):
    slots = rounds(dict.fromkeys(range(texts), rater), conditions, Random(seed))
    assert Counter((s.text, s.condition) for s in slots) == {(t, c): 1 for t in range(texts) for c in range(conditions)}
    assert all(a.text != b.text for a, b in pairwise(slots))


def test_over_raters_each_system_is_heard_early_and_late_equally_often():
    texts, systems = 6, 4
    turns: Counter[tuple[int, int, int]] = Counter()
    for rater in range(8):
        for place, slot in enumerate(rounds(dict.fromkeys(range(texts), rater), systems, Random(rater))):
            turns[slot.text, slot.condition, place // texts] += 1
    assert set(turns.values()) == {2} and len(turns) == texts * systems * systems


@pytest.mark.parametrize(("texts", "each", "raters"), [(100, 25, 20), (60, 20, 12), (12, 12, 20)])
def test_sides_and_orders_are_balanced_over_those_who_hear_a_text(texts, each, raters):
    made = design(made_clips(("dgsa", "sft", "dpo", "vits"), texts), ["ab"], 0, texts=each, screening=0)
    left: dict[tuple[int, ...], Counter[int]] = {}
    first: dict[int, Counter[int]] = {}
    for rater in range(raters):
        for trial in made.section("ab", rater):
            left.setdefault(tuple(sorted(trial.clips)), Counter())[trial.clips[0]] += 1
        heard: set[int] = set()
        for trial in made.section("nmos", rater):
            text = trial.clips[0] // 4
            if text not in heard:
                first.setdefault(text, Counter())[trial.clips[0] % 4] += 1
            heard.add(text)
    assert all(abs(sides[a] - sides[b]) <= 1 for (a, b), sides in left.items())
    assert all(max(one.values()) - min(one[i] for i in range(4)) <= 1 for one in first.values())


def test_one_text_is_too_few():
    with pytest.raises(ValueError, match="at least 2 texts"):
        rounds({0: 0}, 3, Random(0))


@given(st.integers(2, 30), st.integers(1, 30), st.integers(1, 40))
def test_texts_are_shared_out_evenly(texts, each, raters):
    each = min(each, texts)
    heard = Counter(text for rater in range(raters) for text in texts_of(rater, texts, each))
    assert all(len(set(texts_of(rater, texts, each))) == each for rater in range(raters))
    assert max(heard.values()) - min(heard.get(t, 0) for t in range(texts)) <= 1


@given(st.integers(6, 10), st.integers(0, 99))
def test_hidden_clips_stand_apart_from_their_text_and_repetitions_come_later(texts, seed):
    random = Random(seed)
    slots = rounds(dict.fromkeys(range(texts), 0), 3, random)
    extra = [Slot(0, 0, "high"), Slot(1, 0, "low"), slots[0]._replace(role="again"), slots[-1]._replace(role="again")]
    made = mixed_in(slots, extra, random)
    assert Counter(made) == Counter([*slots, *extra])
    assert [s for s in made if s.role == "test"] == slots
    for again in extra[2:]:
        assert made.index(again) > made.index(again._replace(role="test"))
    assert made[0].role == "test"
    assert sum(a.text == b.text for a, b in pairwise(made)) <= 1  # the last clip, heard again at once, may have to


def test_sides_are_balanced_for_raters_and_for_comparisons():
    made = design(made_clips(texts=8), ["ab"], 0)
    raters: Counter[int] = Counter()
    comparisons: Counter[tuple[int, ...]] = Counter()
    for rater in range(6):
        for trial in made.section("ab", rater):
            if trial.role == "test":
                raters[rater] += trial.clips[0] < trial.clips[1]
                comparisons[tuple(sorted(trial.clips))] += trial.clips[0] < trial.clips[1]
    assert set(raters.values()) == {12}  # of 24
    assert set(comparisons.values()) == {3}  # of 6 raters


def test_screening_clips_are_recordings_and_the_same_spoiled():
    made = design(made_clips(), ["nmos", "smos", "ab"], 0, screening=2)
    for test in ("nmos", "smos", "ab"):
        roles = Counter(t.role for t in made.section(test, 0))
        assert (roles["high"], roles["low"]) == (2, 2)
        for trial in made.section(test, 0):
            assert (trial.sounds[-1][0] == "reference") == (test == "smos")
            if trial.role != "test":
                assert {made.clips[i].system for i in trial.clips} == {"recordings"}
                assert trial.sounds[0][0] == ("clip" if trial.role == "high" else "spoiled")


def test_every_rater_hears_every_system_on_the_same_texts():
    made = design(made_clips(texts=9), ["nmos"], 3, texts=4)
    for rater in range(5):
        clips = [made.clips[t.clips[0]] for t in made.section("nmos", rater) if t.role == "test"]
        heard = Counter((clip.system, clip.text_id) for clip in clips)
        assert set(heard.values()) == {1} and len(heard) == 12
        assert len({text for _, text in heard}) == 4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tests": []}, "tests are"),
        ({"tests": ["mos"]}, "tests are"),
        ({"systems": ["dgsa", "who"]}, "who"),
        ({"tests": ["ab"], "compare": [("dgsa", "dgsa")]}, "two different systems"),
        ({"tests": ["ab"], "compare": [("dgsa", "who")]}, "two different systems"),
        ({"tests": ["smos"], "clips": [Clip("a", "t", "", "a.wav"), Clip("a", "u", "", "b.wav")]}, "2 clips have none"),
        ({"clips": [Clip("a", "t", "", "a.wav"), Clip("b", "u", "", "b.wav")]}, "no text is said by all"),
    ],
)
def test_what_cannot_be_asked_is_refused(changed, message):
    asked = {"clips": made_clips(), "tests": ["nmos"], **changed}
    with pytest.raises(ValueError, match=message):
        design(asked.pop("clips"), asked.pop("tests"), 0, **asked)


def test_without_recordings_there_is_a_warning_and_no_screening():
    with pytest.warns(UserWarning, match="no screening clips"):
        made = design(made_clips(("dgsa", "sft")), ["nmos"], 0)
    assert {t.role for t in made.section("nmos", 0)} == {"test"}
