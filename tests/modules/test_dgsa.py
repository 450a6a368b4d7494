from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from seaalign import DGSA, TripletData, Unsupported
from seaalign.data import TripletBatch
from seaalign.records import Prompt, Speech, Style, Triplet
from seaalign.sampling import dual_mode, reference_logps
from tests.toy import Table, Toy, quiet, speech

HALVES = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()  # surprise in bits: 1, 2, 3, and 3 for the end
BIT = math.log(2)


def hand_made() -> TripletBatch:
    """Policy log-probs, in bits: real [0] + end = -4, expressive [1, 0] + end = -6, stable [2] cut = -3."""
    reference = (torch.tensor([-2.0, -4.0]), torch.tensor([-2.0, -1.0, -2.0]), torch.tensor([-5.0, 0.0]))
    plain = tuple(values * BIT for values in reference)  # -6, -5, -5 bits
    prompt = Prompt([1], Style([2]))
    t = Triplet(
        "a", prompt, torch.tensor([0]), torch.tensor([1, 0]), torch.tensor([2]), (True, True, False), {"plain": plain}
    )
    return TripletBatch.of([t])


def batch_of(toy: Toy, count: int = 6, seed: int = 0, styled: bool = True) -> TripletBatch:
    """Triplets whose reference is another model than `toy`, so that margins are not zero."""
    triplets = dual_mode(toy, speech(count, seed))
    return TripletBatch.of(reference_logps(Toy(99), triplets, styled=styled))


def logsig(x: float) -> float:
    return -math.log(1 + math.exp(-x))


def test_golden_loss():
    """Log-ratios in bits: real -4 - -6 = 2, expressive -6 - -5 = -1, stable -3 - -5 = 2: margins 3 and 0, beta 1."""
    loss, logs = DGSA(Table(HALVES), alpha=0.8, beta=1.0).loss(hand_made())
    want = 0.4 * -logsig(3 * BIT) + 0.6 * BIT  # log(1 + 2**-3) = log(9/8) = 0.1178; at margin 0 ln 2 = 0.6931
    assert loss.item() == pytest.approx(want, rel=1e-6) == pytest.approx(0.4 * 0.11778 + 0.6 * 0.69315, abs=1e-4)
    assert logs["loss"].item() == pytest.approx(want, rel=1e-6)
    expected = {
        "rewards/margins": 0.4 * 3 * BIT,
        "rewards/margins/stability": 3 * BIT,
        "rewards/margins/expressivity": 0.0,
        "rewards/accuracies": 0.4,
        "logps/chosen": -4 * BIT,
        "logps/drift_chosen": 2 * BIT,
        "weights/expressivity": 0.6,
    }
    assert {k: pytest.approx(v.item(), abs=1e-6) for k, v in logs.items() if k != "loss"} == expected


def arm(**kwargs) -> float:
    return DGSA(Table(HALVES), **{"alpha": 0.8, "beta": 1.0, **kwargs}).loss(hand_made())[0].item()


STABILITY, EXPRESSIVITY, SURPRISE = -logsig(3 * BIT), BIT, 4 * BIT / 2  # two scored columns: token and end


@pytest.mark.parametrize(
    ("arguments", "want"),
    [
        ({"weights": (0, 1)}, EXPRESSIVITY),
        ({"weights": (1, 0)}, STABILITY),
        ({"weights": (0.5, 0.5)}, (STABILITY + EXPRESSIVITY) / 2),
        ({"alpha": 1.0}, EXPRESSIVITY),
        ({"alpha": 0.5}, STABILITY),
        ({"alpha": 0.3}, STABILITY),
        ({"alpha": 0.3, "below_critical": "sft"}, SURPRISE),
        ({"alpha": 0.3, "below_critical": "sft", "sft_weight": 0.5}, SURPRISE / 2),
        ({"alpha": 0.8, "below_critical": "sft"}, 0.4 * STABILITY + 0.6 * EXPRESSIVITY),
        ({"alpha": 0.8, "critical": 0.6}, (STABILITY + EXPRESSIVITY) / 2),
        ({"sft_weight": 0.1}, 0.4 * STABILITY + 0.6 * EXPRESSIVITY + 0.1 * SURPRISE),
        ({"loss": "ipo"}, 0.4 * (3 * BIT - 0.5) ** 2 + 0.6 * 0.25),
        ({"label_smoothing": 0.1}, 0.4 * (0.9 * STABILITY - 0.1 * logsig(-3 * BIT)) + 0.6 * EXPRESSIVITY),
        # per column: real (2, 2), expressive (3, 3), stable (1, 1): log-ratios 1, -1/3, 2
        ({"reduction": "mean"}, 0.4 * -logsig(4 / 3 * BIT) + 0.6 * -logsig(-1 * BIT)),
        ({"beta": 0.1, "weights": (1, 0)}, -logsig(0.3 * BIT)),
    ],
)
def test_every_arm_by_hand(arguments, want):
    assert arm(**arguments) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("styled", [False, True])
