"""Filters synthetic speech before a model learns from it: a length that fits the text, no loops, and understood."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from seaalign.data.filter_files import read_rows, survey, write_kept
from seaalign.data.filter_funnel import Sieve, Tally
from seaalign.data.filter_rows import Asking, Row
from seaalign.judges import Duration, Intelligibility, Repetition
from seaalign.judges.transcribers.routing import names_of
from seaalign.records import Recording
from seaalign.sampling.progress import bar
from seaalign.storage.columns import whole_or_nothing, write_json
from seaalign.storage.rows import Refused
from seaalign.storage.streams import stream_utterances, utterances_metadata

BATCH = 4096
"""Utterances that are read at a time."""


def filter_utterances(
    synthetic: Sequence[str | Path],
    out: str | Path,
    *,
    real: Sequence[str | Path] = (),
    per_unit: float | None = None,
    low: float = 0.8,
    high: float = 1.5,
    max_repetition: float = 0.1,
    k: int = 4,
    transcriber: Any = None,
    recordings: Iterable[Recording] = (),
    unread: Iterable[Refused] = (),
    max_error: float = 0.4,
    unit: Literal["word", "grapheme"] = "word",
    progress: bool = True,
) -> Sieve:
    """Keep what of synthetic speech is worth training on, as the paper does, and account for the rest.

    An utterance is refused at the first stage that it does not pass: "readable" (an id of its own, a text, whole frames
    of tokens; for those that are to be heard also audio and a text that says something), "duration" (its frames are
    `low` to `high` times those expected of its text), "loops" (`judges.Repetition`), "error"
    (`judges.Intelligibility`). Only what passes the first three is heard.

    `out` then has kept.parquet (the rows that passed, as they were, for training and `erosion_plan`), refused.jsonl (a
    line each: id, source, file, row, stage, reason, scores, what was heard) and funnel.json, each whole or not there.
    Files are read in parts, so they may be larger than memory: some 20 bytes per utterance are kept, and `recordings`.
    Verdicts on what was heard are kept in `out`/verdicts: killed, the same call goes on from there, and another
    `max_error`, `low` or `high` hears nothing twice.

    Args:
        synthetic: Parquet files of utterances; each `source` in them has its own row in the funnel.
        out: the folder.
        real: Parquet files of people's utterances, with the same tokens and text ids, for the expected length: the
            median of frames per text id. Default: the median of the synthetic files themselves, which then says nothing
            of a system that is slow throughout.
        per_unit: frames per text id, where they are known.
        low: shortest, times the expected length.
        high: longest.
        max_repetition: keep below this share of positions in runs of k + 1 equal tokens. The paper says "no loops" and
            no number: this is eq. 16's.
        k: 4 is 200 ms at 25 Hz; see `functional.repetition_span`.
        transcriber: a `Transcriber`, or a function (waveforms, sample_rate) -> texts. None: nobody listens. **Take
            another one to report results with**: this one has chosen what the model learns.
        recordings: texts as people write them, with their audio, for the recogniser; by the ids of the utterances, as
            `seaalign prepare` was given them. Kept in memory, without their sound.
        unread: what the reader of `recordings` refused; its reasons are passed on.
        max_error: keep below this error. The paper: 0.4 for Thai, 0.5 for Lao.
        unit: "word", or "grapheme" where a language has no word segmenter.
        progress: show a bar where somebody can see it.

    Returns:
        The funnel.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file holds no utterances or other codebooks, there is nothing to filter, a setting is out of
            range, or a recogniser was given without recordings.
        JudgeError: the recogniser failed; what it said before is kept.

    Source: Geng et al. 2026, sec. 5 (filter of the training data), eq. 16 and 25.
    """
    paths, known = [Path(path) for path in synthetic], _by_id(recordings)
    if transcriber is not None and not known:
        raise ValueError("a recogniser needs to know what should be said and where its sound is: give recordings=")
    if not 0 < max_error <= 1:
        raise ValueError(f"need 0 < max_error <= 1, got {max_error}")
    first, rates = survey(paths)
    length, calibrated = _length([Path(path) for path in real], rates, per_unit, low, high)
    ask = None if transcriber is None else Intelligibility(transcriber, 1.0, unit)  # max_error is applied to its score
    settings = {
        "files": [str(path) for path in paths], "low": low, "high": high, "per_unit": length.per_unit,
        "calibrated_on": calibrated, "max_repetition": max_repetition, "k": k, "max_error": max_error if ask else None,
        "unit": unit, "transcriber": ask.transcriber.name if ask else None,
        "heard_by": sorted(names_of(ask.transcriber)) if ask else [],
    }  # fmt: skip
    missing = {item.id: item.reason for item in unread if item.id}
    asking = Asking(length, Repetition(max_repetition, k), ask, max_error, known, missing)
    tallies, kept = _filtered(paths, first, asking, Path(out), progress)
    sieve = Sieve(_rows(tallies, ask is not None), settings, _notes(settings, ask is not None))
    write_kept(paths, kept, Path(out, "kept.parquet"), {"filter": settings})
    write_json(Path(out, "funnel.json"), sieve.to_json())
    return sieve


def _by_id(recordings: Iterable[Recording]) -> dict[str, Recording]:
    known: dict[str, Recording] = {}
    for item in recordings:
        if item.id in known:
            raise ValueError(
                f"two recordings have the id {item.id!r}, so nobody knows which one an utterance sounds like: give the "
                "ids of each corpus a prefix of their own, or filter the corpora one by one"
            )
        known[item.id] = item
    return known


def _length(
    real: Sequence[Path], rates: np.ndarray, per_unit: float | None, low: float, high: float
) -> tuple[Duration, str]:
    """The question of length, and what it is calibrated on."""
    if per_unit is not None and real:
        raise ValueError(f"per_unit={per_unit} and real= both say how long a text should take: give one of them")
    if per_unit is not None:
        return Duration(low, high, per_unit=per_unit), "what was given"
    rates = survey(real)[1] if real else rates
    known = "real speech" if real else "the synthetic files themselves"
    return Duration(low, high, per_unit=float(np.median(rates)) if len(rates) else None), known


def _filtered(
    paths: Sequence[Path], first: np.ndarray, asking: Asking, out: Path, progress: bool
) -> tuple[dict[str, Tally], np.ndarray]:
    """Tallies by source, and which utterances are kept (N,); what is refused is written on the way."""
    for name in ("kept.parquet", "refused.jsonl", "funnel.json"):
        for draft in out.glob(f".{name}.*.tmp"):  # of a killed process
            draft.unlink(missing_ok=True)
    tallies: dict[str, Tally] = {}
    kept: list[bool] = []
    with whole_or_nothing(out / "refused.jsonl") as notes, bar(len(first), "filtering", progress) as done:
        for path in paths:
            books = utterances_metadata(path).get("codebooks")
            for number, part in enumerate(stream_utterances(path, ["id", "source", "text", "tokens"], BATCH)):
                rows = read_rows(part, books, first[len(kept) :], asking)
                asking.judge(rows, out / "verdicts" / f"{path.stem}-{number:05d}.jsonl", done)
                for place, row in enumerate(rows, number * BATCH):
                    _account(row, tallies.setdefault(row.source, Tally()), asking.loops.k)
                    if row.stage:
                        told = {"file": path.name, "row": place, **row.to_json()}
                        notes.write((json.dumps(told, ensure_ascii=False) + "\n").encode())
                    kept.append(not row.stage)
        (out / "funnel.json").unlink(missing_ok=True)  # written last: where it is, the others belong to it
    return tallies, np.array(kept, dtype=bool)


def _account(row: Row, tally: Tally, k: int) -> None:
    heaps = [] if row.candidate is None or row.stage == "readable" else [tally.before]
    if row.stage:
        tally.refused[row.stage] += 1
    else:
        tally.kept += 1
        heaps.append(tally.after)
    for heap in heaps:
        heap.add(row.candidate.tokens, row.scores["repetition"], k, row.errors, row.units)  # type: ignore[union-attr]


def _rows(tallies: dict[str, Tally], heard: bool) -> list[dict[str, Any]]:
    asked = ("readable", "duration", "loops") + (("error",) if heard else ())
    everything = Tally()
    for tally in tallies.values():
        everything.join(tally)
    return [tally.row(source, asked) for source, tally in [*sorted(tallies.items()), ("all", everything)]]


def _notes(settings: dict[str, Any], heard: bool) -> list[str]:
    said = [
        f"Expected: {settings['per_unit']:.2f} frames per text id, by {settings['calibrated_on']}."
        + (" A system that is slow throughout is not noticed so." if "themselves" in settings["calibrated_on"] else "")
    ]
    if heard:
        said.append(
            f"Heard by {settings['transcriber']}: report results with another recogniser, this one chose the data."
        )
    else:
        said.append("Errors were not asked for: no recogniser was given, so nothing is known of what is said.")
    return [*said, "H_p of before is that of as many tokens as were kept."]
