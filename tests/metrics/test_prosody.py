"""The torchmetrics twins give the mean of the functions over utterances, whatever the batches and processes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from seaalign.functional import align, energy_std, f0_correlation, f0_range, f0_rmse, f0_std
from seaalign.metrics import F0RMSE, EnergyStd, F0Correlation, F0Range, F0Std


def contours(seed: int, count: int = 6) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    rows = [100 + 100 * torch.rand(20 + 3 * n, generator=g) for n in range(count)]
    return [row * (torch.rand(len(row), generator=g) < 0.8) for row in rows]


@pytest.mark.parametrize(
    ("metric", "function"),
    [
        (F0Std(), f0_std),
        (F0Std(unit="hz"), lambda c: f0_std(c, "hz")),
        (F0Range(low=0.1, high=0.8), lambda c: f0_range(c, low=0.1, high=0.8)),
        (EnergyStd(active_db=60), lambda c: energy_std(c, active_db=60)),
    ],
)
def test_mean_over_utterances_in_any_batches(metric, function):
    rows = contours(0)
    expected = sum(function(row).value.item() for row in rows) / len(rows)
    metric.update(rows[:2])
    metric.update(rows[2])
    metric.update(rows[3:])
    assert metric.compute().item() == pytest.approx(expected, rel=1e-5)
    assert metric.count.item() == 6


@pytest.mark.parametrize(("kind", "function"), [(F0Correlation, f0_correlation), (F0RMSE, f0_rmse)])
def test_comparisons_with_and_without_paths(kind, function):
    rows, others = contours(1), contours(2)
    metric = kind()
    metric.update(rows[:3], others[:3])
    paths = [align(a, b[4:]) for a, b in zip(rows[3:], others[3:], strict=True)]
    metric.update(rows[3:5], [b[4:] for b in others[3:5]], paths[:2])
    metric.update(rows[5], others[5][4:], paths[2])
    each = [function(a, b).value for a, b in zip(rows[:3], others[:3], strict=True)]
    each += [function(a, b[4:], p).value for a, b, p in zip(rows[3:], others[3:], paths, strict=True)]
    assert metric.compute().item() == pytest.approx(torch.stack(each).mean().item(), abs=1e-5)
    with pytest.raises(ValueError, match="3 contours, 2 references"):
        metric.update(rows[:3], others[:2])


def test_undefined_utterances_are_counted_and_left_out():
    metric = F0Std()
    assert metric.__class__().count.item() == 0
    metric.update([torch.zeros(30), torch.tensor([100.0, 200.0] * 10), torch.full((3,), 90.0)])
    assert metric.compute().item() == pytest.approx(6)
    assert (metric.count.item(), metric.undefined.item()) == (1, 2)
    metric.reset()
    metric.update(torch.zeros(30))
    assert metric.compute().isnan() and (metric.count.item(), metric.undefined.item()) == (0, 1)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_measured_is_nan_not_the_best_value():
    metric = F0RMSE()
    assert metric.compute().isnan()
    metric.update(torch.zeros(30), torch.zeros(30))
    assert metric.compute().isnan()


def test_lists_and_arrays_are_taken():
    row = [100.0, 200.0] * 10
    for given in (row, np.array(row), [row, []], [np.array(row)]):
        metric = F0Std()
        metric.update(given)
        assert metric.compute().item() == pytest.approx(6) and metric.count.item() == 1
    path, metric = [[i, i] for i in range(20)], F0RMSE()
    metric.update(row, np.array(row), np.array(path))
    metric.update([row], [row], [path])
    assert metric.compute().item() == 0 and metric.count.item() == 2
    with pytest.raises(TypeError, match=r"contours must be a tensor, an array or a list of numbers, got str"):
        F0Std().update("a.wav")


def test_two_processes_give_the_value_of_one():
    rows = contours(3)
    whole, left, right = F0Std(), F0Std(), F0Std()
    whole.update(rows)
    left.update(rows[:1])
    right.update(rows[1:])
    for name, reduce in whole._reductions.items():
        setattr(left, name, reduce(torch.stack([getattr(left, name), getattr(right, name)])))
    left._update_count, left._computed = 1, None
    assert left.compute().item() == pytest.approx(whole.compute().item(), rel=1e-6)
    assert pickle.loads(pickle.dumps(whole)).compute() == whole.compute()


def test_directions_are_declared():
    assert [m.higher_is_better for m in (F0Std, F0Range, EnergyStd)] == [None] * 3
    assert F0Correlation.higher_is_better is True and F0RMSE.higher_is_better is False
