"""Trains on as many processes as the command line says; run by test_distributed.py."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch

from seaalign import DGSA, SFT, SpeechData, TripletData
from tests.toy import Toy, quiet, speech

SPEECH = {"max_frames": 14, "plain_fraction": 0.5}
TRIPLETS = {"max_frames": 200, "val_fraction": 0.3}


def sft() -> SFT:
    return SFT(Toy(), lr=1e-2)


def dgsa() -> DGSA:
    return DGSA(Toy(), 0.8, lr=1e-2, sft_weight=0.3)


def triplets(path: Path) -> TripletData:
    """Made in four shards, two by each process."""
    data = TripletData(speech(15), path, **TRIPLETS)
    data.shard = 4
    return data


def train(module, data, folder: Path, processes: int) -> None:
    name = type(module).__name__
    trainer = quiet(max_epochs=2, devices=processes, strategy="ddp")
    trainer.fit(module, data)
    if trainer.is_global_zero:
        kept = {"weights": module.state_dict(), "logs": trainer.callback_metrics, "steps": trainer.global_step}
        torch.save(kept, folder / f"{name}.pt")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    folder, processes = Path(sys.argv[1]), int(sys.argv[2])
    train(sft(), SpeechData(speech(15), speech(7, seed=1), **SPEECH), folder, processes)
    train(dgsa(), triplets(folder / "t.parquet"), folder, processes)
