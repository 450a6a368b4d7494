"""What an evaluation writes comes back as it was, undefined numbers included, and other files are refused."""

from __future__ import annotations

import json
import math

import pytest
import torch

from seaalign.evaluation import Comparison, Evaluation, Result, Row, Score, read_evaluation, write_evaluation
from seaalign.evaluation.rows import SCORES
from seaalign.storage import read_metadata


def found() -> Evaluation:
    nan = math.nan
    rows = [
        Row("sft", "on", "ສະບາຍດີ/1", "ສະບາຍດີ", 0, torch.tensor([4, 4, 9]), False, "audio/sft/on/1-0.wav", "ສະບາຍ",
            torch.tensor([0.0, 120.5]), "", {"words": 2.0, "word_errors": 1.0, "brightness": 0.25}),
        Row("tts", "recordings", "b", "two", 1, None, True, "", "", problem="no recording", scores={"duration": nan}),
    ]  # fmt: skip
    systems = [
        Result("sft", "on", {"wer": Score(50.0, nan, nan, 1)}, tokens=3, alpha=0.5, step=200),
        Result("tts", "recordings", {}),
    ]
    comparisons = [Comparison("wer", "sft", "tts", "on", -2.5, -5.0, 0.1, 0.04, nan)]
    return Evaluation({"repeats": 2, "language": "lo"}, systems, comparisons, rows, ["only one text: no intervals"])


def test_round_trip(tmp_path):
    write_evaluation(tmp_path, found())
    back, wanted = read_evaluation(tmp_path), found()
    assert back.settings == wanted.settings and back.warnings == wanted.warnings
    assert repr(back.systems) == repr(wanted.systems) and repr(back.comparisons) == repr(wanted.comparisons)
    for row, other in zip(back.rows, wanted.rows, strict=True):
        assert [getattr(row, name) for name in ("system", "style", "prompt", "text", "repeat", "ended", "audio")] == [
            getattr(other, name) for name in ("system", "style", "prompt", "text", "repeat", "ended", "audio")
        ]
        assert (row.transcript, row.problem) == (other.transcript, other.problem)
        assert torch.equal(row.f0, other.f0)
    assert back.rows[0].tokens.tolist() == [4, 4, 9] and back.rows[1].tokens is None
    assert back.rows[0].score("brightness") == 0.25 and math.isnan(back.rows[1].score("brightness"))
    assert set(SCORES) <= set(back.rows[1].scores) and math.isnan(back.rows[0].score("similarity"))


def test_the_files_are_what_others_are_promised(tmp_path):
    write_evaluation(tmp_path, found())
    told = json.loads((tmp_path / "evaluation.json").read_text(), parse_constant=pytest.fail)  # no NaN in JSON
    assert {"kind", "version", "settings", "systems", "comparisons", "warnings"} == set(told)
    assert told["systems"][0]["metrics"] == {"wer": {"value": 50.0, "low": None, "high": None, "n": 1}}
    assert told["comparisons"][0]["p_holm"] is None
    assert read_metadata(tmp_path / "utterances.parquet")["kind"] == "evaluated"


def test_an_unfinished_or_foreign_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="has not ended"):
        read_evaluation(tmp_path)
    (tmp_path / "evaluation.json").write_text('{"kind": "plan", "version": 1}')
    with pytest.raises(ValueError, match="holds plan of version 1"):
        read_evaluation(tmp_path)
    (tmp_path / "evaluation.json").write_text('{"kind": "evaluation", "version": 2}')
    with pytest.raises(ValueError, match="up to version 1: upgrade"):
        read_evaluation(tmp_path)


def test_a_system_is_found_by_name(tmp_path):
    assert found().result("sft").alpha == 0.5 and found().result("tts", "recordings").tokens == 0
    with pytest.raises(KeyError, match=r"no system 'sft' with style off; there are sft \(on\), tts \(recordings\)"):
        found().result("sft", "off")
