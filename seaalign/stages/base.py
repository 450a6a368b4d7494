"""A stage: the rows of a shard in, the rows of a shard out, the same on whatever process."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter, Callback

from seaalign.backbones.base import Backbone
from seaalign.callbacks.shards import ShardWriter
from seaalign.data.shards import Shard
from seaalign.storage import layout_of, weights_hash


class Stage(L.LightningModule):
    """Maps shards; `trainer.predict` or Ray says where and when. Subclass it and give `work`, `about` and `write`.

    Example:
        >>> import tempfile
        >>> from lightning import Trainer
        >>> from seaalign.data import ShardData
        >>> from seaalign.records import Prompt, Sentence
        >>> class Shout(Stage):
        ...     suffix = ".txt"
        ...     def about(self): return {"how": "loud"}
        ...     def work(self, rows): return [turn.sentence.text.upper() for turn in rows]
        ...     def write(self, path, rows, stamp): path.write_text(" ".join(rows))
        >>> quiet = dict(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
        >>> texts = [Sentence("a", "one", Prompt([1])), Sentence("b", "two", Prompt([2]))]
        >>> data = ShardData(texts, tempfile.mkdtemp(), size=1)
        >>> _ = Trainer(**quiet).predict(Shout(), data, return_predictions=False)
        >>> [path.read_text() for path in data.shards.paths()]
        ['ONE', 'TWO']

    Attributes:
        suffix: of the files that it writes.
    """

    suffix = ".parquet"

    @abstractmethod
    def work(self, rows: Sequence[Any]) -> list[Any]:
        """What becomes of the rows of a shard; may depend on these rows and on what `about` tells, and nothing else."""
        raise NotImplementedError

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """Whatever the results depend on, as JSON: weights, settings. Shards of other values are refused."""
        raise NotImplementedError

    @abstractmethod
    def write(self, path: Path, rows: Sequence[Any], stamp: dict[str, Any]) -> None:
        """Write the rows of a shard, whole or not at all, with the stamp as metadata where the format has such."""
        raise NotImplementedError

    def predict_step(self, batch: Shard, batch_idx: int) -> Shard:
        """A shard of rows as a shard of results."""
        return Shard(batch.number, self.work(batch.rows))

    def configure_callbacks(self) -> list[Callback]:
        """The writer, unless the Trainer has one."""
        writers = [item for item in self.trainer.callbacks if isinstance(item, BasePredictionWriter)]  # type: ignore[attr-defined]
        return [] if writers else [ShardWriter()]


class Policy(Stage):
    """A stage that a backbone works in.

    Args:
        backbone: the policy.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    @cached_property
    def weights(self) -> str:
        """Their fingerprint, as they are when it is first asked for: precision may change them in place later."""
        return weights_hash(self.backbone)

    def about(self) -> dict[str, Any]:
        """The policy: weights and layout."""
        return {"weights": self.weights, "layout": layout_of(self.backbone)}
