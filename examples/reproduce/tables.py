"""Results as text: each table beside the paper's, and the claims with their verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from claims import LEVEL, RULE, Claim, Numbers, Verdict, all_judged, interval

COLUMNS = {"wer": "WER %", "entropy": "H_p bits", "repetition": "rep. %", "f0_std": "F0 std st", "similarity": "SIM"}
HEARD = {"wer": "WER %", "entropy": "H_p bits", "repetition": "rep. %", "pass": "accepted %", "share": "share of them %"}
Row = tuple[str, str, tuple[float | None, ...]]
"""On the page, in the numbers, and the paper's WER, H_p, repetition and whatever `TABLES` names after them."""

TABLES: dict[str, tuple[dict[str, str], tuple[str, ...], tuple[Row, ...]]] = {
    "Table 1: the synthetic share": (
        COLUMNS,
        ("WER", "H_p", "rep."),
        (
            ("α = 0", "alpha 0", (75.0, None, 2.96)),
            ("α = 0.25", "alpha 0.25", ()),
            ("α = 0.5", "alpha 0.5", (None, 10.506, 2.02)),
            ("α = 0.8", "alpha 0.8", ()),
            ("α = 1", "alpha 1", (36.2, 10.210, 9.83)),
            ("α = 0, styled", "alpha 0 styled", ()),
            ("α = 0.25, styled", "alpha 0.25 styled", ()),
            ("α = 0.5, styled", "alpha 0.5 styled", ()),
            ("α = 0.8, styled", "alpha 0.8 styled", ()),
            ("α = 1, styled", "alpha 1 styled", ()),
            ("recordings", "recordings", ()),
            ("recordings through the codec", "codec only", ()),
        ),
    ),
    "Table 3: repair at α = 0.8": (
        COLUMNS,
        ("WER", "H_p", "rep.", "NMOS", "SMOS"),
        (
            ("SFT", "alpha 0.8", (38.9, 10.36, 6.51, 3.61, 3.54)),
            ("standard DPO", "no stability", (45.2, 10.49, 4.08, 3.92, 3.81)),
            ("rejection, best of 4", "rejection", (40.5, 10.41, 5.18, 3.75, 3.66)),
            ("DGSA", "DGSA", (38.9, 10.52, 2.82, 4.42, 4.53)),
            ("more SFT on real (no row of the paper)", "more SFT on real", ()),
        ),
    ),
    "Table 7: what DGSA is made of": (
        COLUMNS,
        ("WER", "H_p", "NMOS"),
        (
            ("DGSA", "DGSA", (38.9, 10.52, 4.4)),
            ("no expressivity objective", "no expressivity", (38.2, 10.38, 3.7)),
            ("random speaker pairing", "random pairing", (42.8, 10.41, 3.9)),
            ("no stability objective", "no stability", (46.5, 10.55, 4.0)),
            ("fixed weights 0.5 / 0.5", "fixed weights", (40.2, 10.45, 4.2)),
        ),
    ),
    "Table 4: no real speech": (
        COLUMNS,
        ("WER", "H_p", "rep.", "NMOS"),
        (
            ("SFT", "SFT", (38.5, 10.08, 7.62, 3.12)),
            ("self-training", "self-training", (35.2, 10.15, 6.94, 3.31)),
            ("rejection, best of 4", "rejection of SFT", (36.8, 10.11, 7.28, 3.24)),
            ("TDSC", "TDSC", (29.8, 10.42, 4.15, 3.94)),
        ),
    ),
    "Table 8: what TDSC is made of": (
        COLUMNS,
        ("WER", "H_p"),
        (
            ("TDSC", "TDSC", (29.8, 10.42)),
            ("no DPO", "no DPO", (35.8, 10.21)),
            ("T = 1 only", "T = 1 only", (34.1, 10.05)),
            ("no length filter", "no length filter", (33.5, 10.35)),
            ("no curriculum", "no curriculum", (32.6, 10.18)),
            ("no repetition filter", "no repetition filter", (31.2, 10.28)),
        ),
    ),
    "Table 9: TDSC by temperature, last iteration, as its judge hears it": (
        HEARD,
        ("WER", "H_p", "rep.", "accepted", "share"),
        (
            ("T = 0.7", "coolest", (26.8, 9.85, 3.42, 78.5, 42.0)),
            ("T = 1", "middle", (32.4, 10.38, 4.65, 61.2, 35.0)),
            ("T = 1.3", "hottest", (41.6, 10.82, 6.18, 38.4, 23.0)),
        ),
    ),
    "Figure 6: TDSC by iteration, at T = 1, as its judge hears it": (
        {"wer": "WER %", "entropy": "H_p bits", "repetition": "rep. %", "f0_std": "F0 std st", "pass": "accepted %, all T"},
        ("accepted",),
        (("first iteration", "first iteration", (23.0,)), ("last iteration", "last iteration", (62.0,))),
    ),
}  # fmt: skip
UNITS = {"wer": "WER", "entropy": "H_p", "repetition": "rep.", "f0_std": "F0 std", "similarity": "SIM", "pass": "accepted"}


