"""Shards for `trainer.predict`: each process gets those that nobody has made yet, in turn."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import lightning as L

from seaalign.backbones.base import prompt_key
from seaalign.critique.plan import sentences_hash
from seaalign.data.texts import TextData
from seaalign.records import Candidate, Pair, Sentence, Triplet
from seaalign.sampling import Turn, turns
from seaalign.storage import Shards, pairs_hash, read_candidates, read_metadata, read_pairs, read_triplets, samples_hash
from seaalign.storage.shards import digest

Source = TextData | str | Path | Sequence[Sentence] | Sequence[Pair] | Sequence[Triplet]


class Maker(Protocol):
    """What makes shards; see `seaalign.stages.Stage`."""

    suffix: str

    def about(self) -> dict[str, Any]:
        """What its results depend on."""


class Shard:
    """Some rows, and which shard of the work they are: in a box that Lightning does not take apart.

    Args:
        number: of the shard, from 0.
        rows: records.
    """

    def __init__(self, number: int, rows: Sequence[Any]) -> None:
        self.number, self.rows = number, list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: Any) -> Shard:
        """Itself: a stage moves what it needs."""
        return self


class ShardLoader:
    """Some shards of the work, one at a time, read when their turn comes.

    Not a `torch.utils.data.DataLoader` on purpose; see `FrameLoader`.

    Args:
        data: the work.
        numbers: this process's shards.
        total: how many shards all processes have.
    """

    def __init__(self, data: ShardData, numbers: Sequence[int], total: int) -> None:
        self.data, self.numbers, self.total = data, list(numbers), total

    def __len__(self) -> int:
        if not self.total:  # the work is done: to Lightning a length of 0 everywhere is a mistake to warn of
            raise TypeError("there is nothing to do")
        return len(self.numbers)

    def __iter__(self) -> Iterator[Shard]:
        for number in self.numbers:
            yield Shard(number, self.data.rows(number))


class ShardData(L.LightningDataModule):
    """Work for a `Stage`, cut into shards of consecutive rows; `trainer.predict(stage, data)` makes what is missing.

    Each process takes every n-th of the missing shards; with fewer shards than processes some have nothing to do. What
    is there already stays, whoever made it: a run that was killed, or lost a machine, goes on with the same command, on
    any number of processes. All of them must see the folder.

    Args:
        source: sentences, or `TextData` that reads them (for `Exploring`, `Judging`); pairs or triplets, or a Parquet
            file of them (for `Scoring`).
        folder: where the shards go. A folder that other weights, rows or settings began is refused.
        size: rows per shard, sentences, pairs or triplets; what a lost process costs at most. Around the time that a
            process needs for a minute or two is a good choice.
        candidates: for `Judging`, the folder of `Exploring`'s shards of these sentences; they are judged as they were
            cut, and `size` has no say.

    Attributes:
        shards: where they are, once the Trainer has set the data up.

    Raises:
        ValueError: at setup; there is no row, or the folder or the candidates belong to something else.

    Example:
        >>> import tempfile
        >>> from seaalign.records import Prompt
        >>> class Stage:
        ...     suffix = ".parquet"
        ...     def about(self): return {"stage": "mine"}
        >>> data = ShardData([Sentence(f"s{i}", "hello", Prompt([i])) for i in range(5)], tempfile.mkdtemp(), size=2)
        >>> shards = data.open(Stage(), "32-true")
        >>> len(shards), [turn.sentence.id for turn in data.rows(2)]
        (3, ['s4'])
    """

    def __init__(
        self, source: Source, folder: str | Path, size: int = 256, candidates: str | Path | None = None
    ) -> None:
        super().__init__()
        # a process that finds nothing to do is no mistake; set after Lightning, which sets False
        self.allow_zero_length_dataloader_with_multiple_devices = True
        if size < 1:
            raise ValueError(f"a shard holds a row or more: size must be at least 1, got {size}")
        self.source, self.folder, self.size = source, Path(folder), size
        self.earlier = None if candidates is None else Path(candidates)
        self.prepare_data_per_node = False
        self.shards: Shards

    def open(self, stage: Maker, precision: str) -> Shards:
        """The shards of this work, as a stage makes them.

        Args:
            stage: which one.
            precision: that it works in, as the Trainer calls it.
        """
        about = {"stage": type(stage).__name__, **stage.about(), "precision": precision, "rows": self.fingerprint}
        if self._made is not None:
            self._require_kin(self._made)
            self.size, about["candidates"] = self._made.about["size"], digest(self._made.about)
        about |= {"size": self.size, "shards": -(-len(self.items) // self.size)}
        return Shards(self.folder, about, suffix=stage.suffix)

    def rows(self, number: int) -> list[Any]:
        """Those of a shard: turns, candidates, pairs or triplets."""
        part = self.items[number * self.size : (number + 1) * self.size]
        if self._made is None:
            return list(part)
        return self._made.read(number, self._candidates_of([turn.sentence for turn in part]))

    def prepare_data(self) -> None:
        """Claim the folder; Lightning calls this on process 0 alone and lets the others wait."""
        self._open().claim()

    def setup(self, stage: str = "predict") -> None:
        """Find the shards."""
        self.shards = self._open()
        self.shards.claim()

    def predict_dataloader(self) -> ShardLoader:
        """This process's share of what is missing, by the list of process 0: folders on a network lag behind."""
        strategy = self.trainer.strategy  # type: ignore[union-attr]  # the Trainer asks
        missing = strategy.broadcast(self.shards.missing())
        rank, world = self.trainer.global_rank, self.trainer.world_size  # type: ignore[union-attr]
        return ShardLoader(self, missing[rank::world], len(missing))

    @cached_property
    def items(self) -> Sequence[Any]:
        """All rows, read once."""
        found: Any = self.source
        if isinstance(found, TextData):
            found.trainer = found.trainer or self.trainer
            found.setup("predict")
            found = found.sentences
        if isinstance(found, str | Path):
            read = {"pairs": read_pairs, "triplets": read_triplets}.get(read_metadata(found)["kind"])
            if read is None:
                raise ValueError(
                    f"{found} holds neither pairs nor triplets: for sentences give TextData({str(found)!r})"
                )
            found = read(found, on_bad="raise")
        ids = [item.id for item in found]
        if not ids or len(set(ids)) < len(ids):
            raise ValueError(f"need a row or more and unique ids; got {len(ids)}, {len(set(ids))} of them unique")
        return turns(found) if isinstance(found[0], Sentence) else list(found)

    @cached_property
    def fingerprint(self) -> str:
        """Of all rows, in this order."""
        items: Any = self.items
        if isinstance(items[0], Turn):
            return sentences_hash([turn.sentence for turn in items])
        order = "\n".join(f"{item.id}|{prompt_key(item.prompt)}" for item in items)
        known = hashlib.blake2b(order.encode(), digest_size=8).hexdigest()
        return known + (pairs_hash(items) if isinstance(items[0], Pair) else samples_hash(items))

    @cached_property
    def _made(self) -> Shards | None:
        return None if self.earlier is None else Shards.at(self.earlier)

    def _require_kin(self, made: Shards) -> None:
        if not isinstance(self.items[0], Turn) or made.about.get("rows") != self.fingerprint:
            raise ValueError(
                f"{made.folder} holds candidates of other sentences than these {len(self.items)}: give the texts that "
                "they were made of, or explore these"
            )
        made.paths()

    @staticmethod
    def _candidates_of(sentences: Sequence[Sentence]) -> Any:
        by_id = {sentence.id: sentence for sentence in sentences}

        def read(path: Path) -> list[Candidate]:
            return read_candidates(path, by_id)

        return read

    def _open(self) -> Shards:
        trainer: Any = self.trainer
        stage: Any = getattr(trainer, "lightning_module", None)
        if not hasattr(stage, "about"):
            raise TypeError(
                f"ShardData is worked on by a Stage, not by {type(stage).__name__}: Exploring, Judging, Scoring, or a "
                "subclass of seaalign.stages.Stage, in trainer.predict"
            )
        return self.open(stage, str(trainer.precision))
