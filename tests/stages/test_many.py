"""Stages over processes: the same bytes from one process and from two; a lost one costs the shard that it was at."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from seaalign import cli
from seaalign.sampling import explore, pair_logps, reference_logps
from seaalign.storage import Shards, read_candidates, read_judged, read_pairs, read_triplets
from tests.stages.predicting import SIZE, exploring, judge, policy, predict, rated, texts, twins
from tests.test_cli_tdsc import config  # noqa: F401  # a fixture

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
NAMES = ("candidates", "judged", "pairs", "triplets")


def run(folder: Path, processes: int, *more: int) -> int:
    clean = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_PORT")}
    result = subprocess.run(
        [sys.executable, "-m", "tests.stages.predicting", str(folder), str(processes), *map(str, more)],
        env={**clean, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0 or more, result.stderr[-9000:]
    return result.returncode


def contents(folder: Path) -> dict[str, bytes]:
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in folder.rglob("*.parquet")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    predict(folder, 1)
    return folder


def plain(candidates) -> list:
    return [(c.name, c.tokens.tolist(), c.ended, c.temperature) for c in candidates]


def test_the_shards_are_what_one_call_on_everything_gives(alone):
    """A slow twin: no shards, no Lightning; the rows in order, equal prompts with answers of their own."""
    sentences = texts()
    by_id = {sentence.id: sentence for sentence in sentences}
    stage = exploring(policy())
    limits = [round(6.0 * len(s.prompt.text)) + 20 for s in sentences]
    with torch.no_grad():
        waves = explore(stage.backbone.eval(), sentences, stage.heats, max_len=limits, batch=64, seed=5)
    whole = {c.name: c for _, wave in waves for c in wave}
    ordered = [whole[f"{s.id}#{k}"] for s in sentences for k in range(4)]
    candidates = list(Shards.at(alone / "candidates").rows(partial(read_candidates, sentences=by_id)))
    assert plain(candidates) == plain(ordered)
    same = [(f"s{i}#{k}", f"again-s{i}#{k}") for i in range(5) for k in range(4)]
    assert sum(torch.equal(whole[one].tokens, whole[other].tokens) for one, other in same) < len(same) / 4
    judged = list(Shards.at(alone / "judged").rows(partial(read_judged, sentences=by_id)))
    assert plain(c for c, _ in judged) == plain(ordered) and [v for _, v in judged] == judge()(ordered)
    assert len({v.ok for _, v in judged}) == 2
    for read, name, wanted in (
        (read_pairs, "pairs", [p.reference for p in pair_logps(policy(), rated())]),
        (read_triplets, "triplets", [(*t.reference["plain"], *t.reference["styled"]) for t in
                                     reference_logps(policy(), twins(), styled=True)]),
    ):  # fmt: skip
        rows = list(Shards.at(alone / name).rows(read))
        found = [r.reference if name == "pairs" else (*r.reference["plain"], *r.reference["styled"]) for r in rows]
        assert len(found) == len(wanted) > 2 * SIZE
        for one, other in zip(found, wanted, strict=True):
            for a, b in zip(one, other, strict=True):
                torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_two_processes_write_the_same_bytes(alone, tmp_path):
    assert run(tmp_path, 2) == 0
    assert contents(tmp_path) == contents(alone) and len(contents(alone)) == 7 + 7 + 4 + 4
    for name in NAMES:
        for folder in (alone, tmp_path):
            Shards.at(folder / name).merge(folder / f"{name}.parquet")
        assert (alone / f"{name}.parquet").read_bytes() == (tmp_path / f"{name}.parquet").read_bytes()
        (alone / f"{name}.parquet").unlink()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_lost_rank_loses_its_shard_and_another_number_of_processes_goes_on(alone, tmp_path, victim):
    assert run(tmp_path, 2, victim) != 0
    shards = Shards.at(tmp_path / "candidates")
    left, whole = contents(tmp_path), contents(alone)
    assert victim in left_ranks(shards) and all(left[name] == whole[name] for name in left)
    with pytest.raises(FileNotFoundError, match="shards are missing in .*run the same command again"):
        shards.paths()
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    predict(tmp_path, 1)
    assert contents(tmp_path) == whole
    assert all(path.stat().st_mtime_ns == times[path] for path in times)  # what was there was not made again


def left_ranks(shards: Shards) -> set[int]:
    """Whose shards are there; each rank had every second one."""
    return {number % 2 for number in range(len(shards)) if shards.path(number).is_file()}


def agents(*command: str) -> list[list[str]]:
    """Two nodes of one process, as torchrun is started on each."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    start = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", f"--master-port={port}"]
    return [[*start, "--master-addr=127.0.0.1", f"--node-rank={rank}", *command] for rank in range(2)]


def srun(*command: str) -> list[list[str]]:
    """Two nodes of one task on the cluster that this machine is part of."""
    if not shutil.which("srun") or subprocess.run(["sinfo"], capture_output=True).returncode:
        pytest.skip("there is no SLURM here: it needs srun, and a controller that answers sinfo")
    return [["srun", "--nodes=2", "--ntasks-per-node=1", sys.executable, *command]]


@pytest.mark.parametrize("launcher", [agents, srun])
def test_two_nodes_write_what_one_process_writes(tmp_path: Path, config: Any, launcher: Any) -> None:  # noqa: F811
    """And all of their processes end well, so that whoever started them counts the job as done."""
    mine = ["mine", "--config", str(config()), "--size", "7", "--out"]
    assert cli.main([*mine, str(tmp_path / "one")]) == 0
    nodes = ["-m", "seaalign.cli", *mine, str(tmp_path / "two"), "--trainer.num_nodes", "2", "--trainer.devices", "1"]
    clean = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_PORT")}
    env = {**clean, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(tmp_path / "said", "w") as said:
        running = [subprocess.Popen(c, env=env, cwd=ROOT, stdout=said, stderr=said) for c in launcher(*nodes)]
        try:
            codes = [process.wait(240) for process in running]
        finally:
            [process.kill() for process in running]
    assert not any(codes), (tmp_path / "said").read_text()[-9000:]
    one, two = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.parquet")}
        for folder in (tmp_path / "one", tmp_path / "two")
    )
    # shards of each stage, and what is made of them: the seven pairs fit one shard, and a process has none to score
    assert one == two and len(one) == 2 + 2 + 1 + 4
