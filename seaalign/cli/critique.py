"""`seaalign tdsc`: the self-critique loop from a YAML file; the same command goes on after a kill."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from rich.console import Console
from rich.table import Table

from seaalign.cli.training import Training
from seaalign.modules import TDSC

COLUMNS = {
    "iteration": "k",
    "pass_rate": "pass %",
    "error": "error %",
    "entropy": "H_p b",
    "f0_std": "F0 st",
    "repetition": "rep %",
    "tokens_per_unit": "tok/unit",
    "pairs": "pairs",
    "seconds/sample": "sample s",
    "seconds/judge": "judge s",
    "seconds/train": "train s",
}
_PERCENT = {"pass_rate", "error", "repetition"}


class Critique(Training):
    """`fit` with a checkpoint per iteration in the work folder, from which the same command goes on."""

    called = "tdsc"

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add the checkpoints, unless the file has its own."""
        if not isinstance(self.model, TDSC):
            sys.exit(
                f"seaalign tdsc trains TDSC, the file names {type(self.model).__name__}: use `seaalign fit` for that"
            )
        own = [*(self._get(self.config_init, "trainer.callbacks") or []), *kwargs.get("callbacks", [])]
        if not any(isinstance(callback, ModelCheckpoint) for callback in own):
            saves = ModelCheckpoint(self.model.work / "checkpoints", save_last=True, save_on_train_epoch_end=True)
            kwargs["callbacks"] = [*own, saves]
        if not self._get(self.config_init, "trainer.default_root_dir"):
            kwargs["default_root_dir"] = str(self.model.work)
        return super().instantiate_trainer(**kwargs)

    def fit(self, model: TDSC, **kwargs: Any) -> None:
        """Go on from the last checkpoint, where there is one."""
        console = Console(stderr=True)
        saved = list((model.work / "checkpoints").glob("last*.ckpt"))
        if kwargs.get("ckpt_path") is None and saved:
            console.print(f"going on from {max(saved, key=lambda path: path.stat().st_mtime)}", highlight=False)
            kwargs["ckpt_path"] = "last"
        self.trainer.fit(model, **kwargs)
        if self.trainer.is_global_zero:
            report(model.work, model.loop.history(1_000_000), model.backbone.sampler)


def report(work: Path, rows: Sequence[dict[str, Any]], sampler: str, console: Console | None = None) -> None:
    """The numbers of all iterations as a table, the sampler's name, and where the rest is."""
    console = console or Console()
    shown = [name for name in COLUMNS if any(name in row for row in rows)]
    table = Table(title="Self-critique, candidates at the temperature nearest to 1", title_justify="left", box=None)
    for name in shown:
        table.add_column(COLUMNS[name], justify="right")
    for row in rows:
        table.add_row(*(_cell(name, row.get(name)) for name in shown))
    console.print(table)
    console.print(
        f"Sampler: {sampler}. Funnels per temperature: {work}/round-*/round.json. The policy: "
        f"{work}/checkpoints/last.ckpt, for instance for `--weights`.",
        soft_wrap=True,
    )


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if name in ("iteration", "pairs"):
        return f"{value:.0f}"
    return f"{100 * value:.1f}" if name in _PERCENT else f"{value:.2f}"


def tdsc(argv: Sequence[str]) -> None:
    """`seaalign tdsc`: takes what `fit` takes."""
    Critique(["fit", *argv])
