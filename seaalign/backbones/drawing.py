"""The sampling loop: many rows at once, each at its own temperature, with its own random numbers and its own limits."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from seaalign.functional.sampling import nucleus, uniforms
from seaalign.records import Speech

Draw = Callable[..., Tensor]
_Limit = TypeVar("_Limit", int, float)
_PACE = {"cpu": 1, "cuda": 8}  # steps between two looks at how many rows are left, which on a GPU is to wait for it
_CROWD = {"cpu": 0.92, "cuda": 0.75}  # share that stays for the rest not to leave: on a CPU dead rows cost their step


def on_device(limits: Mapping[str, _Limit], like: Tensor) -> _Limit:
    """The limit for the kind of device that a tensor is on; that of a GPU where nobody has measured."""
    return limits.get(like.device.type, limits["cuda"])


class Rows(NamedTuple):
    """Rows to draw, (B,) each."""

    prompt: Tensor  # which one each row answers
    key: Tensor  # of its random numbers
    temperature: Tensor
    most: Tensor  # frames
    least: Tensor


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


def in_waves(draw_part: Callable[[int, int], Speech], rows: int, size: int) -> Speech:
    """Draw rows in waves, and in half as large ones from where memory has run out.

    Args:
        draw_part: `(first, last) -> Speech`, rows first..last-1.
        rows: how many there are.
        size: of a wave.

    Raises:
        RuntimeError: memory runs out over a single row.
    """
    parts = list[Speech]()
    first = 0
    while first < rows:
        last = min(first + size, rows)
        try:
            parts.append(draw_part(first, last))
            first = last
        except RuntimeError as error:
            if last - first < 2 or not _out_of_memory(error):
                raise
            size = (last - first) // 2
        else:
            continue
        # here, and not where the error is still held with all that it refers to
        torch.cuda.empty_cache()
        warnings.warn(f"memory ran out over {last - first} rows: going on with {size} at once", stacklevel=3)
    if len(parts) < 2:
        return parts[0] if parts else Speech.pack([])
    owner, ended = (torch.cat([getattr(part, name) for part in parts]) for name in ("prompt", "ended"))
    return Speech.pack([row for part in parts for row in part.rows()], ended, owner)


def _out_of_memory(error: RuntimeError) -> bool:
    # the CPU's allocator and cuBLAS raise plain ones
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "not enough memory")
    )


def draw_rows(backbone: Any, feature: Tensor, state: Any, asked: Rows, top_p: float) -> Speech:
    """Draw token by token what follows, all rows side by side; rows that are done leave.

    Args:
        backbone: a `StepBackbone`.
        feature: what predicts the first token (B, D).
        state: of the backbone, one entry per row.
        asked: the rows.
        top_p: nucleus mass.

    Raises:
        ValueError: logits that no id can be drawn from.
    """
    owner, key, heat, most, least = asked
    rows, steps = len(owner), int(most.max()) if len(owner) else 0
    books = () if backbone.codebooks is None else (backbone.codebooks,)
    tokens = torch.zeros((rows, steps, *books), dtype=torch.long, device=owner.device)
    lengths, ended = torch.zeros_like(owner), torch.zeros_like(owner, dtype=torch.bool)
    here = torch.arange(rows, device=owner.device)
    run = _Run(here, key, heat, most, least, live=most > 0, length=most, ended=ended.clone())
    pace, crowd = on_device(_PACE, owner), on_device(_CROWD, owner)
    for step in range(steps):
        frame = backbone.frame_draw(feature, _drawer(backbone, run, top_p, step))
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
        if left < crowd * len(frame):  # copying the state costs too: leave only when it pays
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


def _drawer(backbone: Any, run: _Run, top_p: float, step: int) -> Draw:
    books = backbone.codebooks or 1

    def draw_book(logits: Tensor, book: int = 0) -> Tensor:
        half = logits.dtype == torch.float16
        logits = logits.float().clone()
        if book == 0:
            logits[:, list(backbone.banned)] = -torch.inf
            logits[:, backbone.eos].masked_fill_(step < run.least, -torch.inf)
        lost = ~logits.amax(-1).isfinite()  # NaN wins every maximum
        if bool(lost.any()):
            row = int(run.row[lost][0])
            why = "the weights, or what it was asked, are"
            if half:
                why = f"float16 ends at {torch.finfo(torch.float16).max:.0f} and overflowed; use bfloat16 or float32"
            raise ValueError(f"the logits of row {row} are NaN or infinite at step {step}: {why}")
        return nucleus(logits, run.temperature, top_p, uniforms(run.key, step * books + book))

    return draw_book
