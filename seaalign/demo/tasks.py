"""Run independent tasks side by side, one thread each, with a progress bar per task.

Two processes of one thread beat one process of two threads at this model size; each task reads its inputs from files
and writes its outputs to files, so a task is also what can be run again on its own.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

_MOST_TASKS = 64
_progress: Any = None  # in a worker: the shared array of fractions done


class Task(NamedTuple):
    """A function of a module, its keyword arguments, and what to call it on screen.

    The function gets `progress=`, to wrap its steps with.
    """

    title: str
    function: Callable[..., Any]
    arguments: dict[str, Any]


def _start(shared: Any) -> None:
    global _progress
    _progress = shared
    import logging
    import warnings

    import lightning.pytorch  # sets up its own logging when it is imported, so it has to come first
    import torch

    torch.set_num_threads(1)
    # a worker prints nothing: it would tear the bars; errors come back as exceptions
    warnings.simplefilter("ignore")
    logging.getLogger(lightning.pytorch.__name__).setLevel(logging.ERROR)


def _ready() -> None:
    """Nothing to do but to be there."""


def _call(slot: int, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    def progress(steps: Iterable[Any]) -> Iterable[Any]:
        items = list(steps)
        for i, item in enumerate(items):
            _progress[slot] = max(_progress[slot], i / len(items))
            yield item

    _progress[slot] = 1e-9  # begun: its clock starts
    try:
        return function(**arguments, progress=progress)
    finally:
        _progress[slot] = 1.0


class Crew:
    """Worker processes that stay for many tasks, as each takes seconds to import what it needs.

    Args:
        workers: processes; 1 still is a process of its own, so that results do not depend on the number.
        console: where the bars go.
    """

    def __init__(self, workers: int, console: Console) -> None:
        context = multiprocessing.get_context("spawn")
        self.workers, self.console = workers, console
        self.shared = context.Array("d", _MOST_TASKS, lock=False)
        self.pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(self.shared,))

    def __enter__(self) -> Crew:
        # numerical libraries count threads when a process starts, so the environment has to say it
        self.before = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"
        # a pool starts a process when a task finds none idle: asked now, all import side by side, and beside the caller
        for _ in range(self.workers):
            self.pool.submit(_ready)
        return self

    def __exit__(self, *_: Any) -> None:
        self.pool.shutdown(cancel_futures=True)
        if self.before is None:
            os.environ.pop("OMP_NUM_THREADS", None)
        else:
            os.environ["OMP_NUM_THREADS"] = self.before

    def run(self, tasks: list[Task]) -> list[Any]:
        """Results in the order of the tasks; the first failure stops what has not begun and is raised."""
        for slot in range(len(tasks)):
            self.shared[slot] = 0.0
        columns = (
            TextColumn("  {task.description:34}"),
            BarColumn(24),
            TextColumn("{task.percentage:3.0f} %"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console) as bars:
            rows = [bars.add_task(task.title, total=1.0, start=False) for task in tasks]
            futures = [self.pool.submit(_call, i, task.function, task.arguments) for i, task in enumerate(tasks)]
            pending: set[Future[Any]] = set(futures)
            while pending:
                done, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
                for i, row in enumerate(rows):
                    if self.shared[i] > 0 or futures[i].done():
                        bars.start_task(row)
                        bars.update(row, completed=self.shared[i])
                if any(future.exception() for future in done):
                    for future in pending:
                        future.cancel()
                    break
        return [future.result() for future in futures]
