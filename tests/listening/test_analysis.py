from __future__ import annotations

import csv
import json
import math

import pytest
import torch

from seaalign.listening import Answer, Screening, analyse_listening
from seaalign.listening.scores import agreement, opinion_scores, preferences, score_differences
from tests.listening.simulated import made_clips, write_key, write_results

QUALITY = {"recordings": 4.5, "dgsa": 3.9, "sft": 3.1}
CLIPS = [{"system": name, "text_id": text} for text in ("t", "u") for name in ("a", "b")]


def scored(rater, clip, value, test="nmos", role="test"):
    return Answer(rater, test, role, (clip,), value, 3.0, 1)


def compared(rater, value, clips=(0, 1), role="test"):
    return Answer(rater, "ab", role, clips, value, 3.0, 2)


def test_scores_by_hand():
    answers = [
        scored("1", 0, 5),
        scored("1", 2, 4),
        scored("2", 0, 3),
        scored("2", 2, 4),
        scored("1", 1, 1, role="low"),
    ]
    (row,) = opinion_scores(answers, CLIPS, 200, 0)
    assert (row["system"], row["mos"], row["ratings"], row["raters"]) == ("a", 4.0, 4, 2)
    half = 1.96 * math.sqrt(2 / 3) / 2
    assert (row["normal_low"], row["normal_high"]) == pytest.approx((4 - half, 4 + half))
    assert (row["low"], row["high"]) == (3.5, 4.5)  # the two raters' means: a draw may take one of them twice


def test_differences_by_hand():
    # three people find a 1, 2 and 3 grades better than b, on one text each heard
    answers = [scored(str(i), 0, 1 + i) for i in (1, 2, 3)] + [scored(str(i), 1, 1) for i in (1, 2, 3)]
    (row,) = score_differences(answers, CLIPS, 200, 0)
    assert (row["a"], row["b"], row["difference"], row["ratings"]) == ("a", "b", 2.0, 3)
    assert row["p"] == row["p_holm"] == 0.25  # 2 of the 8 ways to exchange a and b
    assert math.isnan(row["p_texts"])  # one text says nothing of others


def test_differences_use_only_what_both_were_heard_on():
    answers = [scored("1", 0, 5), scored("1", 1, 3), scored("2", 0, 5), scored("2", 1, 3), scored("1", 2, 1)]
    (row,) = score_differences(answers, CLIPS, 200, 0)
    assert (row["difference"], row["ratings"]) == (2.0, 2)


def test_two_systems_that_nobody_heard_on_one_text_are_not_compared(tmp_path):
    assert score_differences([scored("1", 0, 5), scored("1", 3, 2)], CLIPS, 200, 0) == []


def test_preferences_by_hand():
    votes = [
        compared("1", "left"),
        compared("1", "left", (2, 3)),
        compared("2", "right", (1, 0)),
        compared("3", "same"),
    ]
    votes += [compared("4", "right"), compared("4", "left", (2, 3)), compared("5", "left", role="high")]
    (row,) = preferences(votes, CLIPS, 200, 0)
    assert (row["a"], row["b"], row["votes_a"], row["votes_b"], row["ties"]) == ("a", "b", 4, 1, 1)
    assert row["share"] == pytest.approx(4.5 / 6)
    assert (row["raters_a"], row["raters_b"]) == (2, 0)  # 3 tied, 4 is even
    assert row["p"] == 0.5  # two of two


def test_agreement_of_those_who_agree_and_of_those_who_do_not():
    same = [scored(rater, clip, value) for rater in "12" for clip, value in ((0, 1), (1, 3), (2, 5))]
    assert [row["alpha"] for row in agreement(same)] == [1.0, 1.0]
    sides = [
        compared("1", "left"),
        compared("2", "right", (1, 0)),
        compared("1", "right", (2, 3)),
        compared("2", "left", (3, 2)),
    ]
    assert [(row["level"], row["alpha"]) for row in agreement(sides)] == [("nominal", 1.0)]
    # a system that all prefer everywhere is agreement too, whichever of the two has the lower number
    first = [compared(rater, "left", clips) for rater in "12" for clips in ((0, 1), (2, 3))]
    assert agreement(first)[0]["alpha"] == 1.0


