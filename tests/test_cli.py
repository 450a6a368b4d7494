"""`seaalign ...`, in process: what it teaches, what it refuses, and a small model trained and resumed through it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback

from seaalign import Prompt, Style, Utterance, __version__, cli, write_utterances
from seaalign.backbones.base import Unsupported
from seaalign.testing import BackboneError

ROOT = Path(__file__).resolve().parent.parent
CODES, WORDS = 25, 5
LM = {"codes": CODES, "pause": CODES - 1, "factor": 6, "words": WORDS, "dim": 8, "layers": 1, "heads": 2}


def seaalign(*args: Any) -> int:
    return cli.main([str(arg) for arg in args])


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Eight utterances with style and timbre."""
    draw = torch.Generator().manual_seed(0)
    rows = [
        Utterance(
            f"u{i}",
            Prompt(
                torch.randint(0, WORDS, (2,), generator=draw),
                Style(torch.randint(0, CODES - 1, (3,), generator=draw)),
                torch.randn(2, generator=draw),
            ),
            torch.randint(0, CODES - 1, (5 + i % 3,), generator=draw),
        )
        for i in range(8)
    ]
    write_utterances(tmp_path / "real.parquet", rows)
    return tmp_path / "real.parquet"


@pytest.fixture
def config(tmp_path: Path, speech: Path) -> Any:
    """Writes the YAML of a small run; keyword arguments change the module's."""

    def write(module: str = "SFT", callbacks: list[Any] | None = None, **settings: Any) -> Path:
        backbone = {"class_path": "TextSpeechLM", "init_args": LM}
        data: dict[str, Any] = {"class_path": "SpeechData", "init_args": {"train": str(speech), "max_frames": 30}}
        if module == "DGSA":
            made = {"utterances": str(speech), "triplets": str(tmp_path / "triplets.parquet"), "max_frames": 60}
            data = {"class_path": "TripletData", "init_args": {**made, "val_fraction": 0.25}}
        written = {
            "trainer": {
                "accelerator": "cpu",
                "default_root_dir": str(tmp_path),
                "logger": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "max_epochs": 1,
                "callbacks": callbacks,
            },
            "model": {"class_path": module, "init_args": {**settings, "backbone": backbone}},
            "data": data,
        }
        path = tmp_path / f"{module}.yaml"
        path.write_text(yaml.safe_dump(written))
        return path

    return write


def keep(folder: Path, **settings: Any) -> dict[str, Any]:
    return {"class_path": "ModelCheckpoint", "init_args": {"dirpath": str(folder), "save_last": True, **settings}}


def weights(path: Path) -> torch.Tensor:
    state = torch.load(path, weights_only=True)["state_dict"]
    return torch.cat([value.flatten().float() for value in state.values()])


def test_help_names_every_command_and_two_examples(capsys: Any) -> None:
    assert seaalign("--help") == 0
    said = capsys.readouterr().out
    assert all(f"  {name}" in said and command.help in said for name, command in cli.COMMANDS.items())
    assert "seaalign demo --quick" in said and "seaalign fit --config" in said
    assert (ROOT / "examples" / "fit_dgsa.yaml").exists() and "examples/fit_dgsa.yaml" in said


