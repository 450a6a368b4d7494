"""The sampling loop: many rows at once, each at its own temperature, with its own random numbers and its own limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seaalign.functional.sampling import draw, uniforms
from seaalign.records import Speech

Draw = Callable[..., Tensor]
_PACE = 8  # steps between two looks at how many rows are left, where looking means to wait for the device


class _Run(NamedTuple):
    """What is known of the rows that are being drawn, (B,) each."""

    row: Tensor  # in the output
    key: Tensor
    temperature: Tensor
    most: Tensor
    least: Tensor
    live: Tensor
    length: Tensor
    ended: Tensor


def draw_rows(
    backbone: Any, feature: Tensor, state: Any, keys: Tensor, limits: list[Tensor], top_p: float, owner: Tensor
) -> Speech:
    """Draw token by token what follows, all rows side by side; rows that are done leave.

    Args:
        backbone: a `StepBackbone`.
        feature: what predicts the first token (B, D).
        state: of the backbone, one entry per row.
        keys: random keys (B,).
        limits: temperature, most and least frames, (B,) each.
        top_p: nucleus mass.
        owner: the prompt of each row (B,).

    Raises:
        ValueError: logits that no id can be drawn from.
    """
    rows, steps = len(owner), int(limits[1].max()) if len(owner) else 0
    books = () if backbone.codebooks is None else (backbone.codebooks,)
    tokens = torch.zeros((rows, steps, *books), dtype=torch.long, device=owner.device)
    lengths, ended = torch.zeros_like(owner), torch.zeros_like(owner, dtype=torch.bool)
    heat, most, least = limits
    here = torch.arange(rows, device=owner.device)
    run = _Run(here, keys, heat, most, least, live=most > 0, length=most, ended=ended.clone())
    pace, greedy = 1 if owner.device.type == "cpu" else _PACE, bool((heat == 0).any())
    for step in range(steps):
        frame = backbone.frame_draw(feature, _drawer(backbone, run, top_p, step, greedy))
        stop = run.live & ((frame if frame.dim() == 1 else frame[:, 0]) == backbone.eos)
        live = run.live & ~stop
        frame = torch.where(live if frame.dim() == 1 else live[:, None], frame, 0)
        tokens[run.row, step] = frame
        run = run._replace(
            live=live & (step + 1 < run.most),
            length=torch.where(stop, step, run.length),
            ended=run.ended | stop,
        )
        left = int(run.live.sum()) if step % pace == pace - 1 or step == steps - 1 else len(frame)
        if left < 0.75 * len(frame):  # copying the state costs too: leave only when it pays
            lengths[run.row], ended[run.row] = run.length, run.ended
            keep = run.live.nonzero().squeeze(-1)
            if not left:
                break
            run, frame, state = _Run(*(part[keep] for part in run)), frame[keep], backbone.select(state, keep)
        if step + 1 < steps:
            features, state = backbone.extend(state, frame[:, None])
            feature = features[:, 0]
    lengths[run.row], ended[run.row] = run.length, run.ended
    return Speech(tokens, lengths, ended, owner).select(torch.arange(rows))


def _drawer(backbone: Any, run: _Run, top_p: float, step: int, greedy: bool) -> Draw:
    books = backbone.codebooks or 1

    def draw_book(logits: Tensor, book: int = 0) -> Tensor:
        half = logits.dtype == torch.float16
        logits = logits.float().clone()
        if book == 0:
            logits[:, list(backbone.banned)] = -torch.inf
            logits[:, backbone.eos].masked_fill_(step < run.least, -torch.inf)
        share = (logits / run.temperature.clamp_min(1e-6)[:, None]).softmax(-1)
        if bool(share[:, 0].isnan().any()):
            row = int(run.row[share[:, 0].isnan()][0])
            why = "the weights, or what it was asked, are"
            if half:
                why = f"float16 ends at {torch.finfo(torch.float16).max:.0f} and overflowed; use bfloat16 or float32"
            raise ValueError(f"the logits of row {row} are NaN or infinite at step {step}: {why}")
        drawn = draw(share, top_p, uniforms(run.key, step * books + book))
        return torch.where(run.temperature > 0, drawn, logits.argmax(-1)) if greedy else drawn

    return draw_book
