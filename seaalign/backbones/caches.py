"""Hugging Face caches: their name, and room for what comes, as theirs copy all keys and values at every token."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn


def roomy(cache: Any) -> Any:
    """The same cache, whose plain layers write new keys and values into room that they keep.

    Other kinds of layers, and caches of other kinds or older versions, stay as they are. Written in place: where
    gradients are recorded, nothing is changed.
    """
    layers = getattr(cache, "layers", None)
    if layers is None or torch.is_grad_enabled():
        return cache
    try:
        plain, roomy_kind = _kinds()
    except ImportError:
        return cache
    for layer in layers:
        if type(layer) is plain and layer.is_initialized:
            layer.__class__ = roomy_kind
    return cache


@lru_cache(maxsize=1)
def _kinds() -> tuple[Any, Any]:
    from transformers.cache_utils import DynamicLayer

    class RoomyLayer(DynamicLayer):  # type: ignore[misc]
        """Keys and values are the front of buffers that are larger."""

        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            self.keys = _appended(self.keys, key_states)
            self.values = _appended(self.values, value_states)
            return self.keys, self.values

    return DynamicLayer, RoomyLayer


def _appended(old: Any, new: Tensor) -> Tensor:
    """`torch.cat` along positions of (B, H, S, D), in place where the storage of the old tensor has room behind it."""
    batch, heads, past, width = old.shape
    room, size = old.stride(1) // width, past + new.shape[2]
    kept = (heads * room * width, room * width, width, 1)
    ours = old.stride() == kept and old.untyped_storage().nbytes() >= batch * kept[0] * old.element_size()
    if ours and old.storage_offset() == 0 and size <= room:
        buffer = old.as_strided((batch, heads, room, width), kept)
    else:
        buffer = new.new_empty(batch, heads, size + max(64, size // 2), width)
        buffer[:, :, :past] = old
    buffer[:, :, past:size] = new
    return buffer[:, :, :size]


def cache_name(body: Callable[..., Any]) -> str:
    """Hugging Face called it `past_key_values` until transformers 5, and `cache` since."""
    taken = parameters_of(body)
    return "cache" if "cache" in taken and "past_key_values" not in taken else "past_key_values"


def taken(output: Any, name: str, use_cache: bool) -> tuple[Tensor, Any]:
    """Features and cache of what a body returned: a tuple, or an object as Hugging Face models return it.

    Args:
        output: what it returned.
        name: of the cache, as by `cache_name`.
        use_cache: was a cache asked for?

    Raises:
        TypeError: it is neither.
        ValueError: a cache was asked for, and there is none: each step would forget all that came before.
    """
    if isinstance(output, tuple):
        hidden, cache = output[0], output[1] if len(output) > 1 else None
    elif hasattr(output, "last_hidden_state"):
        hidden, cache = output.last_hidden_state, getattr(output, name, None)
    else:
        raise TypeError(f"body() returned a {type(output).__name__}: return a tuple (hidden (B, S, D), cache)")
    if use_cache and cache is None:
        raise ValueError("body() returned no cache under use_cache=True; without one take LogitsBackbone")
    return hidden, cache


def parameters_of(body: Callable[..., Any]) -> frozenset[str]:
    """The arguments that a module or function takes by name."""
    call = getattr(type(body), "forward", None) if isinstance(body, nn.Module) else body
    return _parameters(getattr(call, "__func__", call))


@lru_cache(maxsize=64)
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)
