"""What an iteration is asked to do, and what to say where it came to nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seaalign.backbones.base import prompt_key
from seaalign.pairs import Funnel, Judged, Mined
from seaalign.records import Sentence


class NothingAccepted(ValueError):
    """An iteration in which no candidate passed: there is nothing to learn from."""


@dataclass(frozen=True)
class Plan:
    """What one iteration explores and mines.

    Args:
        temperatures: one per candidate of a sentence.
        top_p: nucleus mass.
        max_len: most frames of a candidate, a number or one per sentence.
        batch: sentences per wave.
        seed: of draws and ties.
        loser_reasons: see `pairs.mine`.
        per_text: most pairs of a sentence.
    """

    temperatures: tuple[float, ...]
    top_p: float = 0.9
    max_len: int | tuple[int, ...] = 1024
    batch: int = 16
    seed: int = 0
    loser_reasons: tuple[str, ...] = ("intelligibility",)
    per_text: int = 1


def sentences_hash(sentences: Sequence[Sentence]) -> str:
    """Fingerprint of what is to be said, and with what voice, in this order."""
    digest = hashlib.blake2b(digest_size=16)
    for sentence in sentences:
        digest.update(f"{sentence.id}|{sentence.text}|{sentence.language}|{prompt_key(sentence.prompt)}\n".encode())
    return digest.hexdigest()


def advice(folder: Path, funnel: Funnel) -> str:
    """Why nothing passed, and which knob each reason belongs to."""
    knobs = {
        "intelligibility": "raise Intelligibility(max_error=...), explore at lower temperatures, or train the SFT "
        "policy longer; listen to some first: a recogniser of another language rejects everything",
        "repetition": "raise Repetition(max_rate=...), or lower the temperatures",
        "length": "calibrate Duration on data of this model's frame rate and text units, or widen low and high",
        "cut": "raise max_len: these did not end by themselves",
        "empty": "the model ends at once: train the SFT policy longer, or check `eos`",
    }
    refused = sorted({reason for row in funnel.rows for reason in row["refused"]})
    told = "".join(f"\n  {reason}: {knobs.get(reason, 'look at this criterion')}" for reason in refused)
    return (
        f"none of {funnel.candidates} candidates was accepted, so there is nothing to learn from:\n{funnel}\n"
        f"What to loosen:{told}\nWith another judge just start again: {folder} keeps the candidates. With other "
        "temperatures or max_len, or another policy, delete it first."
    )


def mean_scores(judged: Sequence[Judged]) -> dict[str, float]:
    """Mean of every score over the candidates that have it."""
    values: dict[str, list[float]] = {}
    for _, verdict in judged:
        for name, value in verdict.scores.items():
            values.setdefault(name, []).append(value)
    return {name: sum(found) / len(found) for name, found in sorted(values.items())}


def summary(mined: Mined, judged: Sequence[Judged]) -> dict[str, Any]:
    """What round.json says of an iteration's candidates, whoever made them."""
    funnel = mined.funnel
    return {
        "pass_rate": funnel.accepted / funnel.candidates,
        "candidates": funnel.candidates,
        "accepted": funnel.accepted,
        "scores": mean_scores(judged),
        "temperatures": funnel.rows,
        "texts": funnel.texts,
    }
