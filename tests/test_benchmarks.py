"""The benchmark of speed on a minute model, without TRL: its numbers, and that all variants do the same work."""

from __future__ import annotations

import json
import re
import shutil
import sys
from importlib import import_module
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import pytest
import torch
import torch._functorch.config

from seaalign.audio import save

pytest.importorskip("transformers", reason="the benchmark runs a Hugging Face model")
pytestmark = pytest.mark.audio  # transformers imports torchaudio where it finds it

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "benchmarks" / "speed"
NAMES = ("candidates", "meter", "rounds", "tally", "training", "trl_dpo", "world")


@pytest.fixture
def speed(monkeypatch):
    """The files of the benchmark as modules; they lie beside each other, as for a program in that folder."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = {name: sys.modules.pop(name, None) for name in (*NAMES, "speed_main")}
    modules = {name: import_module(name) for name in NAMES}
    yield SimpleNamespace(**modules)
    for name, module in before.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


@pytest.fixture
def here(speed, monkeypatch):
    """Variants run in this process: fresh ones would take most of a minute to import what is here already."""

    def once(job, folder, variant, number):
        out = folder / "out.json"
        found = import_module(variant.file.removesuffix(".py")).run(job, folder, variant.mode, out)
        found["versions"] = {"torch": "this"}
        if (gradient := out.with_suffix(".grad")).exists():
            found["gradient"] = speed.rounds.torch.load(gradient)
            gradient.unlink()
        return found

    monkeypatch.setattr(speed.rounds, "once", once)
    with torch._functorch.config.patch(activation_memory_budget=1.0):  # one variant changes it
        yield speed


def run(*arguments: str) -> None:
    scope: dict = {"__name__": "speed_main"}
    exec(compile((FOLDER / "__main__.py").read_text(), str(FOLDER / "__main__.py"), "exec"), scope)
    scope["main"](list(arguments))


def test_minute_run(here, tmp_path, capsys):
    out = tmp_path / "speed.json"
    run("--size", "minute", "--rounds", "2", "--steps", "2", "--json", str(out))
    found = json.loads(out.read_text())
    assert found["settings"]["steps"] == 2 and found["rounds"] == 2
    training, sampling, statistics = (found[part] for part in ("training", "sampling", "statistics"))
    compiled = ["seaalign, compiled"] if shutil.which("g++") else []
    ours = ["seaalign, whole head", "seaalign, checkpointing", *compiled, "seaalign"]
    assert list(training["variants"]) == ["by hand, naive", *ours]
    assert list(training["agreement"]) == ["seaalign, whole head"]
    agreed = training["agreement"]["seaalign, whole head"]
    assert agreed["agrees"] and agreed["loss"] < 1e-5 and agreed["gradient"] < 1e-5
    assert len({round(loss, 6) for loss in agreed["losses"]}) == 3  # ln 2, and what the steps made of it
    assert len(sampling["lengths_as_asked"]) == 4 and all(sampling["lengths_as_asked"].values())
    assert statistics["sound"] and statistics["values"]["seaalign"]["repetition"] > 0
    for part in (training, sampling, statistics):
        for row in part["variants"].values():
            assert row["runs"] == 2 and 0 < row["tokens_per_s"]["min"] <= row["tokens_per_s"]["median"]
            assert {"peak_over_model", "peak_over_start", "ours", "clock", "versions"} <= row.keys()
    said = capsys.readouterr().out
    assert "uv venv trl16" in said and "uv venv trl028" in said and "agrees with by hand" in said
    assert [path.name for path in tmp_path.iterdir()] == ["speed.json"]


def test_a_variant_that_computes_something_else_is_found(here, monkeypatch, tmp_path):
    monkeypatch.setattr(here.training, "logsigmoid", lambda margin: -margin)
    with pytest.raises(SystemExit, match="agree"):
        run("--size", "minute", "--rounds", "1", "--only", "training", "--json", str(tmp_path / "speed.json"))
    agreement = json.loads((tmp_path / "speed.json").read_text())["training"]["agreement"]
    assert not agreement["seaalign, whole head"]["agrees"]


def test_a_process_of_its_own(speed, tmp_path):
    job = speed.world.SIZES["minute"]
    speed.world.make(job, tmp_path)
    runs, failed = speed.rounds.measure(
        job,
        tmp_path,
        [
            speed.rounds.Variant("seaalign", "tally.py", "seaalign"),
            speed.rounds.Variant("none", "tally.py", "", "false"),
        ],
        rounds=1,
    )
    assert runs["seaalign"][0]["cpu_s"] > 0 and runs["seaalign"][0]["versions"]["seaalign"]
    assert list(runs) == ["seaalign"] and "exit status 1" in failed["none"]


def test_pairs_are_what_trl_is_told(speed, tmp_path):
    job = speed.world.SIZES["minute"]
    speed.world.make(job, tmp_path)
    rows, pairs = speed.world.data_of(tmp_path)["triplets"], list(speed.world.pairs(job, tmp_path))
    assert len(pairs) == 2 * len(rows) == 2 * job.triplets * (job.warm + job.steps)
    tokenizer = speed.trl_dpo.tokenizer_of(job)
    for prompt, chosen, rejected in pairs:
        text = " ".join(f"w{i}" for i in [*prompt, *chosen]) + "</s>"
        assert tokenizer(text)["input_ids"] == [*prompt, *chosen, job.end] and rejected != chosen


@pytest.mark.parametrize("wrong", [["--trl", "1.16=nowhere/python"], ["--candidates", "4"]])
def test_wrong_arguments(speed, wrong):
    with pytest.raises(SystemExit, match="no such interpreter|multiple of three"):
        run("--size", "minute", *wrong)


@pytest.mark.parametrize("praat", [True, False])
def test_pitch(praat, monkeypatch, tmp_path, capsys):
    """A tone that Praat hears too, and what is said where there is no Praat."""
    if praat:
        pytest.importorskip("parselmouth", reason="praat-parselmouth is not installed")
    else:
        monkeypatch.setitem(sys.modules, "parselmouth", None)
    time, threads = torch.arange(16000) / 16000, torch.get_num_threads()
    for i, hertz in enumerate((110, 150, 230)):
        save(tmp_path / f"{i}.wav", 0.3 * sum(torch.sin(2 * torch.pi * hertz * k * time) / k for k in (1, 2, 3)), 16000)
    monkeypatch.setattr(sys, "argv", ["pitch.py", str(tmp_path), "--minutes", "0.1", "--most", "2"])
    run_path(str(FOLDER.parent / "pitch.py"), run_name="__main__")
    torch.set_num_threads(threads)
    said = capsys.readouterr().out
    assert re.search(r"F0 of 0\.1 minutes: \d+\.\d\d s of one core, (9\d|100)% of the frames voiced", said)
    found = re.search(
        r"2 recordings, (\d+) frames that both hear: (0\.\d+)% off in the median, gross errors 0.00%", said
    )
    assert found and int(found[1]) > 180 if praat else "pip install praat-parselmouth" in said
