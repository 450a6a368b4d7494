"""Before training: what more synthetic speech will do to the diversity of the mixture, and what to weigh it with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seaalign.functional.entropy import count_entropy, entropy_at
from seaalign.functional.mixture import critical_ratio, mixture_entropy
from seaalign.functional.preference import crossover_weights
from seaalign.report.counts import Counted, count, merged

_SHARES = (0.25, 0.5, 1.0)
_NEAR_END = 1e-9


@dataclass(frozen=True)
class Source:
    """One system that made synthetic speech, or the real speech.

    Args:
        name: "real", or of the system.
        utterances: how many.
        tokens: how many.
        entropy: plug-in, bits.
        corrected: Chao-Wang-Jost, bits.
        at_equal: expected at the token count of the smallest source, bits.
        critical: the ratio at which real speech and this source alone peak; None for real speech.
        without: entropy of the mixture at the planned share if this source were left out, the others taking its place;
            None for real speech, or where it is the only one.
    """

    name: str
    utterances: int
    tokens: int
    entropy: float
    corrected: float
    at_equal: float
    critical: float | None = None
    without: float | None = None


@dataclass(frozen=True)
class ErosionPlan:
    """What is known of a mixture before anything is trained on it.

    Args:
        alpha: synthetic share of the tokens, or the share asked about.
        critical: share at which the entropy of the mixture peaks, corrected for the bias of small samples, which see
            too few of the codes of the richer side: by as much as groups of utterances, drawn again, lie off.
        plug_in: the same without the correction, eq. 22 as it stands.
        interval: of `critical`, 95 % (basic bootstrap over groups of utterances).
        by_size: `plug_in` from a quarter, a half and all of the data: where it still moves, more data would move it.
        alphas: (A,) shares of the curve.
        bits: (A,) entropy of the mixture.
        low: (A,) 2.5 % of the draws, less their mean, on the curve.
        high: (A,) 97.5 %.
        sources: the real speech, then the systems.
        weights: (stability, expressivity) that `DGSA(alpha, critical)` takes.
    """

    alpha: float
    critical: float
    plug_in: float
    interval: tuple[float, float]
    by_size: dict[float, float]
    alphas: list[float]
    bits: list[float]
    low: list[float]
    high: list[float]
    sources: list[Source]
    weights: tuple[float, float]

    @property
    def shape(self) -> str:
        """The curve in words."""
        if self.critical <= _NEAR_END:
            return "only falls: any synthetic speech erodes"
        if self.critical >= 1 - _NEAR_END:
            return "only rises: synthetic speech does not erode diversity here"
        return f"peaks at alpha* = {self.critical:.3f} (95 %: {self.interval[0]:.3f} to {self.interval[1]:.3f})"

    def to_json(self) -> dict[str, Any]:
        """All of it as plain numbers."""
        return asdict(self) | {"shape": self.shape}

    def __str__(self) -> str:
        names = (
            ("utterances", 10),
            ("tokens", 11),
            ("H bits", 7),
            ("corr.", 7),
            ("equal N", 7),
            ("alpha*", 7),
            ("without", 8),
        )
        head = " ".join([f"{'source':<20}", *(f"{name:>{width}}" for name, width in names)])
        rows = [
            f"{s.name[:20]:<20} {s.utterances:>10,} {s.tokens:>11,} {s.entropy:>7.3f} {s.corrected:>7.3f} "
            f"{s.at_equal:>7.3f} {_number(s.critical):>7} {_number(s.without):>8}"
            for s in self.sources
        ]
        sizes = ", ".join(f"{100 * share:.0f} %: {value:.3f}" for share, value in self.by_size.items())
        peak, here = max(self.bits), _at(self.alphas, self.bits, self.alpha)
        return "\n".join(
            [
                head, *rows, "",
                f"The entropy of the mixture {self.shape}.",
                f"Uncorrected, by share of the data: {sizes}. Where it still moves, it is not known well.",
                f"At alpha = {self.alpha:.3f} it is {here:.3f} bits, {peak - here:.3f} below the peak.",
                f"DGSA(alpha={self.alpha:.3f}, critical={self.critical:.3f}) weighs stability {self.weights[0]:.2f}, "
                f"expressivity {self.weights[1]:.2f}.",
                "H is of tokens that are there, not of what a model makes of them: measure that, with F0 and errors.",
            ]
        )  # fmt: skip

    def figure(self, path: str | Path) -> None:
        """Draw the curve (PNG, SVG or PDF, by the name)."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.fill_between(self.alphas, self.low, self.high, alpha=0.25, linewidth=0, label="95 %")
        axes.plot(self.alphas, self.bits, label="mixture")
        axes.axvspan(*self.interval, color="tab:red", alpha=0.12, linewidth=0)
        axes.axvline(self.critical, color="tab:red", label=f"alpha* = {self.critical:.3f}")
        axes.axvline(self.alpha, color="black", linestyle=":", label=f"this data, alpha = {self.alpha:.3f}")
        axes.set(xlabel="synthetic share alpha", ylabel="H of the token mixture (bits)", xlim=(0, 1))
        axes.legend()
        axes.grid(alpha=0.3)
        figure.savefig(path, dpi=120)


