"""The evaluation itself: every system says every text, everybody listens, and the numbers are put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from seaalign.backbones.base import Backbone, Unsupported
from seaalign.evaluation.encoders import Naturalness, encoder_of
from seaalign.evaluation.files import Evaluation, Result, write_evaluation
from seaalign.evaluation.hearing import Encoder, Measure, Repetition, Similarity
from seaalign.evaluation.judged_by import conflicts
from seaalign.evaluation.parts import Listeners, Parts
from seaalign.evaluation.recorded import PEOPLE, Recorded, people
from seaalign.evaluation.rows import Row, Style
from seaalign.evaluation.summary import Table, calibrated, common_count, compare, matches, summarise
from seaalign.evaluation.systems import Policy, System
from seaalign.evaluation.texts import Case, Texts, checked, slug
from seaalign.evaluation.warn import cautions
from seaalign.judges.transcribers import Transcriber, as_transcriber

Listens = Callable[[list[Tensor], int], Sequence[str]]


def evaluate(
    systems: Sequence[System],
    texts: Sequence[Case] | Texts | str | Path,
    out: str | Path,
    *,
    transcriber: Transcriber | Listens | None = None,
    by_words: bool = True,
    similarity: str | Encoder | None = None,
    predictors: Sequence[str] = (),
    measures: Sequence[Measure] = (),
    backbone: Backbone | None = None,
    encode_recordings: bool = False,
    repeats: int = 3,
    repetition_k: int = 4,
    filtered_by: Sequence[str | Path] = (),
    draws: int = 1000,
    batch: int = 16,
    progress: bool = True,
) -> Evaluation:
    """Let systems say the same texts, and measure and compare what they said.

    Everything lies in `out` (see `evaluation.files`), part by part while it is made: killed, the same call goes on from
    there. Systems can be added later; a part that was made with other settings is refused.

    Args:
        systems: `Policy` (generates) and `Recorded` (recordings of any system), of different names.
        texts: what to say: cases, a `Texts`, or a JSONL file (see `Texts`). Where they come with recordings of people,
            these are evaluated as the system "recordings", and errors are calibrated by theirs.
        out: the folder.
        transcriber: who listens; None: no errors are measured.
        by_words: also measure word errors; False where the language has no word segmenter.
        similarity: "ecapa", "wavlm" (layer 12 of WavLM-Large, as in the paper), a model of speechbrain by its name or
            folder, or a function from waveforms and rate to embeddings (B, D); None: not measured.
        predictors: "dnsmos", "nisqa"; one whose packages or weights are missing is left out with a warning.
        measures: further functions from answers (`Heard`) to numbers by name; each name becomes a metric.
        backbone: for the policies that have none of their own; each then needs `weights`.
        encode_recordings: measure tokens of recordings, too, as `backbone` encodes them.
        repeats: how often a policy says each text, with other draws each time.
        repetition_k: a run of k + 1 equal tokens is a repetition; 4 at 25 tokens a second, see
            `functional.repetition_span`.
        filtered_by: what chose the training data: folders of `seaalign tdsc` or `mine`, or names of recognisers. Those
            of the policies' own folders are found without it.
        draws: of the 95 % bootstrap intervals.
        batch: texts per call of a sampler and of the recogniser.
        progress: show bars on a terminal.

    Returns:
        What was found; the same that `read_evaluation(out)` gives.

    Raises:
        ValueError: systems or texts that do not fit, a folder of other settings, or a recogniser that always failed.
    """
    cases = checked(texts if isinstance(texts, Sequence) and not isinstance(texts, str) else _read(texts))
    ear = None if transcriber is None else as_transcriber(transcriber)
    warnings = conflicts(ear, systems, filtered_by)
    more = [*_optional(similarity, predictors, warnings), *measures]
    listeners = Listeners(ear, by_words, [Repetition(repetition_k), *more])
    everybody = _everybody(systems, cases, backbone, backbone if encode_recordings else None)
    parts = Parts(Path(out), cases, listeners, repeats, batch, progress)
    rows: dict[tuple[str, Style], list[Row]] = {}
    for system in everybody:
        rows |= parts.of(system)
    told = {"texts": len(cases), "repeats": repeats, "repetition_k": repetition_k, "draws": draws, **listeners.about}
    found = put_together(rows, everybody, cases, told, warnings)
    write_evaluation(out, found)
    return found


def put_together(
    rows: Mapping[tuple[str, Style], list[Row]], systems: Sequence[System], cases: Sequence[Case],
    settings: Mapping[str, Any], warnings: Sequence[str] = (),
) -> Evaluation:  # fmt: skip
    """Numbers, comparisons and warnings of rows, by system and style."""
    first = {row.prompt: row for row in rows.get((PEOPLE, "recordings"), [])}
    rows = {key: said if key[0] == PEOPLE else calibrated(said, first) for key, said in rows.items()}
    order = {case.id: number for number, case in enumerate(cases)}
    tables = {key: Table(said, order) for key, said in rows.items()}
    scores = summarise(tables, len(cases), settings["draws"])
    known = {system.name: system for system in systems}
    results = [
        Result(*key, scores[key], len(table.tokens[0]), known[key[0]].alpha, known[key[0]].step)
        for key, table in tables.items()
    ]
    codecs = {name: system.codec for name, system in known.items()}
    pairs = matches([key for key in tables if key[0] != PEOPLE], codecs)
    told = {**settings, "codecs": codecs, "entropy_tokens": common_count(list(tables.values()))}
    answers = [row for said in rows.values() for row in said]
    compared = compare(tables, pairs, len(cases), settings["draws"])
    return Evaluation(told, results, compared, answers, [*warnings, *cautions(told, answers)])


def _read(texts: Texts | str | Path) -> list[Case]:
    return (texts if isinstance(texts, Texts) else Texts(texts)).read()


def _everybody(
    systems: Sequence[System], cases: Sequence[Case], backbone: Backbone | None, codec: Backbone | None
) -> list[System]:
    """The systems, people first, each with what it lacks."""
    real = people(cases)
    everybody: list[System] = [*([real] if real else []), *systems]
    names = [slug(system.name) for system in everybody]
    if not systems or len(set(names)) < len(names):
        raise ValueError(f"an evaluation needs systems of different names ({PEOPLE!r} are people), got {names}")
    policies = [system for system in systems if isinstance(system, Policy)]
    for policy in policies:
        policy.backbone = policy.backbone or backbone
        if policy.weights is None and sum(other.backbone is policy.backbone for other in policies) > 1:
            raise ValueError(
                f"{policy.name!r} shares its backbone with another system: name the `weights` of each, or it "
                "would speak with those of the one before"
            )
    for system in everybody:
        if isinstance(system, Recorded):
            system.encoder = system.encoder or codec
    return everybody


def _optional(similarity: str | Encoder | None, predictors: Sequence[str], warnings: list[str]) -> list[Measure]:
    """What was asked for and can be had; the rest becomes warnings."""
    found: list[Measure] = []
    if similarity is not None:
        found.append(Similarity(encoder_of(similarity)))
    for name in predictors:
        try:
            found.append(Naturalness(name))
        except Unsupported as error:
            warnings.append(str(error))
    return found
