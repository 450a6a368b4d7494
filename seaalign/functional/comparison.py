"""Is one system better than another? Bootstrap intervals over texts, paired tests, and Holm's correction.

Utterances of one text succeed and fail together, as those of one rater do, so what is drawn and compared is the group
(the text, the rater), never the row. Two systems measured on the same groups are compared on the same draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_EXACT = 13  # groups up to which all 2^G ways to exchange the two systems are counted: 8192


def group_sums(values: Tensor, groups: Tensor) -> Tensor:
    """Values added up within each group; what is NaN does not count.

    Args:
        values: (N,) or (N, K).
        groups: (N,) integers, any; groups come out in ascending order.

    Returns:
        (G,) or (G, K), float64.

    Raises:
        ValueError: the groups are not one integer per row.

    >>> group_sums(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([7, 3, 7])).tolist()
    [2.0, 5.0]
    """
    if groups.shape != values.shape[:1] or groups.is_floating_point():
        raise ValueError(
            f"groups {groups.dtype} {tuple(groups.shape)} must be one integer per row of {tuple(values.shape)}"
        )
    names, index = groups.unique(return_inverse=True)
    sums = torch.zeros(len(names), *values.shape[1:], dtype=torch.float64, device=values.device)
    return sums.index_add_(0, index, values.double().nan_to_num(0.0, math.inf, -math.inf))


def group_weights(groups: int, draws: int, generator: torch.Generator) -> Tensor:
    """How often each group counts in every draw of a bootstrap: G groups drawn with replacement.

    Args:
        groups: G, how many there are.
        draws: how many times.
        generator: of the draws; the same state gives the same ones, which is what pairs two systems.

    Returns:
        (draws, G) float64, every row with the sum G; NaN for fewer than two groups, which cannot vary.

    Source: Efron 1979; groups (clusters): Davison & Hinkley 1997, "Bootstrap Methods and their Application", ch. 3.8.

    >>> group_weights(3, 2, torch.Generator().manual_seed(0)).sum(1).tolist()
    [3.0, 3.0]
    """
    if groups < 2:
        return torch.full((draws, groups), math.nan, dtype=torch.float64)
    drawn = torch.randint(groups, (draws, groups), generator=generator)
    rows = torch.arange(draws)[:, None] * groups
    return (drawn + rows).flatten().bincount(minlength=draws * groups).view(draws, groups).double()


def resampled_ratio(
    numerators: Tensor, denominators: Tensor, groups: Tensor, draws: int, generator: torch.Generator
) -> Tensor:
    """Bootstrap of sum(numerators) / sum(denominators) over groups.

    With denominators of 1 this is a mean over rows; with word errors over words it is the word error rate of a corpus.

    Args:
        numerators: (N,), NaN where a row was not measured (it then counts in neither sum).
        denominators: (N,).
        groups: (N,) integers: the text of each row, or its rater.
        draws: how many.
        generator: of the draws. Two systems with the same groups and generators in the same state are paired: the
            difference of their results is the bootstrap of their difference.

    Returns:
        (draws,) float64; NaN where there is one group only, and for a draw whose denominators sum to 0.

    Raises:
        ValueError: shapes differ.

    >>> errors, words = torch.tensor([1, 0, 3]), torch.tensor([4, 4, 4])
    >>> generator = torch.Generator().manual_seed(0)
    >>> interval(resampled_ratio(errors, words, torch.arange(3), 1000, generator))
    (0.0, 0.75)
    """
    if numerators.shape != denominators.shape:
        raise ValueError(f"numerators {tuple(numerators.shape)}, denominators {tuple(denominators.shape)}: one shape")
    known = ~(numerators.isnan() | denominators.isnan())
    both = torch.stack([numerators.double().where(known, 0), denominators.double().where(known, 0)], dim=1)
    sums = group_sums(both, groups).cpu()
    above, below = (group_weights(len(sums), draws, generator) @ sums).unbind(1)
    return above / below.where(below != 0, math.nan)


def interval(draws: Tensor, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of bootstrap draws.

    Args:
        draws: (D,); NaN where a draw could not be measured.
        level: share of the draws inside.

    Returns:
        Low and high; NaN where fewer than half of the draws could be measured.

    Raises:
        ValueError: the level is not between 0 and 1.

    Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", ch. 13.

    >>> interval(torch.arange(101.0), level=0.5)
    (25.0, 75.0)
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level} is a share between 0 and 1, as 0.95")
    found = draws[~draws.isnan()].double()
    if not len(found) or 2 * len(found) < len(draws):
        return math.nan, math.nan
    low, high = np.quantile(found.cpu().numpy(), [(1 - level) / 2, (1 + level) / 2])  # torch's stops at 16 million
    return float(low), float(high)


def paired_test(a: Tensor, b: Tensor) -> float:
    """Two-sided p of the mean difference between two systems measured on the same groups.

    Up to 13 groups the exact permutation test (`scipy.stats.permutation_test`: every way to exchange the two systems
    within groups), because a few whole numbers of errors are not normal, and three texts that agree are no proof
    (p = 1/4). Beyond that the paired t-test (`scipy.stats.ttest_rel`), the paper's: it asks about the mean, which is
    what a table shows, where Wilcoxon's ranks ask about something else.

    Args:
        a: (G,) one value per group; NaN where undefined: such groups are left out.
        b: (G,) the other system's, in the same order.

    Returns:
        p between 0 and 1; 1 where the two never differ, NaN for fewer than two groups.

    Raises:
        ValueError: shapes differ.

    Source: Geng et al. 2026 (paired t-tests); Fisher 1935, "The Design of Experiments", sec. 21 (exchanges).

    >>> paired_test(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 6.0]))  # 2 of the 8 exchanges
    0.25
    """
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"a {tuple(a.shape)} and b {tuple(b.shape)} need one value per group, of the same groups")
    from scipy import stats

    x, y = (values.detach().cpu().double().numpy() for values in (a, b))
    defined = np.isfinite(x) & np.isfinite(y)
    x, y = x[defined], y[defined]
    if len(x) < 2:
        return math.nan
    if bool((x == y).all()):
        return 1.0
    if len(x) > _EXACT:
        return float(stats.ttest_rel(x, y).pvalue)
    exact = stats.permutation_test(
        (x, y),
        lambda p, q, axis: (p - q).mean(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**_EXACT,
    )
    return float(exact.pvalue)


def holm(p: Tensor | Sequence[float]) -> Tensor:
    """Holm's correction: p values of which all under 0.05 may be believed together, with 5 % risk of any error.

    Args:
        p: (P,) all the tests of one evaluation, as a tensor or numbers; NaN for those that could not be made, which
            do not count.

    Returns:
        (P,) adjusted, float64, in the order given; never smaller than p, at most 1.

    Raises:
        ValueError: a value is no probability.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".

    >>> holm([0.01, 0.04, 0.03]).tolist()  # 3 x 0.01; 2 x 0.03; and 1 x 0.04, which may not be less than that before it
    [0.03, 0.06, 0.06]
    """
    given = torch.as_tensor(p, dtype=torch.float64)
    if bool(((given < 0) | (given > 1)).any()):
        raise ValueError(f"p values are between 0 and 1, got {given.tolist()}")
    order = given.argsort()  # NaN last
    count = int((~given.isnan()).sum())
    factors = torch.arange(count, 0, -1, dtype=torch.float64)
    adjusted = torch.full_like(given, math.nan)
    adjusted[order[:count]] = (factors * given[order[:count]]).cummax(0).values.clamp(max=1) if count else given[:0]
    return adjusted
