"""The paper's claims that a miniature can test, and the rule that decides them, fixed before any number was seen."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from scipy import stats

from seaalign.functional.comparison import holm

LEVEL = 0.95
MARGIN = 2.0
RULE = f"""\
Each claim is a difference between two systems of the same seed. Each seed draws its own utterances, test texts, judges and
weights, so seeds are the independent repetitions: the {LEVEL:.0%} t-interval of the paired differences over seeds holds the variation
of all of these, where a bootstrap over texts would leave out that of training, and one over a handful of seeds is too narrow.
  reproduces       the interval lies on the paper's side of 0 (claims of no change: within +-{MARGIN:g} points)
  contradicts      it lies on the other side of 0 (claims of no change: outside +-{MARGIN:g} points)
  not significant  anything else
p is that of the paired t-test, Holm's over all claims of the page."""

Numbers = dict[str, dict[str, float]]
"""System -> metric -> value, of one seed."""


class Claim(NamedTuple):
    """From system a to system b, a metric goes up, down, or stays the same; `paper` has its two values."""

    where: str
    text: str
    metric: str
    a: str
    b: str
    want: str
    paper: tuple[float | None, float | None]


class Verdict(NamedTuple):
    """What the seeds say of a claim."""

    word: str
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    p: float
    seeds: int


def judged(claim: Claim, runs: Sequence[Numbers]) -> Verdict:
    """The verdict of the rule; a seed in which one of the two was not measured does not count.

    >>> runs = [{"a": {"wer": 50.0 + i}, "b": {"wer": 30.0 + 2 * i}} for i in range(3)]
    >>> verdict = judged(Claim("", "", "wer", "a", "b", "down", (None, None)), runs)
    >>> verdict.word, verdict.difference, round(verdict.low, 2), round(verdict.high, 2)
    ('reproduces', -19.0, -21.48, -16.52)
    """
    both = [(run.get(claim.a, {}).get(claim.metric), run.get(claim.b, {}).get(claim.metric)) for run in runs]
    pairs = [(x, y) for x, y in both if x is not None and y is not None and math.isfinite(x) and math.isfinite(y)]
    if len(pairs) < 2:
        return Verdict("not measured", *[math.nan] * 6, len(pairs))
    a, b = (list(values) for values in zip(*pairs, strict=True))
    mean, low, high = interval([y - x for x, y in pairs])
    p = float(stats.ttest_rel(b, a).pvalue) if low < high else float(mean == 0)
    return Verdict(decide(claim.want, low, high), statistics.mean(a), statistics.mean(b), mean, low, high, p, len(pairs))


