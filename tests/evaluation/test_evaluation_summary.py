"""From rows to numbers: golden values, slow twins, coverage of the entropy's interval."""

from __future__ import annotations

import math

import pytest
import torch

from seaalign.evaluation.rows import Row
from seaalign.evaluation.summary import Table, calibrated, common_count, compare, matches, summarise
from seaalign.functional import entropy_at

KEY = ("x", "off")


def row(prompt: str, errors: float, words: float, tokens=None, repeat: int = 0, **scores: float) -> Row:
    told = {"word_errors": errors, "words": words, **scores}
    return Row("x", "off", prompt, "", repeat, None if tokens is None else torch.tensor(tokens), scores=told)


def table(*rows: Row, order: str = "abcd") -> Table:
    return Table(rows, {name: number for number, name in enumerate(order)})


def test_golden_errors():
    # two texts, the first twice: (1 + 0 + 3) / (4 + 4 + 2) words; the mean over answers would be 58.3 %
    made = table(row("a", 1, 4), row("a", 0, 4, repeat=1), row("b", 3, 2), order="ab")
    score = summarise({KEY: made}, 2, draws=400)[KEY]["wer"]
    assert (score.value, score.n) == (pytest.approx(40.0), 2)
    assert (score.low, score.high) == pytest.approx((12.5, 150.0))  # only a; only b


def test_what_is_undefined_counts_nowhere():
    nan = math.nan
    made = table(
        row("a", 1, 4, f0_std=2.0), row("b", nan, 4, f0_std=nan), row("c", nan, nan), row("d", 1, 1, f0_std=4.0)
    )
    scores = summarise({KEY: made}, 4, draws=50)[KEY]
    assert (scores["wer"].value, scores["wer"].n) == (pytest.approx(40.0), 2)
    assert (scores["f0_std"].value, scores["f0_std"].n) == (3.0, 2) and "similarity" not in scores
    alone = summarise({KEY: table(row("a", 1, 4), order="a")}, 1)[KEY]["wer"]
    assert alone.value == 25.0 and math.isnan(alone.low) and math.isnan(alone.high)


def test_golden_calibration():
    people = {"a": row("a", 1, 4), "b": row("b", 1, 2), "c": row("c", math.nan, 2)}
    rows = [row("a", 3, 4), row("b", 0, 2), row("c", 1, 2), row("d", 1, 2)]
    found = [each.score("wer_calibrated") for each in calibrated(rows, people)]
    # 75 - 25; 0 - 50 is no merit; nobody knows; nobody said it
    assert found[:2] == [50.0, 0.0] and math.isnan(found[2]) and math.isnan(found[3])


def test_golden_comparison():
    """b has one error more in each of three texts of two words, and the fourth is missing in it."""
    a = table(row("a", 0, 2), row("b", 1, 2), row("c", 0, 2), row("d", 2, 2))
    b = table(row("a", 1, 2), row("b", 2, 2), row("c", 1, 2), row("d", math.nan, 2))
    (found,) = compare({("a", "off"): a, ("b", "off"): b}, [(("a", "off"), ("b", "off"), True)], 4, draws=200)
    assert (found.metric, found.a, found.b, found.style) == ("wer", "a", "b", "off")
    assert found.difference == pytest.approx(-50.0) and (found.low, found.high) == pytest.approx((-50.0, -50.0))
    assert found.p == found.p_holm == 0.25  # 2 of the 8 exchanges


def test_a_difference_in_every_text_is_found_though_texts_differ_more():
    """Paired: each text has its own difficulty, which is five times the difference."""
    draw = torch.Generator().manual_seed(0)
    hard = torch.randint(0, 10, (40,), generator=draw).tolist()
    names = [str(i) for i in range(40)]
    order = {name: i for i, name in enumerate(names)}
    a = Table([row(n, h, 20) for n, h in zip(names, hard, strict=True)], order)
    b = Table([row(n, h + 1 + i % 2, 20) for i, (n, h) in enumerate(zip(names, hard, strict=True))], order)
    tables = {("a", "off"): a, ("b", "off"): b}
    scores = summarise(tables, 40)
    assert scores["a", "off"]["wer"].high > scores["b", "off"]["wer"].low  # the intervals overlap
    (found,) = compare(tables, [(("a", "off"), ("b", "off"), True)], 40)
    assert found.difference == pytest.approx(-7.5) and found.high < 0 and found.p < 1e-6


