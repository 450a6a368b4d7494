"""Results as text: each table beside the paper's, and the claims with their verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from claims import LEVEL, RULE, Claim, Numbers, Verdict, all_judged, interval
from paper import TABLES

SHORT = {"wer": "WER", "entropy": "H_p", "repetition": "rep.", "f0_std": "F0 std", "similarity": "SIM"}
SHORT |= {"pass": "accepted", "share": "of them", "nmos": "NMOS", "smos": "SMOS"}


def everything(runs: Sequence[Numbers]) -> str:
    """The tables, the rule, and the claims."""
    judged = all_judged(runs)
    found = [f"### {name.capitalize()}: {table.title}\n\n{rows(name, runs)}" for name, table in TABLES.items()]
    return "\n\n".join([*found, f"### Verdicts\n\n```text\n{RULE}\n```", verdicts(judged), count(judged)]) + "\n"


def rows(name: str, runs: Sequence[Numbers]) -> str:
    """Mean and half-width of the interval over seeds, and the paper's numbers."""
    table = TABLES[name]
    lines = [_line("", *table.here.values(), *(f"paper: {SHORT[key]}" for key in table.there))]
    lines.append("|---" * (1 + len(table.here) + len(table.there)) + "|")
    for system, (label, *_) in table.rows.items():
        found = [run[system] for run in runs if system in run]
        if found:
            here = [cell([row[key] for row in found if key in row], key) for key in table.here]
            there = [_paper(table.paper(system, key)) for key in table.there]
            lines.append(_line(str(label), *here, *there))
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
    lines = [
        _line("of", "claim", "measure", "paper", "here", f"difference, {LEVEL:.0%} interval", "p (Holm)", "verdict")
    ]
    lines.append("|---" * 8 + "|")
    for claim, verdict in judged:
        if verdict.word == "not measured":
            continue
        digits = _digits(claim.metric)
        here = f"{verdict.mean_a:.{digits}f} → {verdict.mean_b:.{digits}f}"
        change = f"{verdict.difference:+.{digits}f} [{verdict.low:+.{digits}f}, {verdict.high:+.{digits}f}]"
        paper = " → ".join(_paper(value) or "·" for value in claim.paper) if any(claim.paper) else ""
        word = verdict.word if verdict.word == "not significant" else f"**{verdict.word}**"
        lines.append(_line(claim.where, claim.text, SHORT[claim.metric], paper, here, change, _p(verdict.p), word))
    return "\n".join(lines)


def count(judged: Sequence[tuple[Claim, Verdict]]) -> str:
    """How many of each, and how many of the decided ones hold together."""
    words = [verdict.word for _, verdict in judged]
    told = [f"{words.count(word)} {word}" for word in ("reproduces", "not significant", "contradicts")]
    missing = words.count("not measured")
    firm = sum(v.p < 1 - LEVEL for _, v in judged if v.word in ("reproduces", "contradicts"))
    text = f"{len(words) - missing} claims: {', '.join(told)}. After Holm {firm} of the decided ones hold all together."
    return text + (f" {missing} were not measured." if missing else "")


def _digits(key: str) -> int:
    return 2 if key in ("entropy", "f0_std", "similarity") else 1


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _paper(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
