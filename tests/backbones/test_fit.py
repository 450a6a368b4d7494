"""Twenty steps of DGSA and TDSC through `seaalign fit --config` on small random models: the preference margin rises."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml

from seaalign import Prompt, Style, Utterance, cli, write_utterances
from seaalign.judges import Criterion
from seaalign.records import Verdict

transformers = pytest.importorskip("transformers")
pytest.importorskip("peft", exc_type=ImportError)
pytestmark = pytest.mark.audio  # not for sound: transformers itself imports torchaudio where it finds it installed

from tests.backbones.cosyvoice_standin import installed, model_folder  # noqa: E402
from tests.backbones.test_csm import K as TINY_BOOKS  # noqa: E402
from tests.backbones.test_csm import tiny as tiny_csm  # noqa: E402
from tests.backbones.tiny_hf import CODES, TIMBRES, model_for  # noqa: E402


class Low(Criterion):
    """Wants codes of the lower half: something that a preference can be about, and that any model can learn."""

    name = "intelligibility"

    def __init__(self, codes: int = CODES) -> None:
        self.codes = codes

    def __call__(self, candidates):
        made = []
        for candidate in candidates:
            book = candidate.tokens if candidate.tokens.dim() == 1 else candidate.tokens[:, 0]
            high = float((book >= self.codes // 2).float().sum()) / max(1, len(book))
            accept = high <= 0.5
            made.append(
                Verdict.accept({"error": high}) if accept else Verdict.reject(self.name, scores={"error": high})
            )
        return made


def causal(name: str, family: str, **settings):
    """Writes a small model to disk, as users have it, and says how a YAML file names it."""

    def write(folder: Path) -> dict:
        model, layout, tokenizer = model_for(name, family)
        for one in (model, tokenizer):
            one.save_pretrained(folder)
        fields = ("name", "prompt", "speech", "codes", "end", "also", "timbre", "timbre_codes")
        spec = json.loads(json.dumps({field: getattr(layout, field) for field in fields}))
        return {"class_path": "CausalLM", "init_args": {"model": str(folder), "layout": spec, **settings}}

    return write


def cosyvoice(version: int, **settings):
    def write(folder: Path) -> dict:
        model_folder(folder, version)
        if version == 3:
            settings["instruct"] = [7, 151646]  # ends with <|endofprompt|>
        return {"class_path": "CosyVoice", "init_args": {"model": str(folder), **settings}}

    return write


def csm(folder: Path) -> dict:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tiny_csm(codes=codes_of("CSM")).save_pretrained(folder)
    return {"class_path": "CSM", "init_args": {"model": str(folder)}}


LORA = {"lora": {"r": 8}, "gradient_checkpointing": True}
CONFIGS = {
    "Llama as Orpheus": causal("orpheus", "Llama"),
    "Qwen2 as Spark-TTS": causal("spark", "Qwen2"),
    "Qwen2 as Spark-TTS, LoRA": causal("spark", "Qwen2", **LORA),
    "Llama as Spark-TTS": causal("spark", "Llama"),
    "Qwen3 as Spark-TTS": causal("spark", "Qwen3"),
    "Qwen3 as Llasa": causal("llasa", "Qwen3"),
    "CosyVoice 2": cosyvoice(2),
    "CosyVoice 2, LoRA": cosyvoice(2, **LORA),
    "CosyVoice 3": cosyvoice(3),
    "CSM": csm,
}


def codes_of(name: str) -> int:
    """Mimi's are a power of two; few, so that a frame of zeros in all books, which is the end, comes by chance."""
    return 4 if name == "CSM" else CODES


SEPARATE = [name for name in CONFIGS if "Spark" in name or "CosyVoice" in name]


@pytest.fixture(autouse=True)
def checkout(tmp_path_factory):
    """What CosyVoice models are built by."""
    with installed(tmp_path_factory.mktemp("checkout")):
        yield


