"""Result files of raters, checked against the key: what cannot be used is refused, counted and listed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seaalign.storage.lines import require_file
from seaalign.storage.rows import Refused

_SIDES = ("left", "right", "same")


@dataclass(frozen=True)
class Answer:
    """What one rater said of one trial, once the key has told what was heard.

    Args:
        rater: id.
        test: "nmos", "smos" or "ab".
        role: "test"; "high" or "low" for recordings and spoiled speech that screen raters (in "ab" the recording is on
            the left, or on the right); "again" for a clip heard before.
        clips: numbers of the clips in the key: one, or in "ab" the left and the right one.
        value: 1 to 5, or "left", "right", "same".
        seconds: from the clip's first sight to the answer.
        plays: how many sounds were heard to the end.
    """

    rater: str
    test: str
    role: str
    clips: tuple[int, ...]
    value: int | str
    seconds: float
    plays: int


def read_key(folder: str | Path) -> dict[str, Any]:
    """What the experimenter alone knows.

    Raises:
        FileNotFoundError: the folder holds no key.
        ValueError: it is no key, or of a newer format.
    """
    path = require_file(Path(folder) / "key.json", "key of a listening test")
    try:
        key = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): without it nobody knows what was heard") from error
    if not isinstance(key, dict) or key.get("kind") != "listening test" or key.get("version") != 1:
        raise ValueError(f"{path} is no key that this seaalign reads: it is written by `seaalign listen build`")
    return key


def checksum(test: str, rater: str, page: str, answers: Sequence[Mapping[str, Any]]) -> str:
    """FNV-1a (32 bits) of the answers, as the page computes it: finds changes by accident, not by intent."""
    return fnv(";".join([test, rater, page, *(f"{a['trial']}={a['answer']}" for a in answers)]))


def fnv(text: str) -> str:
    """FNV-1a with 32 bits, of a text in UTF-8.

    Source: Fowler, Noll, Vo and others, draft-eastlake-fnv.

    >>> fnv("foobar")
    'bf9cf968'
    """
    value = 0x811C9DC5
    for byte in text.encode():
        value = (value ^ byte) * 0x01000193 % 2**32
    return f"{value:08x}"


def read_results(
    key: Mapping[str, Any], paths: Sequence[str | Path], partial: bool = False
) -> tuple[list[Answer], list[Refused], dict[str, str]]:
    """Read result files.

    A file is refused whole if it belongs to another test, rater or page, was changed, is not complete, or if its rater
    sent another one with other answers; single answers, if their trial is unknown, comes twice, or is no answer.

    Args:
        key: of `read_key`.
        paths: the files.
        partial: take what there is of files that are not complete. Systems are then not heard equally often.

    Returns:
        The answers, what was refused, and the comments by rater.
    """
    refused: list[Refused] = []
    files: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for path in sorted(str(path) for path in paths):
        try:
            found = _file(key, path, partial)
            files.setdefault(found["rater"], []).append((path, found))
        except (OSError, ValueError) as error:
            refused.append(Refused(path, None, str(error)))
    answers: list[Answer] = []
    comments: dict[str, str] = {}
    for rater, several in sorted(files.items()):
        kept = _fullest(rater, several, refused)
        if kept is not None:
            answers += _answers(key, rater, *kept, refused)
            if kept[1].get("comment"):
                comments[rater] = str(kept[1]["comment"])
    return answers, refused, comments


def _fullest(
    rater: str, files: list[tuple[str, dict[str, Any]]], refused: list[Refused]
) -> tuple[str, dict[str, Any]] | None:
    """Of several files of a rater the one with the most answers, if it says what all others do; else none."""
    said = {path: {json.dumps([a["trial"], a["answer"]]) for a in found["answers"]} for path, found in files}
    best = max(files, key=lambda file: len(said[file[0]]))
    if all(answers <= said[best[0]] for answers in said.values()):
        refused += [Refused(p, rater, f"duplicate: {best[0]} says the same or more") for p, _ in files if p != best[0]]
        return best
    reason = f"contradiction: files of rater {rater} differ; pass the one that counts"
    refused += [Refused(path, rater, reason) for path, _ in files]
    return None


def _file(key: Mapping[str, Any], path: str, partial: bool) -> dict[str, Any]:
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"not JSON: {error}; ask for the file as it was downloaded") from error
    if not isinstance(found, dict) or found.get("kind") != "listening result" or found.get("version") != 1:
        raise ValueError("no result file: a rater's page makes it, with its last button")
    if found.get("test") != key["test"]:
        raise ValueError(f"another test: it says {str(found.get('test'))[:20]!r}, this one is {key['test']!r}")
    sheet = key["raters"].get(found.get("rater")) if isinstance(found.get("rater"), str) else None
    if sheet is None:
        raise ValueError(f"unknown rater: {str(found.get('rater'))[:20]!r} is not among {len(key['raters'])}")
    if found.get("page") != sheet["page"]:
        raise ValueError("another page: the test was built anew since; analyse with the folder it came from")
    answers = found.get("answers")
    if not isinstance(answers, list) or not all(isinstance(a, dict) and {"trial", "answer"} <= set(a) for a in answers):
        raise ValueError("no list of answers: ask for the file as it was downloaded")
    if found.get("checksum") != checksum(found["test"], found["rater"], found["page"], answers):
        raise ValueError("changed after the download: its checksum is another; ask for the file as it was downloaded")
    if len(answers) < len(sheet["trials"]) and not partial:
        raise ValueError(f"incomplete: {len(answers)} of {len(sheet['trials'])} answers; to take them, --partial")
    return found


def _answers(
    key: Mapping[str, Any], rater: str, path: str, found: Mapping[str, Any], refused: list[Refused]
) -> Iterator[Answer]:
    trials = {trial["id"]: trial for trial in key["raters"][rater]["trials"]}
    for row in found["answers"]:
        trial = trials.pop(row["trial"], None) if isinstance(row["trial"], str) else None
        value = row["answer"]
        if trial is None:
            refused.append(Refused(path, rater, f"unknown trial: {str(row['trial'])[:20]!r}, or it comes twice"))
        elif value not in _SIDES if trial["test"] == "ab" else type(value) is not int or not 1 <= value <= 5:
            refused.append(Refused(path, rater, f"no answer: {str(value)[:20]!r} to a trial of {trial['test']}"))
        else:
            times = [row.get(name) for name in ("seconds", "plays")]
            seconds, plays = (float(t) if isinstance(t, int | float) else float("nan") for t in times)
            clips = tuple(trial["clips"])
            yield Answer(
                rater, trial["test"], trial["role"], clips, value, seconds, int(plays) if plays == plays else 0
            )