def corpus(generator: torch.Generator, texts: int, slope: float = 1.0) -> Table:
    """Utterances of 20 tokens; every text has favourites of its own, so that tokens of a text hang together."""
    rows = []
    for i in range(texts):
        p = torch.softmax(torch.randn(60, generator=generator) - slope * torch.arange(1.0, 61.0).log(), 0)
        rows.append(row(str(i), 0, 1, torch.multinomial(p, 20, True, generator=generator).tolist()))
    return Table(rows, {str(i): i for i in range(texts)})


def test_entropies_are_compared_at_equal_counts():
    a = table(row("a", 0, 1, [0, 1, 2, 3]), row("b", 0, 1, [0, 0]), order="ab")
    b = table(row("a", 0, 1, [0, 1]), row("b", 0, 1, [2, 3]), order="ab")
    assert common_count([a, b]) == 4
    found = summarise({("a", "off"): a, ("b", "off"): b}, 2, draws=20)
    assert found["b", "off"]["entropy"].value == pytest.approx(2.0)
    assert found["a", "off"]["entropy"].value == pytest.approx(float(entropy_at(torch.tensor([3, 1, 1, 1]), 4)))
    assert found["a", "off"]["entropy"].n == 2


def test_what_a_text_does_to_the_entropy_agrees_with_a_slow_twin():
    """Pseudo-values beside the entropy of all and G times its change where one text counts a little more."""
    made, little = corpus(torch.Generator().manual_seed(1), 5), 1e-5
    table_ = Table(made.rows, {**{str(i): i for i in range(5)}, "nobody says this": 5})

    def entropy(weights: list[float]) -> float:
        counts: dict[int, float] = {}
        for each, weight in zip(made.rows, weights, strict=True):
            for token in each.tokens.tolist():
                counts[token] = counts.get(token, 0.0) + weight
        total = sum(counts.values())
        return -sum(c / total * math.log2(c / total) for c in counts.values())

    base = entropy([1.0] * 5)
    slow = [base + 5 * (entropy([1 + little * (i == k) for i in range(5)]) - base) / little for k in range(5)]
    found = table_.entropy(100)
    assert found[:, 1].tolist() == [1.0] * 5 + [0.0] and found[:5, 0].tolist() == pytest.approx(slow, abs=1e-3)
    assert float(found[:, 0].sum() / 5) == pytest.approx(base)


def test_the_entropys_interval_has_the_spread_of_the_value_it_stands_around():
    """Its width, beside the spread of the value at equal counts over many corpora."""
    generator = torch.Generator().manual_seed(2)
    order = {str(i): i for i in range(30)}
    values, widths = [], []
    for _ in range(80):
        made = corpus(generator, 30)
        both = {KEY: made, ("y", "off"): Table(made.rows[:15], order)}  # the other says half as much
        score = summarise(both, 30, draws=300)[KEY]["entropy"]
        values.append(score.value)
        widths.append((score.high - score.low) / 2 / 1.96)
    assert torch.tensor(widths).mean().item() == pytest.approx(torch.tensor(values).std().item(), rel=0.25)


def test_equal_systems_seldom_differ_in_entropy_and_livelier_ones_do():
    generator, false = torch.Generator().manual_seed(3), 0
    pair = [(("a", "off"), ("b", "off"), True)]
    for _ in range(60):
        tables = {("a", "off"): corpus(generator, 30), ("b", "off"): corpus(generator, 30)}
        (found,) = [c for c in compare(tables, pair, 30, 200) if c.metric == "entropy"]
        false += found.p < 0.05
    assert false <= 7  # 3 are expected; 8 or more have probability 0.01
    tables = {("a", "off"): corpus(generator, 30), ("b", "off"): corpus(generator, 30, slope=1.5)}
    (found,) = [c for c in compare(tables, pair, 30, 200) if c.metric == "entropy"]
    assert found.p < 0.001 and found.low > 0.2


def test_tokens_of_other_tokenizers_are_not_compared():
    a = table(row("a", 0, 1, [0, 1], repetition=1.0), row("b", 0, 1, [2, 1], repetition=1.0), order="ab")
    tables = {("a", "off"): a, ("b", "off"): a}
    assert {c.metric for c in compare(tables, [(("a", "off"), ("b", "off"), False)], 2, 10)} == {"wer"}
    assert {c.metric for c in compare(tables, [(("a", "off"), ("b", "off"), True)], 2, 10)} == {
        "wer",
        "entropy",
        "repetition",
    }


def test_recordings_are_compared_with_either_style():
    keys = [("m", "on"), ("m", "off"), ("r", "recordings")]
    assert matches(keys, {"m": "A", "r": None}) == [(keys[0], keys[2], False), (keys[1], keys[2], False)]
