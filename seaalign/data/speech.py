"""Utterances for supervised fine-tuning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from seaalign.data.batches import SpeechBatch
from seaalign.data.loader import FrameDataModule, FrameLoader
from seaalign.functional.batching import frames_of
from seaalign.functional.sampling import content_key, uniforms
from seaalign.records import Prompt, Speech, Utterance
from seaalign.storage import read_manifest, read_utterances


def load_utterances(source: str | Path | Sequence[Utterance], vocab_size: int | None = None) -> list[Utterance]:
    """Utterances as they are, or from a file.

    Parquet (`write_utterances`), or JSONL (`read_manifest`) where the name ends in .jsonl.

    Raises:
        ValueError: there are none, or two share an id.
        TypeError: they are no utterances.
    """
    if isinstance(source, str | Path):
        read = read_manifest if str(source).endswith((".jsonl", ".json")) else read_utterances
        utterances = read(source, vocab_size=vocab_size)
        if not utterances:
            raise ValueError(f"{source} holds no utterances")
        return utterances
    utterances = list(source)
    strange = {type(item).__name__ for item in utterances if not isinstance(item, Utterance)}
    if strange:
        raise TypeError(
            f"need utterances, or a file of them, got {', '.join(sorted(strange))}; how to train on triplets that are "
            "there already: docs/data.md"
        )
    ids = [utterance.id for utterance in utterances]
    twice = [key for key, times in Counter(ids).items() if times > 1]
    if not ids or twice:
        raise ValueError(f"need at least one utterance and unique ids; got {len(ids)}, and more than once: {twice[:5]}")
    return utterances


class SpeechData(FrameDataModule):
    """Utterances in batches by frames, for `SFT`.

    Args:
        train: utterances, or a Parquet or JSONL file of them.
        val: the same, or None.
        max_frames: ceiling on the frames of a batch, per process. Where the backbone packs rows without padding, that
            is the sum of prompts and speech, and batches are filled up to it; elsewhere it is rows x longest row, and
            rows of similar length share a batch.
        seed: of the shuffle, and of `plain_fraction`.
        plain_fraction: share of the utterances whose style prefix is left out, drawn anew in every epoch. A model that
            is to speak in both modes must have learned both. 0 leaves every prompt as it is.
        vocab_size: refuse token ids outside 0..vocab_size-1 when reading a file.

    Raises:
        ValueError: at setup, for unusable data.

    Example:
        >>> data = SpeechData([Utterance("a", Prompt([1]), [7, 8]), Utterance("b", Prompt([2, 3]), [7])])
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> len(batch), batch.speech.tokens.shape
        (2, torch.Size([2, 2]))
    """

    def __init__(
        self,
        train: str | Path | Sequence[Utterance],
        val: str | Path | Sequence[Utterance] | None = None,
        max_frames: int = 2000,
        seed: int = 0,
        plain_fraction: float = 0.0,
        vocab_size: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= plain_fraction <= 1:
            raise ValueError(f"plain_fraction must lie in 0..1, got {plain_fraction}")
        self.sources = (train, val)
        self.max_frames, self.seed, self.plain_fraction, self.vocab_size = max_frames, seed, plain_fraction, vocab_size
        self.train: list[Utterance] = []
        self.val: list[Utterance] = []

    def setup(self, stage: str = "fit") -> None:
        """Read the files, once."""
        if not self.train:
            train, val = self.sources
            self.train = load_utterances(train, self.vocab_size)
            self.val = [] if val is None else load_utterances(val, self.vocab_size)
        self.ask(self.train[0].prompt)

    def train_dataloader(self) -> FrameLoader[SpeechBatch]:
        """Shuffled, except under `Trainer(overfit_batches=...)`."""
        return self._loader(self.train, training=True)

    def val_dataloader(self) -> FrameLoader[SpeechBatch] | list[Any]:
        """Never shuffled; an empty list where there is no validation data."""
        return self._loader(self.val, training=False) if self.val else []

    def _loader(self, utterances: list[Utterance], training: bool) -> FrameLoader[SpeechBatch]:
        def collate(rows: list[int], epoch: int) -> SpeechBatch:
            return self._collate([utterances[row] for row in rows], epoch if training else 0)

        frames = [frames_of(utterance.prompt, [utterance.tokens], self.packed) for utterance in utterances]
        return self.loader(frames, self.max_frames, self.seed, collate, training)

    def _collate(self, utterances: list[Utterance], epoch: int) -> SpeechBatch:
        prompts = [self._prompt(utterance, epoch) for utterance in utterances]
        ids = [utterance.id for utterance in utterances]
        return SpeechBatch(prompts, Speech.pack([utterance.tokens for utterance in utterances]), ids)

    def _prompt(self, utterance: Utterance, epoch: int) -> Prompt:
        if self.plain_fraction and utterance.prompt.style is not None:
            # by id and epoch, not by a stream of numbers, so that a resumed run draws the same
            key = content_key([torch.tensor(list(utterance.id.encode()))], self.seed)
            if float(uniforms(torch.tensor([key]), epoch)) < self.plain_fraction:
                return utterance.prompt.plain()
        return utterance.prompt
