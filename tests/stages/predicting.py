"""Stages over as many processes as the command line says, one of which may be killed; run by test_many.py."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from seaalign import Sentence
from seaalign.callbacks import ShardWriter
from seaalign.data import ShardData
from seaalign.judges import Judge, Repetition
from seaalign.records import Pair
from seaalign.sampling import dual_mode
from seaalign.stages import Exploring, Judging, Scoring
from tests.modules.tdsc_run import sentences
from tests.toy import Toy, quiet, speech

SIZE = 3


class Deadly(ShardWriter):
    """Kills the process of one rank before it has written its second shard."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank, self.written = rank, 0

    def write(self, path, shard, stage, stamp):
        if self.written == 1 and int(os.environ.get("LOCAL_RANK", 0)) == self.rank:
            os.kill(os.getpid(), signal.SIGKILL)
        super().write(path, shard, stage, stamp)
        self.written += 1


def texts(count: int = 20) -> list[Sentence]:
    """Some of which are the same prompt in different shards."""
    made = sentences(count - 5)
    return made + [replace(one, id=f"again-{one.id}") for one in made[:5]]


def policy() -> Toy:
    return Toy(3)


def judge() -> Judge:
    return Judge(Repetition(0.06, k=1), batch=5)


def exploring(toy: Toy) -> Exploring:
    return Exploring(toy, (0.8, 1.2), n=2, frames_per_symbol=6.0, batch=2, seed=5)


def rated() -> list[Pair]:
    return [Pair(t.id, t.prompt, t.real, t.stable, (t.ended[0], t.ended[2])) for t in twins()]


def twins():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dual_mode(policy(), speech(10), seed=1)


def stages(folder: Path):
    """Each stage with its work."""
    toy = policy()
    yield exploring(toy), ShardData(texts(), folder / "candidates", SIZE)
    yield Judging(judge()), ShardData(texts(), folder / "judged", candidates=folder / "candidates")
    yield Scoring(toy), ShardData(rated(), folder / "pairs", SIZE)
    yield Scoring(toy, styled=True), ShardData(twins(), folder / "triplets", SIZE)


def predict(folder: Path, processes: int, deadly: int | None = None) -> None:
    callbacks = [] if deadly is None else [Deadly(deadly)]
    trainer = quiet(devices=processes, strategy="ddp" if processes > 1 else "auto", callbacks=callbacks)
    for stage, data in stages(folder):
        trainer.predict(stage, data, return_predictions=False)
        trainer.strategy.barrier()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    predict(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
