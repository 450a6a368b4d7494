"""A file of rows that takes long to make: made in shards by all processes, and gone on with after a kill."""

from __future__ import annotations

import shutil
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from lightning.pytorch.plugins import Precision

from seaalign.backbones.base import Backbone
from seaalign.data.loader import FrameDataModule
from seaalign.sampling.progress import track
from seaalign.storage import Shards, weights_hash
from seaalign.storage.shards import digest

_Source = TypeVar("_Source", bound=Any)
_Row = TypeVar("_Row")


class Making(FrameDataModule, Generic[_Source, _Row]):
    """How `StoredData` makes its file: `FILE.shards/` holds what is done, until the file is whole.

    Attributes:
        shard: sources per shard; what a kill costs each process at most.
    """

    shard = 256
    path: Path
    reference: str

    @abstractmethod
    def _expected(self, sources: list[_Source], backbone: Backbone | None) -> dict[str, Any]:
        """What the file must say of itself."""
        raise NotImplementedError

    def _items(self, sources: list[_Source]) -> Sequence[Any]:
        """The sources, each with what must be known of the others to make its row."""
        return sources

    @abstractmethod
    def _made(self, items: Sequence[Any], backbone: Backbone, precision: Precision, progress: bool) -> list[_Row]:
        """The rows of some items; with bars of its own where they are all there is to make."""
        raise NotImplementedError

    @abstractmethod
    def _save(self, path: Path, rows: list[_Row], about: dict[str, Any]) -> None:
        """Write rows; none is possible."""
        raise NotImplementedError

    @abstractmethod
    def _load(self, path: Path) -> list[_Row]:
        """Read them back."""
        raise NotImplementedError

    def _whole(self, rows: list[_Row], sources: list[_Source]) -> dict[str, Any]:
        """Look at all rows before they are written, and say what else the file should tell of itself."""
        return {}

    @staticmethod
    def _workshop(path: Path) -> Path:
        """Where the shards of a file lie until it is whole."""
        return path.with_name(f"{path.name}.shards")

    def _make(
        self, path: Path, sources: list[_Source], backbone: Backbone, precision: Precision, rank: int = 0,
        world: int = 1, strategy: Any = None,
    ) -> None:  # fmt: skip
        barrier = strategy.barrier if strategy else lambda: None
        about = self._expected(sources, backbone)
        about |= {"weights": weights_hash(backbone), "precision": precision.precision}
        items, folder = self._items(sources), self._workshop(path)
        cut = {"order": digest({"ids": [source.id for source in sources]}), "size": self.shard}
        cut |= {"shards": -(-len(items) // self.shard), "reference": self.reference}
        shards = Shards(folder, {**about, **cut})
        if rank == 0:
            if path != self.path:  # a rehearsal goes on with nothing
                shutil.rmtree(folder, ignore_errors=True)
            shards.claim(f"Delete this folder, or load what began it to go on; it becomes {path}")
        barrier()
        missing = strategy.broadcast(shards.missing()) if strategy else shards.missing()
        own = missing[rank::world]
        try:
            for number in track(own, f"making {path.name}", len(own) > 1 and rank == 0):
                part = items[number * self.shard : (number + 1) * self.shard]
                rows = self._made(part, backbone, precision, progress=len(own) == 1 and rank == 0)
                self._save(shards.path(number), rows, shards.stamp(number))
        except BaseException:
            if rank == 0 and len(shards.missing()) == len(shards):  # nothing is lost with it
                shutil.rmtree(folder, ignore_errors=True)
            raise
        barrier()
        if rank == 0:
            rows = list(shards.rows(self._load))
            self._save(path, rows, {**about, **self._whole(rows, sources)})
            shutil.rmtree(folder, ignore_errors=True)
        barrier()
