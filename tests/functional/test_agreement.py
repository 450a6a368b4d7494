from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seaalign.functional.agreement import krippendorff_alpha

_ = math.nan
# Krippendorff 2011, section E: four observers, twelve units, and what he finds
PUBLISHED = torch.tensor(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
        [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
    ]
).T


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_the_published_example(level, alpha):
    assert krippendorff_alpha(PUBLISHED, level) == pytest.approx(alpha, abs=5e-4)


def by_hand(ratings: list[list[float]], level: str) -> float:
    """Alpha from its definition: mean disagreement within units over that of all ratings, pair by pair."""
    units = [[v for v in row if not math.isnan(v)] for row in ratings]
    units = [row for row in units if len(row) > 1]
    every = sorted(v for row in units for v in row)

    def apart(a: float, b: float) -> float:
        if level == "nominal":
            return float(a != b)
        if level == "interval":
            return (a - b) ** 2
        low, high = min(a, b), max(a, b)
        between = sum(low <= v <= high for v in every) - (every.count(low) + every.count(high)) / 2
        return 0.0 if a == b else between**2

    n = len(every)
    within = sum(sum(apart(a, b) for a, b in permutations(row, 2)) / (len(row) - 1) for row in units) / n
    among = sum(apart(a, b) for a, b in permutations(every, 2)) / (n * (n - 1))
    return 1 - within / among if among else math.nan


@given(
    st.lists(st.lists(st.sampled_from([1.0, 2.0, 3.0, 5.0, _]), min_size=3, max_size=3), min_size=1, max_size=6),
    st.sampled_from(["nominal", "ordinal", "interval"]),
)
def test_it_is_its_definition(rows, level):
    if all(sum(not math.isnan(v) for v in row) < 2 for row in rows):
        expected = math.nan
    else:
        expected = by_hand(rows, level)
    assert krippendorff_alpha(torch.tensor(rows), level) == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_who_answers_at_random_agrees_as_by_chance():
    random = torch.randint(1, 6, (4000, 3), generator=torch.Generator().manual_seed(0)).double()
    assert abs(krippendorff_alpha(random)) < 0.03


def test_contradiction_is_below_chance():
    assert krippendorff_alpha(torch.tensor([[1.0, 5.0], [5.0, 1.0]]), "interval") == pytest.approx(-0.5)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="units, raters"):
        krippendorff_alpha(torch.ones(3))
    with pytest.raises(ValueError, match="level must be"):
        krippendorff_alpha(torch.ones(2, 2), "ratio")  # type: ignore[arg-type]
