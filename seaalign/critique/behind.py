"""Work that goes on behind other work: one wave is judged while the next one is sampled."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Generic, TypeVar

import torch

_Item = TypeVar("_Item")


class Behind(Generic[_Item]):
    """Hands items to one thread, in order, and lets no more than `ahead` of them wait.

    The thread records no gradients, and has the autocast of the one that made it, as PyTorch keeps both by thread. Its
    first error comes out of a later `put`, or at the end. Where the block itself fails, what has begun is ended and the
    rest is dropped.

    Args:
        work: done with each item.
        ahead: items that may wait or be worked on; `put` blocks beyond it.

    Example:
        >>> seen = []
        >>> with Behind(seen.append) as behind:
        ...     for i in range(5):
        ...         behind.put(i)
        >>> seen
        [0, 1, 2, 3, 4]
    """

    def __init__(self, work: Callable[[_Item], Any], ahead: int = 2) -> None:
        self.work, self.ahead = work, ahead
        self.casts = [
            (kind, torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)
        ]
        self._waiting = deque[Future[None]]()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="judge")

    def put(self, item: _Item) -> None:
        """Hand an item over; waits while too many are there."""
        while len(self._waiting) >= self.ahead or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(self._do, item))

    def _do(self, item: _Item) -> None:
        with torch.no_grad(), ExitStack() as stack:
            for kind, dtype in self.casts:
                stack.enter_context(torch.autocast(kind, dtype))
            self.work(item)

    def __enter__(self) -> Behind[_Item]:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        try:
            while kind is None and self._waiting:
                self._waiting.popleft().result()
        finally:
            self._thread.shutdown(wait=True, cancel_futures=True)
