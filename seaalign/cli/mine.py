"""`seaalign mine`: one iteration of self-critique without its training, over processes, machines or Ray."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.cli import LightningArgumentParser

from seaalign.callbacks import TemperatureCurriculum
from seaalign.cli.next import report, write_configs
from seaalign.cli.training import Training
from seaalign.data import TextData
from seaalign.modules import TDSC
from seaalign.stages import Mining, OnLightning, OnRay

_ALONE = ("--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto")
"""What a worker of Ray is to its own Trainer."""


class Mine(Training):
    """Takes the file of `seaalign tdsc`."""

    called = "mine"
    lesson = """\
seaalign mine --config FILE --out FOLDER: one iteration of self-critique without its training. FILE is as for
`seaalign tdsc`. Sentences are said, judged and mined, and the pairs are scored, in shards that any process can make;
killed, or on other machines, the same command makes what is missing. It leaves accepted.parquet, pairs.parquet,
round.json, and files for the two `seaalign fit` that come next.

  seaalign mine --config tdsc.yaml --out runs/mined                                     one process
  srun seaalign mine ... --trainer.devices 8 --trainer.num_nodes 4                      4 machines of 8 GPUs
  seaalign mine ... --engine ray --workers 2                                            by Ray

"""

    def __init__(self, args: Sequence[str], **kwargs: Any) -> None:
        self.argv = list(args)[1:]
        super().__init__(args, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Where to, and on what."""
        super().add_arguments_to_parser(parser)
        add = parser.add_argument
        add("--out", type=str | None, default=None, help="folder for what is made, seen by all machines; required")
        where = "lightning: --trainer.devices, --trainer.num_nodes; ray: the cluster of RAY_ADDRESS, or this machine"
        add("--engine", type=Literal["lightning", "ray"], default="lightning", help=where)
        add(
            "--workers",
            type=int | None,
            default=None,
            help="how many workers Ray starts; default: one per GPU, or one per CPU",
        )
        add("--iteration", type=int, default=1, help="which iteration this is, from 1; it sets temperatures and seed")
        add("--size", type=int, default=256, help="sentences per shard: what a lost process loses")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The file's Trainer without what belongs to training: its callbacks, checkpoints and logger."""
        if not isinstance(self.model, TDSC) or not isinstance(self.datamodule, TextData):
            given = f"{type(self.model).__name__} on {type(self.datamodule).__name__}"
            sys.exit(f"seaalign mine does what TDSC does on TextData before it trains; the file names {given}")
        if self._get(self.config, "out") is None:
            sys.exit("seaalign mine needs --out FOLDER, for what it makes; killed, the same command goes on from there")
        workers = self._get(self.config, "workers")
        if workers is not None and self._get(self.config, "engine") != "ray":
            sys.exit(f"--workers {workers} is for Ray: add --engine ray, or give --trainer.devices {workers} instead")
        own = self._get(self.config_init, "trainer.callbacks") or []
        for callback in own:
            if isinstance(callback, TemperatureCurriculum):
                self.model.curriculum = callback.temperatures
        kept = [callback for callback in own if isinstance(callback, BasePredictionWriter)]
        told = {"logger": False, "enable_checkpointing": False, "default_root_dir": self._get(self.config, "out")}
        return super().instantiate_trainer(**{**kwargs, "callbacks": kept, **told})

    def fit(self, model: TDSC, datamodule: TextData, **kwargs: Any) -> None:
        """Mine, and say what comes next."""
        out, workers, iteration, size = (
            self._get(self.config, name) for name in ("out", "workers", "iteration", "size")
        )
        if self._get(self.config, "engine") == "ray":
            try:
                engine: Any = OnRay(workers, str(self.trainer.precision))
            except ImportError as error:
                sys.exit(str(error))
            build: Any = partial(assembled, tuple(self.argv), os.getcwd())
        else:
            engine, build = OnLightning(self.trainer), lambda: (model, datamodule)
        result = Mining(build, out, iteration, size).run(engine)
        if self.trainer.is_global_zero:
            written = self._parser(self.subcommand).dump(self.config[str(self.subcommand)], skip_none=True)
            report(Path(out), result, write_configs(Path(out), written, result))


class _Assembled(Mine):
    """Everything built, and nothing run."""

    def fit(self, model: TDSC, datamodule: TextData, **kwargs: Any) -> None:
        """Nothing."""


def assembled(argv: Sequence[str], folder: str) -> tuple[TDSC, TextData]:
    """The module and the texts that a command line names, in a process of their own.

    Args:
        argv: arguments of `seaalign mine`.
        folder: where relative paths start.
    """
    if Path(folder).is_dir():
        os.chdir(folder)
    made = _Assembled(["fit", *argv, *_ALONE])
    return made.model, made.datamodule


def mine(argv: Sequence[str]) -> None:
    """`seaalign mine`: takes what `seaalign tdsc` takes, and `--out`."""
    Mine(["fit", *argv])
