"""The loader: batches in the sampler's order, and after a resume the next one rather than the first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from seaalign.data.batching import FrameBatchSampler
from seaalign.records import Prompt

_Batch = TypeVar("_Batch")
_Loader = TypeVar("_Loader", bound=Any)


class Place:
    """Where a loader stands: its epoch, what the trainer calls that, and how many of its batches were handed out."""

    def __init__(self) -> None:
        self.at = {"epoch": 0, "told": 0, "batches": 0}
        self._resume: dict[str, int] | None = None
        self._shift = 0

    def begin(self, told: int, length: int) -> tuple[int, int]:
        """The epoch that begins now, and how many of its `length` batches were trained on before.

        Resuming a run with max_steps from the end of an epoch, Lightning counts an empty epoch more than the run that
        was not interrupted. So its count says only whether the saved epoch is over; which one is next we know here.
        """
        saved, self._resume, start = self._resume, None, 0
        if saved is not None:
            over = saved["batches"] >= length or told > saved["told"]
            epoch, start = (saved["epoch"] + 1, 0) if over else (saved["epoch"], saved["batches"])
            self._shift = epoch - told
        self.at = {"epoch": told + self._shift, "told": told, "batches": start}
        return self.at["epoch"], start

    def resume(self, state: dict[str, int]) -> None:
        """Go on after the batch that the state was saved at."""
        self.at = self._resume = dict(state)


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
        self.place = Place()

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[_Batch]:
        # a generator: it runs from the first next() on, which is after Lightning has set the epoch
        epoch, start = self.place.begin(self.batch_sampler.epoch, len(self))
        for indices in self.batch_sampler.batches(epoch)[start:]:
            self.place.at["batches"] += 1
            yield self.collate(indices, epoch)

    def state_dict(self) -> dict[str, int]:
        """The epoch, what the trainer calls it, and how many of its batches were handed out."""
        return dict(self.place.at)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batch that the state was saved at."""
        self.place.resume(state)


class FrameDataModule(L.LightningDataModule):
    """Keeps the place of the training loader in every checkpoint, and what a batch is.

    Lightning keeps the place too, but forgets to give it back where `configure_optimizers` asks for the number of
    steps: that builds the loaders before the checkpoint's state arrives. A data module gets its state earlier.

    Attributes:
        packed: does `max_frames` count what a backbone without padding reads, each prompt once and all answers? `setup`
            asks the trainer's backbone (`Backbone.packs`); without one, rows are taken to be padded. A resumed run
            keeps the kind of batches that it began with; in checkpoints that do not say it they were padded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.packed = False
        self._training: Any = None
        self._resume: dict[str, int] | None = None

    def ask(self, prompt: Prompt) -> None:
        """Find out what the trainer's backbone makes of a batch, before its weights may be spread over processes."""
        packs = getattr(getattr(getattr(self.trainer, "lightning_module", None), "backbone", None), "packs", None)
        if packs is not None:
            with self.trainer.precision_plugin.forward_context():  # type: ignore[union-attr]  # a module has a Trainer
                self.packed = bool(packs([prompt]))

    def prepare_data(self) -> None:
        """Refuse a module that trains on something else, before hours are spent on its data."""
        module = getattr(self.trainer, "lightning_module", None)
        wanted = getattr(module, "trains_on", None)
        if wanted is not None and not isinstance(self, wanted):
            raise TypeError(
                f"{type(module).__name__} trains on {wanted.__name__}, not on {type(self).__name__}: triplets are for "
                "DGSA, pairs for DPO, utterances for SFT"
            )

    def loader(
        self, frames: list[int], max_frames: int, seed: int, collate: Callable[[list[int], int], _Batch], training: bool
    ) -> FrameLoader[_Batch]:
        """Batches for this process. Training is shuffled, except under `Trainer(overfit_batches=...)`."""
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        shuffle = training and not getattr(trainer, "overfit_batches", 0)
        made = FrameLoader(FrameBatchSampler(frames, max_frames, shuffle, seed, rank, world, self.packed), collate)
        return self.placed(made) if training else made

    def placed(self, loader: _Loader) -> _Loader:
        """The training loader, at the place where a checkpoint left it."""
        self._training = loader
        if self._resume is not None:
            loader.load_state_dict(self._resume)
            self._resume = None
        return loader

    def state_dict(self) -> dict[str, Any]:
        """Where training stands in its epoch, and what its batches are."""
        return {"place": self._training.state_dict(), "packed": self.packed} if self._training else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Start the next training loader at the saved place."""
        if self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self._resume = state_dict.get("place")
            if self._resume is not None:
                self.packed = state_dict.get("packed", False)
