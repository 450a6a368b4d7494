"""One iteration of self-critique without training: explore, judge, mine, score the pairs, each at any scale.

    out/
      candidates/ judged/ reference/   shards; they may be deleted once round.json is there
      mined.parquet                    the pairs as they were mined, without log-probs
      accepted.parquet                 what passed; sft.parquet has the replayed too, where the texts have `replay`
      pairs.parquet, round.json        with log-probs of the policy that explored; the numbers, which come last

Killed at any moment, the same work goes on from the shards that are there, on any number of processes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from seaalign.critique import NothingAccepted, Plan
from seaalign.critique.plan import advice, summary
from seaalign.data import ShardData, TextData
from seaalign.data.rounds import replayed
from seaalign.modules import TDSC
from seaalign.modules.critic import plan_of, temperatures_of
from seaalign.pairs import Funnel, Judged, mine
from seaalign.records import Sentence
from seaalign.stages.engines import Engine
from seaalign.stages.explore import Exploring
from seaalign.stages.judge import Judging
from seaalign.stages.score import Scoring
from seaalign.storage import (
    Shards,
    layout_of,
    pairs_hash,
    read_judged,
    read_pairs,
    write_json,
    write_pairs,
    write_utterances,
)

Build = Callable[[], tuple[TDSC, TextData]]


class Mining:
    """The stages of one iteration of `TDSC`, over any engine.

    Args:
        build: gives the module, whose settings count, and the texts; called in each process that works on a stage.
        folder: what is made; seen by all processes.
        iteration: which one this is, from 1; it sets the temperatures and the seed.
        size: sentences per shard.
    """

    def __init__(self, build: Build, folder: str | Path, iteration: int = 1, size: int = 256) -> None:
        if iteration < 1:
            raise ValueError(f"iterations are counted from 1, got {iteration}")
        self.build, self.folder, self.iteration, self.size = build, Path(folder), iteration, size

    def run(self, engine: Engine) -> dict[str, Any]:
        """Make what is missing, and read the rest.

        Args:
            engine: where the stages run.

        Returns:
            What round.json says.

        Raises:
            NothingAccepted: with the funnel and what to loosen.
            ValueError: a folder belongs to another run; the message says in what.
            JudgeError: a judge failed on a candidate, named in the message.
        """
        engine.run(self.exploring)
        engine.alone(self.renew)
        engine.run(self.judging)
        if engine.alone(self.mine):
            engine.run(self.scoring)
        return engine.alone(self.finish)

    def exploring(self) -> tuple[Exploring, ShardData]:
        """The first stage and its work."""
        plan, limits = self.plan, {name: self.module.hparams[name] for name in ("max_len", "frames_per_symbol")}
        how: dict[str, Any] = {"top_p": plan.top_p, "batch": plan.batch, "seed": plan.seed, **limits}
        stage = Exploring(self.module.backbone, plan.temperatures, n=1, **how)
        stage.weights  # noqa: B018  # of the policy as it is now
        return stage, ShardData(self.sentences, self.folder / "candidates", self.size)

    def judging(self) -> tuple[Judging, ShardData]:
        """The second."""
        stage = Judging(self.module.judge, self.module.backbone)
        return stage, ShardData(self.sentences, self.folder / "judged", candidates=self.folder / "candidates")

    def scoring(self) -> tuple[Scoring, ShardData]:
        """The last: by the policy that explored."""
        stage = Scoring(self.module.backbone)
        stage.weights = self._about["weights"]  # its weights may be in another precision by now
        return stage, ShardData(str(self.folder / "mined.parquet"), self.folder / "reference", self.size)

    def renew(self) -> None:
        """Drop the verdicts of a judge that was mended or loosened since, as long as nothing has come of them."""
        stage, data = self.judging()
        odd = set(data.open(stage, "any").odd()) - {"precision"}
        if odd == {"judge"} and not (self.folder / "round.json").is_file():
            shutil.rmtree(self.folder / "judged")

    def mine(self) -> int:
        """Mine the verdicts; how many pairs there are.

        Raises:
            NothingAccepted: with the funnel and what to loosen.
        """
        plan, judged = self.plan, self._judged()
        mined = mine(judged, loser_reasons=plan.loser_reasons, per_text=plan.per_text, seed=plan.seed)
        if not mined.accepted:
            raise NothingAccepted(advice(self.folder, mined.funnel))
        write_utterances(self.folder / "accepted.parquet", mined.accepted)
        old = replayed(self.texts, len(mined.accepted), self.iteration)
        if old:
            write_utterances(self.folder / "sft.parquet", [*mined.accepted, *old])
        if mined.pairs:
            write_pairs(self.folder / "mined.parquet", mined.pairs)
        write_json(self.folder / "mined.json", summary(mined, judged))
        return len(mined.pairs)

    def finish(self) -> dict[str, Any]:
        """The pairs with their log-probs in one file, and the numbers."""
        stats = json.loads((self.folder / "mined.json").read_text())
        if stats["texts"]["pairs"]:
            bare = read_pairs(self.folder / "mined.parquet", on_bad="raise")
            made = {"data": pairs_hash(bare), "layout": layout_of(self.module.backbone)}
            Shards.at(self.folder / "reference").merge(self.folder / "pairs.parquet", made)
        sizes = {place: _bytes(self.folder / place) for place in ("candidates", "judged", "reference")}
        heard_by = self.module.judge.listeners if self.module.judge else []
        result = {"sampler": self._about["sampler"], "heard_by": heard_by, "iteration": self.iteration, **stats}
        result["bytes"] = sizes
        write_json(self.folder / "round.json", result)
        return result

    @property
    def module(self) -> TDSC:
        """Whose settings count."""
        return self._built[0]

    @property
    def texts(self) -> TextData:
        """What to say."""
        return self._built[1]

    @property
    def sentences(self) -> Sequence[Sentence]:
        """What to say, one by one."""
        return self.texts.sentences

    @cached_property
    def plan(self) -> Plan:
        """What this iteration explores and mines, as in `TDSC`."""
        heats = temperatures_of(self.module.hparams, self.module.curriculum, self.iteration, [])
        return plan_of(self.module.hparams, heats, self.sentences, self.iteration)

    @cached_property
    def _built(self) -> tuple[TDSC, TextData]:
        module, texts = self.build()
        texts.tokenize = texts.tokenize or getattr(module.backbone, "tokenize", None)
        texts.setup()
        return module, texts

    @property
    def _about(self) -> Mapping[str, Any]:
        return Shards.at(self.folder / "candidates").about

    def _judged(self) -> list[Judged]:
        by_id = {sentence.id: sentence for sentence in self.sentences}
        return list(Shards.at(self.folder / "judged").rows(partial(read_judged, sentences=by_id)))

    def __getstate__(self) -> dict[str, Any]:
        """To another process goes what builds the module, not the module."""
        return {name: value for name, value in vars(self).items() if name not in ("_built", "plan")}


def funnel_of(stats: Mapping[str, Any]) -> Funnel:
    """The funnel in round.json, as a table for people."""
    return Funnel(stats["temperatures"], stats["texts"])


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("shard-*"))
