"""Work in pieces, each a file: what is there is not done again, and pieces that wait for nothing run side by side."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from seaalign.storage import write_json


@dataclass(frozen=True)
class Piece:
    """One step of one seed.

    Args:
        name: of its file, and on screen.
        function: of a module; gets the folder of the seed and the arguments, returns what JSON can hold.
        arguments: of it.
        needs: names of the pieces that have to be there before.
    """

    name: str
    function: Callable[..., Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


def path_of(folder: Path, name: str) -> Path:
    """The file that says that a piece is done, and what it found."""
    return folder / "pieces" / f"{name}.json"


def result(folder: Path, name: str) -> Any:
    """What a finished piece found."""
    return json.loads(path_of(folder, name).read_text())["result"]


def ready(pieces: dict[Path, tuple[Path, Piece]], done: set[Path], begun: set[Path]) -> list[Path]:
    """The pieces that wait for nothing, in the order given; pieces by the file they write, with their seed's folder."""
    return [
        file
        for file, (folder, piece) in pieces.items()
        if file not in begun and all(path_of(folder, need) in done for need in piece.needs)
    ]


def run(seeds: Sequence[tuple[Path, list[Piece]]], workers: int) -> None:
    """Do what is missing, in `workers` processes of one thread each; the first error stops what has not begun."""
    pieces = {path_of(folder, piece.name): (folder, piece) for folder, plan in seeds for piece in plan}
    done = {file for file in pieces if file.is_file()}
    begun, running = set(done), dict[Future[None], Path]()
    os.environ["OMP_NUM_THREADS"] = "1"  # numerical libraries count threads when a process starts
    context = multiprocessing.get_context("spawn")
    columns = TextColumn("{task.description:52}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns) as bars, ProcessPoolExecutor(workers, context, _begin) as pool:
        bar = bars.add_task("", total=len(pieces), completed=len(done))
        while len(done) < len(pieces):
            for file in ready(pieces, done, begun)[: workers - len(running)]:
                begun.add(file)
                running[pool.submit(_do, file, *pieces[file])] = file
            names = ", ".join(f"{file.parent.parent.name} {file.stem}" for file in running.values())
            bars.update(bar, description=names[:52])
            if not running:
                raise ValueError(f"pieces that wait for each other: {sorted(str(f) for f in set(pieces) - done)}")
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                file = running.pop(future)
                future.result()
                done.add(file)
                bars.advance(bar)


def _do(file: Path, folder: Path, piece: Piece) -> None:
    cpu, wall = time.process_time(), time.monotonic()
    found = piece.function(folder, **piece.arguments)
    spent = {"cpu": round(time.process_time() - cpu, 1), "wall": round(time.monotonic() - wall, 1)}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"seconds": spent, "result": found})


def _begin() -> None:
    """A worker has one thread, prints nothing, and goes when the program that started it is gone."""
    import logging
    import warnings

    import lightning.pytorch  # sets up its own logging when it is imported, so it has to come first
    import torch

    def follow() -> None:
        multiprocessing.parent_process().join()  # type: ignore[union-attr]
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger(lightning.pytorch.__name__).setLevel(logging.ERROR)
