"""The same stages on Ray: two workers on this machine, one of which is killed half-way."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest
import torch

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")

from seaalign.data import ShardData  # noqa: E402
from seaalign.judges import Criterion  # noqa: E402
from seaalign.records import Verdict  # noqa: E402
from seaalign.stages import Exploring, Judging, Mining, OnLightning, OnRay  # noqa: E402
from tests.modules.tdsc_run import data, module, start  # noqa: E402
from tests.stages.predicting import exploring, policy, texts  # noqa: E402
from tests.toy import quiet  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": env})
    yield
    ray.shutdown()


class Fatal(Exploring):
    """Kills its process the first time that it comes to a certain shard."""

    def __init__(self, note: Path, **settings) -> None:
        super().__init__(policy(), **settings)
        self.note = note

    def work(self, rows):
        if rows[0].sentence.id == "s9":
            try:
                self.note.touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().work(rows)


def fatal(folder: Path, note: Path):
    stage = Fatal(note, temperatures=(0.8, 1.2), n=2, frames_per_symbol=6.0, batch=2, seed=5)
    return stage, ShardData(texts(), folder, 3)


def deaf(folder: Path, kind: type):
    return Judging([kind()]), ShardData(texts(), folder / "j", candidates=folder / "c")


class Broken(Criterion):
    name, needs_audio = "broken", False

    def __call__(self, candidates):
        raise OSError("the server hung up")


class Kind(Broken):
    def __call__(self, candidates):
        return [Verdict.accept() for _ in candidates]


def contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("shard-*.parquet"))]


def test_a_killed_worker_costs_a_shard_and_changes_nothing(tmp_path):
    alone, data = fatal(tmp_path / "alone", tmp_path / "none")
    (tmp_path / "none").touch()  # nobody dies here
    quiet().predict(alone, data, return_predictions=False)
    engine = OnRay(workers=2)
    engine.run(partial(fatal, tmp_path / "ray", tmp_path / "died"))
    assert (tmp_path / "died").exists()
    # the shards say of what run they are, so these are equal in all that they depend on too
    assert contents(tmp_path / "ray") == contents(tmp_path / "alone") and len(contents(tmp_path / "ray")) == 7
    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "ray").glob("shard-*"))]
    engine.run(partial(fatal, tmp_path / "ray", tmp_path / "died"))  # nothing left to do
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "ray").glob("shard-*"))] == times


def test_an_error_of_the_stage_stops_the_run_and_names_the_candidate(tmp_path):
    quiet().predict(exploring(policy()), ShardData(texts(), tmp_path / "c", 7), return_predictions=False)
    with pytest.raises(
        ValueError, match=r"^shard \d: JudgeError: criterion 'broken' failed .*the server hung up"
    ) as told:
        OnRay(workers=1).run(partial(deaf, tmp_path, Broken))
    assert "in __call__" in str(told.value.__cause__) and not contents(tmp_path / "j")
    with pytest.raises(ValueError, match="judge: here"):
        OnRay(workers=1).run(partial(deaf, tmp_path, Kind))


def built(work: Path):
    toy = policy()
    toy.load_state_dict(torch.load(work / "start.pt", weights_only=True))
    return module(toy, work), data()


def test_mining_on_ray_is_mining_under_the_trainer(tmp_path):
    """All stages, and their files down to the last byte."""
    torch.save(start().state_dict(), tmp_path / "start.pt")
    stats = Mining(partial(built, tmp_path), tmp_path / "ray", size=5).run(OnRay(workers=2))
    same = Mining(partial(built, tmp_path), tmp_path / "one", size=5).run(OnLightning(quiet()))
    assert stats == same
    assert stats["texts"]["pairs"] > 0
    for name in ("accepted", "mined", "pairs"):
        one, other = (tmp_path / engine / f"{name}.parquet" for engine in ("one", "ray"))
        assert one.read_bytes() == other.read_bytes()
