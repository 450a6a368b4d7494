"""Two processes on one machine (gloo) train as one process does that sees both their batches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from seaalign import SpeechData
from seaalign.data import FrameBatchSampler
from tests.modules.two_processes import SPEECH, TRIPLETS, dgsa, sft, triplets
from tests.toy import quiet, speech

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    where = tmp_path_factory.mktemp("ddp")
    clean = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_PORT")}
    result = subprocess.run(
        [sys.executable, "-m", "tests.modules.two_processes", str(where), "2"],
        env={**clean, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return where


def both(frames, max_frames, collate) -> list:
    """The batches of both processes, put together step by step, of both epochs."""
    ranks = [FrameBatchSampler(frames, max_frames, rank=rank, world_size=2) for rank in range(2)]
    steps = [(epoch, pair) for epoch in range(2) for pair in zip(*(r.batches(epoch) for r in ranks), strict=True)]
    assert any(len(a) != len(b) for _, (a, b) in steps)  # a mean per process would show
    return [collate(a + b, epoch) for epoch, (a, b) in steps]


def compare(folder, module, data, batches):
    two = torch.load(folder / f"{type(module).__name__}.pt", weights_only=True)
    start = {name: value.clone() for name, value in module.state_dict().items()}
    trainer = quiet(max_steps=len(batches), max_epochs=1)
    trainer.fit(module, DataLoader(batches, batch_size=None), data.val_dataloader())
    assert two["steps"] == len(batches)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(two["weights"][name], value, atol=2e-5, rtol=1e-4)
        assert not torch.allclose(value, start[name], atol=1e-3)
    for name in (key for key in trainer.callback_metrics if key.startswith("val/")):
        torch.testing.assert_close(two["logs"][name], trainer.callback_metrics[name], atol=1e-4, rtol=1e-3, msg=name)


def test_sft(folder):
    data = SpeechData(speech(15), speech(7, seed=1), **SPEECH)
    data.setup("fit")
    loader = data.train_dataloader()
    compare(folder, sft(), data, both([len(u.tokens) for u in data.train], SPEECH["max_frames"], loader.collate))


def test_dgsa_and_a_triplet_file_that_both_processes_made(folder, tmp_path):
    triplets(tmp_path / "t.parquet").make(dgsa().backbone)
    assert (folder / "t.parquet").read_bytes() == (tmp_path / "t.parquet").read_bytes()
    assert not (folder / "t.parquet.shards").exists()
    data = triplets(folder / "t.parquet")
    data.setup("fit")
    frames = [3 * max(map(len, t.completions())) for t in data.train]
    compare(folder, dgsa(), data, both(frames, TRIPLETS["max_frames"], data.train_dataloader().collate))
