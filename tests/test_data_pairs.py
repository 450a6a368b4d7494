from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from seaalign.data import PairBatch
from seaalign.data.pairs import PairData, load_pairs
from seaalign.modules.dpo import DPO
from seaalign.records import Pair, Prompt
from seaalign.sampling import pair_logps
from seaalign.storage import read_metadata, read_pairs, write_pairs
from seaalign.storage.fingerprint import pairs_hash
from seaalign.storage.preferences import write_preferences
from tests.modules.test_dpo import made_pairs
from tests.toy import Toy, quiet


def fit(backbone, data, checkpoint=None, **kwargs):
    trainer = quiet(**{"max_steps": 2, **kwargs})
    trainer.fit(DPO(backbone, lr=1e-3), data, ckpt_path=checkpoint)
    return trainer


def test_the_file_is_made_once_with_the_fingerprints_of_its_makers(tmp_path):
    path, rows = tmp_path / "s.parquet", made_pairs(12)
    fit(Toy(), PairData(rows, path, max_frames=300))
    about, first = read_metadata(path), path.read_bytes()
    assert about["rows"] == len(rows) and about["layout"] == "tests.toy.Toy" and about["data"] == pairs_hash(rows)
    data = PairData(rows, path, max_frames=300, val_fraction=0.25)
    fit(Toy(), data)
    assert path.read_bytes() == first
    assert len(data.val) == round(len(rows) / 4) and {p.id for p in data.val + data.train} == {p.id for p in rows}
    assert not {p.id for p in data.val} & {p.id for p in data.train}
    again = tmp_path / "again.parquet"
    PairData(rows, again).make(Toy())
    assert all(
        torch.equal(a, b)
        for one, other in zip(read_pairs(path), read_pairs(again), strict=True)
        for a, b in zip(one.reference, other.reference, strict=True)
    )


