"""What a decoder has read so far."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from seaalign.backbones.sharing import Sharing


class State(NamedTuple):
    """One entry per row."""

    cache: Any
    seen: Tensor  # (B, S) bool: which cache slots hold something; short prompts leave holes. Of no use while sharing
    length: Tensor  # (B,) tokens read so far = next position
    step: int  # speech frames read so far
    whole: bool = False  # no holes, and a body that needs no mask then
    shares: bool = False  # may rows that answer one prompt share its part of the cache?
    fixes: bool = False  # may rows be put into buffers of fixed shape?
    sharing: Sharing | None = None  # then the prompts are here, and the cache holds what rows have said
