"""ConstraintCheckpoint, DriftStop, SaturationAlert: on a module they have never seen, against a choice made by hand."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader

from seaalign import ConstraintCheckpoint, DriftStop, SaturationAlert

KEYS = {"monitor": "val/h", "constraint": "val/wer"}


class Script(LightningModule):
    """Logs what it is told to, epoch by epoch; its weight counts the steps."""

    def __init__(self, **curves: list[float]) -> None:
        super().__init__()
        self.curves, self.count = curves, torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return -self.count

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        for name, values in self.curves.items():
            self.log(f"val/{name}", values[self.current_epoch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def run(
    trainer: Any, *callbacks: Any, epochs: int | None = None, ckpt: str | None = None, **curves: list[float]
) -> Any:
    data = DataLoader(torch.zeros(2), batch_size=1)
    most = epochs or len(next(iter(curves.values())))
    made = trainer(max_epochs=most, callbacks=list(callbacks), enable_checkpointing=True)
    made.fit(Script(**curves), data, data, ckpt_path=ckpt, weights_only=True)
    return made


def by_hand(h: list[float], wer: list[float], within: float, baseline: float | None = None) -> int:
    """Which epoch: a plain look at all of them."""
    limit = (min(wer) if baseline is None else baseline) + within
    rows = [(h[i], -wer[i], -i) for i in range(len(h)) if wer[i] <= limit]
    if not rows:
        rows = [(-wer[i], h[i], -i) for i in range(len(h))]
    return -max(rows)[2]


def files(folder: Path) -> set[int]:
    return {int(path.name.split("epoch=")[1].split("-")[0]) for path in folder.glob("*.ckpt")}


def test_golden(quiet_trainer: Any, tmp_path: Path) -> None:
    keep = ConstraintCheckpoint(tmp_path / "c", within=1.0, **KEYS)
    # epoch 1 is livelier than 0 and within a point; 2 babbles; 3 brings the error down, so that 1 and 0 are out
    run(quiet_trainer, keep, h=[9.0, 9.5, 12.0, 9.1], wer=[30.0, 30.5, 60.0, 28.0])
    assert keep.best is not None and keep.best["epoch"] == 3 and files(tmp_path / "c") == {3}
    saved = torch.load(keep.best_model_path, weights_only=True)
    assert float(saved["state_dict"]["count"]) == 8.0  # two steps an epoch, each adds 1
    assert [row["monitor"] for row in keep.history] == [9.0, 9.5, 12.0, 9.100000381469727]


@pytest.mark.parametrize("baseline", [None, 30.0])
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_a_choice_among_all(quiet_trainer: Any, tmp_path: Path, seed: int, baseline: float | None) -> None:
    rng = random.Random(seed)
    h = [float(rng.randint(0, 6)) for _ in range(9)]
    wer = [float(rng.randint(28, 36) - i) for i in range(9)]
    for last in range(1, 10):
        folder = tmp_path / str(last)
        keep = ConstraintCheckpoint(folder, within=2.0, baseline=baseline, **KEYS)
        run(quiet_trainer, keep, h=h[:last], wer=wer[:last])
        assert keep.best is not None
        chosen, right = keep.best["epoch"], by_hand(h[:last], wer[:last], 2.0, baseline)
        assert (h[chosen], wer[chosen]) == (h[right], wer[right])
        assert chosen in files(folder) and (baseline is None or len(files(folder)) == 1)


def test_goes_on_after_a_resume_and_forgets_what_is_gone(quiet_trainer: Any, tmp_path: Path) -> None:
    h, wer = [9.0, 9.5, 8.0, 9.2, 9.1], [30.0, 30.5, 29.6, 29.9, 29.7]
    whole = ConstraintCheckpoint(tmp_path / "whole", **KEYS)
    run(quiet_trainer, whole, h=h, wer=wer)
    first = ConstraintCheckpoint(tmp_path / "parts", **KEYS)
    run(quiet_trainer, first, epochs=3, h=h, wer=wer)
    assert files(tmp_path / "parts") == {0, 1, 2}
    second = ConstraintCheckpoint(tmp_path / "parts", **KEYS)
    run(quiet_trainer, second, h=h, wer=wer, ckpt=str(tmp_path / "parts" / "epoch=2-step=6.ckpt"))
    assert second.history == whole.history and files(tmp_path / "parts") == files(tmp_path / "whole")
    (tmp_path / "parts" / "epoch=1-step=4.ckpt").unlink()
    assert second.best is not None and second.best["epoch"] == 1
    third = ConstraintCheckpoint(tmp_path / "parts", **KEYS)
    third.load_state_dict(second.state_dict())
    assert third.best is not None and third.best["epoch"] == 3


def test_says_when_nothing_is_good_enough(quiet_trainer: Any, tmp_path: Path) -> None:
    keep = ConstraintCheckpoint(tmp_path, within=1.0, baseline=20.0, **KEYS)
    with pytest.warns(UserWarning, match=r"within 1.0 of 20.0; the nearest is 29"):
        run(quiet_trainer, keep, h=[9.0, 8.0], wer=[30.0, 29.0])


def test_what_is_not_finite_is_not_kept(quiet_trainer: Any, tmp_path: Path) -> None:
    keep = ConstraintCheckpoint(tmp_path, **KEYS)
    with pytest.warns(UserWarning, match="step 4 is not kept"):
        run(quiet_trainer, keep, h=[9.0, 99.0], wer=[30.0, float("nan")])
    assert keep.best is not None and keep.best["epoch"] == 0


def test_names_the_key_that_nobody_logs(quiet_trainer: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs \['val/wer'\].*logged are \['val/h'\]"):
        run(quiet_trainer, ConstraintCheckpoint(tmp_path, **KEYS), h=[9.0])
    with pytest.raises(ValueError, match="within must be 0 or more.*-1"):
        ConstraintCheckpoint(within=-1)


def test_other_directions(quiet_trainer: Any, tmp_path: Path) -> None:
    keep = ConstraintCheckpoint(tmp_path, "val/loss", "val/sim", within=0.1, mode="min", constraint_mode="max")
    run(quiet_trainer, keep, loss=[3.0, 2.0, 1.0], sim=[0.9, 0.85, 0.5])
    assert keep.best is not None and keep.best["epoch"] == 1


def test_the_folder_is_found_like_that_of_lightning(quiet_trainer: Any, tmp_path: Path) -> None:
    keep = ConstraintCheckpoint(**KEYS)
    run(quiet_trainer, keep, h=[9.0], wer=[30.0])
    assert keep.best_model_path == str(tmp_path / "checkpoints" / "epoch=0-step=2.ckpt")


def test_drift_stops_the_run(quiet_trainer: Any) -> None:
    curve = {"logps/drift_chosen": [-1.0, -5.0, -21.0, -30.0]}
    trainer = run(quiet_trainer, DriftStop(20.0), **curve)
    assert trainer.current_epoch == 3 and trainer.should_stop
    assert run(quiet_trainer, DriftStop(40.0), **curve).current_epoch == 4
    with pytest.raises(ValueError, match="got -3"):
        DriftStop(-3)


def test_a_saturated_run_is_named_once(quiet_trainer: Any) -> None:
    won, gained = [0.8, 1.0, 1.0, 1.0, 1.0], {"erosion/entropy_corrected": [9.0, 9.1, 9.1, 9.0, 9.0]}
    with pytest.warns(UserWarning, match="100 % of the pairs are won.*better than 9.1 for 2") as caught:
        run(quiet_trainer, SaturationAlert(patience=2), **{"rewards/accuracies": won}, **gained)
    assert sum("are won" in str(warning.message) for warning in caught) == 1


def test_a_run_that_still_gains_is_not(quiet_trainer: Any, recwarn: pytest.WarningsRecorder) -> None:
    gained = {"erosion/entropy_corrected": [9.0, 9.1, 9.0, 9.2, 9.1]}
    run(quiet_trainer, SaturationAlert(patience=2), **{"rewards/accuracies": [1.0] * 5}, **gained)
    run(quiet_trainer, SaturationAlert(patience=2), **{"rewards/accuracies": [1.0] * 5})  # nobody measures the gain
    assert not [w for w in recwarn if "are won" in str(w.message)]