def test_planted_differences_are_found_and_who_clicks_at_random_is_screened_out(tmp_path):
    key = write_key(tmp_path, made_clips(), ("nmos", "smos", "ab"), raters=20, screening=3, again=2)
    clickers = ("04", "11", "17")
    found = analyse_listening(tmp_path, write_results(tmp_path, key, QUALITY, clickers=clickers), draws=500)
    assert {row["rater"] for row in found.raters if not row["passed"]} == set(clickers)
    assert (found.screened.raters, found.everyone.raters) == (17, 20)
    for test in ("nmos", "smos"):
        assert [r["system"] for r in found.screened.scores if r["test"] == test] == ["recordings", "dgsa", "sft"]
        assert max(r["p_holm"] for r in found.screened.differences if r["test"] == test) < 0.001
    gaps = {(r["a"], r["b"]): r["difference"] for r in found.screened.differences if r["test"] == "nmos"}
    assert gaps["dgsa", "sft"] == pytest.approx(0.8, abs=0.2)
    assert [(r["a"], r["b"], r["share"] > 0.5) for r in found.screened.preferences] == [
        ("dgsa", "recordings", False),
        ("dgsa", "sft", True),
        ("recordings", "sft", True),
    ]
    assert all(r["p_holm"] < 0.05 for r in found.screened.preferences)
    # random answers pull everything towards the middle and raters apart
    alphas = [[r["alpha"] for r in side.agreement] for side in (found.screened, found.everyone)]
    assert all(good > all_ for good, all_ in zip(*alphas, strict=True))
    apart = {row["rater"]: row["again_apart"] for row in found.raters}
    assert max(apart[r] for r in clickers) > 1 > sum(v for r, v in apart.items() if r not in clickers) / 17


def test_the_stricter_the_screening_the_fewer_pass(tmp_path):
    key = write_key(tmp_path, made_clips(), raters=12, screening=3)
    paths = write_results(tmp_path, key, {**QUALITY, "recordings": 4.0}, clickers=("01", "02"))
    counts = [
        analyse_listening(tmp_path, paths, Screening(share=share), draws=10).screened.raters for share in (0, 0.75, 1)
    ]
    assert counts[0] == 12 and counts[0] > counts[1] >= counts[2]
    with pytest.raises(ValueError, match="none of 12 raters passed"):
        analyse_listening(tmp_path, paths, Screening(high=6), draws=10)


def test_intervals_by_rater_cover_and_normal_ones_do_not():
    """95 % of the intervals by rater should hold the truth; ratings of one person taken for independent ones do not.

    60 tests of 20 raters, with a bias of each rater of 0.4 grades. The truth is the mean over 2,000 raters.
    """
    generator, texts, truth = torch.Generator().manual_seed(1), 12, 3.0
    hits, narrow = 0, 0
    for _ in range(60):
        bias = 0.4 * torch.randn(20, 1, generator=generator)
        values = truth + bias + 0.6 * torch.randn(20, texts, generator=generator)
        answers = [
            Answer(f"{r:02d}", "nmos", "test", (0,), float(v), 1.0, 1)  # type: ignore[arg-type]  # not rounded: the truth is known
            for r, row in enumerate(values)
            for v in row
        ]
        (row,) = opinion_scores(answers, CLIPS, 400, 0)
        hits += row["low"] <= truth <= row["high"]
        narrow += row["normal_low"] <= truth <= row["normal_high"]
    assert hits >= 52  # 57 expected of 60; fewer than 52 in 1 of 100 such tests
    assert narrow < 48


def test_no_difference_is_rarely_found(tmp_path):
    """Systems of the same quality: few of 40 tests find a difference (at most 5 % expected, by the correction)."""
    same, found = dict.fromkeys(QUALITY, 3.5), 0
    for seed in range(40):
        key = write_key(tmp_path / str(seed), made_clips(texts=4), raters=10, seed=seed, screening=0)
        paths = write_results(tmp_path / str(seed), key, same, seed)
        made = analyse_listening(tmp_path / str(seed), paths, draws=2)
        found += any(r["p_holm"] < 0.05 for r in made.screened.differences)
    assert found <= 6  # more than 6 of 40 in 1 of 300 such studies


def test_what_is_saved_is_what_was_found(tmp_path):
    key = write_key(tmp_path, made_clips(("recordings", "sft")), ("nmos", "ab"), raters=4)
    quality = {"recordings": 4.5, "sft": 3.0}
    found = analyse_listening(tmp_path, write_results(tmp_path, key, quality), draws=20)
    paths = found.save(tmp_path / "out")
    assert all(path.stat().st_size for path in paths)
    told = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert told["screened"]["scores"][0]["mos"] == found.screened.scores[0]["mos"]
    with open(tmp_path / "out" / "answers.csv", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(sheet["trials"]) for sheet in key["raters"].values())
    assert {row["systems"] for row in rows if row["test"] == "nmos"} == {"recordings", "sft"}
    assert {row["answer"] for row in rows if row["test"] == "ab" and row["role"] == "test"} <= {
        "recordings",
        "sft",
        "tie",
    }
