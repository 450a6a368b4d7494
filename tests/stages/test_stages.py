"""Stages in one process: what they refuse, what they tell, and how they are made one's own."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch
import yaml

from seaalign import Prompt, Sentence, Unsupported, cli
from seaalign.callbacks import ShardWriter
from seaalign.cli.mine import assembled
from seaalign.data import ShardData
from seaalign.judges import Criterion, Judge, JudgeError
from seaalign.records import Verdict
from seaalign.stages import Exploring, Judging, Mining, OnLightning, Scoring
from seaalign.stages.engines import OnRay, Worker
from seaalign.storage import Shards, read_candidates, read_metadata, read_pairs, read_utterances
from seaalign.storage.critique import write_pairs
from tests.modules.tdsc_run import data as texts_of
from tests.modules.tdsc_run import module, start
from tests.modules.test_dpo import made_pairs
from tests.stages.predicting import exploring, judge, policy, texts
from tests.toy import Toy, quiet

pytestmark = pytest.mark.filterwarnings("ignore")


def predict(stage, data, **trainer):
    quiet(**trainer).predict(stage, data, return_predictions=False)
    return data.shards


def test_what_is_there_stays_and_another_run_is_refused(tmp_path):
    shards = predict(exploring(policy()), ShardData(texts(), tmp_path, 6))
    shards.path(2).unlink()
    times = [path.stat().st_mtime_ns for path in tmp_path.glob("*.parquet")]
    seen = []

    class Watching(Exploring):
        def work(self, rows):
            seen.append(len(rows))
            return super().work(rows)

    again = Watching(policy(), (0.8, 1.2), n=2, frames_per_symbol=6.0, batch=5, seed=5)
    with pytest.raises(ValueError, match="stage: here Watching, folder Exploring"):
        predict(again, ShardData(texts(), tmp_path, 6))
    Watching.__name__ = "Exploring"
    predict(again, ShardData(texts(), tmp_path, 6))  # another batch draws the same
    assert seen == [6] and all(path.stat().st_mtime_ns in times for path in map(shards.path, (0, 1, 3)))
    for stage, data, what in (
        (exploring(Toy(4)), ShardData(texts(), tmp_path, 6), "weights: here"),
        (Exploring(policy(), (0.8,), seed=5), ShardData(texts(), tmp_path, 6), "temperatures: here"),
        (exploring(policy()), ShardData(texts()[::-1], tmp_path, 6), "rows: here"),
        (exploring(policy()), ShardData(texts(), tmp_path, 7), "size: here 7, folder 6"),
    ):
        with pytest.raises(ValueError, match=rf"begun by another run(?s:.)*{what}"):
            predict(stage, data)


def test_bad_rows_are_refused_by_what_they_are(tmp_path):
    stage = exploring(policy())
    for rows, what in (([], "got 0"), ([*texts(), texts()[0]], "got 21, 20 of them unique")):
        with pytest.raises(ValueError, match=f"need a row or more and unique ids; {what}"):
            predict(stage, ShardData(rows, tmp_path))
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        ShardData(texts(), tmp_path, 0)
    with pytest.raises(TypeError, match=r"worked on by a Stage, not by Toy|not by"):
        predict(module(policy(), tmp_path), ShardData(texts(), tmp_path / "x"))
    with pytest.raises(ValueError, match="need temperatures above 0"):
        Exploring(policy(), (0.0,))
    predict(stage, ShardData(texts(), tmp_path / "c"))
    other = ShardData(texts()[:-1], tmp_path / "j", candidates=tmp_path / "c")
    with pytest.raises(ValueError, match="holds candidates of other sentences than these 19"):
        predict(Judging(judge()), other)
    with pytest.raises(FileNotFoundError, match="holds no shards"):
        predict(Judging(judge()), ShardData(texts(), tmp_path / "j", candidates=tmp_path / "none"))
    Shards.at(tmp_path / "c").path(0).unlink()
    with pytest.raises(FileNotFoundError, match="1 of 1 shards are missing"):
        predict(Judging(judge()), ShardData(texts(), tmp_path / "j", candidates=tmp_path / "c"))


class Broken(Criterion):
    name, needs_audio = "broken", False

    def __call__(self, candidates):
        if any(c.sentence.id == "s9" for c in candidates):
            raise OSError("the server hung up")
        return [Verdict.accept() for _ in candidates]


class Listens(Broken):
    needs_audio = True


def test_a_judge_that_fails_stops_and_keeps_the_shards_before(tmp_path):
    predict(exploring(policy()), ShardData(texts(), tmp_path / "c", 3))
    data = ShardData(texts(), tmp_path / "j", candidates=tmp_path / "c")
    with pytest.raises(JudgeError, match="s9#0.*the server hung up"):
        predict(Judging([Broken()]), data)
    assert [path.name for path in sorted((tmp_path / "j").glob("*.parquet"))] == [
        f"shard-{i:05d}.parquet" for i in range(3)
    ]
    with pytest.raises(Unsupported, match=r"criterion 'broken' listens: give Judging\(judge, backbone=...\) one that"):
        Judging(Judge(Listens()), policy())
    with pytest.raises(Unsupported, match="'<lambda>' listens: .*; or set <lambda>.needs_audio = False if it reads"):
        Judging(lambda batch: [Verdict.accept() for _ in batch])
    assert [c.name for c in Judging(Broken()).judge.criteria] == ["broken"]
    with pytest.raises(ValueError, match="judge: here"):
        predict(Judging(judge()), data)


class Elsewhere(ShardWriter):
    def write(self, path, shard, stage, stamp):
        super().write(path, shard, stage, stamp)
        path.with_suffix(".ids").write_text(" ".join(c.name for c in shard.rows))


def test_a_writer_of_ones_own_takes_the_place_of_the_default(tmp_path):
    data = ShardData(texts(), tmp_path, 15)
    shards = predict(exploring(policy()), data, callbacks=[Elsewhere()])
    assert (tmp_path / "shard-00001.ids").read_text().split()[0] == "again-s0#0"
    assert read_metadata(shards.path(1))["shard"] == 1
    with pytest.raises(TypeError, match="ShardWriter writes the shards of a Stage on ShardData"):
        quiet(callbacks=[ShardWriter()]).predict(module(policy(), tmp_path), texts_of())


def test_a_rehearsal_writes_no_shard(tmp_path):
    predict(exploring(policy()), ShardData(texts(), tmp_path, 6), fast_dev_run=True)
    assert not list(tmp_path.glob("*.parquet"))


def test_scoring_reads_files_and_the_result_trains(tmp_path):
    rows = made_pairs(9)
    write_pairs(tmp_path / "pairs.parquet", rows)
    shards = predict(Scoring(Toy()), ShardData(tmp_path / "pairs.parquet", tmp_path / "scored", 4))
    shards.merge(tmp_path / "scored.parquet")
    assert [p.id for p in read_pairs(tmp_path / "scored.parquet")] == [p.id for p in rows]
    assert all(p.reference is not None for p in read_pairs(tmp_path / "scored.parquet"))
    predict(exploring(policy()), ShardData(texts(), tmp_path / "c"))
    with pytest.raises(ValueError, match="holds neither pairs nor triplets: for sentences give TextData"):
        predict(Scoring(Toy()), ShardData(tmp_path / "c" / "shard-00000.parquet", tmp_path / "x"))


def test_from_the_command_line(tmp_path, monkeypatch):
    """`seaalign predict` with a stage, from a YAML file."""
    (tmp_path / "texts.jsonl").write_text(
        '{"text": "a", "ids": [1]}\n{"text": "b", "ids": [2]}\n{"text": "c", "ids": [3]}\n'
    )
    lm = {"codes": 25, "pause": 24, "factor": 6, "words": 5, "dim": 8, "layers": 1, "heads": 2}
    model = {"backbone": {"class_path": "TextSpeechLM", "init_args": lm}, "temperatures": [1.0], "n": 2, "max_len": 9}
    source = {"class_path": "TextData", "init_args": {"texts": str(tmp_path / "texts.jsonl")}}
    written = {
        "trainer": {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "callbacks": ["ShardWriter"]},
        "model": {"class_path": "Exploring", "init_args": model},
        "data": {"class_path": "ShardData", "init_args": {"source": source, "folder": str(tmp_path / "c"), "size": 2}},
        "return_predictions": False,
    }
    written["trainer"]["callbacks"] = [{"class_path": "ShardWriter"}]
    (tmp_path / "explore.yaml").write_text(yaml.safe_dump(written))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["predict", "--config", str(tmp_path / "explore.yaml")]) == 0
    rows = {f"texts-{i}": Sentence(f"texts-{i}", "x", Prompt([i])) for i in (1, 2, 3)}
    found = Shards.at(tmp_path / "c").rows(partial(read_candidates, sentences=rows))
    assert [c.name for c in found] == [f"texts-{i}#{k}" for i in (1, 2, 3) for k in range(2)]


@pytest.fixture(scope="module")
def weights():
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return start().state_dict()


def trained(weights) -> Toy:
    toy = Toy()
    toy.load_state_dict(weights)
    return toy


@pytest.mark.slow
def test_mining_is_the_first_iteration_of_tdsc(tmp_path, weights):
    loop = module(trained(weights), tmp_path, iterations=1, sft_steps=1, dpo_steps=1, reference="start")
    quiet().fit(loop, texts_of())
    whole = tmp_path / "tdsc" / "round-01"
    mined = Mining(lambda: (module(trained(weights), tmp_path), texts_of()), tmp_path / "out", size=5)
    stats = mined.run(OnLightning(quiet()))

    def said(rows):
        return [(u.id, u.tokens.tolist()) for u in rows]

    assert said(read_utterances(tmp_path / "out" / "accepted.parquet")) == said(
        read_utterances(whole / "accepted.parquet")
    )
    one, other = read_pairs(tmp_path / "out" / "pairs.parquet"), read_pairs(whole / "reference.parquet")
    assert [(p.id, *(t.tolist() for t in p.completions())) for p in one] == [
        (p.id, *(t.tolist() for t in p.completions())) for p in other
    ]
    for a, b in zip(one, other, strict=True):
        for mine, theirs in zip(a.reference, b.reference, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    theirs = loop.loop.numbers(1)
    assert stats["accepted"] == theirs["accepted"] > 0 and stats["texts"]["pairs"] == theirs["pairs"] > 0
    about = read_metadata(tmp_path / "out" / "pairs.parquet")
    from seaalign.storage import weights_hash

    assert about["weights"] == weights_hash(trained(weights)) and about["layout"] == "tests.toy.Toy"


@pytest.mark.slow
def test_nothing_accepted_and_no_pairs_are_told(tmp_path, weights):
    class Deaf(Broken):
        name = "intelligibility"

        def __call__(self, candidates):
            return [Verdict.reject(self.name, scores={"error": 1.0}) for _ in candidates]

    deaf = Mining(lambda: (module(trained(weights), tmp_path, judge_=[Deaf()]), texts_of()), tmp_path / "deaf")
    with pytest.raises(ValueError, match="none of .* candidates was accepted"):
        deaf.run(OnLightning(quiet()))
    again = Mining(deaf.build, tmp_path / "deaf")
    again.build = lambda: (module(trained(weights), tmp_path), texts_of())  # the judge was mended
    made = [path.stat().st_mtime_ns for path in (tmp_path / "deaf" / "candidates").iterdir()]
    assert again.run(OnLightning(quiet()))["accepted"] > 0
    assert [path.stat().st_mtime_ns for path in (tmp_path / "deaf" / "candidates").iterdir()] == made
    deaf = Mining(deaf.build, tmp_path / "deaf")
    with pytest.raises(ValueError, match="judge: here"):  # something has come of the other one's verdicts
        deaf.run(OnLightning(quiet()))
    free = Mining(lambda: (module(trained(weights), tmp_path, judge_=None, dpo_steps=0), texts_of()), tmp_path / "free")
    assert free.run(OnLightning(quiet()))["texts"]["pairs"] == 0
    assert not (tmp_path / "free" / "pairs.parquet").exists()


def test_ray_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ImportError, match=r'pip install "seaalign\[ray\]"'):
        OnRay()
    with pytest.raises(ValueError, match="need at least one worker, got 0"):
        OnRay(0)


def test_a_process_without_a_shard_is_no_mistake_to_lightning():
    assert ShardData(texts(), "nowhere").allow_zero_length_dataloader_with_multiple_devices


def lacks_a_module():
    raise ModuleNotFoundError("No module named 'own_judge'")


def refuses_its_arguments():
    assembled(["--nonsense", "1"], ".")


@pytest.mark.parametrize(("build", "why"), [(lacks_a_module, "'own_judge'"), (refuses_its_arguments, "nonsense")])
def test_a_worker_that_cannot_be_built_says_why_for_every_shard(build, why, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    worker = Worker(build, "32-true", str(tmp_path))
    told = worker({"shard": torch.tensor([3, 4])})
    assert told["shard"].tolist() == [3, 4]
    assert all("cannot be built: " in what and why in what for what in told["error"]), told
    assert all("Traceback" in trace for trace in told["trace"])
