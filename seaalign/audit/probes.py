"""Leakage probes: how much of what they should not know do these features tell a reader who never saw the text?

A probe is examined on texts and utterances that it has not learned from. A split by rows is passed by a probe that
recognises the sentence, or the recording, instead of the speaker. All rows are examined, each by a probe of the other
folds; means, scales and penalties come from those folds alone, and intervals count groups, not rows.

Source: Alain & Bengio 2016, "Understanding intermediate layers using linear classifier probes"; Korn & Graubard 1998,
"Confidence intervals for proportions with small expected number of positive counts estimated from survey data".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from seaalign.audit.readers import linear, mlp
from seaalign.audit.splits import group_folds, together

Kind = Literal["linear", "mlp"]
_READERS = {"linear": linear, "mlp": mlp}


@dataclass(frozen=True)
class Probe:
    """What a probe found.

    Args:
        measure: "accuracy", or "R2", the share of the variance that is predicted (below 0: worse than the mean).
        value: of the measure, over all examined rows.
        low, high: confidence interval over groups.
        chance: what a reader reaches who knows nothing: the share of the largest class; 0 for R2.
        rows: examined.
        groups: that may be told apart (texts, utterances).
        classes: of labels; for values how many of them vary.
        left_out: rows that could not be examined: their class occurs in one group only.
        kind: "linear" or "mlp".
    """

    measure: Literal["accuracy", "R2"]
    value: float
    low: float
    high: float
    chance: float
    rows: int
    groups: int
    classes: int
    left_out: int = 0
    kind: Kind = "linear"

    @property
    def leaks(self) -> bool:
        """Does the whole interval lie above chance?"""
        return self.low > self.chance

    @property
    def share(self) -> tuple[float, float, float]:
        """Value, low and high as a share of the way from chance (0) to perfect (1): comparable over speaker counts."""
        value, low, high = ((x - self.chance) / max(1 - self.chance, 1e-9) for x in (self.value, self.low, self.high))
        return value, low, high

    def __str__(self) -> str:
        if self.measure == "R2":
            return f"R2 {self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.value:.0%} [{self.low:.0%}, {self.high:.0%}], chance {self.chance:.0%}"


def probe_labels(
    features: Tensor,
    labels: Sequence[Hashable],
    groups: Sequence[Hashable],
    kind: Kind = "linear",
    folds: int = 5,
    seed: int = 0,
    confidence: float = 0.95,
) -> Probe:
    """How often a reader of the features names the right label, on groups it has not learned from.

    Args:
        features: (N, D), finite.
        labels: what to name (N,), for instance the speaker.
        groups: (N,) rows with equal values are never on both sides: utterance or text; `together` joins both.
        kind: "linear" (ridge regression on indicators; in very few dimensions a label that lies between two others is
            masked) or "mlp" (one hidden layer).
        folds: parts that the groups are dealt into.
        seed: of the dealing, and of the network's first weights.
        confidence: of the interval.

    Returns:
        Accuracy. Chance is the share of the largest class among the examined rows (1 / classes where they are even): no
        constant answer does better. The interval is that of a proportion (Clopper-Pearson), with as many independent
        answers as the spread between groups leaves.

    Raises:
        ValueError: shapes disagree, features are not finite, or fewer than two labels occur in two groups or more.

    Example:
        >>> x = torch.eye(2).repeat(20, 1)
        >>> print(probe_labels(x, ["ann", "bob"] * 20, groups=range(40)))
        100% [91%, 100%], chance 50%
    """
    x, group = _rows(features, groups)
    if len(labels) != len(x):
        raise ValueError(f"{len(labels)} labels for {len(x)} rows of features: give one each")
    where: dict[Hashable, set[int]] = defaultdict(set)
    for label, number in zip(labels, group.tolist(), strict=True):
        where[label].add(number)
    names = [label for label in dict.fromkeys(labels) if len(where[label]) > 1]
    if len(names) < 2:
        raise ValueError(
            f"{len(where)} label(s), of which {len(names)} occur in two groups or more: a probe needs two such labels, "
            "so that it can learn each from one text and be examined on another"
        )
    keep = torch.tensor([label in names for label in labels])
    known = torch.tensor([names.index(label) for label in labels if label in names])
    x, group = x[keep], group[keep].unique(return_inverse=True)[1]
    said = _examine(x, torch.nn.functional.one_hot(known).to(x), group, known, kind, folds, seed)
    value, low, high = _proportion((said.argmax(1) == known).double(), group, confidence)
    chance = float(known.bincount().max()) / len(known)
    counts = {"rows": len(x), "groups": int(group.max()) + 1, "classes": len(names), "left_out": int((~keep).sum())}
    return Probe("accuracy", value, low, high, chance, **counts, kind=kind)


def probe_values(
    features: Tensor,
    values: Tensor,
    groups: Sequence[Hashable],
    kind: Kind = "linear",
    within: Sequence[Hashable] | None = None,
    folds: int = 5,
    seed: int = 0,
    confidence: float = 0.95,
) -> Probe:
    """How much of the variance of some numbers a reader of the features predicts, on groups it has not learned from.

    Args:
        features: (N, D), finite.
        values: (N, K) or (N,), finite; columns that do not vary are left out.
        groups: as in `probe_labels`.
        kind: as in `probe_labels`.
        within: labels (N,), for instance the speaker: features and values then count relative to the label's mean over
            the rows learned from, so that what the label alone tells is no merit.
        folds: as in `probe_labels`.
        seed: as in `probe_labels`.
        confidence: of the interval.

    Returns:
        R2, the mean over columns of 1 - squared error / squared error of the mean that was learned. The interval is
        Student's, from the spread between groups.

    Raises:
        ValueError: shapes disagree, something is not finite, or no column varies.

    Example:
        >>> x = torch.arange(40.0)[:, None]
        >>> round(probe_values(x, 3 * x, groups=range(40)).value, 2)
        1.0
    """
    x, group = _rows(features, groups)
    y = values.detach().cpu().double().reshape(len(values), -1)
    if len(y) != len(x) or not bool(y.isfinite().all()):
        raise ValueError(f"values {tuple(values.shape)} must be finite, one row for each of the {len(x)} of features")
    y = y[:, y.std(0, correction=0) > 1e-9] if len(y) else y
    if not y.numel():
        raise ValueError("no value varies, so there is nothing to predict: check how the values were measured")
    classes = None if within is None else torch.tensor(together(within))
    errors, base = torch.zeros_like(y), torch.zeros_like(y)
    dealt = group_folds(group, folds, seed, classes)
    for fold in dealt.unique().tolist():
        out = dealt == fold
        mine, wanted = (_relative(v, classes, ~out) for v in (x, y))
        reader = _READERS[kind](mine[~out], wanted[~out], group[~out], None, seed)
        errors[out] = (reader(mine[out]) - wanted[out]).square()
        base[out] = (wanted[out] - wanted[~out].mean(0)).square()
    value, low, high = _explained(errors, base, group, confidence)
    return Probe("R2", value, low, high, 0.0, len(x), int(group.max()) + 1, y.shape[1], kind=kind)


def _rows(features: Tensor, groups: Sequence[Hashable]) -> tuple[Tensor, Tensor]:
    x = features.detach().cpu().double()
    if x.dim() != 2 or len(groups) != len(x) or not len(x):
        raise ValueError(
            f"features must be (N, D) with one group per row, got {tuple(x.shape)} and {len(groups)} groups"
        )
    wrong = int((~x.isfinite()).any(1).sum())
    if wrong:
        raise ValueError(f"{wrong} of {len(x)} rows of features hold NaN or infinite numbers: drop them first")
    return x, torch.tensor(together(groups))


def _examine(x: Tensor, y: Tensor, group: Tensor, labels: Tensor, kind: Kind, folds: int, seed: int) -> Tensor:
    """Predictions (N, K), each by a reader that has not seen the row's group."""
    said = torch.zeros_like(y)
    dealt = group_folds(group, folds, seed, labels)
    for fold in dealt.unique().tolist():
        out = dealt == fold
        said[out] = _READERS[kind](x[~out], y[~out], group[~out], labels[~out], seed)(x[out])
    return said


