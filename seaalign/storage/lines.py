"""Text files of other tools, line by line, and the audio files that they name."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

_Record = TypeVar("_Record")
Row: TypeAlias = tuple[str, Any, Callable[[], _Record]]
"""What `sift` takes: where a row stands, its id, and a function that builds it or says what is wrong."""


def require_file(path: str | Path, what: str) -> Path:
    """The path of a file that is there.

    Raises:
        FileNotFoundError: it is not.
    """
    path = Path(path)
    if not path.is_file():
        where = f"{path} is a folder" if path.is_dir() else f"there is no {path}"
        raise FileNotFoundError(f"no {what}: {where}; check the path")
    return path


def require_rows(rows: list[_Record], source: str | Path) -> list[_Record]:
    """The rows, of which there must be some.

    Raises:
        ValueError: there are none.
    """
    if not rows:
        raise ValueError(f"{source}: there are no rows, not even bad ones; check that it is complete")
    return rows


def text_lines(path: Path) -> Iterator[tuple[int, str | ValueError]]:
    """Numbers (from 1) and texts of the lines that are not blank, without line ends; an error stands for broken UTF-8.

    A byte-order mark is skipped. Lines end where the file's bytes say so and nowhere else: characters that Python, but
    no other tool, takes for line ends occur in texts.
    """
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            if not line.strip():
                continue
            try:
                yield number, line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                yield number, ValueError(f"not UTF-8: {error}; convert the file, for instance with iconv")


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | ValueError]]:
    """Numbers and objects of a JSONL file; an error stands for a line that holds none."""
    for number, line in text_lines(path):
        if isinstance(line, ValueError):
            yield number, line
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            yield number, ValueError(f"not JSON: {error}; every line must be one object")
            continue
        wrong = ValueError(f"not an object: a line is {{...}}, got {type(row).__name__}")
        yield number, row if isinstance(row, dict) else wrong


class AudioFolder:
    """Finds the files that a manifest names, and no others.

    A manifest is data that may come from anywhere, so a path that leads out of `root` is refused. Links inside `root`
    are followed: whoever put them there could put the file there.

    Args:
        folder: where relative paths start, usually the manifest's own.
        root: what the files must lie in, and where a relative path starts that leads nowhere from `folder`. Default:
            `folder`.
    """

    def __init__(self, folder: str | Path, root: str | Path | None = None) -> None:
        bounds = os.path.abspath(folder if root is None else root)
        self.starts = tuple(dict.fromkeys((os.path.abspath(folder), bounds)))
        self.bounds = tuple(dict.fromkeys((bounds, os.path.realpath(bounds))))

    def find(self, name: Any) -> Path:
        """The file of this name.

        Raises:
            ValueError: no name, a name that leads out of the root, or no such file.
        """
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"the audio path is missing: got {name!r}")
        places = [os.path.normpath(os.path.join(start, name)) for start in self.starts]
        inside = [place for place in places if any(_within(place, bound) for bound in self.bounds)]
        for place in inside:
            if os.path.isfile(place):
                return Path(place)
        if not inside:
            raise ValueError(
                f"the audio path leaves its folder: {name!r} is not under {self.bounds[0]}; if you trust this file, "
                f"pass root={os.path.dirname(places[0])!r} or a folder above it"
            )
        raise ValueError(f"the audio file is missing: {inside[-1]}; check the path, or leave the row out")


def _within(place: str, bound: str) -> bool:
    return place.startswith(bound if bound.endswith(os.sep) else bound + os.sep)
