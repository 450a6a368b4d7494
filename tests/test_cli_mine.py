"""`seaalign mine`: what it prints and leaves, the commands it prints, and the same command again."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import yaml

from seaalign import DPO, PairData, cli
from seaalign.cli.training import leave
from seaalign.miniature.lm import TextSpeechLM
from seaalign.storage import read_metadata, read_pairs, read_utterances, weights_hash
from tests.test_cli_tdsc import LM, config  # noqa: F401  # a fixture
from tests.toy import quiet

pytestmark = pytest.mark.filterwarnings("ignore")


def run(path: Path, out: Path, *options: str) -> int:
    return cli.main(["mine", "--config", str(path), "--out", str(out), "--size", "3", *options])


def policy() -> TextSpeechLM:
    torch.manual_seed(0)  # as the command seeds it
    return TextSpeechLM(**LM)


@pytest.mark.parametrize("reference", ["sft", "start"])
def test_what_it_prints_can_be_run(tmp_path: Path, config: Any, capsys: Any, reference: str) -> None:  # noqa: F811
    out = tmp_path / "out"
    path = config(reference=reference)
    assert run(path, out) == 0
    said = capsys.readouterr().out
    assert "judged  passed" in said and "Iteration 1" in said and "may be deleted now" in said
    commands = [shlex.split(line) for line in said.splitlines() if line.startswith("  seaalign fit")]
    assert len(commands) == 2
    kept = {name: (out / f"{name}.parquet").read_bytes() for name in ("accepted", "pairs", "sft")}
    assert run(path, out) == 0  # nothing is left to do, and nothing changes
    assert {name: (out / f"{name}.parquet").read_bytes() for name in kept} == kept
    assert len(read_utterances(out / "sft.parquet")) > len(read_utterances(out / "accepted.parquet")) > 0
    for command in commands:
        assert cli.main(command[1:]) == 0
        saved = torch.load(out / Path(command[3]).stem / "last.ckpt", weights_only=True)
        assert saved["global_step"] == (3 if "sft.yaml" in command[3] else 2)
    scored = out / "dpo" / "scored.parquet"
    if reference == "sft":  # by the policy after SFT, not by the one that explored
        assert read_metadata(scored)["weights"] != read_metadata(out / "pairs.parquet")["weights"]
    else:
        assert not scored.exists()


def test_the_pairs_are_good_for_the_weights_that_explored(tmp_path: Path, config: Any) -> None:  # noqa: F811
    assert run(config(), tmp_path / "out") == 0
    scored = tmp_path / "out" / "pairs.parquet"
    assert read_metadata(scored)["weights"] == weights_hash(policy())
    bare = read_pairs(tmp_path / "out" / "mined.parquet")
    quiet(max_steps=1).fit(DPO(policy()), PairData(bare, scored))  # starts where policy and reference are equal
    quiet(max_steps=1).fit(DPO(policy()), PairData(read_pairs(scored)))
    other = policy()
    other.load_state_dict({name: value + 0.01 for name, value in other.state_dict().items()})
    with pytest.raises(ValueError, match="weights: here"):
        quiet(max_steps=1).fit(DPO(other), PairData(bare, scored))


def test_another_iteration_is_hotter_and_wants_another_folder(tmp_path: Path, config: Any, capsys: Any) -> None:  # noqa: F811
    path = config(callbacks=[{"class_path": "TemperatureCurriculum", "init_args": {"start": 1.0, "fixed": [0.5]}}])
    assert run(path, tmp_path / "two", "--iteration", "2") == 0
    heats = [row["temperature"] for row in json.loads((tmp_path / "two" / "round.json").read_text())["temperatures"]]
    assert heats == [0.5, 1.2]
    assert run(path, tmp_path / "two") == 1
    told = capsys.readouterr().err
    assert "candidates was begun by another run" in told and "temperatures: here [0.5, 0.5, 1.1, 1.1]" in told


def test_what_cannot_be_mined_is_told(tmp_path: Path, config: Any, capsys: Any) -> None:  # noqa: F811
    path = config()
    written = yaml.safe_load(path.read_text())
    other = {"class_path": "SFT", "init_args": {"backbone": written["model"]["init_args"]["backbone"]}}
    path.write_text(yaml.safe_dump({**written, "model": other}))
    assert run(path, tmp_path / "out") == 1
    assert "mine does what TDSC does on TextData before it trains; the file names SFT" in capsys.readouterr().err
    (tmp_path / "texts.jsonl").write_text("\n")
    assert run(config(), tmp_path / "out") == 1
    assert "holds no text" in capsys.readouterr().err
    assert cli.main(["mine", "--config", str(config())]) == 1
    assert "seaalign mine needs --out FOLDER" in capsys.readouterr().err
    assert run(config(max_len=1), tmp_path / "cut", "--size", "0") == 1
    (tmp_path / "texts.jsonl").write_text(json.dumps({"id": "a", "text": "b", "ids": [1]}) + "\n")
    assert run(config(max_len=1), tmp_path / "cut") == 1
    assert "none of 6 candidates was accepted" in capsys.readouterr().err


def test_workers_without_ray_are_refused(tmp_path: Path, config: Any, capsys: Any) -> None:  # noqa: F811
    assert run(config(), tmp_path / "out", "--workers", "2") == 1
    assert "--workers 2 is for Ray: add --engine ray" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_ray_is_named_where_it_is_missing(tmp_path: Path, config: Any, capsys: Any, monkeypatch: Any) -> None:  # noqa: F811
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run(config(), tmp_path / "out", "--engine", "ray") == 1
    assert capsys.readouterr().err.splitlines()[-1] == 'engine "ray" needs Ray: pip install "seaalign[ray]"'


def test_a_damaged_shard_is_named_and_made_again(tmp_path: Path, config: Any, capsys: Any) -> None:  # noqa: F811
    assert run(config(), tmp_path / "out") == 0
    whole = (tmp_path / "out" / "pairs.parquet").read_bytes()
    shard = tmp_path / "out" / "judged" / "shard-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-50])
    assert run(config(), tmp_path / "out") == 1
    assert "shard-00001.parquet is not a readable Parquet file" in capsys.readouterr().err
    shard.unlink()
    assert run(config(), tmp_path / "out") == 0
    assert (tmp_path / "out" / "pairs.parquet").read_bytes() == whole


def test_the_other_processes_are_left_in_order(tmp_path: Path, config: Any) -> None:  # noqa: F811
    """One that ended inside its group was now and then aborted, when all its work was done."""
    last: list[Any] = []
    with patch.dict(os.environ), patch("atexit.register", last.append):  # the launcher writes into the former
        assert run(config(), tmp_path / "out", "--trainer.strategy", "ddp", "--trainer.devices", "1") == 0
        assert torch.distributed.is_initialized()  # for the next command of the same process
        assert run(config(), tmp_path / "next", "--trainer.strategy", "ddp", "--trainer.devices", "1") == 0
    assert last.count(leave) == 1
    leave()
    assert not torch.distributed.is_initialized()
    leave()


def test_a_group_of_somebody_else_is_not_left(tmp_path: Path, config: Any) -> None:  # noqa: F811
    last: list[Any] = []
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with patch("atexit.register", last.append):
            assert run(config(), tmp_path / "out") == 0
        assert leave not in last and torch.distributed.is_initialized()
    finally:
        torch.distributed.destroy_process_group()


def test_help_teaches(capsys: Any) -> None:
    assert cli.main(["mine", "--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("seaalign mine --config FILE --out FOLDER: one iteration")
    for what in (
        "usage: seaalign mine",
        "--out",
        "--engine {lightning,ray}",
        "--workers",
        "--size",
        "lost process loses",
    ):
        assert what in said
