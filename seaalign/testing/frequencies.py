"""The rule that what is drawn is what is scored: first tokens against `forward`'s probabilities, by chi-square."""

from __future__ import annotations

import torch
from torch import Tensor

from seaalign.backbones import StepBackbone
from seaalign.records import Speech
from seaalign.testing.faults import fault
from seaalign.testing.probe import Probe

_NAME = "sampled frequencies do not follow the model"


def frequencies(probe: Probe) -> str | None:
    """First tokens come as often as forward says, p > 1e-4; where all ids are known, with heat 0.6 or top_p 0.7 too."""
    if probe.backbone.sampler.split(" ")[0] != "nucleus":  # "nucleus (vLLM)" too
        return f"the sampler is {probe.backbone.sampler!r}, which may leave the model on purpose"
    heat = torch.tensor([1.0, 0.6]).repeat(probe.draws)
    mixed = probe.draw([probe.shortest], n=len(heat), temperature=heat, max_len=1)
    hot = (heat == 1).to(mixed.tokens.device)
    scores, reason = probe.first
    if scores is None:
        _compare("temperature 1", *_seen(probe, mixed.select(hot), mixed.select(~hot)))
        return f"at temperature 1 only: {reason}"
    top = probe.draw([probe.shortest], n=probe.draws, seed=1, top_p=0.7, max_len=1)
    for what, speech, t, top_p in (
        ("temperature 1", mixed.select(hot), 1.0, 1.0),
        ("temperature 0.6", mixed.select(~hot), 0.6, 1.0),
        ("top_p 0.7", top, 1.0, 0.7),
    ):
        _compare(what, *_listed(probe, scores, speech, t, top_p))
    return None


def _compare(what: str, counts: Tensor, share: Tensor) -> None:
    """Chi-square of counts (V,) against probabilities (V,); cells with fewer than 5 expected are put together."""
    from scipy import stats

    expected = share * counts.sum()
    never = int(counts[share <= 1e-12].sum())
    if never:
        raise fault(_NAME, f"at {what}, {never} of {int(counts.sum())} draws have probability 0")
    big = expected >= 5
    counts, expected = (torch.cat([v[big], v[~big].sum()[None]]) for v in (counts, expected))
    if expected[-1] < 5:  # too little for a cell of its own: to the rarest of the others
        counts[-2] += counts[-1]
        expected[-2] += expected[-1]
        counts, expected = counts[:-1], expected[:-1]
    if len(counts) < 2:
        return
    expected = expected * (counts.sum() / expected.sum())
    p_value = float(stats.chisquare(counts.numpy(), expected.numpy()).pvalue)
    if p_value <= 1e-4:
        cell = int(((counts - expected).abs() / expected.sqrt()).argmax())
        numbers = f"one token was drawn {int(counts[cell])} times where {float(expected[cell]):.1f} were expected"
        raise fault(_NAME, f"at {what}, chi-square p = {p_value:.2g}: {numbers}")


def _listed(probe: Probe, scores: Tensor, speech: Speech, heat: float, top_p: float) -> tuple[Tensor, Tensor]:
    """Counts (V,) and probabilities (V,) over all ids, float64."""
    assert isinstance(probe.backbone, StepBackbone)
    scores = scores.double().cpu().clone()
    scores[list(probe.backbone.banned)] = -torch.inf
    ranked, order = (scores / heat).softmax(-1).sort(descending=True)
    kept = torch.zeros_like(ranked).scatter(0, order, ranked.where(ranked.cumsum(0) - ranked < top_p, 0.0))
    ids = [int(row[0]) if len(row) else probe.backbone.eos for row in speech.rows()]
    return torch.bincount(torch.tensor(ids), minlength=len(kept)).double(), kept / kept.sum()


def _seen(probe: Probe, speech: Speech, others: Speech) -> tuple[Tensor, Tensor]:
    """Counts and probabilities of the answers that `others` hold, float64; what is in none of them, in the last cell.

    Other draws name the cells: among those that are counted, an answer that was never drawn would have no cell to miss.
    """
    names, known = ([tuple(row.flatten().tolist()) for row in s.rows()] for s in (speech, others))
    unique = sorted(set(known))  # the empty answer sorts first
    place = {name: i for i, name in enumerate(unique)}
    scores = probe.score(others.select([known.index(name) for name in unique]), [probe.shortest])
    share = scores.double().sum(-1).exp().cpu()
    share = torch.cat([share, (1 - share.sum()).clamp_min(0)[None]])
    cells = torch.tensor([place.get(name, len(unique)) for name in names])
    return torch.bincount(cells, minlength=len(share)).double(), share
