"""Token counts of a corpus by source, in groups of utterances, so that one pass over a file is enough for intervals."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from seaalign.storage.streams import stream_tokens

GROUPS = 100


@dataclass
class Counted:
    """How often each code occurs in each group of utterances.

    Args:
        groups: (G, V) counts; which group an utterance is in depends on its id alone.
        utterances: in each group (G,).
    """

    groups: Tensor = field(default_factory=lambda: torch.zeros(GROUPS, 1, dtype=torch.int64))
    utterances: Tensor = field(default_factory=lambda: torch.zeros(GROUPS, dtype=torch.int64))

    @property
    def total(self) -> Tensor:
        """Counts of all (V,)."""
        return self.groups.sum(0)

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return int(self.groups.sum())

    def widened(self, codes: int) -> Counted:
        """The same with room for more codes."""
        extra = max(codes - self.groups.shape[1], 0)
        return Counted(torch.nn.functional.pad(self.groups, (0, extra)), self.utterances)

    def add(self, tokens: np.ndarray, lengths: np.ndarray, group: np.ndarray) -> Counted:
        """Count more utterances: all their tokens, how many each has (N,), and the group of each (N,)."""
        wide = self.widened(int(tokens.max()) + 1)
        codes = wide.groups.shape[1]
        place = torch.from_numpy(np.repeat(group, lengths) * codes + tokens)
        groups = wide.groups + torch.bincount(place, minlength=GROUPS * codes).view(GROUPS, codes)
        return Counted(groups, wide.utterances + torch.bincount(torch.from_numpy(group), minlength=GROUPS))

    def drawn(self, generator: torch.Generator) -> Tensor:
        """Counts (V,) of as many groups, drawn with replacement among those that hold something."""
        full = self.groups[self.utterances > 0]
        times = torch.bincount(torch.randint(len(full), (len(full),), generator=generator), minlength=len(full))
        return (times[:, None] * full).sum(0)


def count(paths: Iterable[str | Path]) -> dict[str, Counted]:
    """Counts by source of utterance files, read a batch at a time.

    Args:
        paths: files of `write_utterances`.

    Raises:
        ValueError: a token id is negative, with its file.
    """
    found: dict[str, Counted] = {}
    for path in paths:
        for batch in stream_tokens(path):
            if int(batch.tokens.min()) < 0:
                raise ValueError(f"{path} holds token id {int(batch.tokens.min())}: strip padding and end tokens")
            group = np.array([zlib.crc32(key.encode()) % GROUPS for key in batch.ids])
            sources = np.array(batch.sources)
            for source in sorted(set(batch.sources)):
                mine = sources == source
                tokens = batch.tokens[np.repeat(mine, batch.lengths)]
                found[source] = found.get(source, Counted()).add(tokens, batch.lengths[mine], group[mine])
    return found


def merged(parts: Iterable[Counted]) -> Counted:
    """The sum of several."""
    parts = list(parts)
    codes = max(part.groups.shape[1] for part in parts)
    wide = [part.widened(codes) for part in parts]
    return Counted(
        sum((p.groups for p in wide[1:]), wide[0].groups), sum((p.utterances for p in wide[1:]), wide[0].utterances)
    )
