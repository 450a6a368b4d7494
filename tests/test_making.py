"""Triplets and scored pairs are made in shards: after SIGKILL the same command goes on, and ends bit for bit alike."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import warnings

import pytest
import torch

from seaalign import DGSA, DPO, PairData, TripletData
from seaalign.storage import read_metadata
from tests.modules.test_dpo import made_pairs
from tests.toy import Toy, quiet, speech

pytestmark = pytest.mark.filterwarnings("ignore")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks a process that has everything imported")


def triplets(path, **changes) -> TripletData:
    rows = speech(14)
    return TripletData(
        rows + [type(u)(f"again-{u.id}", u.prompt, u.tokens) for u in rows[:4]], path, styled=True, **changes
    )


def pairs(path) -> PairData:
    return PairData(made_pairs(14), path)


MADE = {"triplets": triplets, "pairs": pairs}


def work(kind, path, die_at=None):
    """In a forked process: make the file, or die right before the n-th file is moved to its place."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    left = [die_at]

    def count(event, args):
        if event == "os.rename" and die_at is not None:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    data = MADE[kind](path)
    data.shard = 4
    data.make(Toy())


def attempt(*args) -> bool:
    process = multiprocessing.get_context("fork").Process(target=work, args=args)
    process.start()
    process.join(120)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode == 0


@linux
@pytest.mark.parametrize("kind", MADE)
def test_killed_at_every_file_it_goes_on(tmp_path, kind):
    whole, path = tmp_path / "whole.parquet", tmp_path / "made.parquet"
    assert attempt(kind, whole)
    assert not (tmp_path / "whole.parquet.shards").exists()
    shards = []
    while not attempt(kind, path, 2):  # each run writes one file and dies over the next
        shards.append(len(list((tmp_path / "made.parquet.shards").glob("shard-*"))))
        assert not path.exists()
    assert shards == list(range(6 if kind == "triplets" else 5))  # none was lost, and none made twice
    assert path.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "made.parquet.shards").exists()


def begun(tmp_path, monkeypatch, data, backbone):
    """Shards of a run that died of an error after the first one."""
    data.shard, done = 4, []
    save = type(data)._save

    def dying(self, path, rows, about):
        if done:
            raise KeyboardInterrupt
        done.append(save(self, path, rows, about))

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(data), "_save", dying)
        data.make(backbone)
    return data


def test_shards_of_another_run_are_refused(tmp_path, monkeypatch):
    begun(tmp_path, monkeypatch, triplets(tmp_path / "t.parquet"), Toy())
    for data, backbone, what in (
        (triplets(tmp_path / "t.parquet"), Toy(1), "weights: here"),
        (triplets(tmp_path / "t.parquet", temperature=0.7), Toy(), "settings: here"),
        (triplets(tmp_path / "t.parquet", reference="disabled_adapter"), Toy(), "reference: here disabled_adapter"),
    ):
        data.shard = 4
        with pytest.raises(
            ValueError, match=rf"t.parquet.shards was begun by another run(?s:.)*{what}(?s:.)*Delete this"
        ):
            data.make(backbone)
    begun(tmp_path, monkeypatch, PairData(made_pairs(14), tmp_path / "p.parquet"), Toy())
    data = PairData(made_pairs(14)[::-1], tmp_path / "p.parquet")
    data.shard = 4
    with pytest.raises(ValueError, match="order: here"):
        data.make(Toy())


def test_fit_goes_on_and_sweeps_up(tmp_path, monkeypatch):
    data = begun(tmp_path, monkeypatch, triplets(tmp_path / "t.parquet"), Toy())
    first = (tmp_path / "t.parquet.shards" / "shard-00000.parquet").stat().st_mtime_ns
    assert first
    data = triplets(tmp_path / "t.parquet")
    data.shard = 4
    quiet(max_steps=1).fit(DGSA(Toy(), 0.8, styled_stability=True), data)
    assert not (tmp_path / "t.parquet.shards").exists()
    assert read_metadata(tmp_path / "t.parquet")["counts"]["utterances"] == 18
    (tmp_path / "s.parquet.shards").mkdir()
    PairData(made_pairs(6), tmp_path / "s.parquet").make(Toy())
    (tmp_path / "s.parquet.shards").mkdir()  # a kill right after the file was whole
    quiet(max_steps=1).fit(DPO(Toy()), PairData(made_pairs(6), tmp_path / "s.parquet"))
    assert not (tmp_path / "s.parquet.shards").exists()


def test_a_shard_whose_samples_are_all_empty_is_no_error(tmp_path):
    """The cut into shards has no say in whether data can be made: an error is only where nothing at all is spoken."""

    class Mute(Toy):
        """Ends at once on one utterance."""

        def sample(self, prompts, n=1, *args, **kwargs):
            said = super().sample(prompts, n, *args, **kwargs)
            for row, prompt in enumerate(prompts):
                if torch.equal(prompt.text, speech(5)[4].prompt.text):
                    said.lengths[row] = 0
            return said

    data = TripletData(speech(5), tmp_path / "t.parquet")
    data.shard = 4
    with pytest.warns(UserWarning, match="1 of 5 triplets dropped"):
        data.make(Mute())
    assert read_metadata(tmp_path / "t.parquet")["rows"] == 4
