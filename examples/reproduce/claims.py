"""The paper's claims that a miniature can test, and the rule that decides them, fixed before any number was seen."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from paper import TABLES
from scipy import stats

from seaalign.functional.comparison import holm

LEVEL = 0.95
MARGIN = 2.0
RULE = f"""\
Each claim is a difference between two systems of the same seed. Each seed draws its own utterances, test texts,
judges and weights, so seeds are the independent repetitions: the {LEVEL:.0%} t-interval of the paired differences over
seeds holds the variation of all of these. A bootstrap over texts leaves out that of training.
  reproduces       the interval lies on the paper's side of 0 (claims of no change: within +-{MARGIN:g} points)
  contradicts      it lies on the other side of 0 (claims of no change: outside +-{MARGIN:g} points)
  not significant  anything else
p is that of the paired t-test (for claims of no change against the margin), after Holm over all claims: below 0.05 it
holds for all of them together."""

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
    word = decide(claim.want, low, high)
    p = certainty([y - x for x, y in pairs], claim.want, word)
    return Verdict(word, statistics.mean(a), statistics.mean(b), mean, low, high, p, len(pairs))


def certainty(apart: Sequence[float], want: str, word: str) -> float:
    """Two-sided p of the differences; for "no change" against the margin, so that it is small where the rule decides.

    >>> round(certainty([1.0, 2.0, 3.0], "up", "not significant"), 3)  # t = 2 / (1 / sqrt(3)) = 3.464, 2 degrees
    0.074
    >>> certainty([0.5, 0.52, 0.51], "same", "reproduces") < 0.001 > certainty([9.0, 9.1, 9.2], "same", "contradicts")
    True
    """
    if min(apart) == max(apart):  # no spread: the rule alone says
        return float(word == "not significant")

    def t(edge: float, side: str) -> float:
        return float(stats.ttest_1samp(apart, edge, alternative=side).pvalue)

    if want != "same":
        return t(0, "two-sided")
    inside = max(t(-MARGIN, "greater"), t(MARGIN, "less"))  # two one-sided tests: both have to be sure
    return min(1.0, 2 * (min(t(-MARGIN, "less"), t(MARGIN, "greater")) if word == "contradicts" else inside))


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


def _claims() -> list[Claim]:
    made = []
    for where, rows in _ASKED.items():
        table = TABLES.get(where.partition(",")[0])
        for text, metric, a, b, want in rows:
            known = (table.paper(a, metric), table.paper(b, metric)) if table else (None, None)
            made.append(Claim(where, text, metric, a, b, want, known))
    return made


_ASKED: dict[str, list[tuple[str, str, str, str, str]]] = {
    "table 1, figure 1": [
        ("half synthetic: fewer word errors", "wer", "alpha 0", "alpha 0.5", "down"),
        ("all synthetic: fewer still", "wer", "alpha 0.5", "alpha 1", "down"),
        ("H_p peaks inside: higher than at α = 0", "entropy", "alpha 0", "alpha 0.5", "up"),
        ("the same, at α = 0.25", "entropy", "alpha 0", "alpha 0.25", "up"),
        ("H_p peaks inside: lower at α = 1", "entropy", "alpha 0.5", "alpha 1", "down"),
        ("repetition falls first", "repetition", "alpha 0", "alpha 0.5", "down"),
        ("repetition surges at the end", "repetition", "alpha 0.5", "alpha 1", "up"),
        ("F0 flattens (in table 2, F0 goes with H_p)", "f0_std", "alpha 0.5", "alpha 1", "down"),
    ],
    "figure 4": [
        ("the style prefix brings H_p back at α = 0.8", "entropy", "alpha 0.8", "alpha 0.8 styled", "up"),
        ("and misreads more", "wer", "alpha 0.8", "alpha 0.8 styled", "up"),
        ("DGSA leaves the curve of the sweep: fewer errors at its H_p", "wer", "frontier", "DGSA", "down"),
    ],
    "table 3": [
        ("DGSA leaves word errors alone", "wer", "alpha 0.8", "DGSA", "same"),
        ("DGSA raises H_p", "entropy", "alpha 0.8", "DGSA", "up"),
        ("DGSA lowers repetition", "repetition", "alpha 0.8", "DGSA", "down"),
        ("DGSA raises F0 std (paper: NMOS)", "f0_std", "alpha 0.8", "DGSA", "up"),
        ("DGSA raises SIM (paper: SMOS)", "similarity", "alpha 0.8", "DGSA", "up"),
        ("standard DPO: more word errors than SFT", "wer", "alpha 0.8", "no stability", "up"),
        ("standard DPO raises H_p", "entropy", "alpha 0.8", "no stability", "up"),
        ("DGSA: fewer word errors than standard DPO", "wer", "no stability", "DGSA", "down"),
        ("DGSA: more H_p than standard DPO", "entropy", "no stability", "DGSA", "up"),
        ("DGSA: less repetition than standard DPO", "repetition", "no stability", "DGSA", "down"),
        ("DGSA: more F0 std than standard DPO (paper: NMOS)", "f0_std", "no stability", "DGSA", "up"),
        ("DGSA: fewer word errors than rejection", "wer", "rejection", "DGSA", "down"),
        ("DGSA: more H_p than rejection", "entropy", "rejection", "DGSA", "up"),
    ],
    "table 7": [
        ("without expressivity: fewer word errors", "wer", "DGSA", "no expressivity", "down"),
        ("without expressivity: less H_p", "entropy", "DGSA", "no expressivity", "down"),
        ("without stability: more word errors", "wer", "DGSA", "no stability", "up"),
        ("without stability: more H_p", "entropy", "DGSA", "no stability", "up"),
        ("random pairing: more word errors", "wer", "DGSA", "random pairing", "up"),
        ("random pairing: less H_p", "entropy", "DGSA", "random pairing", "down"),
        ("fixed weights: more word errors", "wer", "DGSA", "fixed weights", "up"),
        ("fixed weights: less H_p", "entropy", "DGSA", "fixed weights", "down"),
    ],
    "table 4": [
        ("TDSC: fewer word errors than SFT", "wer", "SFT", "TDSC", "down"),
        ("TDSC raises H_p", "entropy", "SFT", "TDSC", "up"),
        ("TDSC lowers repetition", "repetition", "SFT", "TDSC", "down"),
        ("TDSC raises F0 std (paper: NMOS)", "f0_std", "SFT", "TDSC", "up"),
        ("self-training: fewer word errors than SFT", "wer", "SFT", "self-training", "down"),
        ("rejection: fewer word errors than SFT", "wer", "SFT", "rejection of SFT", "down"),
        ("TDSC: fewer word errors than self-training", "wer", "self-training", "TDSC", "down"),
        ("TDSC: more H_p than self-training", "entropy", "self-training", "TDSC", "up"),
        ("TDSC: less repetition than self-training", "repetition", "self-training", "TDSC", "down"),
        ("TDSC: fewer word errors than rejection", "wer", "rejection of SFT", "TDSC", "down"),
        ("TDSC: more H_p than rejection", "entropy", "rejection of SFT", "TDSC", "up"),
        ("with an expressive prior: fewer word errors", "wer", "SFT with a prior", "TDSC with a prior", "down"),
        ("with an expressive prior: more H_p", "entropy", "SFT with a prior", "TDSC with a prior", "up"),
        ("with an expressive prior: more F0 std", "f0_std", "SFT with a prior", "TDSC with a prior", "up"),
    ],
    "table 8": [
        claim
        for arm in ("no DPO", "T = 1 only", "no length filter", "no curriculum", "no repetition filter")
        for claim in (
            (f"{arm}: more word errors", "wer", "TDSC", arm, "up"),
            (f"{arm}: less H_p", "entropy", "TDSC", arm, "down"),
        )
    ],
    "table 9, figure 5": [
        ("hotter: more word errors", "wer", "coolest", "hottest", "up"),
        ("hotter: more H_p", "entropy", "coolest", "hottest", "up"),
        ("hotter: more repetition", "repetition", "coolest", "hottest", "up"),
        ("hotter: fewer pass", "pass", "coolest", "hottest", "down"),
    ],
    "figure 6": [
        ("more candidates pass in the last iteration", "pass", "first iteration", "last iteration", "up"),
        ("fewer word errors in them", "wer", "first iteration", "last iteration", "down"),
        ("more H_p in them", "entropy", "first iteration", "last iteration", "up"),
    ],
}
CLAIMS = _claims()
