"""`max_frames` as a user meets it: what the trainer's backbone makes of a batch decides what it counts."""

from __future__ import annotations

import warnings

import lightning as L
import pytest
import torch

from examples.your_own_model import CODES, TEXT, MyAdapter
from seaalign import DGSA, SFT, Pair, Prompt, SpeechData, Style, TripletData, Utterance
from seaalign.data.pairs import PairData
from seaalign.modules.dpo import DPO
from seaalign.sampling import pair_logps, reference_logps
from seaalign.storage import read_triplets
from tests.backbones.test_packing import Packable, own
from tests.toy import quiet


def real(count: int = 30) -> list[Utterance]:
    g = torch.Generator().manual_seed(0)

    def ids(high: int, low: int, most: int) -> torch.Tensor:
        return torch.randint(high, (int(torch.randint(low, most, (), generator=g)),), generator=g)

    return [
        Utterance(f"u{i}", Prompt(ids(TEXT, 3, 9), Style(ids(CODES, 4, 8), ids(TEXT, 2, 5)), i), ids(CODES, 5, 40))
        for i in range(count)
    ]


class Calls(L.Callback):
    """What the model read at each training step: positions, and those that were padding."""

    def __init__(self) -> None:
        self.read = list[int]()

    def on_train_start(self, trainer, module):
        original = module.backbone._call_body

        def counting(x, *args, **kwargs):
            if torch.is_grad_enabled():
                self.read.append(x.shape[0] * x.shape[1])
            return original(x, *args, **kwargs)

        module.backbone._call_body = counting


def module_of(kind: str, backbone):
    if kind == "sft":
        return SFT(backbone)
    return DPO(backbone) if kind == "dpo" else DGSA(backbone, 0.8, styled_stability=kind == "styled")


def data_of(kind: str, folder, most: int, **changes):
    rows, common = real(), {"max_frames": most, "val_fraction": 0.2, **changes}
    if kind == "sft":
        return SpeechData(rows, rows[:5], max_frames=most)
    if kind == "dpo":
        pairs = [Pair(u.id, u.prompt, u.tokens, torch.cat([u.tokens[:3], u.tokens])) for u in rows]
        return PairData(pairs, folder / "s.parquet", **common)
    return TripletData(rows, folder / f"{kind}.parquet", styled=kind == "styled", max_len=40, **common)


@pytest.mark.parametrize("kind", ["sft", "dpo", "dgsa", "styled"])
def test_no_step_of_a_packing_backbone_reads_more_and_most_are_nearly_full(tmp_path, kind):
    most, watch, data = 500, Calls(), data_of(kind, tmp_path, 500)
    quiet(max_epochs=2, callbacks=[watch]).fit(module_of(kind, own()), data)
    assert data.packed
    # the example's layout has two marks in each prompt, which are not counted
    marks = 2 * (2 if kind == "styled" else 1)
    sizes = [data._frames(row) if kind != "sft" else _sft(row) for row in data.train]
    assert sum(watch.read) == 2 * sum(size + marks for size in sizes)  # every epoch reads each item once, unpadded
    assert max(watch.read) <= most + marks * len(sizes)
    assert len(watch.read) == 2 * len(data.train_dataloader()) and len(watch.read) <= 2 * (
        1 + sum(sizes) // (0.8 * most)
    )


def _sft(row: Utterance) -> int:
    return len(row.prompt.text) + len(row.prompt.style.text) + len(row.prompt.style.tokens) + len(row.tokens)


def test_where_rows_are_padded_the_ceiling_is_rows_times_longest_as_before(tmp_path):
    watch, data = Calls(), data_of("sft", tmp_path, 200)
    with pytest.warns(UserWarning, match="MyAdapter scores row by row, padded"):
        quiet(max_epochs=1, callbacks=[watch]).fit(SFT(own(MyAdapter)), data)
    assert not data.packed
    for batch in data.train_dataloader():
        assert batch.speech.tokens.shape[0] * batch.speech.tokens.shape[1] <= 200


def test_reference_scoring_cuts_its_calls_the_same_way():
    rows = [Pair(u.id, u.prompt, u.tokens, u.tokens[:4]) for u in real()]
    read, backbone = [], own()
    original = backbone._call_body
    backbone(*_first(rows))  # which tries whether it can be packed
    backbone._call_body = lambda x, *a, **k: read.append(x.shape[:2]) or original(x, *a, **k)
    packed = pair_logps(backbone, rows, max_frames=300)
    assert all(shape[0] == 1 and shape[1] <= 300 + 2 * len(rows) for shape in read)
    whole = sum(_sft(Utterance(r.id, r.prompt, r.chosen)) + len(r.rejected) for r in rows)
    assert len(read) <= 1 + whole // 240
    with pytest.warns(UserWarning, match="padded"):
        padded = pair_logps(own(MyAdapter), rows, max_frames=300)
    for one, other in zip(packed, padded, strict=True):
        torch.testing.assert_close(one.reference, other.reference, atol=1e-5, rtol=1e-5)
    assert reference_logps(backbone, []) == [] == pair_logps(backbone, [])


