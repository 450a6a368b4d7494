"""What modules of preference optimisation share: the start at the reference, steps that log, the optimizer."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import lightning as L
from torch import Tensor

from seaalign.modules.objectives import check_start
from seaalign.modules.optimizer import adamw


class Preference(L.LightningModule):
    """Write `loss`; it calls `require_start` with what it scored.

    The arguments `tolerance`, `lr`, `betas`, `weight_decay`, `warmup_steps` and `schedule` are among the
    hyper-parameters of each subclass.
    """

    must_check = False

    @abstractmethod
    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """What to minimise, and what to log."""
        raise NotImplementedError

    def require_start(self, logps: Tensor, reference: Tensor, scored: Tensor) -> None:
        """At the first step of a fresh run the policy is the reference; see `check_start`."""
        if self.must_check:
            self.must_check = False
            check_start(logps, reference, scored, self.hparams["tolerance"], str(self.trainer.precision))

    def on_train_start(self) -> None:
        """A fresh run must begin at the reference; a resumed one has moved on."""
        self.must_check = self.trainer.global_step == 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        loss, logs = self.loss(batch)
        self.log_dict({f"train/{key}": value for key, value in logs.items()}, batch_size=len(batch))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """The same numbers on held-out data, averaged over pairs."""
        _, logs = self.loss(batch)
        self.log_dict({f"val/{key}": value for key, value in logs.items()}, batch_size=len(batch), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW with the schedule asked for; override for another optimizer."""
        names = ("lr", "betas", "weight_decay", "warmup_steps", "schedule")
        return adamw(self, **{name: self.hparams[name] for name in names})
