"""Objectives of the separation of prosody and timbre: by hand, by a slow twin, by what must hold."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seaalign.functional import (
    distance_correlation,
    gaussian_log_likelihood,
    hsic,
    prosody_regression_loss,
    reconstruction_loss,
    reverse_gradient,
    speaker_adversarial_loss,
    vclub,
)

seeds = st.integers(0, 10_000)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def slow_hsic(x: torch.Tensor, y: torch.Tensor, width: float) -> float:
    """The three sums of kernels over pairs, triples and quadruples of rows (Gretton et al. 2005, lemma 1)."""
    n = range(len(x))

    def table(v: torch.Tensor) -> list[list[float]]:
        return [[math.exp(-(math.dist(a, b) ** 2) / (2 * width**2)) for b in v.tolist()] for a in v.tolist()]

    k, m = table(x), table(y)
    pairs = sum(k[i][j] * m[i][j] for i in n for j in n) / len(x) ** 2
    apart = sum(k[i][j] for i in n for j in n) * sum(m[i][j] for i in n for j in n) / len(x) ** 4
    chain = sum(k[i][j] * m[i][q] for i in n for j in n for q in n) / len(x) ** 3
    return (pairs + apart - 2 * chain) * len(x) ** 2 / (len(x) - 1) ** 2


def slow_distance_correlation(x: torch.Tensor, y: torch.Tensor) -> float:
    n = len(x)

    def centred(v: list[list[float]]) -> list[list[float]]:
        d = [[math.dist(a, b) for b in v] for a in v]
        rows = [sum(row) / n for row in d]
        return [[d[i][j] - rows[i] - rows[j] + sum(rows) / n for j in range(n)] for i in range(n)]

    def mean(a: list[list[float]], b: list[list[float]]) -> float:
        return sum(p * q for r, s in zip(a, b, strict=True) for p, q in zip(r, s, strict=True)) / n**2

    a, b = centred(x.tolist()), centred(y.tolist())
    return math.sqrt(max(mean(a, b), 0) / math.sqrt(mean(a, a) * mean(b, b)))


def test_reversal_keeps_values_and_turns_gradients():
    x = drawn(0, 3, 2).requires_grad_()
    out = reverse_gradient(x, 0.25)
    assert torch.equal(out, x)
    (out * torch.arange(6.0).view(3, 2)).sum().backward()
    torch.testing.assert_close(x.grad, -0.25 * torch.arange(6.0).view(3, 2))
    with pytest.raises(ValueError, match="0 or more"):
        reverse_gradient(x, -1.0)


def test_reversal_makes_a_step_that_helps_the_reader_and_hurts_what_is_read():
    code, reader = torch.tensor([1.0, -1.0], requires_grad=True), torch.tensor(0.5, requires_grad=True)

    def loss(c: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        return speaker_adversarial_loss(torch.stack([c * r, -c * r], 1), torch.tensor([0, 1]))

    before = loss(reverse_gradient(code), reader)
    before.backward()
    assert loss(code.detach(), reader.detach() - 0.1 * reader.grad) < before
    assert loss(code.detach() - 0.1 * code.grad, reader.detach()) > before


def test_speaker_loss_by_hand():
    # softmax of (log 3, 0) is (3/4, 1/4); the unknown speaker counts for nothing
    logits = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0], [9.0, -9.0]])
    loss = speaker_adversarial_loss(logits, torch.tensor([0, 1, -1]))
    assert loss.item() == pytest.approx(-(math.log(3 / 4) + math.log(1 / 4)) / 2)
    assert speaker_adversarial_loss(logits, torch.tensor([-1, -1, -1])).item() == 0
    with pytest.raises(ValueError, match=r"-1\.\.1"):
        speaker_adversarial_loss(logits, torch.tensor([0, 1, 2]))


def test_regression_loss_by_hand_and_without_what_is_undefined():
    statistics = torch.tensor([[1.0, float("nan")], [3.0, 0.0]])
    predicted = torch.zeros(2, 2, requires_grad=True)
    loss = prosody_regression_loss(predicted, statistics)
    assert loss.item() == pytest.approx((1 + 9 + 0) / 3)
    loss.backward()
    assert torch.isfinite(predicted.grad).all() and predicted.grad[0, 1] == 0
    assert prosody_regression_loss(predicted, torch.full((2, 2), float("nan"))).item() == 0


@given(seeds)
def test_vclub_and_its_likelihood_match_loops(seed):
    y, mean, spread = drawn(seed, 4, 3), drawn(seed + 1, 4, 3), drawn(seed + 2, 4, 3)

    def log_q(j: int, i: int) -> float:
        normal = torch.distributions.Normal(mean[i], (spread[i] / 2).exp())
        return normal.log_prob(y[j]).sum().item()

    expected = sum(log_q(i, i) for i in range(4)) / 4 - sum(log_q(j, i) for i in range(4) for j in range(4)) / 16
    assert vclub(y, mean, spread).item() == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert gaussian_log_likelihood(y, mean, spread)[2].item() == pytest.approx(log_q(2, 2), rel=1e-4)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_vclub_of_gaussians_is_an_upper_bound_with_a_known_value(rho):
    x, noise = drawn(1, 4000, 1), drawn(2, 4000, 1)
    y = rho * x + math.sqrt(1 - rho**2) * noise
    bound = vclub(y, rho * x, torch.full_like(x, math.log(1 - rho**2))).item()
    assert bound == pytest.approx(rho**2 / (1 - rho**2), abs=0.05 * (1 + rho**2 / (1 - rho**2)))
    assert bound >= -0.5 * math.log(1 - rho**2) - 0.02


@given(seeds)
def test_dependence_matches_loops(seed):
    x, y = drawn(seed, 5, 2), drawn(seed + 1, 5, 3)
    assert hsic(x, y, 1.3).item() == pytest.approx(slow_hsic(x, y, 1.3), abs=1e-5)
    assert distance_correlation(x, y).item() == pytest.approx(slow_distance_correlation(x, y), abs=1e-3)


def test_dependence_golden_numbers():
    x = torch.tensor([[0.0], [1.0], [2.0]])
    # centred distances: A = (-10 2 8; 2 -4 2; 8 2 -10) / 9, B = (-2 4 -2; 4 -8 4; -2 4 -2) / 9
    # covariance 8/81, variances 40/81 and 16/81: the square is 8 / sqrt(640) = 1 / sqrt(10)
    assert distance_correlation(x, torch.tensor([[0.0], [1.0], [0.0]])).item() == pytest.approx(10**-0.25, abs=1e-4)
    assert hsic(x[:2], x[:2], 1.0).item() == pytest.approx((1 - math.exp(-0.5)) ** 2)


@given(seeds, st.floats(0.1, 10))
def test_distance_correlation_does_not_mind_position_and_scale(seed, scale):
    x, y = drawn(seed, 8, 2), drawn(seed + 1, 8, 2)
    value = distance_correlation(x, y).item()
    assert 0 <= value <= 1 + 1e-5
    assert distance_correlation(scale * x + 3, y).item() == pytest.approx(value, abs=2e-3)
    assert distance_correlation(y, x).item() == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("measure", [hsic, distance_correlation])
def test_dependence_sees_what_correlation_does_not_and_has_a_gradient(measure):
    x = drawn(0, 300, 1)
    folded = x.square().requires_grad_()
    assert abs(torch.corrcoef(torch.cat([x, folded], 1).T)[0, 1]) < 0.2
    seen = measure(x, folded)
    assert seen > 3 * measure(x, drawn(5, 300, 1).square())
    seen.backward()
    assert torch.isfinite(folded.grad).all() and folded.grad.abs().sum() > 0


@pytest.mark.parametrize("measure", [hsic, distance_correlation])
def test_dependence_on_what_does_not_vary_is_nothing(measure):
    still = torch.ones(6, 2, requires_grad=True)
    value = measure(still, drawn(0, 6, 2))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-5) and torch.isfinite(still.grad).all()


@pytest.mark.parametrize(
    ("x", "y"), [(torch.zeros(1, 2), torch.zeros(1, 2)), (torch.zeros(3, 2), torch.zeros(2, 2)), (torch.zeros(3),) * 2]
)
def test_dependence_refuses_what_it_cannot_measure(x, y):
    for measure in (hsic, distance_correlation):
        with pytest.raises(ValueError, match="2 rows or more"):
            measure(x, y)
    with pytest.raises(ValueError, match="above 0"):
        hsic(torch.zeros(3, 1), torch.zeros(3, 1), 0.0)


def test_reconstruction_by_hand():
    target = torch.tensor([[[4.0, 1.0, -20.0], [0.0, 0.0, -30.0], [7.0, 1.0, -9.0]]])
    predicted = torch.tensor([[[10.0, 0.0, -20.0], [50.0, 0.0, -42.0], [99.0, 99.0, 99.0]]])
    loss = reconstruction_loss(predicted, target, torch.tensor([[True, True, False]]))
    assert loss.f0.item() == pytest.approx(
        3 - 0.5
    )  # 6 semitones = 3 units, Huber: |d| - 1/2; the unvoiced frame is out
    assert loss.voicing.item() == pytest.approx(math.log(2))
    assert loss.energy.item() == pytest.approx((0 + 1.5) / 2)  # 12 dB = 2 units


@given(seeds)
def test_reconstruction_ignores_padding_and_unvoiced_pitch(seed):
    target, predicted = drawn(seed, 2, 5, 3), drawn(seed + 1, 2, 5, 3)
    target[..., 1] = (target[..., 1] > 0).float()
    mask = torch.arange(5) < torch.tensor([[5], [3]])
    loss = reconstruction_loss(predicted, target, mask)
    other = torch.where(mask[..., None], predicted, 1e4)
    other[..., 0] = torch.where(target[..., 1] > 0, other[..., 0], -1e4)
    for a, b in zip(loss, reconstruction_loss(other, target, mask), strict=True):
        assert a.item() == pytest.approx(b.item(), rel=1e-6)


def test_reconstruction_of_nothing_is_zero_with_a_gradient():
    predicted = drawn(0, 1, 4, 3).requires_grad_()
    loss = reconstruction_loss(predicted, torch.zeros(1, 4, 3), torch.zeros(1, 4, dtype=torch.bool))
    sum(loss).backward()
    assert sum(loss).item() == 0 and torch.isfinite(predicted.grad).all()