def everything(runs: Sequence[Numbers]) -> str:
    """The tables, the rule, and the claims."""
    judged = all_judged(runs)
    tables = [f"### {title}\n\n{table(title, runs)}" for title in TABLES]
    return "\n\n".join([*tables, f"### Verdicts\n\n```text\n{RULE}\n```", verdicts(judged), count(judged)]) + "\n"


def table(title: str, runs: Sequence[Numbers]) -> str:
    """Mean and half-width of the interval over seeds, and the paper's numbers."""
    columns, theirs, rows = TABLES[title]
    lines = [_line("", *columns.values(), *(f"paper: {name}" for name in theirs))]
    lines.append("|---" * (1 + len(columns) + len(theirs)) + "|")
    for name, system, paper in rows:
        if any(system in run for run in runs):
            numbers = [cell([run[system][key] for run in runs if system in run and key in run[system]], key) for key in columns]
            known = [*paper, *[None] * len(theirs)][: len(theirs)]
            lines.append(_line(name, *numbers, *(_paper(value) for value in known)))
    return "\n".join(lines)


def cell(values: Sequence[float], key: str) -> str:
    """Mean, and half the width of its interval.

    >>> cell([1.0, 2.0, 3.0], "entropy"), cell([1.0], "wer"), cell([], "wer")
    ('2.00 ± 2.48', '1.0', '')
    """
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return ""
    mean, low, high = interval(values)
    digits = _digits(key)
    return f"{mean:.{digits}f}" + (f" ± {(high - low) / 2:.{digits}f}" if len(values) > 1 else "")


def verdicts(judged: Sequence[tuple[Claim, Verdict]]) -> str:
    """One row per claim."""
    lines = [_line("of", "claim", "measure", "paper", "here", f"difference, {LEVEL:.0%} interval", "p (Holm)", "verdict")]
    lines.append("|---" * 8 + "|")
    for claim, verdict in judged:
        if verdict.word == "not measured":
            continue
        digits = _digits(claim.metric)
        here = f"{verdict.mean_a:.{digits}f} → {verdict.mean_b:.{digits}f}"
        change = f"{verdict.difference:+.{digits}f} [{verdict.low:+.{digits}f}, {verdict.high:+.{digits}f}]"
        paper = " → ".join(_paper(value) or "·" for value in claim.paper) if any(claim.paper) else ""
        word = verdict.word if verdict.word == "not significant" else f"**{verdict.word}**"
        lines.append(_line(claim.where, claim.text, UNITS[claim.metric], paper, here, change, _p(verdict.p), word))
    return "\n".join(lines)


def count(judged: Sequence[tuple[Claim, Verdict]]) -> str:
    """How many of each."""
    words = [verdict.word for _, verdict in judged]
    told = [f"{words.count(word)} {word}" for word in ("reproduces", "not significant", "contradicts")]
    missing = words.count("not measured")
    return f"{len(words) - missing} claims: {', '.join(told)}." + (f" {missing} were not measured." if missing else "")


def _digits(key: str) -> int:
    return 2 if key in ("entropy", "f0_std", "similarity") else 1


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _paper(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