def test_help_is_in_sentences(capsys: Any) -> None:
    """And says of each adapter whether it writes a file or a folder."""
    assert seaalign("export", "--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "a file: CosyVoice (llm.pt), Chatterbox (.safetensors)" in said and "a folder: Hugging Face models" in said
    assert seaalign("mine", "--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "how many workers Ray starts" in said and "which iteration this is, from 1" in said


def test_no_command_is_not_understood(capsys: Any) -> None:
    assert seaalign() == 2 and "commands:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "meant"), [("fti", "seaalign fit"), ("dmo", "seaalign demo"), ("--verison", "seaalign --version")]
)
def test_an_unknown_command_names_the_nearest(capsys: Any, typed: str, meant: str | None) -> None:
    assert seaalign(typed) == 2
    said = capsys.readouterr().err
    assert repr(typed) in said and (meant or "seaalign --help") in said


@pytest.mark.parametrize("command", ["fit", "check", "validate", "test", "predict"])
def test_help_is_of_the_command_that_was_typed(capsys: Any, command: str) -> None:
    assert seaalign(command, "--help") == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: seaalign {command} [") and "[options]" not in said
    about = " ".join(said.split("\n\n")[1].split())
    assert about.removesuffix(".")[1:] == cli.COMMANDS[command].help[1:]


OWN = """
from seaalign.miniature.lm import TextSpeechLM

class Mine(TextSpeechLM):
    def __init__(self, codes):  # without types, as most code is
        super().__init__(codes, codes - 1, 6, words=5, dim=8, layers=1, heads=2)
"""


def test_classes_of_one_s_own_lie_where_the_command_is_typed_and_need_no_types(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = yaml.safe_load(config().read_text())
    written["model"]["init_args"]["backbone"] = {"class_path": "ours_of_this_test.Mine", "init_args": {"codes": CODES}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(written))
    (tmp_path / "ours_of_this_test.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert seaalign("fit", "--config", "mine.yaml", "--trainer.max_steps", 1) == 0
    saved = next(tmp_path.rglob("*.ckpt"))
    assert seaalign("export", "--config", "mine.yaml", "--weights", saved, "--output", "out.pt") == 0
    assert (tmp_path / "out.pt").exists()


def test_version_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from seaalign.cli import main; main(['--version']);"
        "print([name for name in ('torch', 'lightning', 'jsonargparse', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout.splitlines() == [f"seaalign {__version__}", "[]"]


def test_dispatch_passes_arguments_and_exit_codes(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    seen: list[list[str]] = []

    def command(argv: list[str]) -> int | None:
        seen.append(argv)
        if argv == ["stop"]:
            raise KeyboardInterrupt
        if argv == ["wrong"]:
            sys.exit("that did not work")
        return 3 if argv else None

    monkeypatch.setitem(cli.COMMANDS, "demo", cli.Command("tests_of_the_cli:command", "for this test"))
    monkeypatch.setitem(sys.modules, "tests_of_the_cli", type("Module", (), {"command": staticmethod(command)}))
    assert [seaalign("demo"), seaalign("demo", "--quick", 1)] == [0, 3]
    assert seen == [[], ["--quick", "1"]]
    assert seaalign("demo", "wrong") == 1 and capsys.readouterr().err == "that did not work\n"
    assert seaalign("demo", "stop") == 130 and capsys.readouterr().err == "seaalign: interrupted\n"


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def command(argv: list[str]) -> None:
        raise error

    monkeypatch.setitem(cli.COMMANDS, "demo", cli.Command("tests_of_the_cli:command", "for this test"))
    monkeypatch.setitem(sys.modules, "tests_of_the_cli", type("Module", (), {"command": staticmethod(command)}))


@pytest.mark.parametrize("kind", [OSError, ValueError, UnicodeError, Unsupported, BackboneError])
def test_what_says_it_all_needs_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: Any, kind: Any) -> None:
    failing(monkeypatch, kind("temperature must be >= 0, got -1"))
    monkeypatch.delenv("SEAALIGN_TRACEBACK", raising=False)
    assert seaalign("demo") == 1
    first, hint = capsys.readouterr().err.splitlines()
    assert first == "seaalign: error: temperature must be >= 0, got -1" and "SEAALIGN_TRACEBACK=1" in hint
    monkeypatch.setenv("SEAALIGN_TRACEBACK", "1")
    with pytest.raises(kind, match="got -1"):
        seaalign("demo")


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEAALIGN_TRACEBACK", raising=False)
    for kind in (ZeroDivisionError, AssertionError, NotImplementedError):
        failing(monkeypatch, kind("a bug"))
        with pytest.raises(kind):
            seaalign("demo")


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("--model.alpha=80", "alpha must be a share between 0 and 1, got 80"),
        ("--data.val_fraction=7", "val_fraction must lie in 0..1, below 1, got 7.0"),
        ("--trainer.callbacks.patience=0", "patience >= 1, got 0.1 and 0"),
    ],
)
def test_a_value_that_a_class_refuses_is_told_in_its_words(config: Any, capsys: Any, setting: str, says: str) -> None:
    watch = {"class_path": "ErosionMonitor", "init_args": {"prompts": [[1]]}}
    assert seaalign("fit", "--config", config("DGSA", [watch], alpha=0.8), setting) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-2].startswith("seaalign: error: ") and says in said[-2] and "Namespace" not in "".join(said)


@pytest.mark.parametrize("content", [b"hello\n", b"", b"PK\x03\x04 cut off", b"a: 1\nb: 2\n", "tensor"])
def test_weights_that_are_no_checkpoint(config: Any, tmp_path: Path, capsys: Any, content: Any) -> None:
    path = tmp_path / "odd.ckpt"
    torch.save(torch.ones(2), path) if content == "tensor" else path.write_bytes(content)
    assert seaalign("fit", "--config", config(), "--weights", path) == 1
    said = capsys.readouterr().err.splitlines()
    assert f"seaalign: error: --weights {path} is no checkpoint that could be read" in said[-2]


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (("model", "init_args", "lrr"), ["seaalign.SFT takes no 'lrr'", "did you mean 'lr'?", "weight_decay"]),
        (
            ("model", "init_args", "backbone", "init_args", "dimm"),
            ["TextSpeechLM takes no 'dimm'", "did you mean 'dim'?"],
        ),
        (("trainer", "max_epoch"), ["unknown key 'trainer.max_epoch'", "did you mean 'trainer.max_epochs'?"]),
        (("modell",), ["unknown key 'modell'", "did you mean 'model'?"]),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(
    config: Any, capsys: Any, key: tuple[str, ...], says: list[str]
) -> None:
    path = config()
    tree = yaml.safe_load(path.read_text())
    *way, last = key
    inner = tree
    for step in way:
        inner = inner[step]
    inner[last] = 1
    path.write_text(yaml.safe_dump(tree))
    assert seaalign("fit", "--config", path) == 2
    said = capsys.readouterr().err
    assert all(words in said for words in says) and said.count("\n") <= 3


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--trainer.max_epochz=3"], "did you mean 'trainer.max_epochs'?"),
        (["--model=SFTT"], "no class 'SFTT'; did you mean 'SFT'?"),
        (["--model=seaalign.DGS"], "no class 'DGS'; did you mean 'DGSA'?"),
        (["--config=nowhere.yaml"], "nowhere.yaml"),
        (["--model=DGSA"], "needs backbone"),
        (["--model=nowhere_at_all.Mine"], "no module 'nowhere_at_all'; if it is yours, run this in the folder that"),
        ([], "there is no model; give --config FILE"),
        (["--trainer.max_epochs=three"], "three"),
    ],
)
def test_a_wrong_argument_is_explained(capsys: Any, args: list[str], says: str) -> None:
    assert seaalign("fit", *args) == 2
    said = capsys.readouterr().err
    assert says in said and "see `seaalign" in said


