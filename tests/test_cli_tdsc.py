"""`seaalign tdsc`: a YAML file, a run, and the same command again after a cut."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback

from seaalign import Prompt, Utterance, cli, write_utterances
from seaalign.judges import Criterion
from seaalign.records import Verdict

ROOT = Path(__file__).resolve().parent.parent
LM = {"codes": 25, "pause": 24, "factor": 6, "words": 5, "dim": 8, "layers": 1, "heads": 2}


class Even(Criterion):
    """Likes an even number of tokens; with one token too many it is half wrong."""

    name = "intelligibility"

    def __init__(self, worst: float = 0.5) -> None:
        self.worst = worst

    def __call__(self, candidates: Any) -> list[Verdict]:
        odd = [len(candidate.tokens) % 2 for candidate in candidates]
        scores = [{"error": self.worst * each} for each in odd]
        return [Verdict.reject(self.name, scores=s) if s["error"] else Verdict.accept(s) for s in scores]


class Cut(Callback):
    """Stands for a kill in the second iteration."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 7:
            raise KeyboardInterrupt


@pytest.fixture
def config(tmp_path: Path) -> Any:
    draw = torch.Generator().manual_seed(0)
    rows = [
        Utterance(
            f"u{i}",
            Prompt([i % 5], timbre=torch.randn(2, generator=draw)),
            torch.randint(0, 24, (5 + i,), generator=draw),
        )
        for i in range(6)
    ]
    write_utterances(tmp_path / "sft.parquet", rows)
    lines = [{"id": f"s{i}", "text": f"text {i}", "ids": [i % 5, (i * 2) % 5]} for i in range(8)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    judge = [
        {"class_path": "Repetition", "init_args": {"max_rate": 0.9}},
        {"class_path": "Duration", "init_args": {"data": str(tmp_path / "sft.parquet"), "low": 0.0, "high": 50.0}},
        {"class_path": "tests.test_cli_tdsc.Even"},
    ]
    settings = {"work": str(tmp_path / "work"), "iterations": 3, "n": 2, "max_len": 30, "sft_steps": 3, "dpo_steps": 2}

    def write(name: str = "tdsc.yaml", callbacks: Any = None, **more: Any) -> Path:
        backbone = {"class_path": "TextSpeechLM", "init_args": LM}
        model = {"class_path": "TDSC", "init_args": {**settings, "judge": judge, "backbone": backbone, **more}}
        data = {"texts": str(tmp_path / "texts.jsonl"), "sft": str(tmp_path / "sft.parquet"), "replay": 0.2}
        quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        written = {
            "trainer": {**quiet, "callbacks": callbacks},
            "model": model,
            "data": {"class_path": "TextData", "init_args": data},
        }
        path = tmp_path / name
        path.write_text(yaml.safe_dump(written))
        return path

    return write


def run(path: Path, *options: str) -> int:
    return cli.main(["tdsc", "--config", str(path), *options])


def final(work: Path) -> dict[str, torch.Tensor]:
    return torch.load(work / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.filterwarnings("ignore")
def test_runs_and_goes_on_after_a_cut(tmp_path: Path, config: Any, capsys: Any) -> None:
    assert run(config()) == 0
    said = capsys.readouterr().out
    assert "Self-critique" in said and "pass %" in said and "checkpoints/last.ckpt" in said
    rows = json.loads((tmp_path / "work" / "dashboard.json").read_text())
    assert [row["iteration"] for row in rows] == [1, 2, 3] and all(row["pairs"] > 0 for row in rows)
    want = final(tmp_path / "work")
    cut = [{"class_path": "tests.test_cli_tdsc.Cut"}]
    assert run(config(callbacks=cut, work=str(tmp_path / "again"))) == 130
    assert len(json.loads((tmp_path / "again" / "dashboard.json").read_text())) == 1
    assert run(config(work=str(tmp_path / "again"))) == 0
    assert "going on from" in capsys.readouterr().err
    got = final(tmp_path / "again")
    assert all(torch.equal(got[name], want[name]) for name in want)
    assert run(config()) == 0  # nothing left to do
    assert all(torch.equal(final(tmp_path / "work")[name], want[name]) for name in want)


def listening(**settings: Any) -> dict[str, Any]:
    transcriber = {"class_path": "Dolphin", "init_args": {"language": "lo"}}
    return {"class_path": "Intelligibility", "init_args": {"transcriber": transcriber, **settings}}


@pytest.mark.parametrize("command", ["tdsc", "fit", "check"])
@pytest.mark.parametrize(
    ("criterion", "says"),
    [
        (
            listening(max_error=0.4),
            r'Dolphin needs dolphin, which cannot be loaded \(.*\). Install: .*"seaalign\[dolphin\]"',
        ),
        ({"class_path": "Repetition", "init_args": {"max_rate": 7}}, "max_rate .* 7.*"),
    ],
)
def test_a_judge_that_cannot_be_built_is_told_in_its_words(
    config: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch, command: str, criterion: dict[str, Any], says: str
) -> None:
    """Deep in a list of one of three kinds of judge: jsonargparse tells how it tried each kind, ours is one line."""
    monkeypatch.setitem(sys.modules, "dolphin", None)
    assert cli.main([command, "--config", str(config(judge=[criterion]))]) == 1
    said = capsys.readouterr().err.splitlines()[-2]
    assert re.fullmatch(f"seaalign: error: .*{says}", said) and "Namespace" not in said and "Judge" not in said


def test_another_module_is_sent_to_fit(tmp_path: Path, config: Any, capsys: Any) -> None:
    path = config()
    written = yaml.safe_load(path.read_text())
    written["model"] = {"class_path": "SFT", "init_args": {"backbone": written["model"]["init_args"]["backbone"]}}
    path.write_text(yaml.safe_dump(written))
    assert run(path) == 1
    assert "seaalign tdsc trains TDSC, the file names SFT: use `seaalign fit`" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_nothing_accepted_is_an_answer_and_no_traceback(config: Any, capsys: Any, tmp_path: Path) -> None:
    path = config(max_len=1)  # all are cut
    assert run(path) == 1
    said = capsys.readouterr().err
    assert "was accepted, so there is nothing to learn from" in said and "Traceback" not in said


class Broken(Even):
    """A recogniser that crashes on one candidate."""

    def __call__(self, candidates: Any) -> list[Verdict]:
        if any(candidate.sentence.id == "s3" for candidate in candidates):
            raise OSError("the server hung up")
        return super().__call__(candidates)


@pytest.mark.filterwarnings("ignore")
def test_a_judge_that_fails_is_named_with_its_candidate(config: Any, capsys: Any) -> None:
    path = config()
    written = yaml.safe_load(path.read_text())
    written["model"]["init_args"]["judge"][-1] = {"class_path": "tests.test_cli_tdsc.Broken"}
    path.write_text(yaml.safe_dump(written))
    assert run(path) == 1
    said = capsys.readouterr().err
    assert "s3#0" in said and "the server hung up" in said and "Traceback" not in said


def test_the_example_is_complete() -> None:
    written = yaml.safe_load((ROOT / "examples" / "fit_tdsc.yaml").read_text())
    from seaalign import TDSC, TextData, cli  # noqa: F401
    from seaalign.cli.explain import parameters

    for part, home in ((written["model"], "seaalign.TDSC"), (written["data"], "seaalign.TextData")):
        assert set(part["init_args"]) <= set(parameters(home))
    names = {item["class_path"] for item in written["model"]["init_args"]["judge"]}
    assert names == {"Repetition", "Duration", "Intelligibility"}