def decide(want: str, low: float, high: float) -> str:
    """The rule.

    >>> decide("down", -3, -1), decide("down", 1, 3), decide("up", -1, 3), decide("same", -1, 1), decide("same", 3, 5)
    ('reproduces', 'contradicts', 'not significant', 'reproduces', 'contradicts')
    """
    if want == "down":
        low, high = -high, -low
    if want == "same":
        inside, outside = -MARGIN <= low and high <= MARGIN, low > MARGIN or high < -MARGIN
    else:
        inside, outside = low > 0, high < 0
    return "reproduces" if inside else "contradicts" if outside else "not significant"


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and t-interval.

    >>> [round(x, 3) for x in interval([1.0, 2.0, 3.0])]  # 2 -+ 4.303 x 1 / sqrt(3)
    [2.0, -0.484, 4.484]
    """
    mean = statistics.mean(values)
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = float(stats.t.ppf(0.5 + LEVEL / 2, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return mean, mean - half, mean + half


def all_judged(runs: Sequence[Numbers]) -> list[tuple[Claim, Verdict]]:
    """Every claim with its verdict, p corrected by Holm."""
    found = [judged(claim, runs) for claim in CLAIMS]
    corrected = holm([verdict.p for verdict in found]).tolist()
    return [(c, v._replace(p=p)) for c, v, p in zip(CLAIMS, found, corrected, strict=True)]


def frontier(sweep: Sequence[tuple[float, float]], entropy: float) -> float:
    """The least WER at which the sweep over alpha, straight between its points (WER, H_p), has this entropy.

    Above all of them: the WER of its liveliest point, which favours the sweep.

    >>> frontier([(70, 7.2), (40, 7.4), (10, 6.4)], 6.9), frontier([(70, 7.2), (40, 7.4)], 8)
    (25.0, 40)
    """
    found = []
    for (wer, low), (other, high) in zip(sweep, sweep[1:], strict=False):
        if min(low, high) <= entropy <= max(low, high) and low != high:
            found.append(wer + (other - wer) * (entropy - low) / (high - low))
    if found:
        return min(found)
    top = max if entropy > max(h for _, h in sweep) else min
    return top(sweep, key=lambda point: point[1])[0]


def _of(where: str, *rows: tuple[Any, ...]) -> list[Claim]:
    return [Claim(where, *row) for row in rows]


CLAIMS = [
    *_of(
        "table 1, figure 1",
        ("half synthetic: fewer word errors", "wer", "alpha 0", "alpha 0.5", "down", (75.0, None)),
        ("all synthetic: fewer still", "wer", "alpha 0.5", "alpha 1", "down", (None, 36.2)),
        ("H_p peaks inside: above alpha = 0", "entropy", "alpha 0", "alpha 0.5", "up", (None, 10.506)),
        ("the same at alpha = 0.25", "entropy", "alpha 0", "alpha 0.25", "up", (None, None)),
        ("H_p peaks inside: above alpha = 1", "entropy", "alpha 0.5", "alpha 1", "down", (10.506, 10.210)),
        ("repetition falls first", "repetition", "alpha 0", "alpha 0.5", "down", (2.96, 2.02)),
        ("repetition surges at the end", "repetition", "alpha 0.5", "alpha 1", "up", (2.02, 9.83)),
        ("F0 flattens (table 2 has F0 beside H_p)", "f0_std", "alpha 0.5", "alpha 1", "down", (None, None)),
    ),
    *_of(
        "figure 4",
        ("the style prefix brings H_p back at 0.8", "entropy", "alpha 0.8", "alpha 0.8 styled", "up", (None, None)),
        ("and misreads more", "wer", "alpha 0.8", "alpha 0.8 styled", "up", (None, None)),
        ("DGSA leaves the curve of the sweep: fewer word errors at its H_p", "wer", "frontier", "DGSA", "down", (None, None)),
    ),
    *_of(
        "table 3",
        ("DGSA leaves word errors alone", "wer", "alpha 0.8", "DGSA", "same", (38.9, 38.9)),
        ("DGSA raises H_p", "entropy", "alpha 0.8", "DGSA", "up", (10.36, 10.52)),
        ("DGSA lowers repetition", "repetition", "alpha 0.8", "DGSA", "down", (6.51, 2.82)),
        ("DGSA raises F0 std (paper: NMOS)", "f0_std", "alpha 0.8", "DGSA", "up", (3.61, 4.42)),
        ("DGSA raises SIM (paper: SMOS)", "similarity", "alpha 0.8", "DGSA", "up", (3.54, 4.53)),
        ("standard DPO misreads more than SFT", "wer", "alpha 0.8", "no stability", "up", (38.9, 45.2)),
        ("standard DPO raises H_p", "entropy", "alpha 0.8", "no stability", "up", (10.36, 10.49)),
        ("DGSA: fewer word errors than standard DPO", "wer", "no stability", "DGSA", "down", (45.2, 38.9)),
        ("DGSA: more H_p than standard DPO", "entropy", "no stability", "DGSA", "up", (10.49, 10.52)),
        ("DGSA: less repetition than standard DPO", "repetition", "no stability", "DGSA", "down", (4.08, 2.82)),
        ("DGSA: more F0 std than standard DPO (paper: NMOS)", "f0_std", "no stability", "DGSA", "up", (3.92, 4.42)),
        ("DGSA: fewer word errors than rejection", "wer", "rejection", "DGSA", "down", (40.5, 38.9)),
        ("DGSA: more H_p than rejection", "entropy", "rejection", "DGSA", "up", (10.41, 10.52)),
    ),
    *_of(
        "table 7",
        ("without expressivity: fewer word errors", "wer", "DGSA", "no expressivity", "down", (38.9, 38.2)),
        ("without expressivity: less H_p", "entropy", "DGSA", "no expressivity", "down", (10.52, 10.38)),
        ("without stability: more word errors", "wer", "DGSA", "no stability", "up", (38.9, 46.5)),
        ("without stability: more H_p", "entropy", "DGSA", "no stability", "up", (10.52, 10.55)),
        ("random pairing: more word errors", "wer", "DGSA", "random pairing", "up", (38.9, 42.8)),
        ("random pairing: less H_p", "entropy", "DGSA", "random pairing", "down", (10.52, 10.41)),
        ("fixed weights: more word errors", "wer", "DGSA", "fixed weights", "up", (38.9, 40.2)),
        ("fixed weights: less H_p", "entropy", "DGSA", "fixed weights", "down", (10.52, 10.45)),
    ),
    *_of(
        "table 4",
        ("TDSC: fewer word errors than SFT", "wer", "SFT", "TDSC", "down", (38.5, 29.8)),
        ("TDSC raises H_p", "entropy", "SFT", "TDSC", "up", (10.08, 10.42)),
        ("TDSC lowers repetition", "repetition", "SFT", "TDSC", "down", (7.62, 4.15)),
        ("TDSC raises F0 std (paper: NMOS)", "f0_std", "SFT", "TDSC", "up", (3.12, 3.94)),
        ("self-training: fewer word errors than SFT", "wer", "SFT", "self-training", "down", (38.5, 35.2)),
        ("rejection: fewer word errors than SFT", "wer", "SFT", "rejection of SFT", "down", (38.5, 36.8)),
        ("TDSC: fewer word errors than self-training", "wer", "self-training", "TDSC", "down", (35.2, 29.8)),
        ("TDSC: more H_p than self-training", "entropy", "self-training", "TDSC", "up", (10.15, 10.42)),
        ("TDSC: less repetition than self-training", "repetition", "self-training", "TDSC", "down", (6.94, 4.15)),
        ("TDSC: fewer word errors than rejection", "wer", "rejection of SFT", "TDSC", "down", (36.8, 29.8)),
        ("TDSC: more H_p than rejection", "entropy", "rejection of SFT", "TDSC", "up", (10.11, 10.42)),
    ),
    *_of(
        "table 8",
        *(
            row
            for arm, wer, entropy in (
                ("no DPO", 35.8, 10.21),
                ("T = 1 only", 34.1, 10.05),
                ("no length filter", 33.5, 10.35),
                ("no curriculum", 32.6, 10.18),
                ("no repetition filter", 31.2, 10.28),
            )
            for row in (
                (f"{arm}: more word errors", "wer", "TDSC", arm, "up", (29.8, wer)),
                (f"{arm}: less H_p", "entropy", "TDSC", arm, "down", (10.42, entropy)),
            )
        ),
    ),
    *_of(
        "table 9, figure 5",
        ("hotter: more word errors", "wer", "coolest", "hottest", "up", (26.8, 41.6)),
        ("hotter: more H_p", "entropy", "coolest", "hottest", "up", (9.85, 10.82)),
        ("hotter: more repetition", "repetition", "coolest", "hottest", "up", (3.42, 6.18)),
        ("hotter: fewer pass", "pass", "coolest", "hottest", "down", (78.5, 38.4)),
    ),
    *_of(
        "figure 6",
        ("more candidates pass in the last iteration", "pass", "first iteration", "last iteration", "up", (23.0, 62.0)),
        ("fewer word errors in them", "wer", "first iteration", "last iteration", "down", (None, None)),
        ("more H_p in them", "entropy", "first iteration", "last iteration", "up", (None, None)),
    ),
]  # fmt: skip
