"""Keys and values in buffers of fixed shape, so that a decoding step can be recorded once and replayed.

A step of a small model on a GPU waits for Python, which hands over some twenty kernels a layer. A recorded step is one
CUDA graph; for that it must find the same shapes at the same places each time. So rows are filled up to a few sizes,
and keys and values lie in room that is masked where nothing is yet.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seaalign.backbones.packing import exact
from seaalign.backbones.sharing import plain_layers

Call = Callable[..., tuple[Tensor, Any]]
Replay = Callable[["Fixed", Tensor, Tensor], Tensor]
_STEP = 64  # room grows by multiples of it


class Fixed:
    """The cache of B rows, of a size that `size_of` gives; the rest are copies of the first row that nobody reads.

    Args:
        keys: of each layer (rows, H, room, D), the first `past` positions filled.
        values: of each layer (rows, H, room, D).
        seen: which positions hold something (rows, 1, 1, room).
        past: positions that are taken.
        count: rows that somebody reads, the first ones.
    """

    is_compileable = True  # what transformers asks of a cache

    def __init__(self, keys: list[Tensor], values: list[Tensor], seen: Tensor, past: int, count: int) -> None:
        self.keys, self.values, self.seen, self.past, self.count = keys, values, seen, past, count
        self.slot = torch.full((1,), past, device=seen.device)
        self.replay: Replay | None = None

    @classmethod
    def of(cls, cache: Any, seen: Tensor, owner: Tensor) -> Fixed | None:
        """Of a Hugging Face cache that has read P prompts; None for other kinds of caches.

        Args:
            cache: of the prompts.
            seen: which of its slots hold something (P, L).
            owner: the prompt of each row (B,).
        """
        layers = plain_layers(cache)
        if not layers:
            return None
        rows, past = _filled(owner), seen.shape[1]
        room = past + _STEP - past % _STEP
        keys, values = ([_with_room(x[rows], room) for x in part] for part in zip(*layers, strict=True))
        held = torch.nn.functional.pad(seen[rows], (0, room - past))[:, None, None]
        return cls(keys, values, held, past, len(owner))

    def batch_select_indices(self, rows: Tensor) -> None:
        """What transformers calls it: go on with these rows."""
        self.count, every = len(rows), _filled(rows)
        keys, values = ([x[every] for x in part] for part in (self.keys, self.values))
        self._put(keys, values, self.seen[every])

    def update(self, key: Tensor, value: Tensor, layer: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """What attention calls: put one position of each row in its place, and give all of them."""
        self.keys[layer].index_copy_(2, self.slot, key)
        self.values[layer].index_copy_(2, self.slot, value)
        return self.keys[layer], self.values[layer]

    def get_seq_length(self, *args: Any) -> int:
        """What transformers calls the positions that are taken."""
        return self.past

    def step(self, call: Call, x: Tensor, positions: Tensor) -> Tensor:
        """Features (B, t, D) of what the rows say next.

        Args:
            call: `(x, mask, positions, cache) -> (features, cache)` of the body.
            x: embeddings (B, t, D).
            positions: of them (B, t).
        """
        pairs = zip(x.split(1, 1), positions.split(1, 1), strict=True)
        return torch.cat([self._step(call, *pair) for pair in pairs], dim=1)

    def _step(self, call: Call, x: Tensor, positions: Tensor) -> Tensor:
        room = self.seen.shape[-1]
        if self.past == room:
            room = (room + room // 2 + _STEP - 1) // _STEP * _STEP
            keys, values = ([_with_room(x, room) for x in part] for part in (self.keys, self.values))
            self._put(keys, values, torch.nn.functional.pad(self.seen, (0, room - self.past)))
        fill = len(self.seen) - self.count
        x, positions = (torch.cat([part, part[:1].expand(fill, *part.shape[1:])]) for part in (x, positions))
        self.seen.index_fill_(-1, self.slot, True)
        if self.replay is None:
            self.replay = self._recorded(call, x, positions)
        out = self.replay(self, x, positions)[: self.count].clone()  # the next step writes over it
        self.past += 1
        self.slot += 1
        return out

    def _put(self, keys: list[Tensor], values: list[Tensor], seen: Tensor) -> None:
        """Other buffers: what was recorded knows the old ones."""
        self.replay, self.keys, self.values, self.seen = None, keys, values, seen

    def _recorded(self, call: Call, x: Tensor, positions: Tensor) -> Replay:
        """A step as a CUDA graph where there is CUDA; else, or where it cannot be recorded, as it is."""

        def plain(cache: Fixed, x: Tensor, positions: Tensor) -> Tensor:
            return call(x, cache.seen, positions, cache, use_cache=True)[0]

        if x.device.type != "cuda" or torch.is_autocast_enabled("cuda"):  # casts of weights would be recorded too
            return plain
        held, graph = (x.clone(), positions.clone()), torch.cuda.CUDAGraph()
        here, side = torch.cuda.current_stream(x.device), torch.cuda.Stream(x.device)
        try:
            side.wait_stream(here)
            with torch.cuda.stream(side):  # libraries set themselves up at the first call; it writes what the next does
                plain(self, *held)
            here.wait_stream(side)
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # a judge may be at work in another thread
                out = plain(self, *held)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # it waits for the device in the middle of a step
            warnings.warn(f"a step that cannot be recorded as a CUDA graph runs as it is: {error}", stacklevel=2)
            return plain

        def again(cache: Fixed, x: Tensor, positions: Tensor) -> Tensor:
            held[0].copy_(x)
            held[1].copy_(positions)
            graph.replay()
            return out

        return again


def can_fix(call: Call, like: Tensor) -> bool:
    """Try it: does the body give rows in fixed buffers the features that whole rows have?

    Args:
        call: `DecoderOnly._call_body`.
        like: embeddings (L, D) of its size, type and scale.
    """
    noise = torch.randn(3, 5, like.shape[1], generator=torch.Generator().manual_seed(0))
    x = noise.to(like) * like.float().std().clamp_min(1e-3).to(like.dtype)
    owner, places = torch.tensor([0, 2, 1], device=x.device), torch.arange(5, device=x.device).expand(3, -1)
    reason = ""
    try:
        whole = call(x[owner], None, places, None, use_cache=False)[0][:, 3:].float()
        cache = call(x[:, :3], None, places[:, :3], None, use_cache=True)[1]
        fixed = Fixed.of(cache, torch.ones(3, 3, dtype=torch.bool, device=x.device), owner)
        if fixed is None:
            reason = f"its cache is a {type(cache).__name__} of another kind"
        else:
            gap = (fixed.step(call, x[owner, 3:], places[:, 3:]).float() - whole).abs().max() / whole.abs().max()
            reason = "" if bool(gap <= (1e-4 if exact(like) else 5e-2)) else f"its features are {float(gap):.2g} off"
    except torch.OutOfMemoryError:  # says nothing of the body
        raise
    except Exception as error:  # whatever a foreign model makes of it, a cache that grows is right
        reason = f"{type(error).__name__}: {error}"
    if reason:
        warnings.warn(f"graphed=True, and this body draws with a cache that grows: {reason}", stacklevel=5)
    return not reason


def size_of(rows: int) -> int:
    """The least of 4, 6, 8, 12, 16, 24, ... that holds so many rows.

    Example:
        >>> [size_of(rows) for rows in (1, 5, 13, 48, 49)]
        [4, 6, 16, 48, 64]
    """
    size = 4
    while size < rows:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def _filled(rows: Tensor) -> Tensor:
    return torch.cat([rows, rows[:1].expand(size_of(len(rows)) - len(rows))])


def _with_room(x: Tensor, room: int) -> Tensor:
    """(rows, H, S, D) to (rows, H, room, D), 0 where nothing is: what lies there is masked, but NaN would not be."""
    return torch.nn.functional.pad(x, (0, 0, 0, room - x.shape[2]))
