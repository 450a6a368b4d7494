from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from seaalign.data import PairBatch
from seaalign.data.pairs import PairData
from seaalign.modules.dpo import DPO
from seaalign.records import Pair, Prompt, Speech
from seaalign.sampling import pair_logps
from tests.modules.test_resume import SaveEverywhere
from tests.toy import Table, Toy, quiet, speech

HALVES = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()  # surprise in bits: 1, 2, 3, and 3 for the end
BIT = math.log(2)


def hand_made() -> PairBatch:
    """Policy log-probs, in bits: chosen [0] + end = -4, rejected [1, 0] cut = -3. Reference: -6 and -5."""
    reference = (torch.tensor([-2.0, -4.0]) * BIT, torch.tensor([-3.0, -2.0, 0.0]) * BIT)
    return PairBatch.of([Pair("a", Prompt([1]), torch.tensor([0]), torch.tensor([1, 0]), (True, False), reference)])


def made_pairs(count: int = 24, seed: int = 0) -> list[Pair]:
    """Speech that follows its text preferred to speech of another text; every fifth rejected answer is cut."""
    rows = speech(count, seed)
    return [
        Pair(row.id, row.prompt, row.tokens, other.tokens.flip(0), (True, i % 5 > 0))
        for i, (row, other) in enumerate(zip(rows, [*rows[1:], rows[0]], strict=True))
        if row.tokens.tolist() != other.tokens.flip(0).tolist()
    ]


def logsig(x: float) -> float:
    return -math.log(1 + math.exp(-x))


def test_golden_loss():
    """Log-ratios in bits: chosen -4 - -6 = 2, rejected -3 - -5 = 2 with half a bit of beta: margin 0, loss ln 2."""
    batch = hand_made()
    loss, logs = DPO(Table(HALVES), beta=0.5).loss(batch)
    assert loss.item() == pytest.approx(BIT, rel=1e-6) and logs["rewards/margins"].item() == pytest.approx(0, abs=1e-6)
    batch.reference[1] -= torch.tensor([1.0, 1.0, 0.0]) * BIT  # the reference likes the rejected two bits less
    loss, logs = DPO(Table(HALVES), beta=0.5).loss(batch)
    # chosen 2, rejected 4: margin -2 bits, half of it -1 bit: -log sigmoid(-ln 2) = ln 3
    assert loss.item() == pytest.approx(math.log(3), rel=1e-6)
    expected = {
        "loss": math.log(3),
        "rewards/margins": -BIT,
        "rewards/accuracies": 0.0,
        "logps/chosen": -4 * BIT,
        "logps/drift_chosen": 2 * BIT,
    }
    assert {k: pytest.approx(v.item(), rel=1e-6) for k, v in logs.items()} == expected


@pytest.mark.parametrize(
    ("arguments", "want"),
    [
        # margin -2 bits in all of them, see above; the anchor is 4 bits over two columns
        ({}, -logsig(-2 * BIT)),
        ({"beta": 0.1}, -logsig(-0.2 * BIT)),
        ({"loss": "ipo"}, (-2 * BIT - 0.5) ** 2),
        ({"label_smoothing": 0.1}, -0.9 * logsig(-2 * BIT) - 0.1 * logsig(2 * BIT)),
        ({"sft_weight": 0.1}, -logsig(-2 * BIT) + 0.1 * 2 * BIT),
        # per column: chosen 2 / 2, rejected 4 / 2
        ({"reduction": "mean"}, -logsig(-1 * BIT)),
    ],
)
def test_every_argument_by_hand(arguments, want):
    batch = hand_made()
    batch.reference[1] -= torch.tensor([1.0, 1.0, 0.0]) * BIT
    loss, _ = DPO(Table(HALVES), **{"beta": 1.0, **arguments}).loss(batch)
    assert loss.item() == pytest.approx(want, rel=1e-5)


def test_agrees_with_a_slow_implementation():
    toy, rows = Toy(), made_pairs(9)
    scored, total = pair_logps(Toy(99), rows), 0.0
    for pair in scored:
        ratios = []
        for tokens, ended, stored in zip(pair.completions(), pair.ended, pair.reference, strict=True):
            policy = toy([pair.prompt], Speech.pack([tokens], [ended])).double().sum()
            ratios.append((policy - stored.double().sum()).item())
        total -= logsig(0.1 * (ratios[0] - ratios[1]))
    loss, _ = DPO(toy).loss(PairBatch.of(scored))
    assert loss.item() == pytest.approx(total / len(scored), rel=1e-5)


def test_the_gradient_is_that_of_the_formula():
    toy = Toy()
    batch = PairBatch.of(pair_logps(Toy(99), made_pairs(6)))
    DPO(toy, beta=0.3).loss(batch)[0].backward()
    got = [p.grad.clone() for p in toy.parameters()]
    toy.zero_grad()
    chosen, rejected = (toy(batch.prompts, batch.speech) - batch.reference).sum(-1).view(2, -1)
    (-F.logsigmoid(0.3 * (chosen - rejected)).mean()).backward()
    assert all(torch.allclose(g, p.grad, atol=1e-6) for g, p in zip(got, toy.parameters(), strict=True))


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="loss must be 'dpo', or 'ipo' without label_smoothing; got 'ipo' with 0.1"):
        DPO(Toy(), loss="ipo", label_smoothing=0.1)
    with pytest.raises(ValueError, match="got 'kto'"):
        DPO(Toy(), loss="kto")
    with pytest.raises(ValueError, match="sft_weight must be >= 0, got -1"):
        DPO(Toy(), sft_weight=-1)


