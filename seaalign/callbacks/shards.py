"""Predictions to disk, shard by shard: what makes `trainer.predict` fit for many machines and for kills."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from seaalign.data.shards import Shard, ShardData


class ShardWriter(BasePredictionWriter):
    """Writes each prediction of a `Stage` as the shard that it is, whole or not at all, the moment it is made.

    A `Stage` brings one along, so `trainer.predict(stage, data, return_predictions=False)` writes without further ado.
    Under `fast_dev_run` nothing is written. Override `write` to put a shard elsewhere, or beside its file into another
    format:

        >>> class Loud(ShardWriter):
        ...     def write(self, path, shard, stage, stamp):
        ...         super().write(path, shard, stage, stamp)
        ...         print(f"shard {shard.number}: {len(shard)} rows in {path.name}")

    Give it to the Trainer: `Trainer(callbacks=[Loud()])`. What counts as made is that the file `path` is there.
    """

    def __init__(self) -> None:
        super().__init__("batch")

    def write(self, path: Path, shard: Shard, stage: Any, stamp: dict[str, Any]) -> None:
        """Write a shard; called by the process that made it.

        Args:
            path: its file; it must appear whole or not at all (`storage.columns.whole_or_nothing`).
            shard: its number and rows.
            stage: the `Stage` that made them; its `write` is the default.
            stamp: what the file should say of itself.
        """
        stage.write(path, shard.rows, stamp)

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Find the shard's place and write it there."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, ShardData) or not isinstance(prediction, Shard):
            raise TypeError(
                f"ShardWriter writes the shards of a Stage on ShardData; got a {type(prediction).__name__} made of "
                f"{type(data).__name__}"
            )
        if not getattr(trainer, "fast_dev_run", False):
            number = prediction.number
            self.write(data.shards.path(number), prediction, pl_module, data.shards.stamp(number))
