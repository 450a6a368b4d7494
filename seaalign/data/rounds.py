"""The batches of self-critique, iteration by iteration: those of the accepted candidates, then those of the pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seaalign.data.batches import PairBatch, SpeechBatch
from seaalign.data.batching import FrameBatchSampler
from seaalign.data.loader import Place
from seaalign.functional.batching import frames_of
from seaalign.functional.sampling import content_key
from seaalign.records import Prompt, Speech, Utterance

if TYPE_CHECKING:
    from seaalign.data.texts import TextData


class RoundLoader:
    """One epoch is one iteration: explore, judge and mine; `sft_steps` batches; score the pairs; `dpo_steps` batches.

    The model changes between the two halves, and the pairs are scored by what it has become, so the loader works only
    where batches are asked for one at a time: the Trainer does so because it knows the length. Where there are no
    pairs, the second half is None, which the Trainer skips.

    Args:
        data: sentences and settings; its trainer's LightningModule is asked to `explore` and to `score` (see `TDSC`).
    """

    def __init__(self, data: TextData) -> None:
        trainer = data.trainer
        self.data = data
        self.module: Any = getattr(trainer, "lightning_module", None)
        if trainer is None or not hasattr(self.module, "explore"):
            raise ValueError(
                f"TextData is trained on by TDSC, not by {type(self.module).__name__}: it has no recordings"
            )
        self.rank, self.world = trainer.global_rank, trainer.world_size
        # a rehearsal is not worth hours of sampling
        self.sentences = data.sentences[:8] if getattr(trainer, "fast_dev_run", False) else data.sentences
        self.epoch = 0
        self.place = Place()

    def set_epoch(self, epoch: int) -> None:
        """Choose the iteration; the Trainer calls this, by way of `sampler`."""
        self.epoch = epoch

    @property
    def sampler(self) -> RoundLoader:
        """Itself: Lightning looks for `set_epoch` there."""
        return self

    def __len__(self) -> int:
        return int(self.module.sft_steps + self.module.dpo_steps)

    def __iter__(self) -> Iterator[Any]:
        # a generator: it runs from the first next() on, which is after the Trainer has set the epoch
        epoch, start = self.place.begin(self.epoch, len(self))
        for batch in self._batches(epoch, start):
            self.place.at["batches"] += 1
            yield batch

    def _batches(self, epoch: int, start: int) -> Iterator[Any]:
        sft, dpo = self.module.sft_steps, self.module.dpo_steps
        mined = self.module.explore(epoch + 1, self.sentences, begun=start > 0)
        if start < sft:
            rows = mined.accepted + replayed(self.data, len(mined.accepted), epoch + 1)
            for batch in self._cut([(u.prompt, [u.tokens]) for u in rows], start, sft, epoch):
                yield _speech([rows[i] for i in batch])
        if dpo and mined.pairs:
            pairs = self.module.score(epoch + 1, mined.pairs, begun=start > sft)
            items = [(pair.prompt, pair.completions()) for pair in pairs]
            for batch in self._cut(items, max(0, start - sft), dpo, epoch + 500_000):
                yield PairBatch.of([pairs[i] for i in batch])
        else:
            yield from (None for _ in range(max(0, start - sft), dpo))

    def _cut(
        self, items: Sequence[tuple[Prompt, Sequence[Tensor]]], start: int, steps: int, epoch: int
    ) -> Iterator[list[int]]:
        """Batches start..steps-1 of as many passes over the items, prompts with their rows, as that takes."""
        if start >= steps:
            return
        frames = [frames_of(*item, packed=self.data.packed) for item in items]
        seed = self.data.seed + 1_000_003 * epoch
        sampler = FrameBatchSampler(frames, self.data.max_frames, True, seed, self.rank, self.world, self.data.packed)
        yield from islice((batch for turn in count() for batch in sampler.batches(turn)), start, steps)

    def state_dict(self) -> dict[str, int]:
        """The iteration, from 0, and how many of its batches were handed out."""
        return dict(self.place.at)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batch that the state was saved at."""
        self.place.resume(state)


def replayed(data: TextData, accepted: int, iteration: int) -> list[Utterance]:
    """As many SFT utterances as make their share `replay` beside the accepted, drawn by seed and iteration, from 1."""
    share, pool = data.replay, data.sft
    number = min(len(pool), round(accepted * share / (1 - share)))
    key = content_key([torch.tensor([data.seed, iteration - 1])], 7) % (1 << 63)
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(key))
    return [pool[i] for i in order[:number].tolist()]


def _speech(rows: Sequence[Utterance]) -> SpeechBatch:
    return SpeechBatch([u.prompt for u in rows], Speech.pack([u.tokens for u in rows]), [u.id for u in rows])
