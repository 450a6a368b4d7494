"""From rows to numbers: a value with its interval for each system and metric, and which differences matter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import combinations

import torch
from torch import Tensor

from seaalign.evaluation.files import Comparison, Score
from seaalign.evaluation.rows import NAN, SCORES, Row, Style
from seaalign.functional.comparison import group_weights, holm, interval, paired_test
from seaalign.functional.entropy import entropy_at

RATIOS = {
    "wer": ("word_errors", "words", 100.0),
    "cer": ("character_errors", "characters", 100.0),
    "tokens_per_unit": ("tokens", "characters", 1.0),
}
"""Metrics that are sums over sums; all others are means over answers."""
MEANS = (
    *("wer_calibrated", "cer_calibrated", "repetition", "f0_std", "f0_std_hz", "f0_range", "f0_correlation"),
    *("f0_rmse", "energy_std", "similarity"),
)
OF_TOKENS = {"entropy", "repetition", "tokens_per_unit"}
"""Metrics that compare within one tokenizer only."""


def calibrated(rows: Sequence[Row], people: Mapping[str, Row]) -> list[Row]:
    """Rows with their error beyond that on a person saying the same text: max(0, error - the person's), percent.

    Args:
        rows: of one system.
        people: a person's row by text.

    Source: the public FLEURS protocol of Geng et al. 2026 (calibrated CER); here for words, too.
    """
    done = []
    for row in rows:
        found, person = dict(row.scores), people.get(row.prompt)
        for name, (errors, units) in {
            "wer_calibrated": ("word_errors", "words"),
            "cer_calibrated": ("character_errors", "characters"),
        }.items():
            if person is not None and row.score(units) > 0 and person.score(units) > 0:
                own, real = (100 * each.score(errors) / each.score(units) for each in (row, person))
                found[name] = max(0.0, own - real) if math.isfinite(own - real) else NAN
        done.append(replace(row, scores=found))
    return done


class Table:
    """What one system said at one style, added up by text.

    Args:
        rows: of each text as many as there are.
        order: number of each text, the same for all systems that are compared.
    """

    def __init__(self, rows: Sequence[Row], order: Mapping[str, int]) -> None:
        self.rows, self.size = rows, len(order)
        self.groups = torch.tensor([order[row.prompt] for row in rows])

    @cached_property
    def metrics(self) -> list[str]:
        """Names of all that the rows can tell, in the order of reports."""
        own = [name for row in self.rows for name in row.scores if name not in (*SCORES, *MEANS)]
        return [*RATIOS, *MEANS, *(["entropy"] if len(self.tokens[0]) else []), *dict.fromkeys(own)]

    def sums(self, metric: str, count: int = 0) -> Tensor:
        """Numerator, denominator and answers that have both, for each text (G, 3); entropies at `count` tokens."""
        if metric == "entropy":
            return self.entropy(count)
        above, below, scale = RATIOS.get(metric, (metric, "", 1.0))
        pairs = [(scale * self._value(row, above), self._value(row, below) if below else 1.0) for row in self.rows]
        values = torch.tensor(pairs, dtype=torch.float64)
        known = values.isfinite().all(1, keepdim=True)
        rows = torch.cat([values.where(known, 0), known.double()], 1)
        return torch.zeros(self.size, 3, dtype=torch.float64).index_add_(0, self.groups, rows)

    def _value(self, row: Row, name: str) -> float:
        if name == "tokens":
            return NAN if row.tokens is None else float(len(row.tokens))
        return row.score(name)

    @cached_property
    def tokens(self) -> tuple[Tensor, Tensor]:
        """All speech tokens (N,), and the text of each (N,)."""
        rows = [
            (row.tokens, group) for row, group in zip(self.rows, self.groups, strict=True) if row.tokens is not None
        ]
        if not rows:
            return torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
        spoken = torch.cat([tokens for tokens, _ in rows])
        return spoken, torch.cat([group.expand(len(tokens)) for tokens, group in rows])

    def entropy(self, count: int) -> Tensor:
        """Entropy of so many tokens, bits, as a mean over texts: a pseudo-value for each, and two ones (G, 3).

        A corpus has one entropy and no value per text. So each text gets the entropy of all, and G times what it does
        to it (the derivative by its weight): their mean is the entropy, and they vary as it does from draw to draw of
        texts. Plain bootstrap draws would hold fewer different tokens than the corpus, and spread too widely.

        Source: infinitesimal jackknife (Jaeckel 1972; Efron 1982, "The Jackknife, the Bootstrap and Other Resampling
        Plans", ch. 6).
        """
        spoken, groups = self.tokens
        counts = torch.bincount(spoken).double()
        surprise = -(counts / counts.sum()).clamp(min=1e-30).log2()
        plain = float((surprise * counts).sum() / counts.sum())
        moved = torch.zeros(self.size, dtype=torch.float64).index_add_(0, groups, surprise[spoken] - plain) / len(
            spoken
        )
        said = torch.bincount(groups, minlength=self.size).clamp(max=1).double()
        values = float(entropy_at(counts, count)) + said.sum() * moved
        return torch.stack([values * said, said, said], 1)


def summarise(
    tables: Mapping[tuple[str, Style], Table], texts: int, draws: int = 1000, seed: int = 0
) -> dict[tuple[str, Style], dict[str, Score]]:
    """Every metric of every system with its 95 % interval over texts; repeats of a text are averaged within it.

    Percentile bootstrap. The entropy is that at equal token counts (`common_count`).

    Args:
        tables: by system and style.
        texts: how many.
        draws: of the bootstrap.
        seed: of the draws, which are the same for all systems.
    """
    weights, count = _weights(texts, draws, seed), common_count(list(tables.values()))
    found: dict[tuple[str, Style], dict[str, Score]] = {}
    for key, table in tables.items():
        found[key] = {}
        for metric in table.metrics:
            sums = table.sums(metric, count)
            if known := int((sums[:, 1] > 0).sum()):
                low, high = interval(_ratio(weights @ sums)) if known > 1 else (NAN, NAN)
                found[key][metric] = Score(float(_ratio(sums.sum(0))), low, high, known)
    return found


def common_count(tables: Sequence[Table]) -> int:
    """Tokens at which entropies are compared: as many as the system has that said fewest."""
    return min((len(table.tokens[0]) for table in tables if len(table.tokens[0])), default=0)


def compare(
    tables: Mapping[tuple[str, Style], Table],
    pairs: Sequence[tuple[tuple[str, Style], tuple[str, Style], bool]],
    texts: int,
    draws: int = 1000,
    seed: int = 0,
) -> list[Comparison]:
    """Differences between systems on the texts that both have, with intervals, tests, and Holm's correction over all.

    The same draws of texts serve both systems. p is that of `functional.paired_test` on each text's mean over its
    answers, and for the entropy on each text's pseudo-value (`Table.entropy`).

    Args:
        tables: by system and style.
        pairs: keys of the two, and whether their tokens are of one tokenizer.
        texts: how many.
        draws: of the bootstrap.
        seed: of the draws.
    """
    weights, count = _weights(texts, draws, seed), common_count(list(tables.values()))
    made = []
    for one, other, same_codec in pairs:
        a, b = tables[one], tables[other]
        style = one[1] if one[1] != "recordings" else other[1]
        for metric in a.metrics:
            if metric in b.metrics and (same_codec or metric not in OF_TOKENS):
                empty = Comparison(metric, one[0], other[0], style, NAN)
                made.append(_compared(a.sums(metric, count), b.sums(metric, count), weights, empty))
    made = [each for each in made if math.isfinite(each.difference)]
    corrected = holm([each.p for each in made]).tolist()
    return [replace(each, p_holm=value) for each, value in zip(made, corrected, strict=True)]


def matches(
    keys: Sequence[tuple[str, Style]], codecs: Mapping[str, str | None]
) -> list[tuple[tuple[str, Style], tuple[str, Style], bool]]:
    """Which systems are compared: different ones at one style, and recordings with either.

    >>> [(a[0], b[0]) for a, b, _ in matches([("x", "on"), ("x", "off"), ("y", "off"), ("z", "recordings")], {})]
    [('x', 'z'), ('x', 'y'), ('x', 'z'), ('y', 'z')]
    """
    return [
        (one, other, codecs.get(one[0]) == codecs.get(other[0]))
        for one, other in combinations(keys, 2)
        if one[0] != other[0] and (one[1] == other[1] or "recordings" in (one[1], other[1]))
    ]


def _compared(a: Tensor, b: Tensor, weights: Tensor, empty: Comparison) -> Comparison:
    both = (a[:, 1] > 0) & (b[:, 1] > 0)
    a, b = (sums * both[:, None] for sums in (a, b))
    if not bool(both.any()):
        return empty
    difference = float(_ratio(a.sum(0)) - _ratio(b.sum(0)))
    if int(both.sum()) < 2:
        return replace(empty, difference=difference)
    low, high = interval(_ratio(weights @ a) - _ratio(weights @ b))
    means = [sums[both, 0] / sums[both, 2] for sums in (a, b)]  # of one text the denominators are the same
    return replace(empty, difference=difference, low=low, high=high, p=paired_test(*means))


def _weights(texts: int, draws: int, seed: int) -> Tensor:
    return group_weights(texts, draws, torch.Generator().manual_seed(seed))


def _ratio(sums: Tensor) -> Tensor:
    return sums[..., 0] / sums[..., 1].where(sums[..., 1] > 0, NAN)