@pytest.mark.parametrize("module", ["SFT", "DGSA"])
def test_print_config_shows_every_setting_and_reads_back(config: Any, tmp_path: Path, capsys: Any, module: str) -> None:
    path = config(module, **({"alpha": 0.8} if module == "DGSA" else {}))
    assert seaalign("fit", "--config", path, "--print_config") == 0
    printed = capsys.readouterr().out
    shown = yaml.safe_load(printed)["model"]
    assert shown["class_path"] == f"seaalign.{module}" and shown["init_args"]["betas"] == [0.9, 0.999]
    assert shown["init_args"]["backbone"]["init_args"]["dim"] == 8
    (tmp_path / "again.yaml").write_text(printed)
    assert seaalign("fit", "--config", tmp_path / "again.yaml", "--print_config") == 0
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("module", ["SFT", "DGSA"])
def test_fast_dev_run(config: Any, tmp_path: Path, module: str) -> None:
    watch = {"class_path": "ErosionMonitor", "init_args": {"prompts": [[1, 2]], "max_len": 10}}
    path = config(module, [watch], **({"alpha": 0.8} if module == "DGSA" else {}))
    assert seaalign("fit", "--config", path, "--trainer.fast_dev_run=true") == 0


def test_resume_through_the_command_line_is_the_same_trajectory(config: Any, tmp_path: Path) -> None:
    whole, half, rest = tmp_path / "whole", tmp_path / "half", tmp_path / "rest"
    assert seaalign("fit", "--config", config(callbacks=[keep(whole)], lr=0.01), "--trainer.max_epochs=3") == 0
    assert seaalign("fit", "--config", config(callbacks=[keep(half)], lr=0.01), "--trainer.max_epochs=1") == 0
    resumed = config(callbacks=[keep(rest)], lr=0.01)
    assert seaalign("fit", "--config", resumed, "--trainer.max_epochs=3", "--ckpt_path", half / "last.ckpt") == 0
    assert torch.equal(weights(rest / "last.ckpt"), weights(whole / "last.ckpt"))
    assert not torch.equal(weights(half / "last.ckpt"), weights(whole / "last.ckpt"))


