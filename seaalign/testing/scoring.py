"""Rules on the values of `forward`. Each returns None (passed) or why it could not be tested; a broken rule raises."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seaalign.backbones import StepBackbone
from seaalign.backbones.base import evaluating
from seaalign.records import Speech
from seaalign.testing.faults import fault
from seaalign.testing.probe import Probe, reseed
from seaalign.testing.running import failed, require_end, require_prefill, steps


def shape(probe: Probe) -> None:
    """(B, T+1), fp32, finite, no log-prob above 0."""
    speech = probe.padded(3, 0)
    want = (len(speech), speech.tokens.shape[1] + 1)
    require_end(probe)
    try:
        scores = probe.forward(speech)
    except Exception as error:
        raise failed(probe, error) from error
    require_prefill(probe)
    got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
    if got != want:
        raise fault(
            "wrong shape", f"forward returned {got} for {want[0]} rows of {want[1] - 1} frames, not (B, T+1) = {want}"
        )
    if scores.dtype not in (torch.float32, torch.float64):
        raise fault(
            "scores are not fp32", f"forward returned {scores.dtype}, which summed over 300 tokens is off by whole nats"
        )
    if not scores.isfinite().all():
        row, column = (~scores.isfinite()).nonzero()[0].tolist()
        raise fault("scores are not finite", f"row {row}, column {column} is {float(scores[row, column].detach())}")
    if scores.max() > 1e-4:
        row, column = divmod(int(scores.argmax()), want[1])
        raise fault("log-prob above 0", f"row {row}, column {column} is {float(scores[row, column].detach()):.4g}")


def same_bits(probe: Probe) -> None:
    """Same input, same bits, in train mode too, and the same scores in eval mode; the buffers stay as they are."""
    buffers = {name: value.clone() for name, value in probe.backbone.named_buffers()}
    repeats = []
    for call in range(6):  # a layout may be drawn once per call: six calls miss a fair coin once in 32
        reseed(probe.seed + call)
        repeats.append(probe.score(probe.speech))
    for call, scores in enumerate(repeats[1:], start=2):
        if not torch.equal(scores, repeats[0]):
            numbers = f"call {call} scored the same input differently, {probe.worst(scores, repeats[0])}"
            raise fault("random layout or dropout inside forward", numbers, _dropouts(probe.backbone))
    for name, value in probe.backbone.named_buffers():
        if name in buffers and value.shape == buffers[name].shape and not torch.equal(value, buffers[name]):
            raise fault("forward changes the model", f"buffer {name!r} differs after 6 calls of forward")
    with evaluating(probe.backbone):
        scores = probe.score(probe.speech)
    if probe.apart(scores, repeats[0]).any():
        raise fault("train and eval mode score differently", f"eval against train, {probe.worst(scores, repeats[0])}")


def _dropouts(module: nn.Module) -> str:
    """Modules that drop: layers for it, and those with a rate of their own, such as `nn.MultiheadAttention.dropout`."""
    active = []
    for name, m in module.named_modules():
        rate = getattr(m, "dropout", None)
        if isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0:
            active.append(name)
        elif isinstance(rate, float) and rate > 0:
            active.append(f"{name}.dropout={rate:g}".lstrip("."))
    more = f" and {len(active) - 4} more" if len(active) > 4 else ""
    return f"active dropout in {', '.join(active[:4])}{more}" if active else ""


def columns(probe: Probe) -> None:
    """Real columns carry values, columns beyond the end are 0, column `length` is 0 where the row was cut."""
    speech = probe.padded(3, 0)
    scores = probe.score(speech)
    filled, rows = scores != 0, torch.arange(len(speech), device=scores.device)
    real = torch.arange(scores.shape[1], device=scores.device) < speech.lengths[:, None]
    at_end, one_over, two_over = (filled[rows, speech.lengths + i] for i in range(3))
    shown = f"lengths {speech.lengths.tolist()}, ended {speech.ended.tolist()}, non-zero columns {_spans(filled)}"
    if not filled[real].any():
        if filled.any():
            raise fault("inverted mask", f"real tokens score 0 and padding does not: {shown}")
        raise fault("nothing is scored", f"every column is 0: {shown}")
    if filled[:, -1].any() or two_over.any():
        raise fault("padding is scored", f"columns beyond the end are not 0: {shown}")
    if (speech.ended & one_over).any():
        raise fault("mask off by one, too long", f"one column beyond the end is not 0: {shown}")
    if not at_end[speech.ended].any():
        raise fault("mask off by one, too short", f"the end token's column is 0 in rows that ended: {shown}")
    if (~speech.ended & at_end).any():
        raise fault(
            "end token scored where sampling was cut", f"column `length` is not 0 where ended is False: {shown}"
        )


def _spans(filled: Tensor) -> list[str]:
    spans = [row.nonzero().flatten().tolist() for row in filled]
    return [f"{span[0]}..{span[-1]}" if span else "none" for span in spans]


def padding(probe: Probe) -> None:
    """More padding columns and other ids in the padding change nothing."""
    base, extra = probe.score(probe.padded(0, 0)), "3 more columns of padding"
    for what, speech in ((extra, probe.padded(3, 0)), ("other ids in the padding", probe.padded(0, -1))):
        scores = probe.score(speech)[:, : base.shape[1]]
        changed = probe.apart(scores, base)
        if not changed.any():
            continue
        numbers = f"with {what} against without, {probe.worst(scores, base)}"
        late = _only_ends(changed, probe.speech.lengths)
        raise fault("mask off by one, features late" if late else "padding-dependent scores", numbers)


def _only_ends(changed: Tensor, lengths: Tensor) -> bool:
    """Do end tokens alone differ? They do if features come one position late: theirs then lies beyond the row."""
    row, column = changed.nonzero().T
    return bool((column == lengths[row]).all())


def alone(probe: Probe) -> None:
    """A row scores the same alone and in the batch."""
    batch = probe.score(probe.speech)
    single = torch.zeros_like(batch)
    for row in range(len(batch)):
        scores = probe.score(*probe.alone(row))[0]
        single[row, : len(scores)] = scores
    changed = probe.apart(single, batch)
    if changed.any():
        late = _only_ends(changed, probe.speech.lengths)
        numbers = f"alone against in company, {probe.worst(single, batch)}"
        raise fault("mask off by one, features late" if late else "scores depend on the batch", numbers)


def one_token(probe: Probe) -> str | None:
    """The probabilities of all one-token answers, and of the empty one, sum to 1."""
    scores, reason = probe.first
    whole = scores is not None
    if scores is None:  # some of the ids: their sum may not exceed 1
        frames = probe.alphabet[:, None]
        ones, zeros = torch.ones(len(frames)), torch.zeros(len(frames))
        scores = probe.score(Speech(frames, ones, zeros, zeros), [probe.shortest])[:, 0]
    total = float(scores.double().exp().sum())
    slack = probe.atol * 10
    if total > 1 + slack or (whole and total < 1 - slack):
        numbers = f"the probabilities of {len(scores)} different first frames sum to {total:.5f}"
        raise fault("one-token answers do not sum to 1", numbers)
    return None if whole else reason


def stepwise(probe: Probe) -> str | None:
    """Reading step by step, as sampling does, scores like one pass, also after rows are exchanged and dropped."""
    if not isinstance(probe.backbone, StepBackbone):
        return "not a StepBackbone: there are no steps to look at"
    scored, whole = probe.speech.scored, probe.score(probe.speech)
    for permuted in (False, True):
        with steps(probe):
            got = _walk(probe, probe.backbone, permuted)
        seen = scored[:, : got.shape[1]] & ~got.isnan()
        got, want = got.where(seen, 0.0), whole[:, : got.shape[1]].where(seen, 0.0)
        wrong = probe.apart(got, want)
        if wrong.any():
            place = "after select" if permuted else "first token" if wrong[:, 0].any() else "later tokens"
            numbers = f"step by step against one pass, {probe.worst(got, want)}"
            raise fault(f"stepwise is not teacher forced, {place}", numbers)
    return None


def _walk(probe: Probe, backbone: StepBackbone, permuted: bool) -> Tensor:
    """Scores (B, steps+1) read one token at a time; NaN where a row had left."""
    speech, size = probe.speech, probe.speech.tokens.shape[1]
    steps = min(size, 12)
    here = torch.arange(len(speech), device=speech.tokens.device)
    got = torch.full((len(speech), steps + 1), torch.nan, device=here.device)
    with evaluating(backbone):
        feature, state = backbone.prefill(probe.prompts)
        feature, state = feature.index_select(0, speech.prompt), backbone.select(state, speech.prompt)
        for t in range(steps + 1):
            frame = torch.full_like(speech.tokens[:, 0], backbone.eos)
            going = t < speech.lengths
            frame[going] = speech.tokens[going, min(t, size - 1)]
            got[here, t] = backbone.frame_score(feature, frame[here]).float()
            if t == steps:
                break
            if permuted and t == 1:
                kept = torch.arange(len(here) - 1, 0, -1, device=here.device)  # reversed, and row 0 leaves
                state, here = backbone.select(state, kept), here[kept]
            features, state = backbone.extend(state, speech.tokens[here, t][:, None])
            feature = features[:, 0]
    return got
