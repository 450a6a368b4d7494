"""Compiled training by a line in a Trainer."""

from __future__ import annotations

from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from seaalign.backbones import Backbone
from seaalign.backbones.compiled import compile_blocks


class CompileBlocks(Callback):
    """Compiles the blocks of a module's backbone before it trains; see `compile_blocks`.

    Args:
        memory: share of the activations that is kept, in (0, 1].
        settings: of `torch.compile`.

    Example:
        >>> trainer = Trainer(callbacks=[CompileBlocks(memory=0.6)], logger=False, enable_checkpointing=False)
    """

    def __init__(self, memory: float = 1.0, settings: dict[str, Any] | None = None) -> None:
        self.memory, self.settings = memory, settings or {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Of training alone."""
        if stage == "fit":
            compile_blocks(cast(Backbone, pl_module.backbone), self.memory, **self.settings)
