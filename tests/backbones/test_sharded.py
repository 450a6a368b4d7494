"""Packed rows where the weights are on two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.audio]


def test_ddp_and_fsdp2_give_the_numbers_of_one_process(tmp_path):
    pytest.importorskip("transformers")
    clean = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_PORT")}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.backbones.sharded", f"file://{tmp_path / 'meet'}", str(rank)],
            env={**clean, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=480)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(error[-3000:] for error in errors)
