"""The commands of the CosyVoice guides, from a user's files to a checkpoint that upstream's loader takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from seaalign import cli, read_utterances

pytest.importorskip("transformers")
pytestmark = pytest.mark.audio  # transformers imports torchaudio where it finds it, and the guides read sound

from tests.backbones.cosyvoice_standin import model_folder, tiny  # noqa: E402
from tests.cosyvoice_world import world  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.enable_progress_bar=false"]


def seaalign(*args) -> int:
    return cli.main([str(arg) for arg in args])


@pytest.fixture
def disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with world(tmp_path):
        yield tmp_path


def loads_strictly(path) -> bool:
    """As upstream's CosyVoice2 loads it; and it is not what the fine-tune was."""
    state = torch.load(path, weights_only=True)
    tiny(2).load_state_dict(state, strict=True)
    before = tiny(2, seed=7).state_dict()
    return any(not torch.equal(state[name], before[name]) for name in before)


def thai(disk: Path, backbone: dict | None = None, data: dict | None = None) -> Path:
    """The example's file with fewer steps, on the CPU."""
    config = yaml.safe_load((ROOT / "examples" / "thai_dgsa.yaml").read_text())
    config["trainer"] |= {"max_steps": 4, "val_check_interval": 2, "log_every_n_steps": 1, "precision": "32-true"}
    keep, watch = config["trainer"]["callbacks"]
    keep["init_args"]["every_n_train_steps"] = watch["init_args"]["every_n_steps"] = 2
    watch["init_args"] |= {"limit": 3, "max_len": 12}
    config["model"]["init_args"]["lr"] = 1e-2
    config["model"]["init_args"]["backbone"]["init_args"] |= backbone or {}
    config["data"]["init_args"] |= data or {}
    (disk / "thai.yaml").write_text(yaml.safe_dump(config))
    return disk / "thai.yaml"


def test_thai_dgsa(disk, capsys):
    file = ["--config", thai(disk)]
    corpus = ["--format", "cosyvoice", "--input", "data/thai_real/data.list", "--output", "real.parquet"]
    assert seaalign("prepare", *file, *corpus) == 0
    assert "wrote 12 utterances to real.parquet" in capsys.readouterr().err
    made = read_utterances("real.parquet", vocab_size=24)
    assert all(u.prompt.style is not None and u.prompt.style.text is not None and u.source == "real" for u in made)
    assert seaalign("check", *file, *SMALL) == 0
    assert seaalign("fit", *file, *SMALL) == 0
    assert seaalign("export", *file, "--weights", "runs/thai_dgsa/last.ckpt", "--output", "llm_aligned.pt") == 0
    assert loads_strictly("llm_aligned.pt")


def test_thai_dgsa_with_lora_and_no_stored_reference(disk):
    lora = {"lora": {"r": 4}, "gradient_checkpointing": True}
    base = ["--config", thai(disk, backbone=lora, data={"reference": "disabled_adapter"})]
    corpus = ["--format", "cosyvoice", "--input", "data/thai_real/data.list", "--output", "real.parquet"]
    assert seaalign("prepare", *base, *corpus) == 0
    assert seaalign("fit", *base, *SMALL) == 0
    ready = ["--weights", "runs/thai_dgsa/last.ckpt"]
    assert seaalign("export", *base, *ready, "--output", "merged.pt") == 0
    assert loads_strictly("merged.pt")
    assert seaalign("export", *base, *ready, "--output", "lora", "--adapters_only", "true") == 0
    assert sorted(path.name for path in Path("lora").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_lao_tdsc(disk):
    config = yaml.safe_load((ROOT / "examples" / "lao_tdsc.yaml").read_text())
    # Dolphin's weights cannot be had here: a criterion of the test's takes the place of Intelligibility(Dolphin())
    judge = config["model"]["init_args"]["judge"]
    judge[2] = {"class_path": "tests.backbones.test_fit.Low", "init_args": {"codes": 24}}
    judge[0]["init_args"]["max_rate"], judge[1]["init_args"] = 0.9, {"low": 0.01, "high": 50, "data": "sft.parquet"}
    small = {"iterations": 1, "n": 2, "sft_steps": 2, "dpo_steps": 3, "max_len": 30, "lr": 1e-3}
    config["model"]["init_args"] |= small
    config["trainer"] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    (disk / "lao.yaml").write_text(yaml.safe_dump(config))
    base = ["--config", disk / "lao.yaml"]
    corpus = ["--format", "cosyvoice", "--input", "data/lao_tts/data.list", "--output", "sft.parquet"]
    assert seaalign("prepare", *base, *corpus, "--timbre", "true", "--speech_source", "tts") == 0
    made = read_utterances("sft.parquet")
    assert {u.source for u in made} == {"tts"} and set(made[0].prompt.timbre) == {"token", "feat", "embedding"}
    assert seaalign("tdsc", *base) == 0
    weights = "runs/lao_tdsc/checkpoints/last.ckpt"
    assert seaalign("export", *base, "--weights", weights, "--output", "llm_lao.pt") == 0
    assert loads_strictly("llm_lao.pt")


def test_weights_in_their_own_format_start_a_run(disk, capsys):
    config = ROOT / "examples" / "thai_dgsa.yaml"
    none = ["--config", config, "--backbone.checkpoint=null", "--weights=exp/thai_sft/llm.pt"]
    assert seaalign("export", *none, "--output", "same.pt") == 0
    state, fine = torch.load("same.pt", weights_only=True), tiny(2, seed=7).state_dict()
    assert all(torch.equal(state[name], fine[name]) for name in fine)
    torch.save({name: value[..., :8] for name, value in fine.items()}, "narrow.pt")
    assert seaalign("export", *none[:-1], "--weights=narrow.pt", "--output", "no.pt") == 1
    said = capsys.readouterr().err
    assert "narrow.pt does not fit" in said and "in the file and" in said and not Path("no.pt").exists()


def test_what_is_missing_is_named(disk, capsys):
    config = ROOT / "examples" / "thai_dgsa.yaml"
    assert seaalign("export", "--config", config, "--output", "no.pt") == 2
    assert "weights" in capsys.readouterr().err
    assert seaalign("export", "--config", "nowhere.yaml", "--output", "no.pt", "--weights", "w.ckpt") == 1
    assert "no file nowhere.yaml; check --config" in capsys.readouterr().err
    (disk / "odd.yaml").write_text("model:\n  class_path: SFT\n")
    assert seaalign("export", "--config", "odd.yaml", "--output", "no.pt", "--weights", "w.ckpt") == 1
    assert "odd.yaml names no backbone" in capsys.readouterr().err


def test_a_checkout_that_is_not_on_the_path_is_told_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model_folder(tmp_path / "pretrained_models" / "CosyVoice2-0.5B")
    assert seaalign("check", "--config", ROOT / "examples" / "thai_dgsa.yaml", *SMALL) == 1
    assert "PYTHONPATH" in capsys.readouterr().err


def test_export_of_a_lora_run_without_lora_is_told_so(disk, capsys):
    from seaalign.backbones import CosyVoice, add_lora

    state = add_lora(CosyVoice("pretrained_models/CosyVoice2-0.5B"), r=2).state_dict()
    torch.save({"state_dict": {f"backbone.{name}": value for name, value in state.items()}}, "lora.ckpt")
    config = ROOT / "examples" / "thai_dgsa.yaml"
    assert seaalign("export", "--config", config, "--weights", "lora.ckpt", "--output", "no.pt") == 1
    assert "lora.ckpt was trained with LoRA, and the backbone of this file has none" in capsys.readouterr().err