def test_margin_rises_and_everything_is_logged(tmp_path):
    module, margins = DPO(Toy(), lr=5e-3), []
    module.on_train_batch_end = lambda *_: margins.append(
        module.trainer.callback_metrics["train/rewards/margins"].item()
    )
    trainer = quiet(max_steps=20)
    data = PairData(made_pairs(), tmp_path / "s.parquet", val_fraction=0.25, max_frames=3000)
    trainer.fit(module, data)
    assert abs(margins[0]) < 1e-5 and margins[-1] > 0.3 and trainer.callback_metrics["train/loss"] < 0.6
    names = {"loss", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/drift_chosen"}
    assert set(trainer.callback_metrics) == {f"{stage}/{name}" for stage in ("train", "val") for name in names}


def test_a_backbone_that_can_switch_no_style_will_do(tmp_path):
    toy = Toy()
    toy.features = frozenset()
    quiet(max_steps=1).fit(DPO(toy), PairData(made_pairs(6), tmp_path / "s.parquet"))


def test_dropout_and_a_strange_reference_are_caught_at_the_first_step(tmp_path):
    with pytest.raises(RuntimeError, match="must equal the stored reference.*dropout active inside forward"):
        quiet(max_steps=1).fit(DPO(Toy(dropout=0.1)), PairData(made_pairs(8), tmp_path / "s.parquet", val_fraction=0))
    carried = pair_logps(Toy(5), made_pairs(8))
    with pytest.raises(
        RuntimeError, match="another checkpoint than the one that made the triplets or scored the pairs"
    ):
        quiet(max_steps=1).fit(DPO(Toy()), PairData(carried))
    quiet(max_steps=1).fit(DPO(Toy(), tolerance=10.0), PairData(carried))


def test_rehearsal_and_loading(tmp_path):
    data = PairData(made_pairs(8), tmp_path / "s.parquet")
    quiet(fast_dev_run=True).fit(DPO(Toy()), data)
    module, trainer = DPO(Toy(), lr=1e-2, loss="ipo", sft_weight=0.2), quiet(max_steps=2)
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = DPO.load_from_checkpoint(tmp_path / "a.ckpt", backbone=Toy(1))
    assert loaded.hparams == module.hparams and loaded.hparams["loss"] == "ipo"
    assert all(torch.equal(v, module.state_dict()[k]) for k, v in loaded.state_dict().items())
    (logs,) = quiet().validate(loaded, data, verbose=False)  # aligned weights beside the old reference
    assert logs["val/logps/drift_chosen"] != 0


def run(folder, limits, checkpoint=None, callbacks=(), backbone=None):
    module = DPO(backbone or Toy(), lr=1e-3, warmup_steps=2, schedule="cosine")
    data = PairData(made_pairs(), folder / "s.parquet", max_frames=120, val_fraction=0.2)
    trainer = quiet(**limits, callbacks=list(callbacks))
    trainer.fit(module, data, ckpt_path=checkpoint)
    return {name: value.clone() for name, value in module.state_dict().items()}, trainer.global_step


@pytest.mark.parametrize("limits", [{"max_epochs": 3, "val_check_interval": 2}, {"max_steps": 9}])
def test_a_resumed_run_is_the_same_run(tmp_path, limits):
    want, steps = run(tmp_path, limits, callbacks=[SaveEverywhere(tmp_path)])
    assert steps >= 8 and any(not torch.equal(want[name], value) for name, value in DPO(Toy()).state_dict().items())
    places = sorted(tmp_path.glob("*.ckpt"))
    middle = [p for p in places if int(p.stem[:2]) < steps]
    for place in middle[1::2]:
        # other weights at hand: the checkpoint's count, and its reference is the stored one
        got, end = run(tmp_path, limits, place, backbone=Toy(3))
        assert end == steps and all(torch.equal(want[name], got[name]) for name in want), place.name


def test_bf16_mixed_starts_at_its_reference(tmp_path):
    data = PairData(made_pairs(8), tmp_path / "s.parquet", val_fraction=0)
    trainer = quiet(max_steps=1, precision="bf16-mixed")
    trainer.fit(DPO(Toy()), data)
    assert data.metadata["precision"] == "bf16-mixed"
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(BIT, abs=2e-3)


def test_the_wrong_data_is_refused_before_work_is_done_on_it(tmp_path):
    from seaalign import DGSA, SFT, PairData, SpeechData
    from tests.toy import Toy, quiet, speech

    pairs = [Pair(u.id, u.prompt, u.tokens, u.tokens.flip(0)) for u in speech(4)]
    data = PairData(pairs, scored=tmp_path / "scored.parquet")
    for module, given, match in (
        (DGSA(Toy(), alpha=0.8), data, "DGSA trains on TripletData, not on PairData"),
        (SFT(Toy()), data, "SFT trains on SpeechData, not on PairData"),
        (DPO(Toy()), SpeechData(speech(4)), "DPO trains on PairData, not on SpeechData"),
    ):
        with pytest.raises(TypeError, match=match):
            quiet(max_steps=1).fit(module, given)
    assert not (tmp_path / "scored.parquet").exists()
