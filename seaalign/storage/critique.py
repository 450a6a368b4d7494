"""Candidates, verdicts and pairs of the self-critique loop as Parquet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from seaalign.records import Candidate, Pair, Sentence, Verdict
from seaalign.storage.columns import Blobs, read_columns, write_columns
from seaalign.storage.parquet import PROMPT, flat, logps_of, prompt_of, prompt_row, same_codebooks, tokens_of
from seaalign.storage.rows import OnBad, Refused, sift

_CANDIDATE = {"id": "string", "index": "ids", "temperature": "floats", "tokens": "ids", "ended": "bool"}
_JUDGED = {**_CANDIDATE, "status": "string", "reasons": "string", "scores": "string", "transcript": "string"}
_ANSWERS = ("chosen", "rejected")
_PAIR = {
    **PROMPT,
    **{name: "ids" for name in _ANSWERS},
    **{f"{name}_ended": "bool" for name in _ANSWERS},
    **{f"reference_{name}": "floats" for name in _ANSWERS},
}


def write_candidates(path: str | Path, candidates: Sequence[Candidate], metadata: dict[str, Any] | None = None) -> None:
    """Write candidates to Parquet, whole or not at all; of the sentence its id, of the sound nothing.

    Args:
        path: the file; an existing one is replaced at the last moment.
        candidates: at least one; all with the same number of codebooks.
        metadata: what else the file should say of itself (JSON).
    """
    books = same_codebooks((c.name, c.tokens) for c in candidates)
    rows = [_row(candidate) for candidate in candidates]
    write_columns(Path(path), "candidates", _CANDIDATE, rows, {**(metadata or {}), "codebooks": books})


def read_candidates(path: str | Path, sentences: Mapping[str, Sentence]) -> list[Candidate]:
    """Read candidates back.

    Args:
        path: a file of `write_candidates`.
        sentences: by id.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, or it answers a sentence that is not among these.
    """
    columns, meta = read_columns(Path(path), "candidates", _CANDIDATE)
    return _candidates(path, columns, meta["codebooks"], sentences)


def write_judged(
    path: str | Path, judged: Sequence[tuple[Candidate, Verdict]], metadata: dict[str, Any] | None = None
) -> None:
    """Write candidates with their verdicts to Parquet, whole or not at all.

    Arguments and errors as in `write_candidates`.
    """
    books = same_codebooks((c.name, c.tokens) for c, _ in judged)
    rows = []
    for candidate, verdict in judged:
        said = {"reasons": json.dumps(verdict.reasons), "scores": json.dumps(dict(verdict.scores))}
        rows.append({**_row(candidate), "status": verdict.status, "transcript": verdict.transcript, **said})
    write_columns(Path(path), "judged", _JUDGED, rows, {**(metadata or {}), "codebooks": books})


def read_judged(path: str | Path, sentences: Mapping[str, Sentence]) -> list[tuple[Candidate, Verdict]]:
    """Read candidates and their verdicts back. Arguments and errors as in `read_candidates`."""
    columns, meta = read_columns(Path(path), "judged", _JUDGED)
    said = zip(*(columns[name] for name in ("status", "reasons", "scores", "transcript")), strict=True)
    try:
        verdicts = [Verdict(how, tuple(json.loads(why)), json.loads(scores), text) for how, why, scores, text in said]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: a verdict is none ({error}): delete the file and write it again") from error
    return list(zip(_candidates(path, columns, meta["codebooks"], sentences), verdicts, strict=True))


def _row(candidate: Candidate) -> dict[str, Any]:
    return {
        "id": candidate.sentence.id,
        "index": [candidate.index],
        "temperature": [candidate.temperature],
        "tokens": flat(candidate.tokens),
        "ended": candidate.ended,
    }


def _candidates(
    path: str | Path, columns: Mapping[str, list[Any]], books: int | None, sentences: Mapping[str, Sentence]
) -> list[Candidate]:
    strange = [key for key in columns["id"] if key not in sentences]
    if strange:
        raise ValueError(f"{path} answers sentences that are not among the {len(sentences)} given: {strange[:3]}")
    made = []
    for key, index, heat, tokens, ended in zip(*(columns[name] for name in _CANDIDATE), strict=True):
        row = torch.tensor(tokens, dtype=torch.long)
        row = row.view(-1, books) if books else row
        # kept as a 32-bit number; the decimal that was asked for reads better in tables
        made.append(Candidate(sentences[key], row, bool(ended), round(float(heat[0]), 6), int(index[0])))
    return made


def write_pairs(path: str | Path, pairs: Sequence[Pair], metadata: dict[str, Any] | None = None) -> None:
    """Write pairs, with their reference log-probs where they have some, to Parquet, whole or not at all.

    Arguments and errors as in `write_utterances`.
    """
    books = same_codebooks((p.id, tokens) for p in pairs for tokens in p.completions())
    pickled = Blobs()
    rows = []
    for pair in pairs:
        row = prompt_row(pair.id, pair.prompt, pickled)
        for name, tokens, ended in zip(_ANSWERS, pair.completions(), pair.ended, strict=True):
            row |= {name: flat(tokens), f"{name}_ended": ended}
        for name, values in zip(_ANSWERS, pair.reference or (), strict=False):
            row[f"reference_{name}"] = values.float().cpu().numpy()
        rows.append(row)
    write_columns(Path(path), "pairs", _PAIR, rows, {**(metadata or {}), "codebooks": books})


def read_pairs(
    path: str | Path, *, vocab_size: int | None = None, on_bad: OnBad = "refuse", refused: list[Refused] | None = None
) -> list[Pair]:
    """Read pairs from Parquet. Arguments and errors as in `read_utterances`."""
    columns, meta = read_columns(Path(path), "pairs", _PAIR)
    books = meta["codebooks"]

    def build(i: int) -> Pair:
        chosen, rejected = (tokens_of(name, columns[name][i], books, vocab_size) for name in _ANSWERS)
        ended = tuple(bool(columns[f"{name}_ended"][i]) for name in _ANSWERS)
        stored = [columns[f"reference_{name}"][i] for name in _ANSWERS]
        reference = None
        if stored[0] is not None and stored[1] is not None:
            reference = (
                logps_of("log-probs of chosen", stored[0], len(chosen)),
                logps_of("log-probs of rejected", stored[1], len(rejected)),
            )
        return Pair(
            columns["id"][i],
            prompt_of(columns, i, books, vocab_size),
            chosen,
            rejected,
            (ended[0], ended[1]),
            reference,
        )

    rows = ((f"row {i}", key, partial(build, i)) for i, key in enumerate(columns["id"]))
    return sift(rows, str(path), on_bad, refused)
