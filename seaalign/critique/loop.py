"""All iterations of a run: a folder each, the reference policy of their pairs, and one table of numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from seaalign.backbones.base import Backbone
from seaalign.critique.plan import Plan
from seaalign.critique.round import Round, prune
from seaalign.judges import Judge
from seaalign.pairs import Mined
from seaalign.records import Pair, Sentence
from seaalign.sampling import pair_logps
from seaalign.storage import read_metadata, read_pairs, weights_hash, write_json, write_pairs
from seaalign.storage.columns import whole_or_nothing

Reference = Literal["sft", "start", "initial"]


class Loop:
    """Explores and scores, iteration by iteration, in a work folder that every process sees.

    Args:
        work: the folder.
        judge: of the candidates, or None.
        reference: which policy the pairs are scored by: "sft", as it is after this iteration's SFT; "start", as it was
            at the start of the iteration; "initial", as it was at the start of the run.
        keep: "mined" drops candidates and verdicts of an iteration once the next one is mined; "all" keeps them.
        rank: of this process.
        world: number of processes.
        barrier: waits for the other processes.
    """

    def __init__(
        self,
        work: Path,
        judge: Judge | None,
        reference: Reference = "sft",
        keep: Literal["mined", "all"] = "mined",
        rank: int = 0,
        world: int = 1,
        barrier: Callable[[], None] = lambda: None,
    ) -> None:
        self.work, self.judge, self.reference, self.keep = Path(work), judge, reference, keep
        self.rank, self.world, self.barrier = rank, world, barrier

    def explore(
        self, backbone: Backbone, iteration: int, sentences: Sequence[Sentence], plan: Plan, begun: bool
    ) -> Mined:
        """What an iteration trains on; made where it is missing.

        Args:
            backbone: the policy.
            iteration: k, from 1.
            sentences: what to say.
            plan: how to explore and mine.
            begun: has training on this iteration begun already, so that the weights are no longer those of its start?
        """
        folder = self._folder(iteration)
        made = Round(folder, sentences, plan, self.judge, self.rank, self.world, self.barrier)
        mined = made.make(backbone, None if begun else weights_hash(backbone))
        if self.reference == "initial" and iteration == 1 and not begun and self.rank == 0:
            with whole_or_nothing(self.work / "initial.pt") as file:
                torch.save(backbone.state_dict(), file)
        if self.reference == "start" and not begun:
            self.score(backbone, iteration, mined.pairs, begun=False)
        if self.keep == "mined" and iteration > 1 and self.rank == 0:
            prune(self._folder(iteration - 1))
        return mined

    def score(self, backbone: Backbone, iteration: int, pairs: Sequence[Pair], begun: bool) -> list[Pair]:
        """The pairs with their reference log-probs, computed once and stored.

        Args:
            backbone: the policy.
            iteration: k, from 1.
            pairs: of the iteration.
            begun: has training on these pairs begun already? Then they must have been scored.
        """
        if not pairs:
            return []
        path = self._folder(iteration) / "reference.parquet"
        with self._as_reference(backbone):
            # at "start" and "initial" the weights at hand say nothing of those that scored
            now = weights_hash(backbone) if self.reference != "start" else None
            stored = read_metadata(path).get("weights") if path.is_file() else None
            known = stored is not None and (begun or stored == now or self.reference == "start")
            self.barrier()
            if not known and self.rank == 0:
                write_pairs(path, pair_logps(backbone, pairs), {"weights": now or weights_hash(backbone)})
        self.barrier()
        return read_pairs(path, on_bad="raise")

    def record(self, iteration: int, numbers: dict[str, Any]) -> None:
        """Put an iteration's numbers into dashboard.json; one that is run again replaces its own."""
        write_json(self.work / "dashboard.json", [*self.history(iteration), {"iteration": iteration, **numbers}])

    def history(self, iteration: int) -> list[dict[str, Any]]:
        """The numbers of the iterations before this one."""
        path = self.work / "dashboard.json"
        rows = json.loads(path.read_text()) if path.is_file() else []
        return [row for row in rows if row["iteration"] < iteration]

    def numbers(self, iteration: int) -> dict[str, float]:
        """The numbers of an iteration: at the temperature nearest to 1, so that they compare as the hottest grows."""
        path = self._folder(iteration) / "round.json"
        stats = json.loads(path.read_text())
        row = min(stats["temperatures"], key=lambda row: abs(row["temperature"] - 1))
        found = {name: row[name] for name in ("error", "entropy", "repetition", "frames") if row[name] is not None}
        found |= {name: value for name, value in stats["scores"].items() if name not in ("error", "repetition")}
        found |= {name: stats[name] for name in ("pass_rate", "candidates", "accepted")} | stats["texts"]
        found |= {f"seconds/{name}": value for name, value in stats["seconds"].items()}
        size = sum(item.stat().st_size for item in self.work.rglob("*") if item.is_file())
        return {name.replace(" ", "_"): float(value) for name, value in found.items()} | {"disk_mb": size / 1e6}

    def _folder(self, iteration: int) -> Path:
        return self.work / f"round-{iteration:02d}"

    @contextmanager
    def _as_reference(self, backbone: Backbone) -> Iterator[None]:
        """Inside, the backbone has the weights of the reference policy."""
        if self.reference != "initial":
            yield
            return
        now = {name: value.detach().clone() for name, value in backbone.state_dict().items()}
        backbone.load_state_dict(torch.load(self.work / "initial.pt", weights_only=True))
        try:
            yield
        finally:
            backbone.load_state_dict(now)