def test_scores_lie_beside_the_pairs_unless_somebody_says_where(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_pairs(tmp_path / "p.parquet", made_pairs(6))
    fit(Toy(), PairData(tmp_path / "p.parquet", max_frames=300))
    assert (tmp_path / "p.scored.parquet").is_file() and not list(tmp_path.glob("here/*"))
    assert PairData("runs/trl.jsonl").path.as_posix() == "runs/trl.scored.parquet"
    assert PairData(made_pairs(6)).path.as_posix() == "scored.parquet"  # nothing to lie beside
    with pytest.raises(ValueError, match="are the same file"):
        PairData("p.parquet", scored="p.parquet")


def test_pairs_come_as_a_list_or_as_a_file(tmp_path):
    rows = made_pairs(7)
    write_pairs(tmp_path / "p.parquet", rows)
    for source in (tmp_path / "p.parquet", str(tmp_path / "p.parquet"), tuple(rows)):
        assert pairs_hash(load_pairs(source)) == pairs_hash(rows)
    with pytest.raises(ValueError, match="holds utterances, not pairs"):
        load_pairs(_utterances(tmp_path))
    with pytest.raises(ValueError, match="there are no pairs"):
        load_pairs([])
    with pytest.raises(FileNotFoundError, match=r"nowhere.parquet"):
        load_pairs("nowhere.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="broken.parquet is neither .jsonl nor a readable Parquet file"):
        load_pairs(tmp_path / "broken.parquet")


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_tables_that_people_labelled_train_here(tmp_path, ending):
    rows = made_pairs(8)
    write_preferences(tmp_path / f"labels.{ending}", rows)
    back = load_pairs(tmp_path / f"labels.{ending}")
    assert pairs_hash(back) == pairs_hash(rows)
    fit(Toy(), PairData(tmp_path / f"labels.{ending}", tmp_path / "s.parquet"))
    fit(
        Toy(), PairData(rows, tmp_path / "s.parquet")
    )  # the file is of what the pairs hold, not of where they came from


class Spelling(Toy):
    """Reads tables in its own ids: speech is 100 and more, 99 ends it."""

    eos_id = 99

    def read_prompt(self, ids):
        return Prompt(ids)

    def read_speech(self, ids):
        return torch.tensor([i - 100 for i in ids if i != 99]), ids[-1] == 99


def test_the_backbone_reads_tables_in_its_own_ids(tmp_path):
    (tmp_path / "trl.jsonl").write_text('{"prompt_ids": [1, 2], "chosen_ids": [105, 99], "rejected_ids": [103, 104]}')
    data = PairData(tmp_path / "trl.jsonl", tmp_path / "s.parquet", val_fraction=0)
    fit(Spelling(), data)
    (pair,) = data.train
    assert (pair.chosen.tolist(), pair.rejected.tolist(), pair.ended) == ([5], [3, 4], (True, False))
    with pytest.raises(ValueError, match="pass backbone="):
        fit(Toy(), PairData(tmp_path / "trl.jsonl", tmp_path / "s.parquet"))


def _utterances(folder):
    from seaalign import write_utterances
    from tests.toy import speech

    write_utterances(folder / "u.parquet", speech(2))
    return folder / "u.parquet"


def test_bad_pairs_are_left_out_counted_and_listed():
    good = made_pairs(4)
    one = good[0]
    bad = [
        replace(one, id="same", rejected=one.chosen, ended=(True, True)),
        replace(one, id="empty", rejected=one.rejected[:0]),
        replace(one, id="wide", chosen=one.chosen + 50),
        one,
    ]
    with pytest.warns(UserWarning) as caught:
        kept = load_pairs([*good, *bad], vocab_size=10)
    assert [p.id for p in kept] == [p.id for p in good]
    report = str(caught[0].message)
    assert f"4 of {len(good) + 4} rows refused" in report
    for reason in ("the answers are the same", "rejected is empty", "chosen hold id", "is a duplicate of pair 0"):
        assert reason in report
    # the same tokens, but one was cut: that is a preference about ending
    load_pairs([replace(one, rejected=one.chosen, ended=(True, False))])


def test_only_some_scored_pairs_are_refused():
    rows = made_pairs(6)
    half = pair_logps(Toy(), rows[:2], progress=False) + rows[2:]
    says = rf"{len(rows) - 2} of {len(rows)} pairs carry no reference log-probs, first \['u2'.*sampling.pair_logps"
    with pytest.raises(ValueError, match=says):
        fit(Toy(), PairData(half))


def test_scored_pairs_are_taken_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = pair_logps(Toy(), made_pairs(8))
    write_pairs("p.parquet", rows)
    data = PairData("p.parquet", val_fraction=0)
    fit(Toy(), data)
    assert [file.name for file in tmp_path.iterdir()] == ["p.parquet"]
    held = {p.id: p for p in data.train}
    assert all(torch.equal(a, b) for p in rows for a, b in zip(p.reference, held[p.id].reference, strict=True))


CHANGES = {
    "weights": (lambda rows: rows, lambda: Toy(1)),
    "layout: here tests.toy.Toy:speech-first, file tests.toy.Toy": (lambda rows: rows, lambda: laid_out()),
    "data: here": (lambda rows: rows[:-1], Toy),
    "data": (lambda rows: [replace(rows[0], chosen=rows[0].chosen.flip(0) + 1), *rows[1:]], Toy),
    "data: here .*, file": (lambda rows: [replace(rows[0], ended=(False, True)), *rows[1:]], Toy),
}


def laid_out():
    toy = Toy()
    toy.layout = "speech-first"
    return toy


@pytest.mark.parametrize("what", CHANGES)
def test_a_file_of_something_else_is_refused(tmp_path, what):
    path, rows = tmp_path / "s.parquet", made_pairs(8)
    PairData(rows, path).make(Toy())
    change, backbone = CHANGES[what]
    with pytest.raises(ValueError, match=rf"belongs to something else(?s:.)*{what}(?s:.)*give scored= another name"):
        fit(backbone(), PairData(change(rows), path))


def test_swapped_speech_in_the_file_is_refused(tmp_path):
    path, rows = tmp_path / "s.parquet", made_pairs(8)
    data = PairData(rows, path)
    data.make(Toy())
    stored = read_pairs(path)
    first = stored[0]
    turned = replace(first, chosen=first.rejected, rejected=first.chosen, reference=first.reference[::-1])
    write_pairs(path, [turned, *stored[1:]], read_metadata(path))
    with pytest.raises(ValueError, match="the pairs inside: somebody has changed them"):
        data.setup("fit")


def test_a_failure_while_scoring_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("seaalign.data.pairs.pair_logps", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(Toy(), PairData(made_pairs(4), tmp_path / "s.parquet"))
    assert not list(tmp_path.iterdir())


def test_a_rehearsal_scores_eight_and_leaves_the_real_thing_alone(tmp_path):
    path, rows = tmp_path / "s.parquet", made_pairs(30)
    data = PairData(rows, path)
    trainer = fit(Toy(), data, fast_dev_run=True)
    assert trainer.global_step == 1 and not path.exists()
    assert read_metadata(tmp_path / "s.fast_dev_run.parquet")["rows"] == 8
    fit(Toy(1), data, fast_dev_run=True)  # other weights: made anew rather than refused
    fit(Toy(), data)
    assert read_metadata(path)["rows"] == len(rows)


def test_without_file_and_trainer_there_is_a_hint(tmp_path):
    data = PairData(made_pairs(3), tmp_path / "s.parquet")
    with pytest.raises(FileNotFoundError):
        data.setup("fit")
    with pytest.raises(ValueError, match=r"PairData.make\(backbone\) first"):
        quiet().validate(DPO(Toy()), data)
    with pytest.raises(ValueError, match=r"reference must be 'stored' or 'disabled_adapter', got 'live'"):
        PairData(made_pairs(3), reference="live")
    with pytest.raises(ValueError, match="pairs and scored are the same file, ./p.parquet"):
        PairData("p.parquet", "./p.parquet")
    with pytest.raises(ValueError, match=r"val_fraction must lie in 0\.\.1, below 1, got 1"):
        PairData(made_pairs(3), val_fraction=1)


def test_a_batch_holds_each_row_beside_its_reference(tmp_path):
    data = PairData(made_pairs(11), tmp_path / "s.parquet", max_frames=60, val_fraction=0)
    toy = Toy()
    data.make(toy)
    data.setup("fit")
    assert data.val_dataloader() == []
    seen = []
    for batch in data.train_dataloader():
        assert isinstance(batch, PairBatch) and len(batch.speech) == 2 * len(batch)
        assert batch.speech.tokens.shape[1] * len(batch.speech) <= 60
        torch.testing.assert_close(batch.reference, toy(batch.prompts, batch.speech), atol=1e-5, rtol=1e-5)
        assert torch.equal(batch.to("cpu").reference, batch.reference)
        seen += batch.ids
    assert sorted(seen) == sorted(p.id for p in data.train)


def checkpoint_of(tmp_path, data, backbone=None):
    trainer = fit(backbone or Toy(), data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


def test_a_resume_asks_for_the_same_file_and_not_for_the_same_weights(tmp_path):
    path, rows = tmp_path / "s.parquet", made_pairs(8)
    checkpoint = checkpoint_of(tmp_path, PairData(rows, path))
    fit(Toy(4), PairData(rows, path), checkpoint, max_steps=3)
    PairData(rows, tmp_path / "other.parquet").make(Toy(1))
    with pytest.raises(ValueError, match="weights: checkpoint .*, file"):
        fit(Toy(), PairData(rows, tmp_path / "other.parquet"), checkpoint, max_steps=3)
    with pytest.raises(ValueError, match="weights: checkpoint .*, file"):  # lost, and made anew from the wrong weights
        fit(Toy(4), PairData(rows, tmp_path / "lost.parquet"), checkpoint, max_steps=3)
    fit(Toy(), PairData(rows, tmp_path / "missing.parquet"), checkpoint, max_steps=3)  # lost, and made anew as it was
    with pytest.raises(ValueError, match="not the pairs that the checkpoint was trained on(?s:.)*data: checkpoint"):
        fit(Toy(), PairData(pair_logps(Toy(), rows)), checkpoint, max_steps=3)


def test_a_resume_of_scored_pairs_asks_for_the_same_log_probs(tmp_path):
    rows = pair_logps(Toy(), made_pairs(8))
    checkpoint = checkpoint_of(tmp_path, PairData(rows))
    fit(Toy(4), PairData(rows), checkpoint, max_steps=3)
    other = [replace(rows[0], reference=tuple(values - 0.1 for values in rows[0].reference)), *rows[1:]]
    with pytest.raises(ValueError, match="data: checkpoint .*, here"):
        fit(Toy(), PairData(other), checkpoint, max_steps=3)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "other"},
        {"prompt": Prompt([1, 2])},
        {"prompt": Prompt([1], timbre=torch.ones(2))},
        {"chosen": torch.tensor([1, 2, 4])},
        {"rejected": torch.tensor([1])},
        {"ended": (True, True)},
        {"reference": (torch.zeros(4), torch.zeros(2))},
    ],
)
def test_everything_that_a_pair_holds_is_in_its_fingerprint(change):
    pair = Pair("a", Prompt([1]), torch.tensor([1, 2, 3]), torch.tensor([5]), (True, False))
    other = Pair("b", Prompt([1]), torch.tensor([1]), torch.tensor([2]))
    assert pairs_hash([pair, other]) == pairs_hash([other, replace(pair)])
    assert pairs_hash([pair, other]) != pairs_hash([replace(pair, **change), other])
