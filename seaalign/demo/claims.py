"""The paper's claims that a miniature can test, asked of one run; differences count from 2 sigma.

`holds` is the rule of the tables in docs/demo.md; `verdict` also says where the test texts are too few to tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from seaalign.demo.show import Summary

NO_RISE = 2.0
"""Percentage points up to which a rate counts as where it was, as in the paper in miniature (docs/reproduce.md)."""
Verdict = Literal["holds", "undecided", "does not"]


def difference(before: Summary, after: Summary, key: str) -> tuple[float, float]:
    """after - before and its sigma; the two are taken as independent, which errs on the wide."""
    return after[key][0] - before[key][0], (after[key][1] ** 2 + before[key][1] ** 2) ** 0.5


def z(a: Summary, b: Summary, key: str) -> float:
    """How far a lies above b, in units of the sigma of the difference."""
    change, sigma = difference(b, a, key)
    return change / max(sigma, 1e-9)


def interval(before: Summary, after: Summary, key: str) -> tuple[float, float]:
    """The difference after - before, 2 sigma down and up."""
    change, sigma = difference(before, after, key)
    return change - 2 * sigma, change + 2 * sigma


def verdict(low: float, high: float, least: float = 0.0) -> Verdict:
    """Does an interval lie above `least`, below it, or around it?

    >>> verdict(0.1, 0.5), verdict(-0.1, 0.5), verdict(-0.5, -0.1)
    ('holds', 'undecided', 'does not')
    """
    return "holds" if low > least else "does not" if high < least else "undecided"


def _said(claim: str, holds: bool, numbers: str, found: Verdict, around: tuple[float, float] | None) -> dict[str, Any]:
    return {"claim": claim, "holds": bool(holds), "numbers": numbers, "verdict": found, "interval": around}


def _numbers(key: str, rows: Sequence[Summary]) -> str:
    return f"{key} " + " -> ".join(f"{row[key][0]:.2f}" for row in rows)


def up(claim: str, key: str, before: Summary, after: Summary) -> dict[str, Any]:
    """Does a metric rise?"""
    around = interval(before, after, key)
    return _said(claim, z(after, before, key) > 2, _numbers(key, (before, after)), verdict(*around), around)


def down(
    claim: str, key: str, *rows: Summary, holds: bool | None = None, of: tuple[int, int] = (0, -1), least: float = 0.0
) -> dict[str, Any]:
    """Does a metric fall?

    Args:
        claim: the words.
        key: the metric.
        rows: what is shown.
        holds: the rule of the tables where it is not 2 sigma.
        of: the places of before and after among the rows.
        least: how far it must fall.
    """
    before, after = (rows[place] for place in of)
    low, high = interval(before, after, key)
    held = z(before, after, key) > 2 if holds is None else holds
    return _said(claim, held, _numbers(key, rows), verdict(-high, -low, least), (low, high))


def unraised(claim: str, key: str, before: Summary, after: Summary) -> dict[str, Any]:
    """Does a rate stay where it was? That no rise is shown is not enough: a wide interval hides one."""
    low, high = around = interval(before, after, key)
    found: Verdict = "does not" if low > 0 else "holds" if high <= NO_RISE else "undecided"
    numbers = _numbers(key, (before, after))
    return _said(claim, z(after, before, key) < 2, numbers, found, around) | {"tolerance": NO_RISE}


def cheaper(unit: str, key: str, sft: Summary, dgsa: Summary, real: Summary) -> dict[str, Any]:
    """Does DGSA pay fewer word errors per unit restored than more SFT on real speech?"""
    claim = f"a restored {unit} costs fewer word errors than by more SFT on real"
    if not all(z(row, sft, key) > 2 for row in (dgsa, real)):  # a price for nothing says nothing
        return _said(claim, False, "not comparable", "undecided", None)

    def price(row: Summary) -> tuple[float, float]:
        """Points per unit, and the variance to first order."""
        paid, got = row["wer"][0] - sft["wer"][0], row[key][0] - sft[key][0]
        of_paid, of_got = (row[name][1] ** 2 + sft[name][1] ** 2 for name in ("wer", key))
        return paid / got, of_paid / got**2 + of_got * (paid / got**2) ** 2

    (ours, one), (theirs, other) = price(dgsa), price(real)
    sigma = (one + other) ** 0.5
    low, high = ours - theirs - 2 * sigma, ours - theirs + 2 * sigma
    numbers = f"WER points per {unit}: DGSA {ours:.1f}, more SFT {theirs:.1f}"
    return _said(claim, ours < theirs, numbers, verdict(-high, -low), (low, high))


def falling(claim: str, off: Sequence[Summary]) -> dict[str, Any]:
    """Do word errors fall from share to share?"""
    steps = list(zip(off, off[1:], strict=False))
    falls = all(a["wer"][0] >= b["wer"][0] for a, b in steps) and z(off[0], off[-1], "wer") > 2
    said = down(claim, "wer", *off, holds=falls)
    rises = any(z(b, a, "wer") > 2 for a, b in steps)
    if not falls:  # the ends alone do not make it hold
        said["verdict"] = "does not" if rises or said["verdict"] == "does not" else "undecided"
    return said


def claims(off: list[Summary], on: list[Summary], systems: dict[str, Summary], at: int) -> list[dict[str, Any]]:
    """The paper's claims that a miniature can test, asked of this run; differences count from 2 sigma.

    Args:
        off: one row per synthetic share, style off.
        on: the same, style on.
        systems: the remedies, and "SFT" before them.
        at: which of the shares the remedies start from.
    """
    sft, dgsa, real, plain = (systems[name] for name in ("SFT", "DGSA", "more SFT on real", "standard DPO"))
    beats_real, beats_plain = (dgsa["wer"][0] < other["wer"][0] for other in (real, plain))
    return [
        falling("word errors fall with the synthetic share", off),
        down("entropy collapses", "entropy", *off),
        down("F0 spread collapses", "f0_std", *off),
        up("style off -> on at 0.8 adds F0 spread", "f0_std", off[at], on[at]),
        up("style off -> on at 0.8 adds entropy", "entropy", off[at], on[at]),
        up("DGSA restores entropy (SFT -> DGSA)", "entropy", sft, dgsa),
        up("DGSA restores F0 spread (SFT -> DGSA)", "f0_std", sft, dgsa),
        down("fewer word errors for it than more SFT on real", "wer", sft, dgsa, real, holds=beats_real, of=(2, 1)),
        cheaper("bit", "entropy", sft, dgsa, real),
        cheaper("semitone", "f0_std", sft, dgsa, real),
        down("fewer word errors for it than standard DPO", "wer", dgsa, plain, holds=beats_plain, of=(1, 0)),
        unraised("DGSA leaves word errors where SFT had them, as in the paper", "wer", sft, dgsa),
    ]


def critique_claims(systems: dict[str, Summary], rounds: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the paper says of TDSC, asked of this run.

    Args:
        systems: "SFT on little", "TDSC", "self-training".
        rounds: the dashboard of TDSC.
    """
    sft, tdsc, plain = (systems[name] for name in ("SFT on little", "TDSC", "self-training"))
    passed = [row["pass_rate"] for row in rounds]
    rising = len(passed) > 1 and all(a < b for a, b in zip(passed[:-1], passed[1:-1], strict=False))
    counted: Verdict = "holds" if rising else "does not" if len(passed) > 1 else "undecided"
    much, better = sft["wer"][0] - tdsc["wer"][0] >= 7, tdsc["wer"][0] < plain["wer"][0]
    more = "more candidates pass from iteration to iteration, but for the last"
    return [
        down("TDSC takes 7 points or more off the word errors", "wer", sft, tdsc, holds=much, least=7),
        down("fewer word errors for TDSC than self-training", "wer", plain, tdsc, holds=better),
        _said(more, rising, "pass % " + " -> ".join(f"{100 * rate:.0f}" for rate in passed), counted, None),
        unraised("TDSC does not raise repetition", "repetition", sft, tdsc),
        up("TDSC raises entropy, as in the paper", "entropy", sft, tdsc),
        up("TDSC raises F0 spread", "f0_std", sft, tdsc),
    ]