def test_dgsa_starts_from_the_weights_of_sft(config: Any, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "sft"
    assert seaalign("fit", "--config", config(callbacks=[keep(folder)], lr=0.01)) == 0
    aligned = config("DGSA", [keep(tmp_path / "dgsa")], alpha=0.8, lr=0.0, weight_decay=0.0)
    assert seaalign("fit", "--config", aligned, "--weights", folder / "last.ckpt") == 0
    assert torch.equal(weights(tmp_path / "dgsa" / "last.ckpt"), weights(folder / "last.ckpt"))
    capsys.readouterr()
    assert seaalign("fit", "--config", aligned, "--weights", folder / "last.ckpt", "--model.backbone.dim=16") == 1
    said = capsys.readouterr().err.splitlines()[-2]
    assert "last.ckpt does not fit TextSpeechLM: " in said and "8) in the file and " in said
    assert seaalign("fit", "--config", aligned, "--weights", "nowhere.ckpt") == 1
    assert "no checkpoint nowhere.ckpt; check the path" in capsys.readouterr().err.splitlines()[-2]


def test_validate_reads_a_checkpoint(config: Any, speech: Path, tmp_path: Path, capsys: Any) -> None:
    path = config(callbacks=[keep(tmp_path / "sft")])
    assert seaalign("fit", "--config", path, "--data.val", speech) == 0
    capsys.readouterr()
    done = seaalign("validate", "--config", path, "--data.val", speech, "--ckpt_path", tmp_path / "sft" / "last.ckpt")
    assert done == 0 and "val/loss" in capsys.readouterr().out


def test_check_runs_the_contract_on_the_data(config: Any, capsys: Any) -> None:
    assert seaalign("check", "--config", config()) == 0
    assert "stepwise == teacher forced" in capsys.readouterr().out


def test_check_says_when_the_data_do_not_suffice(config: Any, speech: Path, capsys: Any) -> None:
    write_utterances(speech, [Utterance("short", Prompt([1]), torch.tensor([1, 2]))])
    assert seaalign("check", "--config", config()) == 1
    assert "the longest row of speech has 2 frames" in capsys.readouterr().err


class CtrlC(Callback):
    """Somebody presses it after the first batch."""

    def on_train_batch_end(self, *args: Any) -> None:
        raise KeyboardInterrupt


def test_ctrl_c_in_training_exits_130(config: Any, capsys: Any) -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        assert seaalign("fit", "--config", config(callbacks=[{"class_path": f"{__name__}.CtrlC"}])) == 130
    finally:
        signal.signal(signal.SIGINT, before)  # the Trainer ignores further ones
    assert capsys.readouterr().err.rstrip().endswith("seaalign: interrupted")


def test_the_example_runs(speech: Path, tmp_path: Path) -> None:
    example = ROOT / "examples" / "fit_dgsa.yaml"
    sizes = [f"--model.backbone.{key}={value}" for key, value in LM.items()]
    quick = ["--trainer.fast_dev_run=true", "--trainer.accelerator=cpu", "--weights=null"]
    places = [f"--data.utterances={speech}", f"--data.triplets={tmp_path / 'triplets.parquet'}"]
    prompts = [f"--trainer.callbacks.init_args.prompts={json.dumps([[1, 2]])}"]
    assert seaalign("fit", "--config", example, *sizes, *quick, *places, *prompts) == 0


def test_the_package_runs_as_the_command_does():
    done = subprocess.run([sys.executable, "-m", "seaalign", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and __version__ in done.stdout, done.stderr
