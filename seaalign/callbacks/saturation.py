"""Preference training that has nothing left to learn, or forgets: when to stop, and when to wonder."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn


class DriftStop(EarlyStopping):
    """Ends training where the log-prob of real speech has fallen too far below the reference.

    Real and generated speech are easily told apart, so the margin goes on growing by pushing both down. Lightning's
    `EarlyStopping` with a threshold and no patience.

    Args:
        most: how far the mean log-prob of the chosen rows may fall, nats (per row, or per token under
            `reduction="mean"`).
        monitor: key of policy minus reference; `DGSA`, `DPO` log `val/logps/drift_chosen`.

    Raises:
        ValueError: `most` is not above 0.

    Example:
        >>> DriftStop(20.0).divergence_threshold
        -20.0
    """

    def __init__(self, most: float, monitor: str = "val/logps/drift_chosen") -> None:
        if not most > 0:
            raise ValueError(f"most must be above 0 nats, got {most}: it is how far the log-prob may fall")
        super().__init__(monitor, mode="max", patience=2**31, divergence_threshold=-most, verbose=True)


class SaturationAlert(Callback):
    """Warns, once, where nearly all pairs are won and what it is all for has not become better.

    An accuracy of 1 proves nothing: a mask that is off by one reaches it, too.

    Args:
        accuracy: key of the share of pairs that are won.
        gain: key of what should have become better.
        mode: "max" where more of it is better.
        least: accuracy from which on pairs count as won.
        patience: validations in a row.

    Raises:
        ValueError: `mode` is unknown or `patience` below 1.

    Example:
        >>> alert = SaturationAlert(gain="val/erosion/entropy", patience=2)
        >>> [alert.saturated(*values) for values in ((1.0, 9.0), (1.0, 9.1), (1.0, 9.0), (1.0, 9.1))]
        [False, False, False, True]
    """

    def __init__(
        self,
        accuracy: str = "val/rewards/accuracies",
        gain: str = "val/erosion/entropy_corrected",
        mode: str = "max",
        least: float = 0.99,
        patience: int = 3,
    ) -> None:
        if mode not in ("min", "max") or patience < 1:
            raise ValueError(f"mode must be 'min' or 'max' and patience 1 or more, got {mode!r} and {patience}")
        self.accuracy, self.gain, self.mode, self.least, self.patience = accuracy, gain, mode, least, patience
        self.best, self.idle, self.said = -math.inf, 0, False

    def saturated(self, accuracy: float, gain: float) -> bool:
        """Count this measurement; override it for another rule.

        Returns:
            Has there been no gain over `patience` measurements in a row, all of them with pairs won?
        """
        worth = gain if self.mode == "max" else -gain
        self.idle = self.idle + 1 if accuracy >= self.least and worth <= self.best else 0
        self.best = max(self.best, worth)
        return self.idle >= self.patience

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at what was logged; keys that are not there yet are waited for."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        known = [trainer.callback_metrics.get(key) for key in (self.accuracy, self.gain)]
        won, gain = (math.nan if value is None else float(value) for value in known)
        if won == won and gain == gain and self.saturated(won, gain) and not self.said:
            self.said = True
            rank_zero_warn(
                f"{100 * won:.0f} % of the pairs are won, and {self.gain} has not become better than "
                f"{abs(self.best):.4g} for {self.idle} validations: more steps will not help. Take an earlier "
                "checkpoint (ConstraintCheckpoint), harder pairs, a lower learning rate, or sft_weight=0.1; and listen"
            )

    def state_dict(self) -> dict[str, Any]:
        """The count so far."""
        return {"best": self.best, "idle": self.idle, "said": self.said}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.best, self.idle, self.said = (state_dict[name] for name in ("best", "idle", "said"))
