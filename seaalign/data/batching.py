"""Batches of similar lengths under a ceiling of frames: dynamic batching as in the paper (<= 2,000 frames per GPU)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import torch


class FrameBatchSampler:
    """Batches of indices whose padded size, rows x longest row, stays within `max_frames`.

    Every item comes exactly once per epoch. Rows of similar length share a batch (lengths are rounded up to steps of 8
    %, and drawn at random within a step), the order of batches is random, and both depend on (seed, epoch) alone. The
    number of batches is the same in every epoch and on every rank, and the ranks work on batches of similar size at the
    same time: Lightning counts on the first, a collective operation on the second. An item longer than `max_frames`
    gets a batch of its own, with a warning.

    Args:
        lengths: frames of each item.
        max_frames: ceiling on rows x longest row.
        shuffle: False gives the same batches, shortest first, in every epoch.
        seed: of the shuffle.
        rank: which share of the batches this process takes.
        world_size: number of processes. A batch is split where that is needed to give each as many; only where every
            batch holds a single item already, up to world_size - 1 items are repeated, with a warning.

    Raises:
        ValueError: no items, a length below one, or max_frames below one.

    Example:
        >>> sampler = FrameBatchSampler([3, 9, 3, 10, 3], max_frames=20, shuffle=False)
        >>> list(sampler)
        [[0, 2, 4], [1, 3]]
    """

    def __init__(
        self,
        lengths: Sequence[int],
        max_frames: int,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
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
        self._steps = _rounded(self.lengths, max_frames)
        self._sizes = _even(_pack(self._steps.sort().values.tolist(), max_frames), world_size)
        over = self.lengths > max_frames
        if bool(over.any()):
            warnings.warn(
                f"{int(over.sum())} of {len(over)} items are longer than max_frames={max_frames} (longest: "
                f"{int(self.lengths.max())}); each gets a batch of its own. Raise max_frames, or drop them.",
                stacklevel=2,
            )

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
        batches = [batch.tolist() for batch in items.split(self._sizes)]
        batches = (batches * self.world_size)[: len(self) * self.world_size]  # repeats: see `world_size`
        rounds = torch.randperm(len(self), generator=generator) if self.shuffle else torch.arange(len(self))
        return [batches[turn * self.world_size + self.rank] for turn in rounds.tolist()]


def _rounded(lengths: torch.Tensor, max_frames: int) -> torch.Tensor:
    """Lengths rounded up to a grid of 8 % steps: shuffling within a step then never changes the number of batches."""
    grid, longest = [1], int(lengths.max())
    while grid[-1] < longest:
        grid.append(max(grid[-1] + 1, int(grid[-1] * 1.08)))
    steps = torch.tensor(grid)[torch.bucketize(lengths, torch.tensor(grid))]
    return torch.where(lengths <= max_frames, steps.clamp_max(max_frames), steps)


def _pack(steps: list[int], max_frames: int) -> list[int]:
    sizes, rows = [], 0
    for step in steps:  # ascending, so the newest row is the longest
        if rows and (rows + 1) * step > max_frames:
            sizes.append(rows)
            rows = 0
        rows += 1
    return [*sizes, rows]


def _even(sizes: list[int], world_size: int) -> list[int]:
    while len(sizes) % world_size:
        largest = max(range(len(sizes)), key=sizes.__getitem__)
        if sizes[largest] < 2:
            repeats = -len(sizes) % world_size
            warnings.warn(
                f"{len(sizes)} single-item batches for {world_size} processes: {repeats} of them come twice per epoch",
                stacklevel=3,
            )
            break
        half = sizes[largest] // 2
        sizes[largest : largest + 1] = [half, sizes[largest] - half]
    return sizes
