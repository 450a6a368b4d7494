"""`seaalign evaluate`: the example file on a miniature that learned nothing, its table and its help."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

from seaalign import Prompt, Style, Utterance, cli, write_utterances
from seaalign.cli.evaluate import show
from seaalign.evaluation import Comparison, Evaluation, Result, Score, read_evaluation
from seaalign.judges.transcribers import Transcriber
from seaalign.miniature.lm import TextSpeechLM

ROOT = Path(__file__).resolve().parent.parent
SIZES = {"codes": 61, "pause": 60, "factor": 6, "words": 10, "dim": 8, "layers": 1, "heads": 2}


class Counting(Transcriber):
    """Hears a word for every fifth of a second."""

    def transcribe(self, waveforms, sample_rate, language=None):
        return [" ".join(["one", "two", "six", "ten", "ten"][: int(5 * len(wave) / sample_rate)]) for wave in waveforms]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: Any) -> Path:
    """What examples/evaluate.yaml names, in miniature."""
    from seaalign.audio import save
    from seaalign.miniature.analysis import analyse, timbre
    from seaalign.miniature.codec import Codec
    from seaalign.miniature.codec_fit import fit
    from seaalign.miniature.voice import say

    draw = torch.Generator().manual_seed(0)
    spoken = [say((i % 10, (i * 3 + 1) % 10), ("ada", "ben")[i % 2], True, draw) for i in range(6)]
    frames = analyse([s.waveform for s in spoken], f0=[s.f0 for s in spoken])
    voice, codec = timbre(frames), Codec(codes=10, width=8)
    fit(codec, frames, voice.expand(6, -1), steps=2, batch=2, seed=0)
    codec.save(tmp_path / "codec.pt")
    rows, lines = [], []
    for i, one in enumerate(spoken[:3]):
        for where in ("people", "runs/other_tts"):
            (tmp_path / where).mkdir(parents=True, exist_ok=True)
            save(tmp_path / where / f"s{i}.wav", one.waveform, 8000)
        rows.append(Utterance(f"s{i}", Prompt(list(one.words), Style([1, 2]), voice), torch.tensor([1])))
        lines.append({"id": f"s{i}", "text": "one two", "audio": f"people/s{i}.wav"})
    write_utterances(tmp_path / "test.parquet", rows)
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("sft", "dgsa"):
        (tmp_path / "runs" / name).mkdir()
        state = TextSpeechLM(**SIZES, seed=len(name)).state_dict()
        told = {"state_dict": {f"backbone.{key}": value for key, value in state.items()}, "global_step": 100}
        torch.save(told, tmp_path / "runs" / name / "last.ckpt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def example() -> dict[str, Any]:
    """The example with the miniature's sizes, and an ear that needs no download."""
    given = yaml.safe_load((ROOT / "examples" / "evaluate.yaml").read_text())
    given["backbone"]["init_args"] |= {**SIZES, "codec": "codec.pt"}
    given["transcriber"] = {"class_path": "tests.test_cli_evaluate.Counting"}
    for system in given["systems"][:2]:
        system["init_args"]["max_len"] = 40
    return {**given, "repeats": 1, "draws": 50}


@pytest.mark.audio
def test_the_example_runs(folder: Path, capsys: Any) -> None:
    (folder / "eval.yaml").write_text(yaml.safe_dump(example()))
    command = ["evaluate", "--config", "eval.yaml", "--out", "run", "--device", "cpu"]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    for what in (
        "3 texts, 1 repeats",
        "WER % beyond people's",
        "H_p bits",
        "differences are beyond chance",
        "note: each text was said",
    ):
        assert what in said
    found = read_evaluation(folder / "run")
    assert {(r.name, r.style) for r in found.systems} == {
        *((name, "recordings") for name in ("recordings", "other tts")),
        *((name, style) for name in ("sft", "dgsa") for style in ("on", "off")),
    }  # fmt: skip
    assert found.result("sft").alpha == 0.8 and found.result("sft").step == 100
    assert found.result("other tts").tokens == found.result("recordings").tokens > 0  # the same sound, encoded
    before = {path: path.stat().st_mtime_ns for path in (folder / "run" / "parts").rglob("*.parquet")}
    assert cli.main(command) == 0  # nothing left to do
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert cli.main([*command, "--by_words", "false"]) == 1
    assert "begun by another run. It differs in\n  by_words" in capsys.readouterr().err


@pytest.mark.audio
def test_the_fleurs_example_names_what_there_is(folder: Path, capsys: Any) -> None:
    given = yaml.safe_load((ROOT / "examples" / "fleurs.yaml").read_text())
    assert given["systems"][0]["init_args"]["styles"] == ["off"]
    given |= {"systems": example()["systems"][2:], "transcriber": None, "similarity": None}
    (folder / "fleurs.yaml").write_text(yaml.safe_dump(given))
    command = ["evaluate", "--config", "fleurs.yaml", "--out", "run", "--texts.init_args.folder", "nowhere"]
    assert cli.main(command) == 1
    assert "no table of FLEURS for lo_la: there is no nowhere/lo_la/test.tsv" in capsys.readouterr().err
    assert cli.main([*command, "--texts.init_args.prompt", "th_th"]) == 1
    assert "no direction th_th -> lo_la" in capsys.readouterr().err


def test_help_teaches(capsys: Any) -> None:
    assert cli.main(["evaluate", "--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("seaalign evaluate --config FILE --out RUN: what came of training")
    assert "a run of k + 1 equal tokens" in " ".join(said.split()) and "Lightning Trainer" not in said
    assert cli.main(["evaluate", "--repeat", "2"]) == 2
    assert "seaalign evaluate: error: " in capsys.readouterr().err


def test_the_table(capsys: Any) -> None:
    nan = float("nan")
    metrics = {
        "wer": Score(12.34, 10.0, 15.06, 9),
        "entropy": Score(10.5214, nan, nan, 9),
        "peak": Score(0.5, 0.4, 0.6, 9),
    }
    systems = [Result("sft", "off", metrics), Result("tts [x]", "recordings", {"wer": Score(nan)})]
    comparisons = [
        Comparison("wer", "sft", "tts", "off", -2.5, -4.0, -1.0, 0.001, 0.01),
        Comparison("f0_std", "sft", "tts", "off", 0.5, -1.0, 2.0, 0.5, 0.5),
    ]
    told = {"texts": 9, "repeats": 2, "entropy_tokens": 300}
    show(Evaluation(told, systems, comparisons, [], ["only [one] thing"]), "runs/eval", Console(width=120))
    said = capsys.readouterr().out
    for what in (
        "9 texts, 2 repeats, 95 % intervals over texts, entropy at 300 tokens", "12.3 [10.0, 15.1]", "10.521",
        "0.50 [0.40, 0.60]", "1 of 2 differences are beyond chance",
        "WER %, style off: sft - tts = -2.5 [-4, -1], p = 0.01",
        "note: only [one] thing", "tts [x]",
    ):  # fmt: skip
        assert what in said
