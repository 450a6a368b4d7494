"""What listeners preferred, as pairs that DPO trains on: the majority of votes decides, ties say nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from seaalign.listening.results import Answer
from seaalign.records import Pair, Prompt
from seaalign.storage.columns import whole_or_nothing
from seaalign.storage.critique import write_pairs
from seaalign.storage.preferences import write_preferences


@dataclass
class Votes:
    """Preferred clips, and what became of all comparisons.

    Args:
        wins: numbers of the preferred and of the other clip, and how many chose each.
        funnel: how many comparisons there were, and how many were left out, by reason.
    """

    wins: list[tuple[int, int, int, int]] = field(default_factory=list)
    funnel: dict[str, int] = field(default_factory=dict)


def count_votes(answers: Sequence[Answer], least: int = 3) -> Votes:
    """Decide each comparison of two clips by majority.

    Args:
        answers: of raters who passed; those of "ab" count, and neither screening clips nor repetitions.
        least: votes for one of the two that a comparison needs; "no difference" is none.
    """
    tally: dict[tuple[int, int], Counter[int]] = {}
    for a in answers:
        if a.test == "ab" and a.role == "test":
            votes = tally.setdefault((min(a.clips), max(a.clips)), Counter())
            if a.value != "same":
                votes[a.clips[a.value == "right"]] += 1
    found = Votes(funnel={"comparisons": len(tally), "too_few_votes": 0, "ties": 0, "pairs": 0})
    for pair, votes in sorted(tally.items()):
        if sum(votes.values()) < least:
            found.funnel["too_few_votes"] += 1
        elif votes[pair[0]] == votes[pair[1]]:
            found.funnel["ties"] += 1
        else:
            won, lost = sorted(pair, key=lambda clip: -votes[clip])
            found.wins.append((won, lost, votes[won], votes[lost]))
            found.funnel["pairs"] += 1
    return found


def write_votes(
    path: str | Path, votes: Votes, clips: Sequence[Mapping[str, Any]], prompts: Mapping[str, Prompt] | None = None
) -> str:
    """Write what was preferred: for training where tokens and prompts are known, else for whoever knows them.

    Args:
        path: .parquet, which `PairData` reads; or .jsonl, which it reads too if tokens and prompts are known, and
            which else names texts and audio files, so that they can be encoded.
        votes: of `count_votes`.
        clips: of the key.
        prompts: what the systems were asked, by the id of the text.

    Returns:
        What was written, in words.

    Raises:
        ValueError: no pair; or .parquet, and tokens or prompts are missing: the message says which.
    """
    path = Path(path)
    if not votes.wins:
        raise ValueError(f"no pair to write: {votes.funnel}; with fewer raters, lower the least number of votes")
    if path.suffix not in (".parquet", ".jsonl"):
        raise ValueError(f"{path}: give a name that ends in .parquet or .jsonl")
    lacking = _lacking(votes, clips, prompts)
    if not lacking:
        pairs = [_pair(i, win, clips, prompts or {}) for i, win in enumerate(votes.wins)]
        write_pairs(path, pairs) if path.suffix == ".parquet" else write_preferences(path, pairs)
        return f"{len(pairs)} pairs for `PairData` in {path}"
    if path.suffix == ".parquet":
        raise ValueError(f"pairs need tokens and prompts, and {lacking}; a name in .jsonl gets texts and audio instead")
    with whole_or_nothing(path) as file:
        for won, lost, more, fewer in votes.wins:
            row = {"id": f"{clips[won]['text_id']}-{won}-{lost}", "text": clips[won]["text"], "votes": [more, fewer]}
            row |= {"chosen_audio": clips[won]["audio"], "rejected_audio": clips[lost]["audio"]}
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
    return f"{len(votes.wins)} preferences between audio files in {path}; not yet for training: {lacking}"


def _lacking(votes: Votes, clips: Sequence[Mapping[str, Any]], prompts: Mapping[str, Prompt] | None) -> str:
    mute = [clips[i] for win in votes.wins for i in win[:2] if not clips[i]["tokens"]]
    if mute:
        return f"{len(mute)} clips have no tokens (text {mute[0]['text_id']!r} of {mute[0]['system']!r})"
    unknown = [clips[win[0]]["text_id"] for win in votes.wins if clips[win[0]]["text_id"] not in (prompts or {})]
    return f"{len(unknown)} texts have no prompt (as {unknown[0]!r}): name their utterances" if unknown else ""


def _pair(
    i: int, win: tuple[int, int, int, int], clips: Sequence[Mapping[str, Any]], prompts: Mapping[str, Prompt]
) -> Pair:
    won, lost = (clips[number] for number in win[:2])
    name = f"{won['text_id']}-{win[0]}-{win[1]}"
    tokens = [torch.tensor(clip["tokens"]) for clip in (won, lost)]
    return Pair(name, prompts[won["text_id"]], tokens[0], tokens[1], (won["ended"], lost["ended"]))
