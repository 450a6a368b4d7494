"""Work cut into numbered shards: each is a file that is whole or not there, and a folder belongs to one run.

    candidates/
      about.json               what made it: weights, rows, settings, and the number of shards
      shard-00000.parquet ...

Nothing keeps account of what is done but the files themselves. So any process may make any shard, in any order, and a
process that dies takes along no more than the shard it was at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from seaalign.storage.columns import read_metadata, table_of, whole_or_nothing, write_json

_Row = TypeVar("_Row")


class Shards:
    """A folder of shards.

    Args:
        folder: where they lie; seen by all processes.
        about: what they are made of and by, as JSON: whatever a shard depends on. Its "shards" says how many there are.
        name: what the files are called.
        suffix: of the files.

    Raises:
        ValueError: `about` does not say how many.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> shards = Shards(folder.name, {"shards": 3, "weights": "a1"})
        >>> shards.claim()
        >>> _ = shards.path(1).write_bytes(b"a whole file")
        >>> shards.missing()
        [0, 2]
        >>> Shards(folder.name, {"shards": 3, "weights": "b2"}).odd()
        ['weights']
        >>> folder.cleanup()
    """

    def __init__(
        self, folder: str | Path, about: Mapping[str, Any], name: str = "shard", suffix: str = ".parquet"
    ) -> None:
        self.folder, self.name, self.suffix = Path(folder), name, suffix
        self.about: dict[str, Any] = json.loads(json.dumps(dict(about)))  # as it will be when it is read back
        if not isinstance(self.about.get("shards"), int):
            raise ValueError(f"{folder}: what the shards are about must say how many there are: 'shards': a number")

    @classmethod
    def at(cls, folder: str | Path) -> Shards:
        """Those of a folder, as it describes itself.

        Raises:
            FileNotFoundError: it is no folder of shards.
        """
        path = Path(folder) / "about.json"
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no shards: there is no {path}; check the path, or make them first")
        return cls(folder, json.loads(path.read_text()))

    def __len__(self) -> int:
        return int(self.about["shards"])

    def path(self, number: int) -> Path:
        """Of a shard, whether it is there or not."""
        return self.folder / f"{self.name}-{number:05d}{self.suffix}"

    def stamp(self, number: int) -> dict[str, Any]:
        """What the file of a shard says of itself, so that one that strayed in from elsewhere is told."""
        return {"shard": number, "of": digest(self.about)}

    def missing(self) -> list[int]:
        """The shards that are not there yet."""
        return [number for number in range(len(self)) if not self.path(number).is_file()]

    def odd(self) -> list[str]:
        """In what the folder belongs to another run; nothing where nobody has claimed it."""
        found = self.found()
        return [] if found is None else [key for key in self.about if self.about[key] != found.get(key)]

    def found(self) -> dict[str, Any] | None:
        """What the folder says that it is about."""
        path = self.folder / "about.json"
        return dict(json.loads(path.read_text())) if path.is_file() else None

    def claim(self, advice: str = "Give another folder, or delete this one to have it made anew") -> None:
        """Say what the folder is about where nobody has.

        Args:
            advice: what to do where somebody else has.

        Raises:
            ValueError: it was begun by another run; the message names what differs.
        """
        if odd := self.odd():
            found = self.found() or {}
            listed = "".join(
                f"\n  {key}: here {_short(self.about[key])}, folder {_short(found.get(key))}" for key in odd
            )
            raise ValueError(f"{self.folder} was begun by another run. It differs in{listed}\n{advice}")
        if self.found() is None:
            self.describe()

    def describe(self) -> None:
        """Write what the folder is about, whatever it said before."""
        write_json(self.folder / "about.json", self.about)

    def paths(self) -> list[Path]:
        """All files, in order; drafts that killed processes left behind are swept away.

        Raises:
            FileNotFoundError: some are missing; the message counts them and says how to make them.
        """
        if missing := self.missing():
            raise FileNotFoundError(
                f"{len(missing)} of {len(self)} shards are missing in {self.folder}, first {missing[:5]}: run the same "
                "command again, with any number of processes. It makes these, and the others stay"
            )
        for draft in self.folder.glob(f".{self.name}-*.tmp"):
            draft.unlink(missing_ok=True)
        return [self.path(number) for number in range(len(self))]

    def rows(self, read: Callable[[Path], Sequence[_Row]]) -> Iterator[_Row]:
        """The rows of all shards in order, as if one process had made them in one file.

        Args:
            read: the rows of a file.

        Raises:
            FileNotFoundError: some are missing.
            ValueError: one is damaged, or strayed in from elsewhere.
        """
        self.paths()
        for number in range(len(self)):
            yield from self.read(number, read)

    def read(self, number: int, read: Callable[[Path], Sequence[_Row]]) -> list[_Row]:
        """The rows of one shard; errors as in `rows`."""
        self._check(number)
        return list(read(self.path(number)))

    def merge(self, path: str | Path, metadata: Mapping[str, Any] | None = None) -> None:
        """Put all shards into one Parquet file, in order; it is read as a shard is, and costs the memory of one.

        Args:
            path: the file, written whole or not at all.
            metadata: what else the file should say of itself, beside what the folder is about.

        Raises:
            FileNotFoundError: some are missing.
            ValueError: one is damaged, or strayed in from elsewhere; or there are none.
        """
        import pyarrow.parquet as pq

        paths = self.paths()
        for number in range(len(self)):
            self._check(number)
        kept = [found for found in map(read_metadata, paths) if found["rows"]]
        if not kept:
            raise ValueError(f"there is nothing to merge: {self.folder} holds no row")
        about = {**self.about, **kept[0], "rows": sum(found["rows"] for found in kept)}
        about = {
            **(metadata or {}),
            **{key: about[key] for key in about if key not in ("shard", "of", "shards", "size")},
        }
        schema = pq.read_schema(paths[0]).with_metadata({"seaalign": json.dumps(about)})
        with whole_or_nothing(Path(path)) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for shard in paths:
                writer.write_table(table_of(shard).replace_schema_metadata(schema.metadata))

    def _check(self, number: int) -> None:
        path = self.path(number)
        found, wanted = read_metadata(path), self.stamp(number)
        if any(found.get(key) != wanted[key] for key in wanted):
            raise ValueError(
                f"{path} was not made as shard {number} of this run, it is {found.get('shard')} of {found.get('of')}: "
                "delete it, and run the same command again"
            )


def digest(about: Mapping[str, Any] | Sequence[Any]) -> str:
    """What work is about as 32 hex digits, whatever the order of keys.

    Example:
        >>> digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
        True
    """
    text = json.dumps(about, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 300 else f"{text[:300]}..."
