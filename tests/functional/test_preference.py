"""Preference losses: hand-redoable numbers, a slow implementation, properties and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seaalign.functional import (
    cdpo_loss,
    crossover_weights,
    dpo_loss,
    implicit_reward,
    ipo_loss,
    preference_margin,
    sequence_logp,
    sft_anchor,
)

LOSSES = [dpo_loss, cdpo_loss, ipo_loss]
LOGP = st.floats(-500, 0)
PAIRS = st.lists(st.tuples(LOGP, LOGP, LOGP, LOGP), min_size=1, max_size=5)
# Delta = (-10 - -12) - (-20 - -21) = 2 - 1 = 1 and (-8 - -8) - (-9 - -6) = 0 + 3 = 3
GOLDEN = torch.tensor([[-10.0, -8.0], [-20.0, -9.0], [-12.0, -8.0], [-21.0, -6.0]])


def columns(pairs: list[tuple[float, ...]]) -> list[torch.Tensor]:
    return list(torch.tensor(pairs, dtype=torch.float64).unbind(1))


def slow_loss(name: str, pair: tuple[float, ...], beta: float) -> float:
    chosen, rejected, ref_chosen, ref_rejected = pair
    delta = (chosen - ref_chosen) - (rejected - ref_rejected)
    if name == "ipo_loss":
        return (delta - 1 / (2 * beta)) ** 2

    def nll(x: float) -> float:  # -log sigmoid(x) = log(1 + e^-x)
        return math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x)) - x

    eps = 0.1 if name == "cdpo_loss" else 0.0
    return (1 - eps) * nll(beta * delta) + eps * nll(-beta * delta)


def test_margin_and_rewards_golden():
    assert preference_margin(*GOLDEN).tolist() == [1.0, 3.0]
    # beta 0.5: 0.5 * (-10 - -12) = 1 and 0.5 * 0 = 0
    assert implicit_reward(GOLDEN[0], GOLDEN[2], beta=0.5).tolist() == [1.0, 0.0]


def test_losses_golden():
    # beta = ln 3: sigmoid(ln 3 * 1) = 3/4 and sigmoid(ln 3 * 3) = 27/28
    expected = [math.log(4 / 3), math.log(28 / 27)]
    assert dpo_loss(*GOLDEN, beta=math.log(3), reduction="none").tolist() == pytest.approx(expected, rel=1e-6)
    assert dpo_loss(*GOLDEN, beta=math.log(3)).item() == pytest.approx(sum(expected) / 2, rel=1e-6)
    assert dpo_loss(*GOLDEN, beta=math.log(3), reduction="sum").item() == pytest.approx(sum(expected), rel=1e-6)
    # eps = 1/4: 3/4 ln(4/3) + 1/4 ln(4), and 3/4 ln(28/27) + 1/4 ln(28)
    smooth = [0.75 * math.log(4 / 3) + 0.25 * math.log(4), 0.75 * math.log(28 / 27) + 0.25 * math.log(28)]
    got = cdpo_loss(*GOLDEN, beta=math.log(3), label_smoothing=0.25, reduction="none")
    assert got.tolist() == pytest.approx(smooth, rel=1e-6)
    # beta = 0.25 asks for a margin of 2: (1 - 2)^2 and (3 - 2)^2
    assert ipo_loss(*GOLDEN, beta=0.25, reduction="none").tolist() == [1.0, 1.0]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
@given(pairs=PAIRS, beta=st.floats(0.01, 2))
def test_losses_agree_with_slow_implementation(loss, pairs, beta):
    got = loss(*columns(pairs), beta=beta, reduction="none").tolist()
    assert got == pytest.approx([slow_loss(loss.__name__, pair, beta) for pair in pairs], rel=1e-9, abs=1e-12)


@given(pairs=PAIRS, beta=st.floats(0.01, 2))
def test_policy_equal_to_reference(pairs, beta):
    chosen, rejected, _, _ = columns(pairs)
    assert preference_margin(chosen, rejected, chosen, rejected).abs().max() == 0
    assert dpo_loss(chosen, rejected, chosen, rejected, beta).item() == pytest.approx(math.log(2))
    assert cdpo_loss(chosen, rejected, chosen, rejected, beta).item() == pytest.approx(math.log(2))
    assert ipo_loss(chosen, rejected, chosen, rejected, beta).item() == pytest.approx(1 / (4 * beta**2))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
@given(pairs=PAIRS, shift=st.floats(-100, 100))
def test_losses_ignore_a_shift_of_both_completions(loss, pairs, shift):
    chosen, rejected, ref_chosen, ref_rejected = columns(pairs)
    moved = loss(chosen + shift, rejected + shift, ref_chosen, ref_rejected)
    assert moved.item() == pytest.approx(loss(*columns(pairs)).item(), rel=1e-8, abs=1e-8)


@given(pairs=PAIRS)
def test_gradient_raises_chosen_and_lowers_rejected(pairs):
    chosen, rejected, ref_chosen, ref_rejected = columns(pairs)
    chosen.requires_grad_()
    rejected.requires_grad_()
    dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=0.1, reduction="sum").backward()
    delta = preference_margin(chosen, rejected, ref_chosen, ref_rejected).detach()
    # d/dDelta of -log sigmoid(beta Delta) = -beta sigmoid(-beta Delta)
    assert torch.allclose(chosen.grad, -0.1 * torch.sigmoid(-0.1 * delta))
    assert torch.equal(rejected.grad, -chosen.grad)
    assert (chosen.grad < 0).all()


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_gradients_by_finite_differences(loss):
    inputs = [row.double().requires_grad_() for row in GOLDEN]
    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradgradcheck(loss, inputs)


@given(eps=st.floats(0.01, 0.45), beta=st.floats(0.05, 1))
def test_cdpo_has_its_minimum_at_the_odds(eps, beta):
    zero = torch.zeros(1, dtype=torch.float64)
    best = (zero + math.log((1 - eps) / eps) / beta).requires_grad_()
    cdpo_loss(best, zero, zero, zero, beta, eps).backward()
    assert best.grad.abs().item() < 1e-9
    with torch.no_grad():
        assert cdpo_loss(best + 1, zero, zero, zero, beta, eps) > cdpo_loss(best, zero, zero, zero, beta, eps)
    assert cdpo_loss(best, zero, zero, zero, beta, 0.0).item() == dpo_loss(best, zero, zero, zero, beta).item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_summed_in_fp32(dtype):
    # 400 tokens of exactly -2.5: sum -1000; 401 of them: -1002.5, which bfloat16 (steps of 4) would round to -1000.
    logps = torch.full((2, 401), -2.5, dtype=dtype)
    got = sequence_logp(logps, torch.tensor([[True] * 400 + [False], [True] * 401]))
    assert got.dtype == torch.float32 and got.tolist() == [-1000.0, -1002.5]
    pair = [value.to(dtype) for value in GOLDEN]
    assert dpo_loss(*pair).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert sequence_logp(logps).tolist() == [-1002.5, -1002.5]
        assert dpo_loss(*GOLDEN).item() == dpo_loss(*GOLDEN.double()).float().item()


def test_sequence_logp_counts_masks_and_means():
    logps = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -2.0, 0.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    for scored in (None, mask, mask.sum(-1)):
        assert sequence_logp(logps, scored).tolist() == [-6.0, -6.0]
    for scored in (mask, mask.sum(-1)):
        assert sequence_logp(logps, scored, reduction="mean").tolist() == [-2.0, -3.0]
        assert sft_anchor(logps, scored).item() == pytest.approx(12 / 5)


def test_masked_positions_give_neither_value_nor_gradient():
    logps = torch.tensor([[-1.0, -math.inf, math.nan]], requires_grad=True)
    mask = torch.tensor([[True, False, False]])
    sequence_logp(logps, mask, reduction="mean").sum().backward()
    assert logps.grad.tolist() == [[1.0, 0.0, 0.0]]
    assert sft_anchor(logps, mask).item() == 1.0


def test_beta_scales_with_length_between_sum_and_mean():
    generator = torch.Generator().manual_seed(0)
    four = [-torch.rand(3, 40, generator=generator, dtype=torch.float64) for _ in range(4)]
    counts = torch.full((3,), 40)
    sums = [sequence_logp(x) for x in four]
    means = [sequence_logp(x, counts, "mean") for x in four]
    assert dpo_loss(*sums, beta=0.1).item() == pytest.approx(dpo_loss(*means, beta=4.0).item(), rel=1e-12)
    assert ipo_loss(*sums, beta=0.1).item() == pytest.approx(40**2 * ipo_loss(*means, beta=4.0).item(), rel=1e-12)


@pytest.mark.parametrize(
    ("scored", "message"),
    [
        (torch.tensor([2, 2]), r"rows \[0\].*lengths \+ ended"),  # the end token of row 0 forgotten
        (torch.tensor([3, 4]), r"rows \[1\]"),
        (torch.tensor([3, -1]), r"rows \[1\]"),
        (torch.tensor([3.0, 2.0]), "integer counts"),
        (torch.tensor([True, False]), "integer counts"),
        (torch.tensor([3, 2, 1]), "integer counts"),
    ],
)
def test_wrong_masks_are_refused(scored, message):
    logps = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -2.0, 0.0]])
    with pytest.raises(ValueError, match=message):
        sequence_logp(logps, scored)
    with pytest.raises(ValueError, match=message):
        sft_anchor(logps, scored)


def test_undefined_means_are_refused():
    logps = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="needs `scored`"):
        sequence_logp(logps, reduction="mean")
    with pytest.raises(ValueError, match=r"rows \[1\] have no scored token"):
        sequence_logp(logps, torch.tensor([1, 0]), reduction="mean")
    with pytest.raises(ValueError, match="no token is scored"):
        sft_anchor(logps, torch.tensor([0, 0]))
    with pytest.raises(ValueError, match=r"not finite in rows \[1\]"):
        sft_anchor(torch.tensor([[-1.0], [-math.inf]]), torch.tensor([1, 1]))
    with pytest.raises(ValueError, match="no pairs"):
        dpo_loss(*torch.zeros(4, 0))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_rows_are_named(loss, value):
    broken = GOLDEN.clone()
    broken[3, 1] = value
    with pytest.raises(ValueError, match=r"'ref_rejected': \[1\]"):
        loss(*broken)
    # the same infinity in policy and reference must not cancel into a plausible number
    broken[1, 1] = value
    with pytest.raises(ValueError, match=r"'rejected': \[1\], 'ref_rejected': \[1\]"):
        loss(*broken)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"must all be \(B,\)"):
        dpo_loss(GOLDEN[0], GOLDEN[1][:, None], GOLDEN[2], GOLDEN[3])
    for beta in (0.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="beta must be > 0"):
            dpo_loss(*GOLDEN, beta=beta)
    for eps in (-0.1, 0.5, math.nan):
        with pytest.raises(ValueError, match="label_smoothing"):
            cdpo_loss(*GOLDEN, label_smoothing=eps)
    with pytest.raises(ValueError, match="reduction"):
        dpo_loss(*GOLDEN, reduction="batchmean")


def test_crossover_weights_golden():
    # (0.8 - 0.5) / (1 - 0.5) = 0.6
    assert crossover_weights(0.8) == pytest.approx((0.4, 0.6))
    assert crossover_weights(0.5) == crossover_weights(0.2) == crossover_weights(0.0) == (1.0, 0.0)
    assert crossover_weights(1.0) == (0.0, 1.0)
    assert crossover_weights(0.6, critical=0.2) == pytest.approx((0.5, 0.5))  # 0.4 / 0.8
    assert crossover_weights(0.75).expressivity == 0.5


@given(alpha=st.floats(0, 1), more=st.floats(0, 1), critical=st.floats(0, 0.999))
def test_crossover_weights_are_monotone_shares(alpha, more, critical):
    stability, expressivity = crossover_weights(alpha, critical)
    assert stability + expressivity == 1.0 and 0.0 <= expressivity <= 1.0
    assert (expressivity > 0) <= (alpha > critical)
    assert crossover_weights(max(alpha, more), critical).expressivity >= expressivity


@pytest.mark.parametrize(("alpha", "critical"), [(-0.1, 0.5), (1.1, 0.5), (math.nan, 0.5), (0.5, 1.0), (0.5, -0.1)])
def test_crossover_weights_refuse_what_is_no_share(alpha, critical):
    with pytest.raises(ValueError, match="must be"):
        crossover_weights(alpha, critical)
