"""Compiled training by a line in a Trainer."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from seaalign.backbones.compiled import compile_blocks
from seaalign.callbacks.prompted import Finder, find_backbone


class CompileBlocks(Callback):
    """Compiles the blocks of a module's backbone before it trains; see `compile_blocks`.

    Args:
        memory: share of the activations that is kept, in (0, 1].
        settings: of `torch.compile`.
        backbone: where the LightningModule keeps it: a dotted attribute path, or a function from module to backbone.

    Example:
        >>> trainer = Trainer(callbacks=[CompileBlocks(memory=0.5)], logger=False, enable_checkpointing=False)
    """

    def __init__(
        self, memory: float | None = None, settings: dict[str, Any] | None = None, backbone: Finder = "backbone"
    ) -> None:
        self.memory, self.settings, self.backbone = memory, settings or {}, backbone

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Once all of it is made."""
        compile_blocks(find_backbone(self.backbone, pl_module, type(self).__name__), self.memory, **self.settings)
