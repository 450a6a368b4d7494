"""A run that is cut anywhere and resumed ends bit for bit where the uncut one ends."""

from __future__ import annotations

import lightning as L
import pytest
import torch

from seaalign import DGSA, SFT, SpeechData, TripletData
from tests.toy import Toy, quiet, speech


class SaveEverywhere(L.Callback):
    """A checkpoint at each place where Lightning's own callbacks save."""

    def __init__(self, folder):
        self.folder = folder

    def _save(self, trainer, place):
        if not trainer.sanity_checking:
            trainer.save_checkpoint(self.folder / f"{trainer.global_step:02d}-{place}.ckpt")

    def on_train_batch_end(self, trainer, *_):
        self._save(trainer, "batch")

    def on_train_epoch_end(self, trainer, _):
        self._save(trainer, "epoch")

    def on_validation_end(self, trainer, _):
        self._save(trainer, "validation")


class Asks(SFT):
    """A user's optimizer that asks for the number of steps: the loaders are built before the checkpoint is restored."""

    def configure_optimizers(self):
        steps = self.trainer.estimated_stepping_batches
        return torch.optim.Adam(self.parameters(), lr=0.1 / steps)


def run(kind, folder, limits, checkpoint=None, callbacks=()):
    if kind == "dgsa":
        module = DGSA(Toy(), 0.8, lr=1e-3, warmup_steps=2, schedule="cosine")
        data = TripletData(speech(), folder / "t.parquet", max_frames=300, val_fraction=0.2)
    else:
        module = (Asks if kind == "asks" else SFT)(Toy(), lr=1e-2)
        data = SpeechData(speech(), speech(3, seed=1), max_frames=50, plain_fraction=0.5)
    trainer = quiet(**limits, callbacks=list(callbacks))
    trainer.fit(module, data, ckpt_path=checkpoint)
    return {name: value.clone() for name, value in module.state_dict().items()}, trainer.global_step


@pytest.mark.parametrize(
    ("kind", "limits"),
    [
        ("sft", {"max_steps": 11}),
        ("sft", {"max_epochs": 3, "limit_train_batches": 3}),
        ("asks", {"max_epochs": 3}),
        ("dgsa", {"max_epochs": 3, "val_check_interval": 2}),
        ("dgsa", {"max_steps": 10}),
    ],
)
def test_a_resumed_run_is_the_same_run(tmp_path, kind, limits):
    want, steps = run(kind, tmp_path, limits, callbacks=[SaveEverywhere(tmp_path)])
    start = run(kind, tmp_path, {"max_steps": 1})[0]
    assert steps >= 8 and not all(torch.equal(want[name], start[name]) for name in want)
    places = sorted(tmp_path.glob("*.ckpt"))
    middle = [p for p in places if p.stem not in {f"{steps:02d}-{e}" for e in ("batch", "epoch", "validation")}]
    for place in middle[1::2] if len(middle) > 8 else middle:
        got, end = run(kind, tmp_path, limits, place)
        assert end == steps and all(torch.equal(want[name], got[name]) for name in want), place.name


def test_a_resume_skips_the_check_of_fresh_weights_but_not_that_of_the_file(tmp_path):
    limits = {"max_steps": 4}
    want, _ = run("dgsa", tmp_path, limits, callbacks=[SaveEverywhere(tmp_path)])
    checkpoint = tmp_path / "02-batch.ckpt"

    def resume(backbone, **changes):
        arguments = {"triplets": tmp_path / "t.parquet", "max_frames": 300, "val_fraction": 0.2, **changes}
        module = DGSA(backbone, 0.8, lr=1e-3, warmup_steps=2, schedule="cosine")
        quiet(**limits).fit(module, TripletData(speech(), **arguments), ckpt_path=checkpoint)
        return module.state_dict()

    aligned = DGSA.load_from_checkpoint(tmp_path / "04-batch.ckpt", backbone=Toy()).backbone
    got = resume(aligned)  # rebuilt with weights that are already aligned: the checkpoint's count
    assert all(torch.equal(want[name], got[name]) for name in want)
    TripletData(speech(), tmp_path / "other.parquet").make(Toy(1))
    with pytest.raises(ValueError, match="weights: checkpoint .*, file"):
        resume(Toy(), triplets=tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="samples: checkpoint .*, file"):  # lost, and made anew from the wrong weights
        resume(Toy(1), triplets=tmp_path / "lost.parquet")
    got = resume(Toy(), triplets=tmp_path / "missing.parquet")  # lost, and made anew as it was
    assert all(torch.equal(want[name], got[name]) for name in want)
