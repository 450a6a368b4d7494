"""Which checkpoint to keep: the liveliest of those that still pronounce well, as no loss can tell."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

Mode = Literal["min", "max"]
_SIGN = {"min": -1.0, "max": 1.0}


class ConstraintCheckpoint(Checkpoint):
    """Keeps the checkpoint with the best `monitor` among those whose `constraint` is within a tolerance.

    A loss says little about how a model speaks, and one metric alone misleads: entropy is highest in a model that
    babbles, error rate lowest in one that drones. So: the highest H_p among checkpoints within x points of WER. Works
    on any LightningModule, and with any other callback, that logs the two keys.

    What is within reach moves as better values of the constraint come in. Checkpoints that another one beats in both
    are deleted, and so are those out of reach for good; the rest stay on disk, `best_model_path` among them. Where the
    `baseline` is given, one file stays.

    Args:
        dirpath: folder of the checkpoints; default: `checkpoints` in the logger's folder, or in the Trainer's.
        monitor: key of what should be good.
        constraint: key of what must not be bad.
        within: how much worse than the baseline the constraint may be, in its own units (1.0 of a WER in percent is a
            point; 0.01 of a WER in 0..1).
        baseline: the value to compare with, for instance that of the SFT checkpoint; None: the best that was seen.
        mode: "max" where more of `monitor` is better.
        constraint_mode: "min" where less of `constraint` is better.
        weights_only: leave out optimizer and loops.

    Attributes:
        history: one dict per measurement: "epoch", "step", "monitor", "constraint".
        best: the measurement that `best_model_path` belongs to, with its "path"; None before the first.

    Raises:
        ValueError: `within` is negative, a mode is unknown, or a key was not logged when a validation ended.

    Example:
        >>> keep = ConstraintCheckpoint("runs", monitor="val/erosion/entropy", constraint="val/wer", within=1.0)
        >>> # Trainer(callbacks=[ErosionMonitor("prompts.parquet"), keep]).fit(module); keep.best_model_path
    """

    def __init__(
        self,
        dirpath: str | Path | None = None,
        monitor: str = "val/erosion/entropy_corrected",
        constraint: str = "val/wer",
        within: float = 1.0,
        baseline: float | None = None,
        mode: Mode = "max",
        constraint_mode: Mode = "min",
        weights_only: bool = False,
    ) -> None:
        if not 0 <= within < math.inf or mode not in _SIGN or constraint_mode not in _SIGN:
            raise ValueError(
                f"within must be 0 or more and modes 'min' or 'max', got {within}, {mode!r}, {constraint_mode!r}"
            )
        self.dirpath, self.monitor, self.constraint = dirpath, monitor, constraint
        self.within, self.baseline, self.weights_only = within, baseline, weights_only
        self.mode, self.constraint_mode = mode, constraint_mode
        self.history: list[dict[str, Any]] = []
        self.kept: list[dict[str, Any]] = []

    @property
    def state_key(self) -> str:
        """Two of them with other keys keep other files."""
        return self._generate_state_key(monitor=self.monitor, constraint=self.constraint)

    @property
    def best(self) -> dict[str, Any] | None:
        """The best of those that are kept."""
        return self.choose(self.kept, self._limit()) if self.kept else None

    @property
    def best_model_path(self) -> str:
        """Its file, or "" before the first measurement."""
        return str(self.best["path"]) if self.best else ""

    def choose(self, entries: list[dict[str, Any]], limit: float) -> dict[str, Any]:
        """The one to keep; override this for another rule.

        Args:
            entries: one or more of `history`, with their "path".
            limit: the worst allowed value of the constraint.

        Returns:
            The best `monitor` within the limit; where none is within it, the one nearest to it.
        """
        within = [entry for entry in entries if self._worth(entry)[1] >= _SIGN[self.constraint_mode] * limit]
        if within:
            return max(within, key=self._worth)
        return max(entries, key=lambda entry: self._worth(entry)[::-1])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder."""
        if self.dirpath is None:
            logger = trainer.loggers[0] if trainer.loggers else None
            folder = getattr(logger, "log_dir", None) or getattr(logger, "save_dir", None) or trainer.default_root_dir
            self.dirpath = trainer.strategy.broadcast(str(Path(folder) / "checkpoints"))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the weights that were just measured."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and not _rehearsal(trainer):
            self._consider(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same, where there is no validation."""
        if not trainer.enable_validation and not _rehearsal(trainer):
            self._consider(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so where nothing was good enough."""
        best = self.best
        if best and _SIGN[self.constraint_mode] * (best["constraint"] - self._limit()) < 0:
            rank_zero_warn(
                f"no checkpoint has {self.constraint} within {self.within} of {self.baseline}; the nearest is "
                f"{best['constraint']:.4g} at step {best['step']}: {best['path']}"
            )

    def state_dict(self) -> dict[str, Any]:
        """What was measured, and which files are kept."""
        return {"history": self.history, "kept": self.kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on; files that are gone since are forgotten."""
        self.history = [dict(entry) for entry in state_dict["history"]]
        self.kept = [dict(entry) for entry in state_dict["kept"] if Path(entry["path"]).exists()]

    def _limit(self) -> float:
        sign = _SIGN[self.constraint_mode]
        if self.baseline is not None:
            return self.baseline - sign * self.within
        return sign * max(sign * entry["constraint"] for entry in self.history) - sign * self.within

    def _worth(self, entry: dict[str, Any]) -> tuple[float, float]:
        return _SIGN[self.mode] * entry["monitor"], _SIGN[self.constraint_mode] * entry["constraint"]

    def _needed(self) -> list[dict[str, Any]]:
        """Those that may yet be chosen: within reach now, and not beaten in both."""
        if self.baseline is not None:
            return [self.choose(self.kept, self._limit())]
        sign, limit = _SIGN[self.constraint_mode], self._limit()
        near = [entry for entry in self.kept if sign * entry["constraint"] >= sign * limit]
        ranked, front = sorted(near, key=self._worth, reverse=True), list[dict[str, Any]]()
        for entry in ranked:
            if not front or self._worth(entry)[1] > self._worth(front[-1])[1]:
                front.append(entry)
        return front

    def _consider(self, trainer: Trainer) -> None:
        lost = [key for key in (self.monitor, self.constraint) if key not in trainer.callback_metrics]
        if lost:
            raise ValueError(
                f"ConstraintCheckpoint needs {lost}, which nobody logged; logged are "
                f"{sorted(trainer.callback_metrics)}. Name one of those, or log it in validation_step or by a callback"
            )
        values = [float(trainer.callback_metrics[key]) for key in (self.monitor, self.constraint)]
        values = trainer.strategy.broadcast(values)  # all ranks decide by the numbers of one
        if self.history and self.history[-1]["step"] == trainer.global_step:
            return
        entry: dict[str, Any] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        entry |= dict(zip(("monitor", "constraint"), values, strict=True))
        if not all(map(math.isfinite, values)):
            rank_zero_warn(f"step {trainer.global_step} is not kept: {self.monitor}, {self.constraint} are {values}")
            return
        path = Path(str(self.dirpath)) / f"epoch={entry['epoch']}-step={entry['step']}.ckpt"
        before = self.kept
        self.history = [*self.history, entry]
        self.kept = [*before, {**entry, "path": str(path)}]
        self.kept = self._needed()
        if any(one["path"] == str(path) for one in self.kept):
            trainer.save_checkpoint(path, self.weights_only)
        for old in before:  # after the new one is there
            if old not in self.kept:
                trainer.strategy.remove_checkpoint(old["path"])


def _rehearsal(trainer: Trainer) -> bool:
    return bool(getattr(trainer, "fast_dev_run", False))