def utterances(name: str, count: int = 12) -> list[Utterance]:
    """Real speech keeps to the lower half of the codes."""
    g, books = torch.Generator().manual_seed(0), (TINY_BOOKS,) if name == "CSM" else ()
    words, codes = 30 if name == "CSM" else 200, codes_of(name)

    def ids(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(high, shape, generator=g)

    return [
        Utterance(
            f"u{i}",
            Prompt(
                ids(words, 4 + i % 3),
                Style(1 + ids(codes - 1, 3, *books), ids(words, 3)),
                ids(TIMBRES, 2) if "Spark" in name else None,
            ),
            1 + ids(codes // 2 - 1, 6 + i % 5, *books),
        )
        for i in range(count)
    ]


def run(tmp_path: Path, module: dict, data: dict, steps: int = 20) -> list[dict[str, float]]:
    """The logged numbers of `seaalign fit`, a row per step."""
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(tmp_path)}}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = {"accelerator": "cpu", "max_steps": steps, "log_every_n_steps": 1, "logger": logger, **quiet}
    config = {"trainer": {**trainer, "default_root_dir": str(tmp_path)}, "model": module, "data": data}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    assert cli.main(["fit", "--config", str(tmp_path / "run.yaml")]) == 0
    with open(next(tmp_path.rglob("metrics.csv"))) as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    return rows


def rises(rows: list[dict[str, float]], key: str) -> bool:
    margins = [row[key] for row in rows if key in row]
    first, last = sum(margins[:3]) / 3, sum(margins[-3:]) / 3
    return last > 0 and last > first + 0.02


@pytest.mark.parametrize("name", SEPARATE)
def test_dgsa(tmp_path, name):
    backbone = CONFIGS[name](tmp_path / "model")
    write_utterances(tmp_path / "real.parquet", utterances(name))
    made = {"utterances": str(tmp_path / "real.parquet"), "triplets": str(tmp_path / "t.parquet"), "val_fraction": 0.0}
    module = {"class_path": "DGSA", "init_args": {"alpha": 0.8, "lr": 2e-3, "backbone": backbone}}
    rows = run(tmp_path, module, {"class_path": "TripletData", "init_args": {**made, "max_frames": 200}})
    assert sum("train/rewards/margins" in row for row in rows) == 20
    assert rises(rows, "train/rewards/margins")


@pytest.mark.parametrize("name", CONFIGS)
def test_tdsc(tmp_path, name):
    backbone = CONFIGS[name](tmp_path / "model")
    write_utterances(tmp_path / "sft.parquet", utterances(name))
    lines = [{"id": f"s{i}", "text": f"text {i}", "ids": [5 + i, 2 + i, 7]} for i in range(24)]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    longest = 60 if name == "CSM" else 20
    settings = {"iterations": 1, "max_len": longest, "n": 3, "sft_steps": 4, "dpo_steps": 16, "lr": 1e-3, "batch": 8}
    judge = [{"class_path": f"{__name__}.Low", "init_args": {"codes": codes_of(name)}}]
    module = {"class_path": "TDSC", "init_args": {"work": str(tmp_path / "w"), "judge": judge, "backbone": backbone}}
    module["init_args"] |= settings
    data = {"texts": str(tmp_path / "texts.jsonl"), "sft": str(tmp_path / "sft.parquet"), "max_frames": 300}
    rows = run(tmp_path, module, {"class_path": "TextData", "init_args": data})
    assert sum("train/dpo/rewards/margins" in row for row in rows) == 16
    assert rises(rows, "train/dpo/rewards/margins")


@pytest.mark.parametrize("name", ["Qwen3 as Llasa", "CSM"])
def test_dgsa_refuses_a_model_without_a_timbre_of_its_own(tmp_path, capsys, name):
    backbone = CONFIGS[name](tmp_path / "model")
    write_utterances(tmp_path / "real.parquet", utterances(name))
    module = {"class_path": "DGSA", "init_args": {"alpha": 0.8, "backbone": backbone}}
    data = {"class_path": "TripletData", "init_args": {"utterances": str(tmp_path / "real.parquet")}}
    data["init_args"]["triplets"] = str(tmp_path / "t.parquet")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"model": module, "data": data}))
    assert cli.main(["fit", "--config", str(tmp_path / "run.yaml")]) == 1
    assert "does not declare ['timbre']" in capsys.readouterr().err.replace("\n", " ")
