"""Texts to say, for `TDSC`: the data come into being while the model trains on them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils import _pytree
from torch.utils.data import DataLoader

from seaalign.data.batches import SentenceBatch
from seaalign.data.loader import FrameDataModule
from seaalign.data.rounds import RoundLoader
from seaalign.data.speech import load_utterances
from seaalign.functional.sampling import content_key
from seaalign.records import Sentence, Utterance
from seaalign.storage import read_texts
from seaalign.storage.texts import Tokenize


class TextData(FrameDataModule):
    """Sentences without recordings, and the utterances that the SFT policy was trained on.

    The training loader is a `RoundLoader`: it has the model explore, judge and mine once per epoch, and then hands out
    the batches of that iteration.

    Args:
        texts: sentences, or a file of them (see `storage.read_texts`).
        tokenize: from a text to text ids, for plain text files. Default: `tokenize` of the backbone that is trained.
        sft: utterances of the SFT policy, or a Parquet or JSONL file of them. Their texts are compared with the
            sentences, because nothing is learned from texts that the policy has seen spoken; their timbres are dealt to
            sentences from a file; and `replay` mixes them in.
        replay: share of the utterances of the SFT phase that come from `sft`, drawn anew in every iteration.
        language: of the sentences of a file that do not say theirs.
        max_frames: ceiling on the frames of a batch, per process: as in `SpeechData`, and in the second half of an
            iteration as in `PairData`.
        seed: of the shuffle and the replay.
        vocab_size: refuse token ids outside 0..vocab_size-1 when reading `sft`.

    Raises:
        ValueError: at setup; no sentence, or two of one id.
    """

    def __init__(
        self,
        texts: str | Path | Sequence[Sentence],
        tokenize: Tokenize | None = None,
        sft: str | Path | Sequence[Utterance] | None = None,
        replay: float = 0.0,
        language: str | None = None,
        max_frames: int = 2000,
        seed: int = 0,
        vocab_size: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= replay < 1:
            raise ValueError(f"replay must lie in 0..1, below 1, got {replay}")
        if replay and sft is None:
            raise ValueError(f"replay={replay} needs sft=, the utterances to replay")
        self.source, self.tokenize, self.sft_source = texts, tokenize, sft
        self.replay, self.language, self.max_frames, self.seed = replay, language, max_frames, seed
        self.vocab_size = vocab_size
        self.sentences: list[Sentence] = []
        self.sft: list[Utterance] = []

    def setup(self, stage: str = "fit") -> None:
        """Read the files, once."""
        if not self.sentences:
            self._read()
        self.ask(self.sentences[0].prompt)

    def _read(self) -> None:
        self.sft = [] if self.sft_source is None else load_utterances(self.sft_source, self.vocab_size)
        if isinstance(self.source, str | Path):
            voices = [utterance.prompt.timbre for utterance in self.sft] or [None]
            policy = getattr(getattr(self.trainer, "lightning_module", None), "backbone", None)
            tokenize = self.tokenize or getattr(policy, "tokenize", None)
            self.sentences = read_texts(self.source, tokenize, timbres=_distinct(voices), language=self.language)
        else:
            self.sentences = list(self.source)
        ids = [sentence.id for sentence in self.sentences]
        if not ids or len(set(ids)) < len(ids):
            raise ValueError(
                f"need at least one sentence and unique ids; got {len(ids)}, {len(set(ids))} of them unique"
            )
        self._compare()

    def train_dataloader(self) -> RoundLoader:
        """The iterations."""
        return self.placed(RoundLoader(self))

    def predict_dataloader(self) -> DataLoader[Any]:
        """The sentences, sixteen at a time: `trainer.predict` picks the best candidate of each."""
        return DataLoader(self.sentences, batch_size=16, collate_fn=SentenceBatch)  # type: ignore[arg-type]

    def _compare(self) -> None:
        spoken = {tuple(utterance.prompt.text.tolist()) for utterance in self.sft}
        known = [sentence.id for sentence in self.sentences if tuple(sentence.prompt.text.tolist()) in spoken]
        if known:
            warnings.warn(
                f"{len(known)} of {len(self.sentences)} sentences have texts that the SFT policy was trained on, first "
                f"{known[:3]}: their candidates are mostly right already and teach little. Take texts that nobody has "
                "spoken yet",
                stacklevel=2,
            )


def _distinct(timbres: Sequence[Any]) -> list[Any]:
    """Each timbre once, in the order in which they come."""
    kept = {content_key([x for x in _pytree.tree_leaves(timbre) if x is not None], 0): timbre for timbre in timbres}
    return list(kept.values())