def _first(rows):
    from seaalign import Speech

    return [rows[0].prompt], Speech.pack([rows[0].chosen])


class Saves(L.Callback):
    def __init__(self, folder, strip: bool = False) -> None:
        self.folder, self.strip, self.seen = folder, strip, []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.seen.append(sorted(batch.ids))
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


@pytest.mark.parametrize("then", [Packable, MyAdapter])
def test_a_resumed_run_keeps_the_batches_that_it_began_with(tmp_path, then):
    """Also where the backbone is now packed and was not, or the other way round: no item twice, none left out."""
    now = MyAdapter if then is Packable else Packable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = Saves(tmp_path)
        quiet(max_epochs=2, callbacks=[whole]).fit(SFT(own(then)), data_of("sft", tmp_path, 300))
        resumed = Saves(tmp_path / "again")
        data = data_of("sft", tmp_path, 300)
        quiet(max_epochs=2, callbacks=[resumed]).fit(SFT(own(now)), data, ckpt_path=tmp_path / "2.ckpt")
    assert data.packed == (then is Packable)
    assert len(whole.seen) > 6 and resumed.seen == whole.seen[2:]
    # and a run of its own goes by its own backbone again
    fresh = Saves(tmp_path / "fresh")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quiet(max_steps=1, callbacks=[fresh]).fit(SFT(own(now)), data)
    assert data.packed == (now is Packable)


def test_a_checkpoint_from_before_packed_batches_goes_on_with_padded_ones(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = Saves(tmp_path)
        quiet(max_epochs=2, callbacks=[whole]).fit(SFT(own(MyAdapter)), data_of("sft", tmp_path, 300))
    old = torch.load(tmp_path / "2.ckpt", weights_only=False)
    assert old["SpeechData"].pop("packed") is False
    torch.save(old, tmp_path / "old.ckpt")
    resumed = Saves(tmp_path / "again")
    quiet(max_epochs=2, callbacks=[resumed]).fit(
        SFT(own()), data_of("sft", tmp_path, 300), ckpt_path=tmp_path / "old.ckpt"
    )
    assert resumed.seen == whole.seen[2:]


def test_styled_scoring_counts_both_prompts_and_four_rows(tmp_path):
    data = data_of("styled", tmp_path, 500)
    data.make(own())
    data.setup("fit")
    data.packed = True
    row = read_triplets(tmp_path / "styled.parquet")[0]
    text, style = len(row.prompt.text), len(row.prompt.style.text) + len(row.prompt.style.tokens)
    rows = 2 * len(row.real) + len(row.expressive) + len(row.stable)
    assert data._frames(row) == 2 * text + style + rows
    data.packed = False
    assert data._frames(row) == 3 * max(map(len, row.completions()))


@pytest.mark.audio
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_hugging_face_model_packs_in_the_precision_of_the_training(tmp_path, precision):
    """Under autocast rotary positions leave queries wider than values; batches must not be filled for what fails."""
    from tests.backbones.test_packing import causal
    from tests.backbones.tiny_hf import prompts_for

    backbone = causal("Llama")
    prompt, g = prompts_for(backbone.spec)[0], torch.Generator().manual_seed(0)
    rows = [
        Utterance(f"u{i}", prompt, torch.randint(12, (length,), generator=g))
        for i, length in enumerate([40, 4, 5, 30, 6, 8, 3, 25])
    ]
    watch, data = Calls(), SpeechData(rows, max_frames=80)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*row by row.*")
        quiet(max_epochs=1, precision=precision, callbacks=[watch]).fit(SFT(backbone), data)
    assert data.packed
    marks = len(backbone.prompt_ids(prompt)) - len(prompt.text)
    assert max(watch.read) <= 80 + marks * len(rows)
    assert sum(watch.read) == sum(len(prompt.text) + marks + len(row.tokens) for row in rows)
    exact = backbone(*_first([Pair("a", prompt, rows[0].tokens, rows[1].tokens)])).detach()
    backbone._packs = lambda like: False
    torch.testing.assert_close(exact, backbone(*_first([Pair("a", prompt, rows[0].tokens, rows[1].tokens)])).detach())
