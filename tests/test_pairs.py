"""Mining: golden funnels by hand, an independent slow miner, and what must hold for any verdicts."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seaalign import Candidate, Prompt, Sentence, Verdict
from seaalign.pairs import mine

TEXTS = [Sentence(f"s{i}", f"text {i}", Prompt([i])) for i in range(4)]


def candidate(text: int, index: int, length: int, heat: float = 1.0, ended: bool = True) -> Candidate:
    return Candidate(TEXTS[text], torch.arange(length) % 7, ended, heat, index)


def ok(error: float) -> Verdict:
    return Verdict.accept({"error": error})


def wrong(error: float) -> Verdict:
    return Verdict.reject("intelligibility", scores={"error": error})


GOLDEN = [
    (candidate(0, 0, 10, 0.7), ok(0.2)),
    (candidate(0, 1, 11, 0.7), ok(0.0)),  # the winner of text 0
    (candidate(0, 2, 15, 1.3), wrong(0.9)),
    (candidate(0, 3, 12, 1.3), wrong(0.5)),  # closer in length to 11: the loser
    (candidate(0, 4, 11, 1.3), Verdict.reject("repetition", "intelligibility", scores={"error": 1.0})),  # looped
    (candidate(1, 0, 9, 0.7), ok(0.0)),  # no loser
    (candidate(1, 1, 9, 1.3), Verdict.reject("length")),
    (candidate(2, 0, 9, 0.7), wrong(0.6)),  # no winner
    (candidate(2, 1, 0, 1.3), ok(0.0)),  # empty: never accepted
    (candidate(3, 0, 9, 0.7, ended=False), ok(0.0)),  # cut: never accepted
    (candidate(3, 1, 9, 1.3), Verdict.failed("no answer")),  # an abstention is no loser
]


def test_golden_pair_and_funnel():
    accepted, pairs, funnel = mine(GOLDEN)
    assert [u.id for u in accepted] == ["s0#0", "s0#1", "s1#0"] and {u.source for u in accepted} == {"self"}
    assert [(p.id, len(p.chosen), len(p.rejected)) for p in pairs] == [("s0", 11, 12)]
    assert funnel.texts == {"texts": 4, "with_accepted": 2, "pairs": 1, "nothing accepted": 2, "no loser": 1}
    cool, hot = funnel.rows
    assert (cool["temperature"], cool["candidates"], cool["accepted"]) == (0.7, 5, 3)
    assert cool["pass_rate"] == pytest.approx(3 / 5) and cool["share"] == 1.0 and hot["share"] == 0.0
    assert cool["refused"] == {"intelligibility": 1, "cut": 1}
    assert hot["refused"] == {"intelligibility": 2, "repetition": 1, "length": 1, "empty": 1, "no verdict": 1}
    assert cool["error"] == pytest.approx((0.2 + 0.0 + 0.0 + 0.6 + 0.0) / 5)
    assert hot["error"] == pytest.approx((0.9 + 0.5 + 1.0 + 0.0) / 4)  # those without a score were not listened to
    assert (cool["winners"], cool["losers"], hot["winners"], hot["losers"]) == (1, 0, 0, 1)
    assert cool["entropy_tokens"] == hot["entropy_tokens"] == min(10 + 11 + 9 + 9 + 9, 15 + 12 + 11 + 9 + 0 + 9)
    assert funnel.accepted == 3 and funnel.candidates == 11
    assert "0.70       5       3    60.0    100.0" in str(funnel) and "pairs 1" in str(funnel)


def test_several_pairs_of_a_text_share_no_candidate():
    judged = [(candidate(0, i, 10 + i), ok(0.1 * i)) for i in range(3)]
    judged += [(candidate(0, 3 + i, 11 + i), wrong(0.6)) for i in range(2)]
    _, pairs, _ = mine(judged, per_text=3)
    assert [(p.id, len(p.chosen), len(p.rejected)) for p in pairs] == [("s0", 10, 11), ("s0+1", 11, 12)]


def test_a_loser_that_is_no_worse_than_the_winner_makes_no_pair():
    judged = [(candidate(0, 0, 9), ok(0.3)), (candidate(0, 1, 9), wrong(0.3))]
    assert mine(judged).pairs == []


def test_ties_are_broken_by_seed_and_not_by_order():
    judged = [(candidate(0, i, 10, heat=1.0 + i / 10), ok(0.0)) for i in range(6)]
    judged.append((candidate(0, 6, 10, heat=2.0), wrong(0.9)))

    def winner(seed: int, items) -> float:
        return next(row["temperature"] for row in mine(items, seed=seed).funnel.rows if row["winners"])

    found = [winner(seed, judged) for seed in range(12)]
    assert len(set(found)) > 1
    assert found == [winner(seed, judged[::-1]) for seed in range(12)]


def test_other_reasons_for_losers():
    judged = [(candidate(0, 0, 9), ok(0.0)), (candidate(0, 1, 9), Verdict.reject("accent", scores={"error": 0.2}))]
    assert mine(judged).pairs == [] and len(mine(judged, loser_reasons=("accent",)).pairs) == 1


def test_what_cannot_be_mined():
    with pytest.raises(ValueError, match="no candidates to mine: explore first"):
        mine([])
    judged = [(candidate(0, 0, 9), ok(0.0)), (candidate(0, 1, 9), Verdict.reject("intelligibility"))]
    with pytest.raises(ValueError, match=r"rejected s0#1 for \('intelligibility',\) without a score 'error'"):
        mine(judged)


def slow(judged):
    """Text by text, candidate by candidate, as the paper says it; (winner, loser) lengths and the accepted."""
    good, found = Counter(), {}
    for text in {c.sentence.id for c, _ in judged}:
        here = [(c, v) for c, v in judged if c.sentence.id == text and c.ended and len(c.tokens)]
        winners = [(c, v) for c, v in here if v.status == "ok"]
        losers = [(c, v) for c, v in here if v.status == "reject" and v.reasons == ("intelligibility",)]
        good[text] = len(winners)
        if winners and losers:
            least = min(v.scores["error"] for _, v in winners)
            found[text] = (least, [(c, v) for c, v in losers if v.scores["error"] > least])
    return good, found


judgements = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(0, 12),
        st.sampled_from([0.7, 1.0, 1.3]),
        st.booleans(),
        st.sampled_from(["ok", "intelligibility", "length", "error"]),
        st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    ),
    min_size=1,
    max_size=24,
)


@settings(max_examples=150, deadline=None)
@given(judgements, st.integers(0, 5))
def test_agrees_with_the_slow_miner(rows, seed):
    judged = []
    for index, (text, length, heat, ended, status, error) in enumerate(rows):
        verdict = {
            "ok": ok(error),
            "intelligibility": wrong(error),
            "length": Verdict.reject("length", scores={"error": error}),
            "error": Verdict.failed("?"),
        }[status]
        judged.append((candidate(text, index, length, heat, ended), verdict))
    accepted, pairs, funnel = mine(judged, seed=seed)
    good, found = slow(judged)
    assert Counter(u.id.split("#")[0] for u in accepted) == +good
    by_text = {p.id: p for p in pairs}
    assert by_text.keys() == {text for text, (_, losers) in found.items() if losers}
    for text, pair in by_text.items():
        least, losers = found[text]
        gap = abs(len(pair.rejected) - len(pair.chosen))
        assert gap == min(abs(len(c.tokens) - len(pair.chosen)) for c, _ in losers)
        assert any(len(c.tokens) == len(pair.chosen) and v.scores.get("error") == least for c, v in judged if v.ok)
    assert funnel.candidates == len(judged) and funnel.accepted == len(accepted)
    for row in funnel.rows:
        assert row["candidates"] == row["accepted"] + sum(row["refused"].values())
    counts = funnel.texts
    assert counts["texts"] == len(pairs) + counts["nothing accepted"] + counts["no loser"]
    mixed = judged[:]
    random.Random(seed).shuffle(mixed)
    again = mine(mixed, seed=seed)
    assert [u.id for u in again.accepted] == [u.id for u in accepted] and again.funnel == funnel
    assert all(
        torch.equal(a.chosen, b.chosen) and torch.equal(a.rejected, b.rejected)
        for a, b in zip(again.pairs, pairs, strict=True)
    )
