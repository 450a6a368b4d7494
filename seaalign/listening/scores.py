"""Statistics of answers: opinion scores, preferences, agreement, and who listened."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from seaalign.functional.agreement import krippendorff_alpha
from seaalign.functional.comparison import group_sums, holm, interval, paired_test, resampled_ratio
from seaalign.listening.results import Answer

Row = dict[str, Any]


@dataclass(frozen=True)
class Screening:
    """When a rater counts as one who listens.

    Args:
        high: a recording of a person must get this or more.
        low: spoiled speech must get this or less.
        share: of the screening clips that must be judged so.
    """

    high: int = 4
    low: int = 2
    share: float = 0.75

    def right(self, answer: Answer) -> bool:
        """Was this screening clip judged as it should be?"""
        if answer.test == "ab":
            return answer.value == ("left" if answer.role == "high" else "right")
        value = int(answer.value)
        return value >= self.high if answer.role == "high" else value <= self.low


def rater_table(answers: Iterable[Answer], rule: Screening, systems: Sequence[str]) -> list[Row]:
    """One row per rater: screening clips judged right, whether that passes, agreement with oneself, time.

    Where a test has no screening clips, everybody passes.
    """
    rows = []
    for rater, own in _by(answers, lambda a: a.rater).items():
        gold = [rule.right(a) for a in own if a.role in ("high", "low")]
        first = {(a.test, frozenset(a.clips)): a for a in own if a.role == "test"}
        again = [(a, first.get((a.test, frozenset(a.clips)))) for a in own if a.role == "again"]
        apart = [abs(_number(a) - _number(b)) for a, b in again if b is not None]
        seconds = sorted(a.seconds for a in own)
        rows.append(
            {
                "rater": rater,
                "answers": len(own),
                "gold_right": sum(gold),
                "gold": len(gold),
                "passed": not gold or sum(gold) / len(gold) >= rule.share,
                "again_apart": sum(apart) / len(apart) if apart else math.nan,
                "seconds": seconds[len(seconds) // 2],
            }
        )
    return rows


def _number(answer: Answer) -> float:
    """Scores as they are; for a preference 1 for the clip with the lower number, 0 for the other, 0.5 for neither."""
    if answer.test != "ab":
        return float(answer.value)
    first = answer.value == ("left" if answer.clips[0] < answer.clips[1] else "right")
    return 0.5 if answer.value == "same" else float(first)


def opinion_scores(answers: Sequence[Answer], clips: Sequence[Mapping[str, Any]], draws: int, seed: int) -> list[Row]:
    """Mean opinion score of each system in each test, with two 95 % intervals.

    "normal" is mean +- 1.96 s / sqrt(N), as the paper has it: it takes N ratings for N independent ones. "low", "high"
    is the bootstrap over raters, whose own ratings go together: usually the wider one, and the one to trust.

    Source: Geng et al. 2026, sec. 5.
    """
    rows = []
    for (test, system), own in _by(_plain(answers), lambda a: (a.test, clips[a.clips[0]]["system"])).items():
        values = torch.tensor([float(a.value) for a in own], dtype=torch.float64)
        mean, half = float(values.mean()), 1.96 * float(values.std()) / math.sqrt(len(values))
        again = torch.Generator().manual_seed(seed)
        low, high = interval(
            resampled_ratio(values, torch.ones_like(values), _numbers(a.rater for a in own), draws, again)
        )
        rows.append(
            {"test": test, "system": system, "mos": mean, "ratings": len(own), "raters": len({a.rater for a in own}),
             "normal_low": mean - half, "normal_high": mean + half, "low": low, "high": high}
        )  # fmt: skip
    return sorted(rows, key=lambda row: (row["test"], -row["mos"]))


def score_differences(
    answers: Sequence[Answer], clips: Sequence[Mapping[str, Any]], draws: int, seed: int
) -> list[Row]:
    """Every two systems on the (rater, text) that both were heard on.

    `p` compares raters (one mean difference per person): would other people say so of these texts? `p_texts` compares
    texts: would these people say so of other texts? Both are Holm-corrected over all pairs of all tests; claim a
    difference where both are small. Tests as in `paired_test`.
    """
    rows = []
    for test, own in _by(_plain(answers), lambda a: a.test).items():
        table: dict[str, dict[tuple[str, str], float]] = {}
        for a in own:
            clip = clips[a.clips[0]]
            table.setdefault(clip["system"], {})[a.rater, clip["text_id"]] = float(a.value)
        for x, y in combinations(sorted(table), 2):
            both = sorted(table[x].keys() & table[y].keys())
            if not both:  # of files that are not complete: nobody heard both say the same text
                continue
            apart = torch.tensor([table[x][key] - table[y][key] for key in both], dtype=torch.float64)
            raters, texts = (_numbers(key[i] for key in both) for i in (0, 1))
            drawn = resampled_ratio(apart, torch.ones_like(apart), raters, draws, torch.Generator().manual_seed(seed))
            low, high = interval(drawn)
            found = {"difference": float(apart.mean()), "low": low, "high": high, "ratings": len(both)}
            p = {"p": _p(apart, raters), "p_texts": _p(apart, texts)}
            rows.append({"test": test, "a": x, "b": y, **found, **p})
    return _corrected(rows)


def _p(apart: Tensor, groups: Tensor) -> float:
    means = _means(apart, groups)
    return paired_test(means, torch.zeros_like(means))


def _means(values: Tensor, groups: Tensor) -> Tensor:
    return group_sums(values, groups) / group_sums(torch.ones_like(values), groups)


def preferences(answers: Sequence[Answer], clips: Sequence[Mapping[str, Any]], draws: int, seed: int) -> list[Row]:
    """Of every two systems compared: votes, the share of the first (a tie is half a vote for each), and a sign test.

    `p` is the binomial test over raters: how many prefer the first more often than the second. Raters who are even are
    left out. The interval is a bootstrap over raters.

    Source: Dixon & Mood 1946 (sign test).
    """
    from scipy.stats import binomtest

    rows = []
    own = [a for a in answers if a.test == "ab" and a.role == "test"]
    for (x, y), votes in _by(own, lambda a: tuple(sorted(clips[i]["system"] for i in a.clips))).items():
        said = [chosen(a, clips) for a in votes]
        values = torch.tensor([0.5 if s is None else float(s == x) for s in said], dtype=torch.float64)
        raters = _numbers(a.rater for a in votes)
        drawn = resampled_ratio(values, torch.ones_like(values), raters, draws, torch.Generator().manual_seed(seed))
        low, high = interval(drawn)
        shares = _means(values, raters)
        won, lost = int((shares > 0.5).sum()), int((shares < 0.5).sum())
        p = float(binomtest(won, won + lost).pvalue) if won + lost else math.nan
        counts = {"votes_a": said.count(x), "votes_b": said.count(y), "ties": said.count(None)}
        rows.append(
            {"test": "ab", "a": x, "b": y, **counts, "share": float(values.mean()), "low": low, "high": high,
             "raters_a": won, "raters_b": lost, "p": p}
        )  # fmt: skip
    return _corrected(rows)


def chosen(answer: Answer, clips: Sequence[Mapping[str, Any]]) -> str | None:
    """The system that was preferred, or None for a tie."""
    if answer.value == "same":
        return None
    return str(clips[answer.clips[answer.value == "right"]]["system"])


def agreement(answers: Sequence[Answer]) -> list[Row]:
    """Krippendorff's alpha of each test: over clips for scores, over pairs of clips for preferences."""
    rows = []
    for test, own in _by((a for a in answers if a.role == "test"), lambda a: a.test).items():
        units, raters = _numbers(tuple(sorted(a.clips)) for a in own), _numbers(a.rater for a in own)
        table = torch.full((int(units.max()) + 1, int(raters.max()) + 1), math.nan, dtype=torch.float64)
        table[units, raters] = torch.tensor([_number(a) for a in own], dtype=torch.float64)
        levels = ("nominal",) if test == "ab" else ("ordinal", "interval")
        if test == "ab":  # which of two clips is the first is arbitrary: each pair counts both ways round
            table = torch.cat([table, 1 - table])
        rows += [{"test": test, "level": level, "alpha": krippendorff_alpha(table, level)} for level in levels]  # type: ignore[arg-type]
    return rows


def _plain(answers: Sequence[Answer]) -> list[Answer]:
    return [a for a in answers if a.test != "ab" and a.role == "test"]


def _by(answers: Iterable[Answer], key: Any) -> dict[Any, list[Answer]]:
    groups: dict[Any, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(key(answer), []).append(answer)
    return dict(sorted(groups.items()))


def _numbers(names: Iterable[Any]) -> Tensor:
    listed = list(names)
    place = {name: i for i, name in enumerate(sorted(set(listed)))}
    return torch.tensor([place[name] for name in listed])


def _corrected(rows: list[Row]) -> list[Row]:
    for name in ("p", "p_texts"):
        known = [row for row in rows if name in row]
        for row, p in zip(known, holm([row[name] for row in known]).tolist(), strict=True):
            row[f"{name}_holm"] = p
    return rows
