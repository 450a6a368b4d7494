"""The loader: batches in the sampler's order, and after a resume the next one rather than the first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from seaalign.data.batching import FrameBatchSampler

_Batch = TypeVar("_Batch")


class FrameLoader(Generic[_Batch]):
    """Iterates over the batches of one epoch, and remembers how far it came.

    Not a `torch.utils.data.DataLoader` on purpose: Lightning rebuilds those under DDP to inject a sampler of its own,
    which would undo the batching; an iterable it leaves alone, whatever the Trainer's arguments. Batches are a few
    kilobytes of ids and are put together in microseconds, so there is nothing for worker processes to do. Lightning
    stores `state_dict` in every checkpoint.

    Args:
        batch_sampler: which items make a batch; `set_epoch` chooses the epoch.
        collate: `(indices, epoch) -> batch`. Whatever it draws at random must depend on its two arguments alone.
    """

    def __init__(self, batch_sampler: FrameBatchSampler, collate: Callable[[list[int], int], _Batch]) -> None:
        self.batch_sampler = batch_sampler
        self.collate = collate
        self._epoch, self._done = 0, 0
        self._resume: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[_Batch]:
        # a generator: it runs from the first next() on, which is after Lightning has set the epoch
        epoch = self._epoch = self.batch_sampler.epoch
        start = self._resume[1] if self._resume and self._resume[0] == epoch else 0
        self._resume = None
        for number, indices in enumerate(self.batch_sampler, 1):
            if number > start:
                self._done = number
                yield self.collate(indices, epoch)

    def state_dict(self) -> dict[str, Any]:
        """The epoch and how many of its batches were handed out."""
        return {"epoch": self._epoch, "batches": self._done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the batch that the state was saved at.

        It counts for its own epoch only: a later one starts at its beginning.
        """
        self._resume = (state["epoch"], state["batches"])
        self._epoch, self._done = self._resume
