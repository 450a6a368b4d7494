"""Batches under a ceiling of frames: dynamic batching as in the paper (<= 2,000 frames per GPU)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import torch

from seaalign.functional.batching import batches, warn_of_long


class FrameBatchSampler:
    """Batches of indices whose size stays within `max_frames`: the sum of what is packed, or rows x longest row.

    Every item comes exactly once per epoch. Where rows are padded, those of similar length share a batch; packed ones
    go, longest first, where they leave least room, so that batches are nearly full. Lengths are rounded up for that, to
    steps of 8 % (4 % where packed), and items are drawn at random within a step; the order of batches is random, and
    both depend on (seed, epoch) alone. The number of batches is the same in every epoch and on every rank, and the
    ranks work on batches of similar size at the same time: Lightning counts on the first, a collective operation on the
    second. An item longer than `max_frames` gets a batch of its own, with a warning.

    Args:
        lengths: frames of each item (see `functional.batching.frames_of`).
        max_frames: ceiling on a batch.
        shuffle: False gives the same batches, smallest first, in every epoch.
        seed: of the shuffle.
        rank: which share of the batches this process takes.
        world_size: number of processes. A batch is split where that is needed to give each as many; only where every
            batch holds a single item already, up to world_size - 1 items are repeated, with a warning.
        packed: rows have no padding, so that a batch takes the sum of its items.

    Raises:
        ValueError: no items, a length below one, or max_frames below one.

    Example:
        >>> sampler = FrameBatchSampler([3, 9, 3, 10, 3], max_frames=20, shuffle=False)
        >>> list(sampler)
        [[0, 2, 4], [1, 3]]
        >>> list(FrameBatchSampler([3, 9, 3, 10, 3], max_frames=16, shuffle=False, packed=True))
        [[1, 0], [3, 4, 2]]
    """

    def __init__(
        self,
        lengths: Sequence[int],
        max_frames: int,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        packed: bool = False,
    ) -> None:
        self.lengths = torch.as_tensor(lengths, dtype=torch.long)
        if not len(self.lengths) or int(self.lengths.min()) < 1 or max_frames < 1:
            raise ValueError(
                f"need an item or more, lengths >= 1 and max_frames >= 1; got {len(self.lengths)} items, {max_frames=}"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in 0..{world_size - 1}, got {rank}")
        self.shuffle, self.seed, self.rank, self.world_size = shuffle, seed, rank, world_size
        self.epoch = 0
        self._steps = _rounded(self.lengths, max_frames, 1.04 if packed else 1.08)
        steps = self._steps.sort().values.tolist()
        places = _even(batches(steps, max_frames, packed), world_size)
        if packed:  # after a split too, neighbours are of similar size
            places.sort(key=lambda batch: sum(steps[i] for i in batch))
        self._places, self._sizes = torch.tensor([i for batch in places for i in batch]), [len(b) for b in places]
        warn_of_long(self.lengths.tolist(), max_frames)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches come next; Lightning calls this."""
        self.epoch = epoch

    @property
    def sampler(self) -> FrameBatchSampler:
        """Itself: Lightning looks for `set_epoch` on `batch_sampler.sampler`."""
        return self

    def __len__(self) -> int:
        return -(-len(self._sizes) // self.world_size)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches(self.epoch))

    def batches(self, epoch: int) -> list[list[int]]:
        """This process's batches of an epoch."""
        items = torch.arange(len(self.lengths))
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % (1 << 63))
        if self.shuffle:
            items = items[torch.randperm(len(items), generator=generator)]
        items = items[self._steps[items].argsort(stable=True)]
        made = [batch.tolist() for batch in items[self._places].split(self._sizes)]
        made = (made * self.world_size)[: len(self) * self.world_size]  # repeats: see `world_size`
        rounds = torch.randperm(len(self), generator=generator) if self.shuffle else torch.arange(len(self))
        return [made[turn * self.world_size + self.rank] for turn in rounds.tolist()]


def _rounded(lengths: torch.Tensor, max_frames: int, ratio: float) -> torch.Tensor:
    """Lengths rounded up to a grid of such steps: shuffling within a step then never changes the number of batches."""
    grid, longest = [1], int(lengths.max())
    while grid[-1] < longest:
        grid.append(max(grid[-1] + 1, int(grid[-1] * ratio)))
    steps = torch.tensor(grid)[torch.bucketize(lengths, torch.tensor(grid))]
    return torch.where(lengths <= max_frames, steps.clamp_max(max_frames), steps)


def _even(made: list[list[int]], world_size: int) -> list[list[int]]:
    while len(made) % world_size:
        largest = max(range(len(made)), key=lambda i: len(made[i]))
        batch = made[largest]
        if len(batch) < 2:
            repeats = -len(made) % world_size
            warnings.warn(
                f"{len(made)} single-item batches for {world_size} processes: {repeats} of them come twice per epoch",
                stacklevel=3,
            )
            break
        half = len(batch) // 2
        made[largest : largest + 1] = [batch[:half], batch[half:]]
    return made
