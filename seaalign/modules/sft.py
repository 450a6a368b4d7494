"""Supervised fine-tuning: maximum likelihood of speech tokens given text."""

from __future__ import annotations

from typing import Any

import lightning as L
from torch import Tensor

from seaalign.backbones.base import Backbone
from seaalign.backbones.context import naming
from seaalign.data.batches import SpeechBatch
from seaalign.data.speech import SpeechData
from seaalign.modules.losses import likelihood_loss
from seaalign.modules.optimizer import Schedule, adamw


class SFT(L.LightningModule):
    """Maximum likelihood over any backbone; loss and perplexity are per scored token, the end token included.

    Under several processes the mean is over the tokens of all of them. Under `accumulate_grad_batches` Lightning
    averages the batches' means, so tokens of small batches weigh a little more. Logs `{train,val}/loss` (nats per
    token) and `val/perplexity`. Where parts of the backbone take no part in the loss (a vocoder, a frozen head),
    several processes need `strategy="ddp_find_unused_parameters_true"`.

    Args:
        backbone: the policy.
        lr: peak learning rate.
        betas: of AdamW.
        weight_decay: of AdamW.
        warmup_steps: optimizer steps of linear warm-up.
        schedule: after the warm-up "constant", or "cosine" down to 0 at the end of the run.

    Source: Geng et al. 2026, eq. 2.

    Example:
        >>> from seaalign import SpeechData
        >>> # Trainer(max_steps=1000).fit(SFT(backbone), SpeechData("real.parquet"))
    """

    trains_on = SpeechData

    def __init__(
        self,
        backbone: Backbone,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.01,
        warmup_steps: int = 0,
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["backbone"])
        self.backbone = backbone

    def forward(self, batch: SpeechBatch) -> Tensor:
        """Log-probs (B, T+1) of the batch; see `Backbone.forward`."""
        with naming(batch.ids):
            return self.backbone(batch.prompts, batch.speech)

    def loss(self, batch: SpeechBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean negative log-prob per scored token, and what to log."""
        return likelihood_loss(self(batch), batch)

    def training_step(self, batch: SpeechBatch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        loss, logs = self.loss(batch)
        self.log("train/loss", logs["loss"], prog_bar=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: SpeechBatch, batch_idx: int) -> None:
        """Loss of one batch, averaged over the tokens of all."""
        _, logs = self.loss(batch)
        self.log("val/loss", logs["loss"], prog_bar=True, batch_size=int(batch.speech.scored.sum()), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Perplexity of the mean loss, not the mean of perplexities."""
        if "val/loss" in self.trainer.callback_metrics:
            self.log("val/perplexity", self.trainer.callback_metrics["val/loss"].exp())

    def configure_optimizers(self) -> Any:
        """AdamW with the schedule asked for; override for another optimizer."""
        names = ("lr", "betas", "weight_decay", "warmup_steps", "schedule")
        return adamw(self, **{name: self.hparams[name] for name in names})
