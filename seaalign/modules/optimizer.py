"""AdamW and the two learning-rate schedules that the modules share."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

import lightning as L
import torch

Schedule = Literal["constant", "cosine"]


def adamw(
    module: L.LightningModule,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    warmup_steps: int,
    schedule: Schedule,
) -> Any:
    """AdamW over the parameters that ask for gradients, and a schedule per step: what `configure_optimizers` returns.

    Raises:
        ValueError: unknown schedule, or nothing to train; later, "cosine" without an end.
    """
    wanted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not wanted:
        raise ValueError(
            "no parameter of the backbone asks for a gradient: unfreeze some, add LoRA, or load peft's layers with "
            "is_trainable=True"
        )
    if schedule not in ("constant", "cosine"):
        raise ValueError(f"schedule must be 'constant' or 'cosine', got {schedule!r}")
    _warn_of_lost_steps(wanted, lr)
    optimizer = torch.optim.AdamW(
        wanted, lr=lr, betas=(betas[0], betas[1]), weight_decay=weight_decay, fused=_fuses(wanted) or None
    )
    # the scaler of fp16 unscales before clipping, as for any other optimizer; Lightning refuses clipping otherwise
    optimizer._step_supports_amp_scaling = False

    def share(step: int) -> float:
        # asked for only when it matters: asking builds the data loaders, too early while a checkpoint is being restored
        cosine = schedule == "cosine" and step > warmup_steps
        return factor(step, warmup_steps, _steps(module.trainer) if cosine else math.inf)

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _fuses(parameters: list[torch.nn.Parameter]) -> bool:
    """Can one kernel take the step? It makes no copies; PyTorch's own choice makes some, up to the size of the weights.

    On the CPU it takes strides for granted: of a weight that is a slice of something it would write beside.
    """
    kinds = {type(p.data) for p in parameters}  # sharded ones and others do not mix
    fit = (p.device.type in ("cpu", "cuda") and p.is_floating_point() and p.is_contiguous() for p in parameters)
    return len(kinds) == 1 and all(fit)


def _warn_of_lost_steps(parameters: list[torch.nn.Parameter], lr: float) -> None:
    """A step of AdamW is about lr; weights of 16 bits that are a thousand times larger do not move by it."""
    coarse = [p for p in parameters if p.dtype in (torch.bfloat16, torch.float16)]
    if not coarse:
        return
    size = float(torch.stack([p.detach().float().abs().mean() for p in coarse]).mean())
    least = size * torch.finfo(coarse[0].dtype).eps / 2
    if lr < least:
        warnings.warn(
            f"{len(coarse)} trained tensors are {coarse[0].dtype}, of mean size {size:.2g}: steps below {least:.1g} "
            f"are rounded away, and lr is {lr:g}, so most weights will not move. Keep the weights in float32 and "
            'compute in 16 bit (Trainer(precision="bf16-mixed")), or train LoRA layers in float32',
            stacklevel=4,
        )


def _steps(trainer: L.Trainer) -> float:
    total = trainer.estimated_stepping_batches
    if not math.isfinite(total):
        raise ValueError("schedule='cosine' needs an end: set Trainer(max_steps=...) or Trainer(max_epochs=...)")
    return total


def factor(step: int, warmup: int, total: float) -> float:
    """Share of the full learning rate: linear warm-up, then constant (total = inf) or a half cosine down to 0.

    Example:
        >>> [round(factor(step, 2, 6), 2) for step in range(7)]
        [0.5, 1.0, 1.0, 0.85, 0.5, 0.15, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    if math.isinf(total):
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1.0, total - warmup))))
