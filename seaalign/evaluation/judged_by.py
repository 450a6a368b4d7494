"""Did the recogniser that reports also choose the training data? Then its error is no measure of the result."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from seaalign.evaluation.systems import Policy, System
from seaalign.judges.transcribers import Transcriber
from seaalign.judges.transcribers.routing import names_of


def filters_of(folder: str | Path) -> set[str]:
    """Recognisers that chose what was learned from, by what `seaalign tdsc`, `mine` and `erosion filter` left there."""
    found: set[str] = set()
    for path in (*Path(folder).glob("round.json"), *Path(folder).glob("round-*/round.json")):
        found.update(json.loads(path.read_text(encoding="utf-8")).get("heard_by", []))
    for path in Path(folder).glob("funnel.json"):
        found.update(json.loads(path.read_text(encoding="utf-8")).get("settings", {}).get("heard_by", []))
    return found


def conflicts(ear: Transcriber | None, systems: Sequence[System], named: Iterable[str | Path]) -> list[str]:
    """A warning for each system whose training data the reporting recogniser filtered, as far as files tell.

    Args:
        ear: the recogniser that reports.
        systems: whose weights lie in the folder of a run are looked up there.
        named: folders of runs, or names of recognisers, that the user knows of.
    """
    if ear is None:
        return []
    ours = {_plain(name): name for name in names_of(ear)}
    said = []
    for system in systems:
        weights = getattr(system, "weights", None) if isinstance(system, Policy) else None
        for folder in Path(weights).resolve().parents[:3] if weights is not None else ():
            said += [(name, f"{system.name}: {folder}") for name in filters_of(folder)]
    for thing in named:
        names = filters_of(thing) if Path(thing).is_dir() else {str(thing)}
        said += [(name, str(thing)) for name in names]
    same = [(ours[_plain(name)], where) for name, where in said if _plain(name) in ours]
    return [
        f"{name} reports the errors, and chose training data, too ({where}): its error no longer measures the result. "
        "Report by another recogniser"
        for name, where in sorted(set(same))
    ]


def _plain(name: str) -> str:
    """A model by whatever package and owner it comes.

    >>> _plain("openai/whisper-large-v3") == _plain("large-v3") == _plain("Systran/faster-whisper-large-v3")
    True
    """
    return name.lower().rpartition("/")[2].removeprefix("faster-").removeprefix("whisper-")