def test_agrees_with_a_slow_implementation(styled):
    toy = Toy()
    batch = batch_of(toy)
    count, total = len(batch), 0.0
    for k in range(count):
        ratios = {}
        for block, name in enumerate(("real", "expressive", "stable")):
            row = block * count + k
            speech_row = Speech.pack([batch.speech.rows()[row]], [bool(batch.speech.ended[row])])
            for mode, prompt, stored in (
                ("plain", batch.prompts[k].plain(), batch.plain),
                ("styled", batch.prompts[k], batch.styled),
            ):
                if row < len(stored):
                    ratios[name, mode] = float(toy([prompt], speech_row).double().sum() - stored[row].double().sum())
        mode = "styled" if styled else "plain"
        total -= 0.4 * logsig(0.1 * (ratios["real", mode] - ratios["expressive", mode]))
        total -= 0.6 * logsig(0.1 * (ratios["real", "plain"] - ratios["stable", "plain"]))
    loss, _ = DGSA(toy, 0.8, styled_stability=styled).loss(batch)
    assert loss.item() == pytest.approx(total / count, rel=1e-5)


def test_policy_equal_to_reference_gives_ln_2_and_no_margin():
    toy = Toy()
    triplets = reference_logps(toy, dual_mode(toy, speech(6)))
    loss, logs = DGSA(toy, 0.8).loss(TripletBatch.of(triplets))
    assert loss.item() == pytest.approx(BIT, abs=1e-5) and abs(logs["rewards/margins"].item()) < 1e-5


def test_the_gradient_is_that_of_the_formula():
    toy = Toy()
    batch = batch_of(toy)
    DGSA(toy, 0.8, beta=0.3).loss(batch)[0].backward()
    got = [p.grad.clone() for p in toy.parameters()]
    toy.zero_grad()
    real, expressive, stable = (toy([p.plain() for p in batch.prompts], batch.speech) - batch.plain).sum(-1).view(3, -1)
    want = -(0.4 * F.logsigmoid(0.3 * (real - expressive)) + 0.6 * F.logsigmoid(0.3 * (real - stable))).mean()
    want.backward()
    assert all(torch.allclose(g, p.grad, atol=1e-6) for g, p in zip(got, toy.parameters(), strict=True))


def test_the_weights_of_the_paper():
    module = DGSA(Toy(), alpha=0.8)
    assert module.weights == pytest.approx((0.4, 0.6))
    for wrong in ((-1, 1), (0, 0)):
        with pytest.raises(ValueError, match="weights must be >= 0 and not all 0"):
            DGSA(Toy(), 0.8, weights=wrong)
    with pytest.raises(ValueError, match="below_critical must be"):
        DGSA(Toy(), 0.8, below_critical="nothing")
    with pytest.raises(ValueError, match="loss must be 'dpo', or 'ipo' without label_smoothing; got 'ipo' with 0.1"):
        DGSA(Toy(), 0.8, loss="ipo", label_smoothing=0.1)
    with pytest.raises(ValueError, match="alpha must be a share between 0 and 1, got 80"):
        DGSA(Toy(), 80)


@pytest.mark.parametrize("lacking", ["style", "timbre"])
def test_a_backbone_without_separation_is_refused_with_a_way_out(lacking):
    toy = Toy()
    toy.features = {"style", "timbre"} - {lacking}
    with pytest.raises(
        Unsupported, match=rf"DGSA needs.*Toy does not declare \['{lacking}'\].*it has not: seaalign.StylePrefix"
    ):
        DGSA(toy, 0.8)


def test_styled_stability_needs_styled_reference(tmp_path):
    data = TripletData(speech(6), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"TripletData\(styled=True\)"):
        quiet(max_steps=1).fit(DGSA(Toy(), 0.8, styled_stability=True), data)


