"""Mining: verdicts in, training data out: what is accepted, which pairs it makes, and a count of everything else.

Pure and seeded: the same candidates and verdicts, in any order, give the same result.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seaalign.functional import entropy_at, repetition_rate, token_counts
from seaalign.functional.sampling import content_key
from seaalign.records import Candidate, Pair, Utterance, Verdict

Judged = tuple[Candidate, Verdict]


@dataclass(frozen=True)
class Funnel:
    """Where candidates went, per temperature (the shape of table 9), and what became of the texts.

    Args:
        rows: one per temperature: "temperature", "candidates", "accepted", "pass_rate", "share" (of all accepted),
            "refused" (by first reason), "error" (mean over those that were listened to), "entropy" (H_p in bits, at
            "entropy_tokens" tokens in every row), "repetition" (the judge's, or eq. 25 with k = 4), "frames" (mean
            length), "winners", "losers".
        texts: how many sentences, and what they gave: "texts", "with_accepted", "pairs", and those without a pair by
            cause, "nothing accepted" or "no loser".
    """

    rows: list[dict[str, Any]]
    texts: dict[str, int]

    @property
    def candidates(self) -> int:
        """How many were judged."""
        return sum(row["candidates"] for row in self.rows)

    @property
    def accepted(self) -> int:
        """How many passed."""
        return sum(row["accepted"] for row in self.rows)

    def __str__(self) -> str:
        """A table for people."""
        head = f"{'T':>5} {'judged':>7} {'passed':>7} {'pass %':>7} {'share %':>8} {'error %':>8} {'H_p':>6}  refused"
        lines = [
            f"{row['temperature']:5.2f} {row['candidates']:7d} {row['accepted']:7d} {100 * row['pass_rate']:7.1f} "
            f"{100 * row['share']:8.1f} {_percent(row['error'])} {row['entropy']:6.2f}  "
            + ", ".join(f"{reason} {count}" for reason, count in row["refused"].items())
            for row in self.rows
        ]
        return "\n".join([head, *lines, ", ".join(f"{name} {count}" for name, count in self.texts.items())])


class Mined(NamedTuple):
    """What mining gives."""

    accepted: list[Utterance]
    pairs: list[Pair]
    funnel: Funnel


def mine(
    judged: Sequence[Judged],
    *,
    loser_reasons: Collection[str] = ("intelligibility",),
    per_text: int = 1,
    seed: int = 0,
    source: str = "self",
) -> Mined:
    """Training data from judged candidates.

    Winner: accepted, lowest error. Loser: rejected for nothing but `loser_reasons`, so that it passed length and
    repetition and the preference cannot be won by duration; of those the one closest in length to the winner. Ties go
    to the larger error (losers), then to a seeded draw. A candidate that is empty or was cut at the length limit is
    never accepted and never a loser; one whose judge abstained ("error") is neither, too.

    Args:
        judged: candidates with their verdicts; `scores["error"]` ranks them.
        loser_reasons: what a loser may have been rejected for.
        per_text: most pairs of a sentence, each with a winner and a loser of its own.
        seed: of the ties.
        source: what the accepted utterances call their origin.

    Returns:
        All accepted candidates as utterances, pairs in the order of sentence ids, and the funnel.

    Raises:
        ValueError: nothing to mine, or a loser that should be ranked has no score "error".

    Source: Geng et al. 2026, sec. 4 (mining), eq. 16-19; table 9.
    """
    if not judged:
        raise ValueError("there are no candidates to mine: explore first")
    judged = sorted(judged, key=lambda item: (item[0].sentence.id, item[0].index))
    texts = defaultdict[str, list[Judged]](list)
    for item in judged:
        texts[item[0].sentence.id].append(item)
    accepted, pairs, ends = [], [], Counter[str]()
    chosen: list[Judged] = []
    rejected: list[Judged] = []
    for items in texts.values():
        winners = sorted((i for i in items if _passed(i)), key=lambda i: (_error(i, 0.0), _draw(i[0], seed)))
        losers = [i for i in items if _usable(i[0]) and i[1].reasons and set(i[1].reasons) <= set(loser_reasons)]
        accepted += [Utterance(c.name, c.sentence.prompt, c.tokens, source) for c, v in items if _passed((c, v))]
        found = _match(winners, losers, per_text, seed)
        pairs += [_pair(better[0], worse[0], number) for number, (better, worse) in enumerate(found)]
        chosen += [better for better, _ in found]
        rejected += [worse for _, worse in found]
        ends["with_accepted"] += bool(winners)
        if not found:
            ends["no loser" if winners else "nothing accepted"] += 1
    counts = {"texts": len(texts), "with_accepted": ends["with_accepted"], "pairs": len(pairs)}
    counts |= {cause: ends[cause] for cause in ("nothing accepted", "no loser")}
    return Mined(accepted, pairs, Funnel(_rows(judged, chosen, rejected), counts))


def _match(winners: list[Judged], losers: list[Judged], most: int, seed: int) -> list[tuple[Judged, Judged]]:
    found, left = [], list(losers)
    for winner in winners[:most]:
        worse = [loser for loser in left if _error(loser) > _error(winner, 0.0)]
        if worse:
            size = len(winner[0].tokens)
            best = min(worse, key=lambda i: (abs(len(i[0].tokens) - size), -_error(i), _draw(i[0], seed)))
            left.remove(best)
            found.append((winner, best))
    return found


def _pair(winner: Candidate, loser: Candidate, number: int) -> Pair:
    key = winner.sentence.id if not number else f"{winner.sentence.id}+{number}"
    return Pair(key, winner.sentence.prompt, winner.tokens, loser.tokens, (winner.ended, loser.ended))


def _usable(candidate: Candidate) -> bool:
    return candidate.ended and len(candidate.tokens) > 0


def _passed(item: Judged) -> bool:
    return item[1].ok and _usable(item[0])


def _error(item: Judged, default: float | None = None) -> float:
    value = item[1].scores.get("error", default)
    if value is None:
        raise ValueError(
            f"the judge rejected {item[0].name} for {item[1].reasons} without a score 'error', by which losers are "
            "ranked: have a criterion give one, or leave its name out of loser_reasons"
        )
    return float(value)


def _draw(candidate: Candidate, seed: int) -> int:
    return content_key([torch.tensor(list(candidate.name.encode()))], seed)


def _rows(judged: Sequence[Judged], chosen: list[Judged], rejected: list[Judged]) -> list[dict[str, Any]]:
    total = sum(_passed(item) for item in judged)
    heats = sorted({item[0].temperature for item in judged})
    rows = [[item for item in judged if item[0].temperature == heat] for heat in heats]
    spoken = [[_first_book(candidate) for candidate, _ in row] for row in rows]
    ids = 1 + max((int(tokens.max()) for row in spoken for tokens in row if len(tokens)), default=0)
    counts = [token_counts(row, vocab_size=ids) for row in spoken]
    # entropy grows with the sample: compare temperatures at equal numbers of tokens
    size = min(int(count.sum()) for count in counts)
    return [
        {
            **_row(heat, row, total),
            "entropy": float(entropy_at(count, size)) if size else 0.0,
            "entropy_tokens": size,
            "winners": sum(c.temperature == heat for c, _ in chosen),
            "losers": sum(c.temperature == heat for c, _ in rejected),
        }
        for heat, row, count in zip(heats, rows, counts, strict=True)
    ]


def _row(heat: float, items: list[Judged], total: int) -> dict[str, Any]:
    passed = sum(_passed(item) for item in items)
    refused = Counter(_why(item) for item in items if not _passed(item))
    spoken = [_first_book(candidate) for candidate, _ in items]
    looped = _mean(items, "repetition")
    return {
        "temperature": heat,
        "candidates": len(items),
        "accepted": passed,
        "pass_rate": passed / len(items),
        "share": passed / total if total else 0.0,
        "refused": dict(refused.most_common()),
        "error": _mean(items, "error"),
        "repetition": float(repetition_rate(spoken).rate) if looped is None else looped,
        "frames": sum(map(len, spoken)) / len(items),
    }


def _first_book(candidate: Candidate) -> Tensor:
    return candidate.tokens if candidate.tokens.dim() == 1 else candidate.tokens[:, 0]


def _mean(items: list[Judged], score: str) -> float | None:
    values = [verdict.scores[score] for _, verdict in items if score in verdict.scores]
    return sum(values) / len(values) if values else None


def _why(item: Judged) -> str:
    candidate, verdict = item
    if verdict.reasons:
        return "no verdict" if verdict.status == "error" else verdict.reasons[0]
    return "cut" if not candidate.ended else "empty"


def _percent(share: float | None) -> str:
    return f"{'-':>8}" if share is None else f"{100 * share:8.1f}"
