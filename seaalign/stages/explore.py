"""Sentences to candidates, at several temperatures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seaalign.backbones.base import Backbone
from seaalign.records import Candidate
from seaalign.sampling import Turn, explore, frame_limits
from seaalign.stages.base import Policy
from seaalign.storage import write_candidates


class Exploring(Policy):
    """Says each sentence at each temperature, for `trainer.predict` on `ShardData` of sentences.

    What a sentence draws depends on its prompt, on how many sentences of an equal prompt come before it, and on the
    seed; so the candidates are those of `sampling.explore`, whoever makes which shard.

    Args:
        backbone: the policy.
        temperatures: explored, each above 0.
        n: candidates per sentence and temperature.
        top_p: nucleus mass of the raw sampler.
        max_len: most frames of a candidate.
        frames_per_symbol: with L text ids, the limit is `frames_per_symbol` x L + 20 where that is less.
        batch: sentences per sampling call; rows in memory are that times the candidates per sentence. The draws do not
            depend on it, so it may change from one run to the next.
        seed: of the draws.

    Raises:
        ValueError: no temperature, or one that is not above 0; or n, max_len or batch below 1.
    """

    def __init__(
        self,
        backbone: Backbone,
        temperatures: Sequence[float] = (0.7, 1.0, 1.3),
        n: int = 4,
        top_p: float = 0.9,
        max_len: int = 1024,
        frames_per_symbol: float | None = None,
        batch: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone)
        if not temperatures or min(temperatures) <= 0 or min(n, max_len, batch) < 1:
            raise ValueError(
                f"need temperatures above 0, and n, max_len and batch of at least 1; got {list(temperatures)}, {n}, "
                f"{max_len}, {batch}"
            )
        self.heats = tuple(float(heat) for heat in temperatures for _ in range(n))
        self.top_p, self.max_len, self.slope, self.batch, self.seed = top_p, max_len, frames_per_symbol, batch, seed

    def work(self, rows: Sequence[Turn]) -> list[Candidate]:
        """The candidates of a shard, sentence by sentence."""
        sentences = [turn.sentence for turn in rows]
        limits = frame_limits(sentences, self.max_len, self.slope)
        made = explore(
            self.backbone, sentences, self.heats, top_p=self.top_p, max_len=limits, batch=self.batch,
            seed=self.seed, before=[turn.before for turn in rows],
        )  # fmt: skip
        place = {sentence.id: number for number, sentence in enumerate(sentences)}
        candidates = [candidate for _, wave in made for candidate in wave]
        return sorted(candidates, key=lambda candidate: (place[candidate.sentence.id], candidate.index))

    def about(self) -> dict[str, Any]:
        draws = {"temperatures": list(self.heats), "top_p": self.top_p, "seed": self.seed}
        limits = {"max_len": self.max_len, "frames_per_symbol": self.slope}
        return {**super().about(), "sampler": self.backbone.sampler, **draws, **limits}

    def write(self, path: Path, rows: Sequence[Candidate], stamp: dict[str, Any]) -> None:
        write_candidates(path, rows, stamp)
