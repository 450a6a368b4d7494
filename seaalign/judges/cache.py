"""Verdicts on disk: a run that was killed and started again judges nothing twice.

A verdict is found by what was judged and by whom: the sentence, the prompt, the tokens, and the judge's settings. One
JSON object a line, appended batch by batch, so the file can be read while the run goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from seaalign.records import Candidate, Prompt, Verdict


def verdict_key(candidate: Candidate, fingerprint: str) -> str:
    """What a verdict is filed under: 32 hex digits of the candidate's content and the judge's fingerprint.

    Of the candidate count the sentence (id, text, language, prompt with style and timbre), its tokens and whether it
    ended, and a waveform where it brings one. Its temperature and number do not: equal tokens sound equal.

    Args:
        candidate: what is judged.
        fingerprint: of the judge.

    Example:
        >>> from seaalign.records import Sentence
        >>> hello = Sentence("s", "hello", Prompt([1]))
        >>> a, b = Candidate(hello, torch.tensor([3, 4])), Candidate(hello, torch.tensor([3, 4]), index=1)
        >>> verdict_key(a, "judge") == verdict_key(b, "judge"), verdict_key(a, "judge") == verdict_key(a, "other")
        (True, False)
    """
    sentence = candidate.sentence
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([fingerprint, sentence.id, sentence.text, sentence.language]).encode())
    digest.update(f"{candidate.ended}|{candidate.sample_rate}".encode())
    for leaf in (*_prompt(sentence.prompt), candidate.tokens, candidate.waveform):
        if isinstance(leaf, Tensor):
            values = leaf.detach().to("cpu", torch.float64 if leaf.is_floating_point() else torch.int64).contiguous()
            digest.update(f"{tuple(values.shape)}".encode())
            digest.update(values.numpy().data)
        else:
            digest.update(repr(leaf).encode())
    return digest.hexdigest()


def _prompt(prompt: Prompt) -> list[Any]:
    style = (prompt.style.tokens, prompt.style.text) if prompt.style else (None, None)
    leaves, layout = _pytree.tree_flatten(prompt.timbre)
    # an object without a repr of its own would be another one in every process, so it counts by its class
    known = [x if isinstance(x, (Tensor, str, int, float, type(None))) else type(x).__qualname__ for x in leaves]
    return [prompt.text, *style, str(layout), *known]


class VerdictCache:
    """Verdicts by content, kept in an append-only JSONL file.

    A batch is written at once and is on disk when `put` returns. A last line torn by a crash is ignored, and cut off
    before the next one is written. Other damaged lines are left out with a warning: what they held is judged again.

    Args:
        path: the file that this process writes; it and its folder are made when there is something to write.
        also: further files to look in, for instance those of the other processes; missing ones are passed over.

    Attributes:
        hits: how many candidates were found here instead of being judged.

    Raises:
        RuntimeError: on writing, where another process has written to `path`: each needs a file of its own.
        OSError: on writing, where the disk is full; the file keeps its whole lines.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> cache = VerdictCache(folder.name + "/verdicts.jsonl")
        >>> cache.put({"a1": Verdict.accept({"error": 0.25}, "hello")})
        >>> again = VerdictCache(folder.name + "/verdicts.jsonl")
        >>> len(again), again.get("a1").scores["error"], again.get("b2")
        (1, 0.25, None)
        >>> folder.cleanup()
    """

    def __init__(self, path: str | os.PathLike[str], also: Sequence[str | os.PathLike[str]] = ()) -> None:
        self.path = Path(path)
        self.hits = 0
        self._known: dict[str, Verdict] = {}
        for other in also:
            self._read(Path(other))
        self._whole, self._size = self._read(self.path)

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Verdict:
        return self._known[key]

    def get(self, key: str) -> Verdict | None:
        """The verdict filed under a key, or None."""
        return self._known.get(key)

    def put(self, verdicts: Mapping[str, Verdict]) -> None:
        """File the verdicts of a batch under their keys; they are on disk when this returns."""
        if not verdicts:
            return
        text = "".join(json.dumps({"key": key, **_as_json(verdict)}) + "\n" for key, verdict in verdicts.items())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != self._size:
                raise RuntimeError(
                    f"{self.path} was changed by another process since it was read: give every process a file of its "
                    "own, and name the others in also=[...]"
                )
            self._append(file.fileno(), text.encode())
        self._known.update(verdicts)

    def _append(self, file: int, data: bytes) -> None:
        os.ftruncate(file, self._whole)  # a torn last line
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(file, rest) :]
            os.fsync(file)
        except OSError as error:
            os.ftruncate(file, self._whole)
            self._size = self._whole
            message = f"could not write verdicts to {self.path}: {error.strerror}; free some space and run again"
            raise OSError(error.errno, message) from error
        self._whole += len(data)
        self._size = self._whole

    def _read(self, path: Path) -> tuple[int, int]:
        """Learn a file's verdicts; how many of its bytes are whole lines, and how many there are."""
        data = path.read_bytes() if path.is_file() else b""
        whole = data.rfind(b"\n") + 1
        damaged = []
        lines = data[:whole].decode(errors="replace").split("\n")[:-1]  # what is not ASCII was not written here
        for number, line in enumerate(lines, start=1):
            try:
                key, verdict = _from_json(json.loads(line))
            except (ValueError, TypeError, LookupError, AttributeError):
                damaged.append(number)
            else:
                self._known[key] = verdict
        if damaged:
            warnings.warn(
                f"{path}: {len(damaged)} damaged lines passed over, first line {damaged[0]}; what they held will be "
                "judged again",
                stacklevel=3,
            )
        return whole, len(data)


def _as_json(verdict: Verdict) -> dict[str, Any]:
    return {
        "status": verdict.status,
        "reasons": list(verdict.reasons),
        "scores": dict(verdict.scores),
        "transcript": verdict.transcript,
    }


def _from_json(row: Mapping[str, Any]) -> tuple[str, Verdict]:
    if not isinstance(row["scores"], dict):
        raise TypeError("scores")
    return row["key"], Verdict(row["status"], tuple(row["reasons"]), row["scores"], row["transcript"])


def unjudged(keys: Sequence[str], candidates: Sequence[Candidate], cache: VerdictCache | None) -> dict[str, Candidate]:
    """The candidates that nobody has judged yet, each content once, in their order."""
    found = 0
    waiting: dict[str, Candidate] = {}
    for key, candidate in zip(keys, candidates, strict=True):
        if cache is not None and key in cache:
            found += 1
        else:
            waiting.setdefault(key, candidate)
    if cache is not None:
        cache.hits += found
    return waiting


def batches(waiting: Mapping[str, Candidate], size: int) -> Iterable[dict[str, Candidate]]:
    """Cut into batches, in order."""
    items = list(waiting.items())
    for start in range(0, len(items), size):
        yield dict(items[start : start + size])