def test_margin_rises_and_everything_is_logged(tmp_path):
    toy = Toy()
    module, margins = DGSA(toy, 0.8, lr=5e-3), []
    module.on_train_batch_end = lambda *_: margins.append(
        module.trainer.callback_metrics["train/rewards/margins"].item()
    )
    trainer = quiet(max_steps=20)
    trainer.fit(module, TripletData(speech(24), tmp_path / "t.parquet", val_fraction=0.25, max_frames=3000))
    assert abs(margins[0]) < 1e-5 and margins[-1] > 0.3 and trainer.callback_metrics["train/loss"] < 0.6
    names = {
        "loss",
        "rewards/margins",
        "rewards/margins/stability",
        "rewards/margins/expressivity",
        "rewards/accuracies",
    }
    names |= {"logps/chosen", "logps/drift_chosen", "weights/expressivity"}
    assert set(trainer.callback_metrics) == {f"{stage}/{name}" for stage in ("train", "val") for name in names}


def fails_at_the_start(tmp_path, toy, **kwargs):
    data = TripletData(speech(8), tmp_path / "t.parquet", val_fraction=0)
    module = DGSA(toy, 0.8, **kwargs)
    quiet(max_steps=1).fit(module, data)


def test_dropout_in_forward_is_caught_at_the_first_step(tmp_path):
    with pytest.raises(RuntimeError, match="must equal the stored reference.*dropout active inside forward"):
        fails_at_the_start(tmp_path, Toy(dropout=0.1))


class Jittery(Toy):
    """Draws its layout anew in each pass."""

    def prefill(self, prompts):
        if torch.rand(()) < 0.5 and torch.is_grad_enabled():
            prompts = [Prompt(p.text.flip(0), p.style, p.timbre) for p in prompts]
        return super().prefill(prompts)


def test_a_random_layout_is_caught_at_the_first_step(tmp_path):
    torch.manual_seed(0)
    toy = Jittery()
    for p in toy.parameters():
        p.data.mul_(3)
    with pytest.raises(RuntimeError, match="a layout that is drawn at random"):
        for _ in range(12):  # caught at the latest when the coin falls so
            fails_at_the_start(tmp_path, toy, lr=0.0)


def test_another_reference_is_caught_even_under_the_right_fingerprint(tmp_path):
    data = TripletData(speech(8), tmp_path / "t.parquet", val_fraction=0)
    data.make(Toy())
    data.setup()
    data.train = reference_logps(Toy(5), data.train)
    data.setup = lambda stage: None
    with pytest.raises(RuntimeError, match="another checkpoint"):
        quiet(max_steps=1).fit(DGSA(Toy(), 0.8), data)
    quiet(max_steps=1).fit(DGSA(Toy(), 0.8, tolerance=10.0), data)


def test_rehearsal_and_loading(tmp_path):
    data = TripletData(speech(8), tmp_path / "t.parquet")
    quiet(fast_dev_run=True).fit(DGSA(Toy(), 0.8), data)
    module, trainer = DGSA(Toy(), 0.8, lr=1e-2, weights=(0.5, 0.5), sft_weight=0.2), quiet(max_steps=2)
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = DGSA.load_from_checkpoint(tmp_path / "a.ckpt", backbone=Toy(1))
    assert loaded.weights == (0.5, 0.5) and loaded.sft_weight == 0.2 and loaded.hparams == module.hparams
    assert all(torch.equal(v, module.state_dict()[k]) for k, v in loaded.state_dict().items())
    smaller = Toy()
    del smaller.head
    with pytest.raises(RuntimeError, match="head"):
        DGSA.load_from_checkpoint(tmp_path / "a.ckpt", backbone=smaller)


def gradients(tmp_path, precision):
    module, got = DGSA(Toy(), 0.8, lr=1e-3), {}
    module.on_before_optimizer_step = lambda _: got.update({n: p.grad.clone() for n, p in module.named_parameters()})
    data = TripletData(speech(12), tmp_path / f"{precision}.parquet", val_fraction=0, max_frames=10_000)
    trainer = quiet(max_steps=1, precision=precision)
    trainer.fit(module, data)
    return torch.cat([g.flatten().float() for g in got.values()]), trainer.callback_metrics, data


def test_bf16_mixed_is_close_to_fp32_and_sums_in_fp32(tmp_path):
    want, _, _ = gradients(tmp_path, "32-true")
    got, logs, data = gradients(tmp_path, "bf16-mixed")
    assert F.cosine_similarity(want, got, dim=0) > 0.99 and 0.9 < got.norm() / want.norm() < 1.1
    assert logs["train/loss"].dtype == torch.float32 and data.metadata["precision"] == "bf16-mixed"
    assert logs["train/loss"].item() == pytest.approx(BIT, abs=2e-3)  # reference scored under the same precision


def test_bf16_true_runs(tmp_path):
    data = TripletData(speech(6), tmp_path / "t.parquet")
    quiet(max_steps=1, precision="bf16-true").fit(DGSA(Toy(), 0.8), data)