def erosion_plan(
    real: Mapping[str, Counted] | Iterable[str | Path],
    synthetic: Mapping[str, Counted] | Iterable[str | Path],
    alpha: float | None = None,
    draws: int = 200,
    seed: int = 0,
) -> ErosionPlan:
    """Look at real and synthetic speech tokens before a model is trained on both.

    Args:
        real: Parquet files of utterances, read in parts, or `count` of them. Whatever their `source` says, they are
            the real speech.
        synthetic: the same; each `source` in them is a system of its own.
        alpha: the share to plan for. Default: that of the tokens in the files.
        draws: of the interval.
        seed: of the draws.

    Raises:
        ValueError: one side is empty, alpha is no share, or there are fewer than 2 draws.

    Source: Geng et al. 2026, eq. 4-5, 13-14, App. B.

    Example:
        >>> import numpy as np
        >>> def spoken(tokens):
        ...     return Counted().add(np.array(tokens), np.ones(len(tokens), int), np.arange(len(tokens)) % 100)
        >>> plan = erosion_plan({"real": spoken([0, 1] * 50)}, {"tts": spoken([2] * 100)}, draws=20)
        >>> round(plan.plug_in, 6), plan.alpha, len(plan.alphas)
        (0.333333, 0.5, 101)
    """
    if draws < 2:
        raise ValueError(f"draws={draws}: an interval needs 2 or more, 200 are enough")
    one = merged(_counted(real, "real").values())
    systems = _counted(synthetic, "synthetic")
    both = merged(systems.values())
    codes = max(one.groups.shape[1], both.groups.shape[1])
    one, both = one.widened(codes), both.widened(codes)
    share = both.tokens / (one.tokens + both.tokens) if alpha is None else alpha
    alphas = torch.linspace(0, 1, 101, dtype=torch.float64)
    bits = mixture_entropy(one.total, both.total, alphas)
    plain = critical_ratio(one.total, both.total)
    ratios, curves = _again(one, both, alphas, draws, torch.Generator().manual_seed(seed))
    spread = curves - curves.mean(0)  # draws hold fewer codes, so they lie lower: their spread is what is wanted
    low, high = (bits + spread.quantile(q, dim=0) for q in (0.025, 0.975))
    # a draw is to the data what the data are to the truth: turned round, its error is theirs (Davison, Hinkley 1997)
    best, least, most = (
        min(max(2 * plain - float(value), 0.0), 1.0)
        for value in (ratios.mean(), ratios.quantile(0.975), ratios.quantile(0.025))
    )
    best = plain if plain in (0.0, 1.0) else best
    weights = (1.0, 0.0) if best >= 1 else tuple(crossover_weights(share, best))
    return ErosionPlan(
        share, best, plain, (least, most), _by_size(one, both),
        alphas.tolist(), bits.tolist(), low.tolist(), high.tolist(),
        _sources(one, systems, share), (weights[0], weights[1]),
    )  # fmt: skip


def _counted(given: Mapping[str, Counted] | Iterable[str | Path], what: str) -> dict[str, Counted]:
    found = dict(given) if isinstance(given, Mapping) else count([given] if isinstance(given, str | Path) else given)
    if not sum(part.tokens for part in found.values()):
        raise ValueError(f"there are no {what} tokens: name at least one file of utterances")
    return found


def _again(
    one: Counted, both: Counted, alphas: Tensor, draws: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    pairs = [(one.drawn(generator), both.drawn(generator)) for _ in range(draws)]
    ratios = torch.tensor([critical_ratio(*pair) for pair in pairs], dtype=torch.float64)
    return ratios, torch.stack([mixture_entropy(*pair, alphas) for pair in pairs])


def _by_size(one: Counted, both: Counted) -> dict[float, float]:
    """The ratio from the first groups alone; groups are as good as drawn, being by a hash of the id."""
    found = {}
    for share in _SHARES:
        parts = [side.groups[side.utterances > 0] for side in (one, both)]
        counts = [part[: max(1, round(share * len(part)))].sum(0) for part in parts]
        found[share] = critical_ratio(*counts)
    return found


def _sources(one: Counted, systems: Mapping[str, Counted], share: float) -> list[Source]:
    codes = one.groups.shape[1]
    wide = {name: part.widened(codes) for name, part in systems.items()}
    least = min(part.tokens for part in (one, *wide.values()))
    found = [_source("real", one, least)]
    for name, part in wide.items():
        others = [other for key, other in wide.items() if key != name]
        without = float(mixture_entropy(one.total, merged(others).total, share)) if others else None
        found.append(_source(name, part, least, critical_ratio(one.total, part.total), without))
    return found


def _source(name: str, part: Counted, least: int, *more: float | None) -> Source:
    bits = float(count_entropy(part.total)), float(count_entropy(part.total, "chao-wang-jost"))
    return Source(name, int(part.utterances.sum()), part.tokens, *bits, float(entropy_at(part.total, least)), *more)


def _at(x: list[float], y: list[float], where: float) -> float:
    return y[min(range(len(x)), key=lambda i: abs(x[i] - where))]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