def _relative(values: Tensor, classes: Tensor | None, known: Tensor) -> Tensor:
    """Values minus the mean of their class over the known rows; a class without known rows keeps the overall mean."""
    if classes is None:
        return values
    count = classes[known].bincount(minlength=int(classes.max()) + 1)[:, None]
    sums = values.new_zeros(len(count), values.shape[1]).index_add_(0, classes[known], values[known])
    means = torch.where(count > 0, sums / count.clamp(min=1), values[known].mean(0))
    return values - means[classes]


def _proportion(right: Tensor, group: Tensor, confidence: float) -> tuple[float, float, float]:
    """Share of right answers and its Clopper-Pearson interval, at the number of answers that the groups are worth."""
    stats: Any = _stats()
    rows, groups, tail = len(right), int(group.max()) + 1, (1 + confidence) / 2
    p = float(right.mean())
    surplus = torch.zeros(groups, dtype=right.dtype).index_add_(0, group, right - p)
    variance = float(surplus.square().sum()) / rows**2 * groups / (groups - 1)
    worth = min(p * (1 - p) / variance, rows) if variance > 0 else groups
    # the spread between few groups is itself uncertain
    worth *= min(1.0, stats.t.ppf(tail, max(worth - 1, 1)) / stats.t.ppf(tail, groups - 1)) ** 2
    hits = p * worth
    low = stats.beta.ppf(1 - tail, hits, worth - hits + 1) if p > 0 else 0.0
    high = stats.beta.ppf(tail, hits + 1, worth - hits) if p < 1 else 1.0
    return p, float(low), float(high)


def _explained(errors: Tensor, base: Tensor, group: Tensor, confidence: float) -> tuple[float, float, float]:
    """Mean R2 over columns, and its interval from each group's influence on it."""
    groups = int(group.max()) + 1
    ratio = errors.sum(0) / base.sum(0).clamp(min=1e-30)
    influence = ((errors - ratio * base) / base.sum(0).clamp(min=1e-30)).mean(1)
    per_group = torch.zeros(groups, dtype=errors.dtype).index_add_(0, group, influence)
    spread = float((per_group.square().sum() * groups / (groups - 1)).sqrt())
    reach = float(_stats().t.ppf((1 + confidence) / 2, groups - 1)) * spread
    value = 1 - float(ratio.mean())
    return value, value - reach, min(value + reach, 1.0)


def _stats() -> Any:
    from scipy import stats  # imported here: most users of the package never need SciPy

    return stats
