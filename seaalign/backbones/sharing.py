"""One copy of a prompt's keys and values for all rows that answer it, while they are drawn.

Twelve candidates of a text would each carry the text, and the style prefix before it, through memory at every token.
Here a row carries what it has said itself; what was asked is read once for all rows of a prompt, in one product.

In fp32 alone: products of 16 bits round the scores before the softmax, which the fused kernels on copies do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seaalign.backbones.packing import exact, forget, takes_packing


@dataclass(frozen=True, eq=False)
class Sharing:
    """The prompts of P texts, and which of them each of B rows answers.

    Args:
        keys: of each layer (P, H', L, D), padded.
        values: of each layer (P, H', L, D).
        holes: where the prompts are padded (P, 1, 1, L) bool; None where they are not.
        owner: the prompt of each row (B,).
        most: rows of the prompt that has most.
        slot: a place for each row (B,) among P x `most`, those of a prompt side by side.
    """

    keys: list[Tensor]
    values: list[Tensor]
    holes: Tensor | None
    owner: Tensor
    most: int
    slot: Tensor

    @classmethod
    def of(cls, cache: Any, seen: Tensor, owner: Tensor) -> Sharing | None:
        """The prompts of a Hugging Face cache that has read them; None for other kinds of caches.

        Args:
            cache: of P prompts.
            seen: which of its slots hold something (P, L).
            owner: the prompt of each row (B,).
        """
        layers = plain_layers(cache)
        if not layers:
            return None
        holes = None if bool(seen.all()) else ~seen[:, None, None]
        return cls([k for k, _ in layers], [v for _, v in layers], holes, owner, *_placed(owner, len(seen)))

    def select(self, rows: Tensor) -> Sharing:
        """Some of the rows; prompts that nobody answers any more go once they are more than half."""
        owner, keys, values, holes = self.owner[rows], self.keys, self.values, self.holes
        alive, place = owner.unique(return_inverse=True)
        if 2 * len(alive) < len(keys[0]):
            keys, values = ([x[alive] for x in layers] for layers in (keys, values))
            owner, holes = place, None if holes is None else holes[alive]
        return Sharing(keys, values, holes, owner, *_placed(owner, len(keys[0])))

    @torch.compiler.disable
    def attend(self, query: Tensor, key: Tensor, value: Tensor, layer: int, scale: float | None = None) -> Tensor:
        """Attention of rows to their prompt and to what they have said themselves.

        Args:
            query: (B, H, t, D), the last t positions of each row.
            key: (B, H', T, D) of all positions that the rows have said; H is a multiple of H'.
            value: (B, H', T, D).
            layer: which.
            scale: of the products; default D ** -0.5.

        Returns:
            (B, H, t, D).
        """
        rows, heads, steps, width = query.shape
        said, kinds = key.shape[2], key.shape[1]
        # queries that look at one key stand side by side, so that a key is read once for all of them
        query = (query * (width**-0.5 if scale is None else scale)).reshape(rows, kinds, -1, width)
        asked = self._together(query) @ self.keys[layer].transpose(-1, -2)
        asked = self._apart(asked if self.holes is None else asked.masked_fill_(self.holes, -torch.inf))
        own = (key @ query.transpose(-1, -2)).transpose(-1, -2)  # in this order a CPU reads keys up to twice as fast
        if steps > 1:
            later = torch.ones(steps, said, dtype=torch.bool, device=own.device).triu(said - steps + 1)
            own = own.unflatten(2, (-1, steps)).masked_fill(later, -torch.inf).flatten(2, 3)
        share = torch.cat([asked, own], dim=-1).softmax(-1)
        asked, own = share.split([asked.shape[-1], said], dim=-1)
        out = own @ value + self._apart(self._together(asked) @ self.values[layer])
        return out.view(rows, heads, steps, width)

    def _together(self, x: Tensor) -> Tensor:
        """(B, H', R, X) of rows to (P, H', most * R, X) of prompts; places of no row hold what some other one has."""
        kinds, each = x.shape[1:3]
        places, _ = self._places(kinds, each)
        return x.reshape(-1, x.shape[-1]).index_select(0, places).view(len(self.keys[0]), kinds, -1, x.shape[-1])

    def _apart(self, x: Tensor) -> Tensor:
        """And back."""
        kinds, width = x.shape[1], x.shape[-1]
        _, places = self._places(kinds, x.shape[2] // self.most)
        return x.reshape(-1, width).index_select(0, places).view(len(self.slot), kinds, -1, width)

    def _places(self, kinds: int, each: int) -> tuple[Tensor, Tensor]:
        """Where each vector of `_together` comes from, and where each one of `_apart` does: one look-up each way."""
        known: dict[tuple[int, int], tuple[Tensor, Tensor]] = self.__dict__.setdefault("_known", {})
        if (kinds, each) not in known:
            rows, prompts, device = len(self.slot), len(self.keys[0]), self.slot.device
            apart = torch.arange(rows * kinds * each, device=device).view(rows, kinds, each)
            together = torch.arange(prompts * kinds * self.most * each, device=device)
            together = together.view(prompts, kinds, self.most, each).transpose(1, 2).flatten(0, 1)
            placed = apart.new_zeros(prompts * self.most, kinds, each).index_copy_(0, self.slot, apart)
            come = placed.unflatten(0, (prompts, self.most)).transpose(1, 2)
            known[kinds, each] = come.flatten(), together[self.slot].flatten()
        return known[kinds, each]


def plain_layers(cache: Any) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of each layer of a Hugging Face cache; none of other kinds of caches or layers."""
    layers = getattr(cache, "layers", None) or []
    plain = all(type(layer).__name__ in ("DynamicLayer", "RoomyLayer") for layer in layers)
    return [(layer.keys, layer.values) for layer in layers] if plain else []


def _placed(owner: Tensor, prompts: int) -> tuple[int, Tensor]:
    counts = torch.bincount(owner, minlength=prompts)
    most = int(counts.max())
    order = owner.argsort(stable=True)
    rank = torch.arange(len(owner), device=owner.device) - (counts.cumsum(0) - counts)[owner[order]]
    return most, torch.empty_like(owner).index_copy_(0, order, owner[order] * most + rank)


def can_share(body: Callable[..., Any], call: Callable[..., tuple[Tensor, Any]], like: Tensor) -> bool:
    """Try it: does the body give rows that share a prompt the features that whole rows have? Not in 16 bits.

    Args:
        body: the transformer; where the answer is no, its attention is left as it was.
        call: `DecoderOnly._call_body` with it.
        like: embeddings (L, D) of its size, type and scale.
    """
    if not exact(like) or takes_packing(body):
        return False
    noise = torch.randn(5, 6, like.shape[1], generator=torch.Generator().manual_seed(0))
    x = noise.to(like) * like.float().std().clamp_min(1e-3).to(like.dtype)
    asked, said, owner = x[:2, :3], x[2:, 3:5], torch.tensor([0, 0, 1], device=x.device)
    places, right = torch.arange(5, device=x.device), False
    try:
        whole, _ = call(torch.cat([asked[owner], said], 1), None, places.expand(3, -1), None, use_cache=False)
        _, cache = call(asked, None, places[:3].expand(2, -1), None, use_cache=True)
        sharing = Sharing.of(cache, torch.ones(2, 3, dtype=torch.bool, device=x.device), owner)
        if sharing is not None:
            apart, _ = call(said, None, places[3:].expand(3, -1), type(cache)(), use_cache=True, sharing=sharing)
            right = bool((apart - whole[:, 3:]).abs().max() <= 1e-4 * whole.abs().max())
    except torch.OutOfMemoryError:  # says nothing of the body
        forget(body)
        raise
    except Exception:  # whatever a foreign model makes of it, a prompt for each row is right
        pass
    if not right:
        forget(body)
    return right
