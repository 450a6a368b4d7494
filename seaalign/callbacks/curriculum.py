"""The temperatures that TDSC explores, as one method to override."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from seaalign.modules import TDSC
from seaalign.sampling import temperature_gradient


class TemperatureCurriculum(Callback):
    """Decides before each iteration of `TDSC` at which temperatures candidates are sampled.

    Override `temperatures` for another rule; it sees the numbers of the iterations before, so it can wait with hotter
    exploration until enough candidates pass.

    Args:
        start: of T_max(k) = start + step x k.
        step: the other half of it. The paper's App. D.2 has 0.8 + 0.1 k, its table 12 starts at 1.3.
        fixed: temperatures of every iteration.

    Source: Geng et al. 2026, eq. 15, App. D.2, table 12.

    Example:
        >>> class Patient(TemperatureCurriculum):
        ...     def temperatures(self, iteration, history):
        ...         passed = history[-1]["pass_rate"] if history else 0.0
        ...         return (0.7, 1.0, 1.3) if passed > 0.5 else (0.7, 1.0)
        >>> Patient().temperatures(2, [{"pass_rate": 0.6}])
        (0.7, 1.0, 1.3)
    """

    def __init__(self, start: float = 0.8, step: float = 0.1, fixed: tuple[float, ...] = (0.7, 1.0)) -> None:
        self.start, self.step, self.fixed = start, step, tuple(fixed)

    def temperatures(self, iteration: int, history: Sequence[dict[str, Any]]) -> Sequence[float]:
        """The temperatures of an iteration, each > 0.

        Args:
            iteration: k, from 1.
            history: the numbers of iterations 1..k-1, as in dashboard.json.
        """
        return temperature_gradient(iteration, self.fixed, self.start, self.step)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take over from the module's own rule."""
        if not isinstance(pl_module, TDSC):
            raise TypeError(f"TemperatureCurriculum belongs to TDSC; {type(pl_module).__name__} explores nothing")
        pl_module.curriculum = self.temperatures
