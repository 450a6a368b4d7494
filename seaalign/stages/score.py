"""Pairs and triplets to the same with the log-probs of the reference policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seaalign.backbones.base import Backbone
from seaalign.records import Pair, Triplet
from seaalign.sampling import pair_logps, reference_logps
from seaalign.stages.base import Policy
from seaalign.storage import write_pairs, write_triplets


class Scoring(Policy):
    """Scores pairs or triplets once by the frozen policy, for `trainer.predict` on `ShardData` of them.

    Args:
        backbone: the reference policy.
        max_frames: frames per call; see `sampling.reference_logps`.
        styled: of triplets also score (real, expressive) with the style prefix, for `DGSA(styled_stability=True)`.
    """

    def __init__(self, backbone: Backbone, max_frames: int = 8000, styled: bool = False) -> None:
        super().__init__(backbone)
        self.max_frames, self.styled = max_frames, styled

    def work(self, rows: Sequence[Pair] | Sequence[Triplet]) -> list[Any]:
        """The rows of a shard, with `reference` filled."""
        how: dict[str, Any] = {"max_frames": self.max_frames, "progress": False}
        if isinstance(rows[0], Pair):
            return pair_logps(self.backbone, rows, **how)  # type: ignore[arg-type]
        return reference_logps(self.backbone, rows, styled=self.styled, **how)  # type: ignore[arg-type]

    def about(self) -> dict[str, Any]:
        return {**super().about(), "styled": self.styled}

    def write(self, path: Path, rows: Sequence[Any], stamp: dict[str, Any]) -> None:
        (write_pairs if isinstance(rows[0], Pair) else write_triplets)(path, rows, stamp)
