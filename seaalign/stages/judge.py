"""Candidates to candidates with verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seaalign.backbones.base import Backbone, Unsupported
from seaalign.critique import decoded
from seaalign.judges import Criterion, Judge
from seaalign.judges.given import as_judge, who_listens
from seaalign.pairs import Judged
from seaalign.records import Candidate, Verdict
from seaalign.stages.base import Stage
from seaalign.storage import write_judged


class Judging(Stage):
    """Judges candidates, for `trainer.predict` on `ShardData(..., candidates=FOLDER)`; decodes for those that listen.

    Args:
        judge: a `Judge`, a criterion or several; None accepts all.
        backbone: decodes for criteria that listen; it is needed for those alone.

    Raises:
        Unsupported: a criterion listens, and there is nothing that decodes.
    """

    def __init__(self, judge: Judge | Criterion | Sequence[Criterion] | None, backbone: Backbone | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.judge = None if judge is None else as_judge(judge)
        ears, remedy = who_listens(self.judge)
        if ears and (backbone is None or type(backbone).decode is Backbone.decode):
            raise Unsupported(f"{ears}: give Judging(judge, backbone=...) one that has decode(){remedy}")

    def work(self, rows: Sequence[Candidate]) -> list[Judged]:
        """The candidates of a shard, each with its verdict."""
        if self.judge is None:
            return [(candidate, Verdict.accept()) for candidate in rows]

        def decode(batch: Sequence[Candidate]) -> list[Candidate]:
            assert self.backbone is not None  # judges that listen have one
            return decoded(batch, self.backbone)

        return list(zip(rows, self.judge(rows, decode), strict=True))

    def about(self) -> dict[str, Any]:
        return {"judge": self.judge.fingerprint if self.judge else None}

    def write(self, path: Path, rows: Sequence[Judged], stamp: dict[str, Any]) -> None:
        write_judged(path, rows, stamp)
