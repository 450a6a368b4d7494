"""Everything can be built from YAML, as LightningCLI does it."""

from __future__ import annotations

import pytest
import yaml
from lightning.pytorch.cli import LightningCLI

from seaalign import DGSA, SFT, SpeechData, TripletData, write_utterances
from seaalign.data.pairs import PairData
from seaalign.modules.dpo import DPO
from seaalign.storage import write_pairs
from seaalign.storage.preferences import write_preferences
from tests.modules.test_dpo import made_pairs
from tests.toy import Toy, speech

SILENT = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "max_steps": 1}


def built(tmp_path, model, data):
    config = {"model": model, "data": data, "trainer": {"accelerator": "cpu", **SILENT}, "seed_everything": False}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    return LightningCLI(
        **dict.fromkeys(("subclass_mode_model", "subclass_mode_data"), True),
        save_config_callback=None,
        run=False,
        args=["--config", str(tmp_path / "c.yaml")],
    )


def named(cls, **arguments):
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": arguments}


@pytest.mark.parametrize("kind", ["sft", "dgsa"])
def test_built_and_fitted(tmp_path, kind):
    real = str(tmp_path / "u.parquet")
    write_utterances(real, speech(8))
    backbone = named(Toy, seed=3)
    if kind == "sft":
        model = named(SFT, backbone=backbone, lr=0.01, betas=[0.8, 0.9], schedule="cosine")
        data = named(SpeechData, train=real, max_frames=50, plain_fraction=0.5)
    else:
        model = named(DGSA, backbone=backbone, alpha=0.8, weights=[0, 1], loss="ipo", tolerance=0.1)
        data = named(TripletData, utterances=real, triplets=str(tmp_path / "t.parquet"), pairing="shuffled")
    cli = built(tmp_path, model, data)
    assert type(cli.model).__name__.lower() == kind and isinstance(cli.model.backbone, Toy)
    cli.trainer.fit(cli.model, cli.datamodule)
    assert cli.trainer.global_step == 1


def test_a_misspelt_argument_is_refused(tmp_path, capsys):
    model = named(SFT, backbone=named(Toy), learning_rate=0.01)
    with pytest.raises(SystemExit):
        built(tmp_path, model, named(SpeechData, train="u.parquet"))
    assert "learning_rate" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_pairs_from_a_file(tmp_path, ending):
    source, scored = str(tmp_path / f"p.{ending}"), tmp_path / "s.parquet"
    (write_pairs if ending == "parquet" else write_preferences)(source, made_pairs(8))
    model = named(DPO, backbone=named(Toy, seed=3), beta=0.2, loss="dpo", label_smoothing=0.1, reduction="mean")
    data = named(PairData, pairs=source, scored=str(scored), max_frames=60, val_fraction=0.2, reference="stored")
    cli = built(tmp_path, model, data)
    assert cli.model.hparams["label_smoothing"] == 0.1 and cli.datamodule.path == scored
    cli.trainer.fit(cli.model, cli.datamodule)
    assert cli.trainer.global_step == 1 and scored.exists()
