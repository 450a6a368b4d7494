"""The loader: batches in the sampler's order, and after a resume the next one rather than the first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from seaalign.data.batching import FrameBatchSampler

_Batch = TypeVar("_Batch")


class FrameLoader(Generic[_Batch]):
    """Iterates over the batches of one epoch, and remembers how far it came.

    Not a `torch.utils.data.DataLoader` on purpose: Lightning rebuilds those under DDP to inject a sampler of its own,
    which would undo the batching; an iterable it leaves alone, whatever the Trainer's arguments. Batches are a few
    kilobytes of ids and are put together in microseconds, so there is nothing for worker processes to do.

    Args:
        batch_sampler: which items make a batch; its `set_epoch` chooses the epoch.
        collate: `(indices, epoch) -> batch`. Whatever it draws at random must depend on its two arguments alone.
    """

    def __init__(self, batch_sampler: FrameBatchSampler, collate: Callable[[list[int], int], _Batch]) -> None:
        self.batch_sampler = batch_sampler
        self.collate = collate
        self._at = {"epoch": 0, "told": 0, "batches": 0}
        self._resume: dict[str, int] | None = None
        self._shift = 0

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[_Batch]:
        # a generator: it runs from the first next() on, which is after Lightning has set the epoch
        told, start = self.batch_sampler.epoch, 0
        if self._resume is not None:
            epoch, start = self._next_place(self._resume, told)
            self._shift, self._resume = epoch - told, None
        epoch = told + self._shift
        for number, indices in enumerate(self.batch_sampler.batches(epoch), 1):
            if number > start:
                self._at = {"epoch": epoch, "told": told, "batches": number}
                yield self.collate(indices, epoch)

    def _next_place(self, saved: dict[str, int], told: int) -> tuple[int, int]:
        # Resuming a run with max_steps from the end of an epoch, Lightning counts an empty epoch more than the run that
        # was not interrupted. So its count says only whether the saved epoch is over; which one is next we know here.
        over = saved["batches"] >= len(self) or told > saved["told"]
        return (saved["epoch"] + 1, 0) if over else (saved["epoch"], saved["batches"])

    def state_dict(self) -> dict[str, int]:
        """The epoch, what the trainer calls it, and how many of its batches were handed out."""
        return dict(self._at)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batch that the state was saved at."""
        self._at = self._resume = dict(state)


class FrameDataModule(L.LightningDataModule):
    """Keeps the place of the training loader in every checkpoint.

    Lightning keeps it too, but forgets to give it back where `configure_optimizers` asks for the number of steps: that
    builds the loaders before the checkpoint's state arrives. A data module gets its state earlier.
    """

    def __init__(self) -> None:
        super().__init__()
        self._training: FrameLoader[Any] | None = None
        self._resume: dict[str, int] | None = None

    def loader(
        self, frames: list[int], max_frames: int, seed: int, collate: Callable[[list[int], int], _Batch], training: bool
    ) -> FrameLoader[_Batch]:
        """Batches for this process. Training is shuffled, except under `Trainer(overfit_batches=...)`."""
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        shuffle = training and not getattr(trainer, "overfit_batches", 0)
        made = FrameLoader(FrameBatchSampler(frames, max_frames, shuffle, seed, rank, world), collate)
        if training:
            self._training = made
            if self._resume is not None:
                made.load_state_dict(self._resume)
                self._resume = None
        return made

    def state_dict(self) -> dict[str, Any]:
        """Where training stands in its epoch."""
        return {"place": self._training.state_dict()} if self._training else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Start the next training loader at the saved place."""
        if self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self._resume = state_dict.get("place")
