"""Prosody over a corpus: means over utterances of the statistics in `seaalign.functional.prosody`.

Utterances in which a statistic is undefined (too little voiced) are left out of the mean and counted in `undefined`;
where it is defined in none, `compute` gives NaN, since 0 would be the best RMSE there is.
Spread has no better direction: flat speech is eroded, and speech of wild pitch is broken. Compare it with real speech.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from seaalign.functional.prosody import Measured, Unit, energy_std, f0_correlation, f0_range, f0_rmse, f0_std
from seaalign.metrics.rows import Rows, as_row, as_rows

__all__ = ["EnergyStd", "F0Correlation", "F0Range", "F0RMSE", "F0Std"]


class _UtteranceMean(Metric):
    is_differentiable = False
    higher_is_better: bool | None = None
    full_state_update = False
    total: Tensor
    count: Tensor
    undefined: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("undefined", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def _add(self, measured: Measured) -> None:
        if measured.defined:
            self.total += measured.value.to(self.total.device)
            self.count += 1
        else:
            self.undefined += 1

    def compute(self) -> Tensor:
        """The mean over utterances.

        Returns:
            () mean over the utterances in which the statistic is defined; NaN where there is none (`count` is 0).
        """
        return (self.total / self.count).float()


class F0Std(_UtteranceMean):
    """Mean over utterances of the F0 standard deviation.

    Args:
        unit: "semitones" or "hz".
        min_voiced: voiced frames an utterance needs.
        **kwargs: for `torchmetrics.Metric`.

    Example:
        >>> metric = F0Std()
        >>> metric.update([torch.tensor([100.0, 200.0] * 8), torch.zeros(20)])
        >>> metric.compute(), metric.count.item(), metric.undefined.item()
        (tensor(6.), 1, 1)
    """

    def __init__(self, unit: Unit = "semitones", min_voiced: int = 10, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.unit: Unit = unit
        self.min_voiced = min_voiced

    def update(self, contours: Rows) -> None:
        """Add F0 contours (frames,) in Hz, one or a list."""
        for contour in _several(contours, "contours"):
            self._add(f0_std(contour, self.unit, self.min_voiced))


class F0Range(_UtteranceMean):
    """Mean over utterances of the F0 range between two quantiles.

    Args:
        unit: "semitones" or "hz".
        low: lower quantile.
        high: upper quantile.
        min_voiced: voiced frames an utterance needs.
        **kwargs: for `torchmetrics.Metric`.

    Example:
        >>> metric = F0Range(unit="hz")
        >>> metric.update(torch.linspace(100.0, 200.0, 101))
        >>> metric.compute()
        tensor(90.)
    """

    def __init__(
        self, unit: Unit = "semitones", low: float = 0.05, high: float = 0.95, min_voiced: int = 10, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.unit: Unit = unit
        self.low, self.high = low, high
        self.min_voiced = min_voiced

    def update(self, contours: Rows) -> None:
        """Add F0 contours (frames,) in Hz, one or a list."""
        for contour in _several(contours, "contours"):
            self._add(f0_range(contour, self.unit, self.low, self.high, self.min_voiced))


class EnergyStd(_UtteranceMean):
    """Mean over utterances of the standard deviation of the level (dB) over active frames.

    Args:
        active_db: depth of the active range (dB).
        min_active: active frames an utterance needs.
        **kwargs: for `torchmetrics.Metric`.

    Example:
        >>> metric = EnergyStd()
        >>> metric.update(torch.tensor([-10.0, -20.0] * 5))
        >>> metric.compute()
        tensor(5.)
    """

    def __init__(self, active_db: float = 40.0, min_active: int = 10, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.active_db = active_db
        self.min_active = min_active

    def update(self, levels: Rows) -> None:
        """Add levels (frames,) in dB from `seaalign.functional.energy`, one or a list."""
        for level in _several(levels, "levels"):
            self._add(energy_std(level, self.active_db, self.min_active))


class _Comparison(_UtteranceMean):
    measure: Literal["correlation", "rmse"]

    def __init__(self, unit: Unit = "semitones", min_voiced: int = 10, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.unit: Unit = unit
        self.min_voiced = min_voiced

    def update(
        self,
        contours: Rows,
        references: Rows,
        paths: Rows | None = None,
    ) -> None:
        """Add F0 contours (frames,) in Hz and those they are compared with, with paths (L, 2) from `align`."""
        several, others = _several(contours, "contours"), _several(references, "references")
        # One path (L, 2) is a tensor or an array with two dimensions, unlike one contour.
        given = [paths] if isinstance(paths, Tensor | np.ndarray) else paths
        ways = [None] * len(several) if given is None else [as_row(path, "paths") for path in given]
        if not len(several) == len(others) == len(ways):
            raise ValueError(f"{len(several)} contours, {len(others)} references and {len(ways)} paths do not pair up")
        compare = f0_correlation if self.measure == "correlation" else f0_rmse
        for contour, other, way in zip(several, others, ways, strict=True):
            self._add(compare(contour, other, way, self.unit, self.min_voiced))


class F0Correlation(_Comparison):
    """Mean over utterances of the correlation of aligned F0 contours.

    Args:
        unit: "semitones" or "hz".
        min_voiced: frame pairs voiced in both that an utterance needs.
        **kwargs: for `torchmetrics.Metric`.

    Example:
        >>> metric, up = F0Correlation(), torch.linspace(100.0, 200.0, 20)
        >>> metric.update([up, up], [2 * up, up])
        >>> metric.compute()
        tensor(1.)
    """

    higher_is_better = True
    measure = "correlation"


class F0RMSE(_Comparison):
    """Mean over utterances of the root mean square difference of aligned F0 contours.

    Args:
        unit: "semitones" or "hz".
        min_voiced: frame pairs voiced in both that an utterance needs.
        **kwargs: for `torchmetrics.Metric`.

    Example:
        >>> metric = F0RMSE()
        >>> metric.update(torch.full((10,), 100.0), torch.full((10,), 200.0))
        >>> metric.compute()
        tensor(12.)
    """

    higher_is_better = False
    measure = "rmse"


def _several(given: Rows, name: str) -> list[Tensor]:
    rows = as_rows(given, name)
    return [rows] if isinstance(rows, Tensor) else rows
