from __future__ import annotations

import warnings
from dataclasses import replace

import lightning as L
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seaalign import (
    DGSA,
    Prompt,
    SpeechData,
    Triplet,
    TripletData,
    Utterance,
    read_triplets,
    write_triplets,
    write_utterances,
)
from seaalign.data import FrameBatchSampler, FrameLoader, TripletBatch
from seaalign.storage import read_metadata
from tests.toy import Toy, quiet, speech

LENGTHS = st.lists(st.integers(1, 120), min_size=1, max_size=60)


@given(LENGTHS, st.integers(1, 300), st.integers(1, 4), st.integers(0, 5), st.booleans())
def test_every_item_once_within_the_ceiling_and_as_many_batches_everywhere(lengths, most, world, seed, packed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ranks = [FrameBatchSampler(lengths, most, True, seed, rank, world, packed) for rank in range(world)]
    assert len({len(r) for r in ranks}) == 1
    for epoch in range(3):
        given_out = [r.batches(epoch) for r in ranks]
        assert given_out == [r.batches(epoch) for r in ranks]
        assert {len(batches) for batches in given_out} == {len(ranks[0])}  # Lightning counts once, in epoch 0
        flat = sorted(i for batches in given_out for batch in batches for i in batch)
        extra = len(flat) - len(lengths)
        assert set(flat) == set(range(len(lengths))) and 0 <= extra < world
        if extra:  # allowed only where no batch can be split any more
            assert all(len(batch) == 1 for batches in given_out for batch in batches)
        for batch in (b for batches in given_out for b in batches):
            rows = [lengths[i] for i in batch]
            assert (sum(rows) if packed else len(rows) * max(rows)) <= most or len(batch) == 1


def test_packed_items_go_where_they_leave_least_room():
    # 9 | 7 | 5 5 | 3 beside the 7 | 1 beside the 9: three full batches of 10
    sampler = FrameBatchSampler([5, 3, 9, 1, 7, 5], 10, shuffle=False, packed=True)
    assert list(sampler) == [[2, 3], [4, 1], [5, 0]]
    assert {frozenset(b) for b in FrameBatchSampler([5, 3, 9, 1, 7, 5], 10, seed=3, packed=True)} == {
        frozenset(b) for b in sampler
    }
    with pytest.warns(UserWarning, match=r"2 of 4 items are longer than max_frames=10 \(longest: 40\)"):
        assert list(FrameBatchSampler([5, 40, 11, 5], 10, shuffle=False, packed=True)) == [[3, 0], [2], [1]]


def triplets_of(count: int) -> tuple[list[int], list[int]]:
    """What DGSA reads of triplets (a text of 30 to 150 ids, three answers of 75 to 375), and what it takes padded."""
    g = torch.Generator().manual_seed(0)
    texts, rows = torch.randint(30, 151, (count,), generator=g), torch.randint(75, 376, (count, 3), generator=g)
    return (texts + rows.sum(1)).tolist(), (3 * rows.amax(1)).tolist()


@pytest.mark.parametrize(("count", "most", "least"), [(2000, 2000, 0.90), (2000, 3000, 0.92), (2000, 8000, 0.94)])
def test_packed_batches_are_nearly_full_on_every_process(count, most, least):
    sizes, padded = triplets_of(count)
    ranks = [FrameBatchSampler(sizes, most, rank=rank, world_size=2, packed=True) for rank in range(2)]
    loads = torch.tensor([[sum(sizes[i] for i in batch) for batch in r.batches(1)] for r in ranks])
    assert float(loads.float().mean()) / most >= least
    assert float((loads[0] - loads[1]).abs().float().mean()) / most < 0.04  # nobody waits long for the other
    before = FrameBatchSampler(padded, most, world_size=2)
    assert loads.shape[1] < 0.9 * len(before)  # fewer steps for the same triplets


def test_packed_batches_are_others_in_every_epoch():
    sizes, _ = triplets_of(600)
    sampler = FrameBatchSampler(sizes, 3000, packed=True)
    groups = [{frozenset(batch) for batch in sampler.batches(epoch)} for epoch in range(2)]
    assert len(groups[0] & groups[1]) < 0.1 * len(sampler)


def test_batches_depend_on_seed_and_epoch_alone():
    lengths = torch.randint(5, 50, (80,), generator=torch.Generator().manual_seed(0)).tolist()
    sampler = FrameBatchSampler(lengths, 200, seed=4)
    state = torch.random.get_rng_state()
    assert sampler.batches(2) == FrameBatchSampler(lengths, 200, seed=4).batches(2)
    assert sampler.batches(2) != sampler.batches(3) and sampler.batches(2) != FrameBatchSampler(lengths, 200).batches(2)
    groups = [{frozenset(batch) for batch in sampler.batches(epoch)} for epoch in range(4)]
    assert len(groups[0] & groups[1] & groups[2] & groups[3]) < len(sampler)  # not only the order changes
    sampler.set_epoch(2)
    assert list(sampler) == sampler.batches(2) and torch.equal(state, torch.random.get_rng_state())
    waste = [len(b) * max(lengths[i] for i in b) / sum(lengths[i] for i in b) for b in sampler.batches(0)]
    assert sum(waste) / len(waste) < 1.15  # similar lengths share a batch


def test_long_items_and_impossible_settings_are_named():
    with pytest.warns(UserWarning, match=r"1 of 3 items are longer than max_frames=10 \(longest: 30\)"):
        sampler = FrameBatchSampler([5, 30, 5], 10, shuffle=False)
    assert list(sampler) == [[0, 2], [1]]
    with pytest.warns(UserWarning, match="1 of them come twice"):
        FrameBatchSampler([5, 5, 5], 5, world_size=2)
    for wrong in ([], [3, 0]):
        with pytest.raises(ValueError, match="need an item or more"):
            FrameBatchSampler(wrong, 10)
    with pytest.raises(ValueError, match=r"rank must lie in 0\.\.1, got 2"):
        FrameBatchSampler([1], 10, rank=2, world_size=2)


def plain_loader() -> FrameLoader:
    return FrameLoader(FrameBatchSampler([1] * 6, 2), lambda rows, epoch: (epoch, rows))


def test_the_loader_goes_on_where_it_was():
    whole = plain_loader()
    want = []
    for epoch in range(3):
        whole.batch_sampler.set_epoch(epoch)
        want += list(whole)
    loader = plain_loader()
    loader.batch_sampler.set_epoch(1)
    batches = iter(loader)
    next(batches), next(batches)
    resumed = plain_loader()
    resumed.load_state_dict(loader.state_dict())
    resumed.batch_sampler.set_epoch(1)
    assert list(resumed) == want[5:6]
    resumed.batch_sampler.set_epoch(2)
    assert list(resumed) == want[6:]


def test_a_finished_epoch_is_followed_by_the_next_whatever_the_trainer_calls_it():
    loader, want = plain_loader(), plain_loader()
    list(loader)
    resumed = plain_loader()
    resumed.load_state_dict(loader.state_dict())
    resumed.batch_sampler.set_epoch(2)  # one too many, as after a resume with max_steps
    want.batch_sampler.set_epoch(1)
    assert list(resumed) == list(want)
    assert resumed.state_dict() == {"epoch": 1, "told": 2, "batches": 3}


def test_speech_batches_hold_what_was_given(tmp_path):
    rows = speech(10)
    write_utterances(tmp_path / "u.parquet", rows)
    (tmp_path / "v.jsonl").write_text('{"id": "v", "text": [1], "tokens": [3, 4]}')
    data = SpeechData(tmp_path / "u.parquet", tmp_path / "v.jsonl", max_frames=30)
    data.setup("fit")
    seen = {}
    for batch in data.train_dataloader():
        assert len(batch.prompts) == len(batch) == len(batch.speech)
        for prompt, tokens in zip(batch.prompts, batch.speech.rows(), strict=True):
            seen[tuple(prompt.text.tolist()), tuple(tokens.tolist())] = prompt.style is not None
    assert seen == {(tuple(r.prompt.text.tolist()), tuple(r.tokens.tolist())): True for r in rows}
    (val,) = data.val_dataloader()
    assert val.speech.rows()[0].tolist() == [3, 4]
    moved = val.to("meta")
    assert moved.speech.tokens.device.type == moved.prompts[0].text.device.type == "meta"


def test_style_is_left_out_as_often_as_asked_and_the_same_way_again():
    rows = [Utterance(f"u{i}", Prompt([i], r.prompt.style), [1]) for i, r in enumerate(speech(400))]
    data = SpeechData(rows, plain_fraction=0.3, seed=1)
    draws = [[data._prompt(row, epoch).style is None for row in rows] for epoch in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert all(abs(sum(d) / 400 - 0.3) < 0.07 for d in draws)  # three standard deviations
    both = sum(a and b for a, b in zip(draws[0], draws[2], strict=True)) / 400
    assert abs(both - 0.09) < 0.05  # epochs are independent
    with pytest.raises(ValueError, match=r"plain_fraction must lie in 0\.\.1, got 2"):
        SpeechData(rows, plain_fraction=2)


def test_duplicate_ids_and_empty_data_are_refused():
    with pytest.raises(ValueError, match=r"more than once: \['u0'\]"):
        SpeechData([*speech(2), *speech(1)]).setup("fit")
    with pytest.raises(ValueError, match="got 0"):
        SpeechData([]).setup("fit")


def fit(backbone, data, **kwargs):
    arguments = {"alpha": 0.8, "lr": 1e-3, "styled_stability": kwargs.pop("styled_stability", False)}
    trainer = quiet(**{"max_steps": 2, **kwargs})
    trainer.fit(DGSA(backbone, **arguments), data)
    return trainer


def test_the_file_is_made_once_with_the_fingerprints_of_its_makers(tmp_path):
    path, rows = tmp_path / "t.parquet", speech(12)
    fit(Toy(), TripletData(rows, path, max_frames=300))
    about, first = read_metadata(path), path.read_bytes()
    cut = sum(not all(t.ended) for t in read_triplets(path))
    assert about["counts"] == {"utterances": 12, "triplets": about["rows"], "cut": cut}
    assert about["settings"]["top_p"] == 0.9 and about["layout"] == "tests.toy.Toy" and about["sampler"] == "nucleus"
    data = TripletData(rows, path, max_frames=300, val_fraction=0.25)
    fit(Toy(), data)
    assert path.read_bytes() == first
    assert len(data.val) == round(about["rows"] / 4) and len(data.val) + len(data.train) == about["rows"]
    assert not {t.id for t in data.val} & {t.id for t in data.train}


CHANGES = {
    "weights": (lambda rows: {}, 1),
    "settings": (lambda rows: {"temperature": 0.7}, 0),
    "settings.*seed": (lambda rows: {"seed": 5}, 0),
    "data": (lambda rows: {"utterances": rows[:-1]}, 0),
    "data: here": (lambda rows: {"utterances": [replace(rows[0], tokens=rows[0].tokens + 1), *rows[1:]]}, 0),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_file_of_something_else_is_refused(tmp_path, what):
    path, rows = tmp_path / "t.parquet", speech(8)
    TripletData(rows, path).make(Toy())
    change, seed = CHANGES[what]
    with pytest.raises(ValueError, match=rf"belongs to something else(?s:.)*{what}(?s:.)*or delete the file"):
        fit(Toy(seed), TripletData(**{"utterances": rows, "triplets": path, **change(rows)}))


def test_triplets_of_one_s_own_are_told_where_to_go(tmp_path):
    rows = [Triplet("a", Prompt([1]), *(torch.tensor([i]) for i in (1, 2, 3)))]
    write_triplets(tmp_path / "own.parquet", rows)
    with pytest.raises(ValueError, match=r"was not made by TripletData(?s:.)*triplets of your own: docs/data.md"):
        fit(Toy(), TripletData(speech(8), tmp_path / "own.parquet"))
    with pytest.raises(TypeError, match=r"need utterances, or a file of them, got Triplet"):
        fit(Toy(), TripletData(rows, tmp_path / "t.parquet"))
    assert not (tmp_path / "t.parquet").exists()


def test_an_empty_manifest_is_named_and_nothing_is_made_of_it(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match=r"empty.jsonl holds no utterances"):
        SpeechData(tmp_path / "empty.jsonl").setup()
    with pytest.raises(ValueError, match=r"empty.jsonl holds no utterances"):
        fit(Toy(), TripletData(tmp_path / "empty.jsonl", tmp_path / "t"))
    assert not (tmp_path / "t").exists()


def test_another_layout_is_refused(tmp_path):
    rows = speech(8)
    TripletData(rows, tmp_path / "t.parquet").make(Toy())
    toy = Toy()
    toy.layout = "speech-first"
    with pytest.raises(ValueError, match="layout: here tests.toy.Toy:speech-first, file tests.toy.Toy"):
        fit(toy, TripletData(rows, tmp_path / "t.parquet"))


def test_swapped_speech_in_the_file_is_refused(tmp_path):
    path, rows = tmp_path / "t.parquet", speech(8)
    data = TripletData(rows, path)
    data.make(Toy())
    stored = read_triplets(path)
    write_triplets(path, [replace(stored[0], real=stored[0].real.flip(0) + 1), *stored[1:]], read_metadata(path))
    with pytest.raises(ValueError, match=rf"the real speech of \['{stored[0].id}'\]"):
        data.setup("fit")


def test_a_failure_while_making_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("seaalign.data.triplets.reference_logps", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(Toy(), TripletData(speech(4), tmp_path / "t.parquet"))
    assert not list(tmp_path.iterdir())


def test_a_rehearsal_samples_eight_and_leaves_the_real_thing_alone(tmp_path):
    path, data = tmp_path / "t.parquet", TripletData(speech(30), tmp_path / "t.parquet")
    trainer = fit(Toy(), data, fast_dev_run=True)
    assert trainer.global_step == 1 and not path.exists()
    assert read_metadata(tmp_path / "t.fast_dev_run.parquet")["counts"]["utterances"] == 8
    fit(Toy(1), data, fast_dev_run=True)  # other weights: made anew rather than refused
    fit(Toy(), data)
    assert read_metadata(path)["counts"]["utterances"] == 30


def test_without_file_and_trainer_there_is_a_hint(tmp_path):
    data = TripletData(speech(3), tmp_path / "t.parquet")
    with pytest.raises(FileNotFoundError):
        data.setup("fit")
    with pytest.raises(ValueError, match=r"TripletData.make\(backbone\) first"):
        quiet().validate(DGSA(Toy(), 0.8), data)


def test_validation_works_with_aligned_weights(tmp_path):
    data = TripletData(speech(12), tmp_path / "t.parquet", val_fraction=0.5)
    data.make(Toy())
    (logs,) = quiet().validate(DGSA(Toy(1), 0.8), data, verbose=False)
    assert logs["val/logps/drift_chosen"] != 0


def test_a_batch_holds_each_row_beside_its_reference(tmp_path):
    data = TripletData(speech(9), tmp_path / "t.parquet", styled=True, max_frames=150, val_fraction=0)
    toy = Toy()
    data.make(toy)
    data.setup("fit")
    assert data.val_dataloader() == []
    for batch in data.train_dataloader():
        assert isinstance(batch, TripletBatch) and len(batch.speech) == 3 * len(batch)
        assert batch.speech.tokens.shape[1] * len(batch.speech) <= 150
        plain = toy([p.plain() for p in batch.prompts], batch.speech)
        torch.testing.assert_close(batch.plain, plain, atol=1e-5, rtol=1e-5)
        styled = toy(batch.prompts, batch.speech.select(torch.arange(2 * len(batch))))
        torch.testing.assert_close(batch.styled[:, : styled.shape[1]], styled, atol=1e-5, rtol=1e-5)
        assert torch.equal(batch.to("cpu").plain, batch.plain)
    with pytest.raises(ValueError, match="carry no reference log-probs"):
        TripletBatch.of([replace(t, reference=None) for t in data.train])


def test_triplets_of_a_batch_must_carry_the_same_log_probs(tmp_path):
    data = TripletData(speech(4), tmp_path / "t.parquet", styled=True, val_fraction=0)
    data.make(Toy())
    data.setup("fit")
    first, second = data.train[:2]
    less = replace(second, reference={"plain": second.reference["plain"]})
    for group in ([first, less], [less, first]):  # the other way round it used to drop them silently
        with pytest.raises(ValueError, match=rf"1 of 2 triplets lack .*'{second.id}': \['styled'\].*reference_logps"):
            TripletBatch.of(group)
    with pytest.raises(ValueError, match=r"\['plain'\]"):
        TripletBatch.of([replace(first, reference={"styled": first.reference["styled"]})])
    assert TripletBatch.of([replace(first, reference={"plain": first.reference["plain"]}), less]).styled is None


def test_synthetic_speech_never_becomes_the_chosen_side(tmp_path):
    path = tmp_path / "t.parquet"
    rows = speech(6)
    mixed = [*rows[:3], *(Utterance(r.id, r.prompt, r.tokens, "espeak") for r in rows[3:])]
    says = r"3 of 6 utterances are synthetic, by source \{'espeak': 3\}, first \['u3', 'u4', 'u5'\].*source is \"real\""
    with pytest.raises(ValueError, match=says):
        TripletData(mixed, path).make(Toy())
    with pytest.raises(ValueError, match=says):
        fit(Toy(), TripletData(mixed, path))
    assert not path.exists()
    TripletData(rows, path).make(Toy())
    with pytest.raises(ValueError, match=says):
        TripletData(mixed, path).setup("fit")


def test_trainer_arguments_do_not_touch_the_batches():
    rows = speech(24)

    class Watch(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer, self.seen = torch.nn.Linear(1, 1), []

        def training_step(self, batch, _):
            self.seen.append(batch.speech.tokens.tolist())
            return self.layer(torch.ones(1)).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    watch, data = Watch(), SpeechData(rows, max_frames=40)
    quiet(max_epochs=2, use_distributed_sampler=True).fit(watch, data)
    sampler = FrameBatchSampler([len(r.tokens) for r in rows], 40)
    want = [sorted(len(rows[i].tokens) for i in b) for epoch in range(2) for b in sampler.batches(epoch)]
    assert [len(tokens) for tokens in watch.seen] == [len(w) for w in want]
    watch.seen.clear()
    quiet(max_epochs=3, overfit_batches=1).fit(watch, SpeechData(rows, max_frames=40))
    assert watch.seen[0] == watch.seen[1] == watch.seen[2]
