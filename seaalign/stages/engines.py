"""Where stages run: under a Lightning Trainer, or on a Ray cluster."""

from __future__ import annotations

import io
import os
import platform
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from math import ceil
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from lightning.fabric import Fabric
from lightning.pytorch import Trainer

from seaalign.data.shards import ShardData
from seaalign.stages.base import Stage

_Answer = TypeVar("_Answer")
Make = Callable[[], tuple[Stage, ShardData]]


class Engine(Protocol):
    """Runs a stage over its shards, and work that one process does alone."""

    def run(self, make: Make) -> None:
        """Make the shards that are missing.

        Args:
            make: builds the stage and its work, in each process that works on it.
        """

    def alone(self, work: Callable[[], _Answer]) -> _Answer:
        """Do something in one process; all get its answer, or fail with it."""


class OnLightning:
    """Stages under `trainer.predict`, on the devices and machines that the Trainer says.

    Args:
        trainer: a Trainer.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def run(self, make: Make) -> None:
        """See `Engine`."""
        stage, data = make()
        self.trainer.predict(stage, data, return_predictions=False)
        try:
            self.trainer.strategy.barrier()  # the last shards are written
        except RuntimeError as error:  # how the backends say that somebody is gone
            raise ConnectionError(
                f"a process was lost ({error}). What it and the others have made is in {data.folder}: run the same "
                "command again, on any number of processes"
            ) from error

    def alone(self, work: Callable[[], _Answer]) -> _Answer:
        """See `Engine`."""
        answer, failure = None, None
        if self.trainer.is_global_zero:
            try:
                answer = work()
            except Exception as error:  # all processes end by it, or the others would wait for one that is gone
                failure = error
        answer, failure = self.trainer.strategy.broadcast((answer, failure))
        if failure is not None:
            raise failure
        return answer  # type: ignore[return-value]


class StageError(ValueError):
    """A stage failed on a worker; the message is its own, and the cause holds the worker's traceback."""


class OnRay:
    """Stages as Ray Data maps over the numbers of the missing shards, on a cluster or on this machine.

    Each worker builds the stage once and writes every shard itself, whole or not at all. A worker that dies is
    replaced, and what it was at is made again: shards that are there are passed over. An error of the stage's own,
    such as a judge's, stops the run, and so does a worker that cannot be built.

    Args:
        workers: how many; None: one per GPU, or one per CPU where there is no GPU.
        precision: as the Trainer calls it.

    Raises:
        ImportError: Ray is not installed; the message says how.
    """

    def __init__(self, workers: int | None = None, precision: str = "32-true") -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"need at least one worker, got {workers}")
        self.workers, self.precision = workers, precision
        _ray()

    def run(self, make: Make) -> None:
        """See `Engine`."""
        ray = _ray()
        stage, data = make()
        shards = data.open(stage, self.precision)
        shards.claim()
        missing = shards.missing()
        if not missing:
            return
        if not ray.is_initialized():
            ray.init()  # the cluster that RAY_ADDRESS names, or this machine
        workers, gpus = _shared_out(ray.cluster_resources(), self.workers, len(missing))
        made = ray.data.from_items([{"shard": number} for number in missing], override_num_blocks=len(missing))
        made = made.map_batches(
            Worker,
            fn_constructor_args=(make, self.precision, os.getcwd()),
            batch_size=1,  # one shard a task: it is all that a lost worker loses
            concurrency=workers,
            num_gpus=gpus,
        )
        for row in made.iter_rows():  # which runs it, with Ray's own progress bars
            if row["error"]:
                raise StageError(f"shard {row['shard']}: {row['error']}") from RuntimeError(row["trace"])
        shards.paths()

    def alone(self, work: Callable[[], _Answer]) -> _Answer:
        """See `Engine`: there is one process here."""
        return work()


def _shared_out(has: Mapping[str, float], wanted: int | None, most: int) -> tuple[int, float | None]:
    """How many workers, `most` at most, and how much of a GPU for each: all of them find room at once.

    Raises:
        StageError: nobody has said how many, and the cluster does not tell.
    """
    gpus, cpus = (int(has.get(kind, 0)) for kind in ("GPU", "CPU"))
    workers = min(wanted or gpus or cpus, most)
    if not workers:
        raise StageError(
            "the Ray cluster shows neither GPUs nor CPUs; where its nodes start when they are asked for, say how many "
            "workers: OnRay(workers=8), --workers 8"
        )
    # one worker is on one GPU, so a GPU is divided by whole numbers
    return workers, 1 / ceil(workers / gpus) if gpus else None


class Worker:
    """What a Ray actor does: builds the stage, and makes the shards whose numbers it is given.

    Args:
        make: builds the stage and its work.
        precision: as the Trainer calls it.
        folder: where relative paths start.
    """

    def __init__(self, make: Make, precision: str, folder: str) -> None:
        if Path(folder).is_dir():
            os.chdir(folder)
        self.unbuilt: tuple[str, str] | None = None
        said = io.StringIO()  # a parser that refuses says why, and exits with a number
        try:
            with redirect_stderr(said):
                self.build(make, precision)
        except (Exception, SystemExit) as error:  # raised here, Ray would build it again and again
            why = said.getvalue().strip() if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
            self.unbuilt = f"the worker on {platform.node()} cannot be built: {why}", traceback.format_exc()
        sys.stderr.write(said.getvalue())

    def build(self, make: Make, precision: str) -> None:
        """The stage, its work, and its place.

        Raises:
            ValueError: it is not what the process that sent it has.
        """
        self.stage, self.data = make()
        self.shards = self.data.open(self.stage, precision)
        if odd := self.shards.odd():
            raise ValueError(f"this worker has other {odd} than the process that sent it: {self.shards.folder}")
        # as under the Trainer: the GPU that Ray lent, and its precision
        self.fabric = Fabric(accelerator="auto", devices=1, precision=precision)  # type: ignore[arg-type]
        self.fabric.setup_module(self.stage) if list(self.stage.parameters()) else None
        self.stage.eval()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make shards, and say what went wrong."""
        told = []
        for number in batch["shard"].tolist():
            if self.unbuilt is not None:
                told.append(self.unbuilt)
                continue
            try:
                self.make(number)
            except Exception as error:  # told in its words; Ray would wrap it in pages of its own
                told.append((f"{type(error).__name__}: {error}", traceback.format_exc()))
            else:
                told.append(("", ""))
        return {"shard": batch["shard"], "error": [what for what, _ in told], "trace": [where for _, where in told]}

    def make(self, number: int) -> None:
        """Make a shard, unless it is there."""
        path = self.shards.path(number)
        if not path.is_file():
            with torch.inference_mode(), self.fabric.autocast():
                rows = self.stage.work(self.data.rows(number))
            self.stage.write(path, rows, self.shards.stamp(number))


def _ray() -> Any:
    # its statistics of use stay off unless they were asked for
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError('engine "ray" needs Ray: pip install "seaalign[ray]"') from error
    return ray
