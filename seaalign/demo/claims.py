"""The paper's claims that a miniature can test, asked of one run; differences count from 2 sigma."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from seaalign.demo.show import Summary


def z(a: Summary, b: Summary, key: str) -> float:
    """How far a lies above b, in units of the sigma of the difference."""
    return (a[key][0] - b[key][0]) / max((a[key][1] ** 2 + b[key][1] ** 2) ** 0.5, 1e-9)


def cheaper(unit: str, key: str, sft: Summary, dgsa: Summary, real: Summary) -> dict[str, Any]:
    """Does DGSA pay fewer word errors per unit restored than more SFT on real speech?"""
    claim = f"a restored {unit} costs fewer word errors than by more SFT on real"
    if not all(z(row, sft, key) > 2 for row in (dgsa, real)):  # a price for nothing says nothing
        return {"claim": claim, "holds": False, "numbers": "not comparable"}
    ours, theirs = ((row["wer"][0] - sft["wer"][0]) / (row[key][0] - sft[key][0]) for row in (dgsa, real))
    numbers = f"WER points per {unit}: DGSA {ours:.1f}, more SFT {theirs:.1f}"
    return {"claim": claim, "holds": ours < theirs, "numbers": numbers}


def claims(off: list[Summary], on: list[Summary], systems: dict[str, Summary], at: int) -> list[dict[str, Any]]:
    """The paper's claims that a miniature can test, asked of this run; differences count from 2 sigma.

    Args:
        off: one row per synthetic share, style off.
        on: the same, style on.
        systems: the remedies, and "SFT" before them.
        at: which of the shares the remedies start from.
    """
    sft, dgsa, real, plain = (systems[name] for name in ("SFT", "DGSA", "more SFT on real", "standard DPO"))

    def say(claim: str, holds: bool, key: str, *rows: Summary) -> dict[str, Any]:
        return {
            "claim": claim,
            "holds": bool(holds),
            "numbers": f"{key} " + " -> ".join(f"{row[key][0]:.2f}" for row in rows),
        }

    wers = [row["wer"][0] for row in off]
    falls = all(a >= b for a, b in zip(wers, wers[1:], strict=False)) and z(off[0], off[-1], "wer") > 2
    return [
        say("word errors fall with the synthetic share", falls, "wer", *off),
        say("entropy collapses", z(off[0], off[-1], "entropy") > 2, "entropy", *off),
        say("F0 spread collapses", z(off[0], off[-1], "f0_std") > 2, "f0_std", *off),
        say("style off -> on at 0.8 adds F0 spread", z(on[at], off[at], "f0_std") > 2, "f0_std", off[at], on[at]),
        say("style off -> on at 0.8 adds entropy", z(on[at], off[at], "entropy") > 2, "entropy", off[at], on[at]),
        say("DGSA restores entropy (SFT -> DGSA)", z(dgsa, sft, "entropy") > 2, "entropy", sft, dgsa),
        say("DGSA restores F0 spread (SFT -> DGSA)", z(dgsa, sft, "f0_std") > 2, "f0_std", sft, dgsa),
        say("fewer word errors for it than more SFT on real", dgsa["wer"][0] < real["wer"][0], "wer", sft, dgsa, real),
        cheaper("bit", "entropy", sft, dgsa, real),
        cheaper("semitone", "f0_std", sft, dgsa, real),
        say("fewer word errors for it than standard DPO", dgsa["wer"][0] < plain["wer"][0], "wer", dgsa, plain),
        say("DGSA leaves word errors where SFT had them, as in the paper", z(dgsa, sft, "wer") < 2, "wer", sft, dgsa),
    ]  # fmt: skip


def critique_claims(systems: dict[str, Summary], rounds: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the paper says of TDSC, asked of this run.

    Args:
        systems: "SFT on little", "TDSC", "self-training".
        rounds: the dashboard of TDSC.
    """
    sft, tdsc, plain = (systems[name] for name in ("SFT on little", "TDSC", "self-training"))
    passed = [row["pass_rate"] for row in rounds]
    rising = len(passed) > 1 and all(a < b for a, b in zip(passed[:-1], passed[1:-1], strict=False))

    def say(claim: str, holds: bool, key: str, *rows: Summary) -> dict[str, Any]:
        numbers = f"{key} " + " -> ".join(f"{row[key][0]:.2f}" for row in rows)
        return {"claim": claim, "holds": bool(holds), "numbers": numbers}

    return [
        say("TDSC takes 7 points or more off the word errors", sft["wer"][0] - tdsc["wer"][0] >= 7, "wer", sft, tdsc),
        say("fewer word errors for TDSC than self-training", tdsc["wer"][0] < plain["wer"][0], "wer", plain, tdsc),
        {
            "claim": "more candidates pass from iteration to iteration, but for the last",
            "holds": rising,
            "numbers": "pass % " + " -> ".join(f"{100 * rate:.0f}" for rate in passed),
        },
        say("TDSC does not raise repetition", z(tdsc, sft, "repetition") < 2, "repetition", sft, tdsc),
        say("TDSC raises entropy, as in the paper", z(tdsc, sft, "entropy") > 2, "entropy", sft, tdsc),
        say("TDSC raises F0 spread", z(tdsc, sft, "f0_std") > 2, "f0_std", sft, tdsc),
    ]
