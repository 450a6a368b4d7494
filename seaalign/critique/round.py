"""Explore, judge and mine in a folder, so that a kill at any moment costs no more than the batch in flight.

    round-01/
      about.json               what made it: weights, sentences, settings, judge
      wave-00000.parquet ...   candidates, a file per sampling call, each written whole or not at all
      verdicts-0.jsonl ...     verdicts by content, appended batch by batch, a file per process
      accepted.parquet, pairs.parquet, round.json     what mining gave; round.json comes last and says it is complete

What a candidate draws depends on its prompt and the seed alone, so a wave that is made again is the same wave.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seaalign.backbones.base import Backbone, calls, evaluating
from seaalign.critique.behind import Behind
from seaalign.critique.decode import decoded
from seaalign.critique.plan import NothingAccepted, Plan, advice, sentences_hash, summary
from seaalign.judges import Judge, VerdictCache
from seaalign.pairs import Funnel, Judged, Mined, mine
from seaalign.records import Candidate, Sentence, Verdict
from seaalign.sampling import explore
from seaalign.sampling.progress import track
from seaalign.storage import (
    Shards,
    layout_of,
    read_candidates,
    read_pairs,
    read_utterances,
    write_candidates,
    write_json,
    write_pairs,
    write_utterances,
)


class Round:
    """One iteration's candidates, verdicts and pairs.

    Args:
        folder: where they are kept; seen by all processes.
        sentences: what to say.
        plan: how.
        judge: accepts or rejects; None accepts whatever ended by itself (plain self-training).
        rank: which share of the waves this process takes.
        world: number of processes.
        barrier: waits for the other processes.
    """

    def __init__(
        self,
        folder: Path,
        sentences: Sequence[Sentence],
        plan: Plan,
        judge: Judge | None,
        rank: int = 0,
        world: int = 1,
        barrier: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.sentences, self.plan, self.judge = folder, list(sentences), plan, judge
        self.rank, self.world, self.barrier = rank, world, barrier
        self.seconds = dict.fromkeys(("sample", "decode", "judge"), 0.0)
        self.by_id = {sentence.id: sentence for sentence in self.sentences}
        self.waves = len(calls([s.prompt for s in self.sentences], plan.batch, self._limits()))

    @property
    def complete(self) -> bool:
        """Is everything there?"""
        return (self.folder / "round.json").is_file()

    def make(self, backbone: Backbone, weights: str | None) -> Mined:
        """Make what is missing, and read the rest.

        Args:
            backbone: the policy at the start of the iteration.
            weights: its fingerprint; None where training has moved on since: then only a complete round will do.

        Raises:
            NothingAccepted: with the funnel and what to loosen.
            ValueError: the folder belongs to another run.
            JudgeError: a judge failed on a candidate, named in the message.
        """
        self._claim(backbone, weights)
        if self.complete:
            return self.read()
        if weights is None:
            raise ValueError(f"{self.folder} is not complete, and the weights that it was begun with are gone")
        judge = self.judge.using(self._cache()) if self.judge else None
        judging = Behind[list[Candidate]](lambda wave: self._ask(judge, wave, backbone))
        with evaluating(backbone), judging:
            for candidates in self._own(backbone):
                judging.put(candidates)
        self.barrier()
        if self.rank == 0:
            self._mine()
        self.barrier()
        return self.read()

    def read(self) -> Mined:
        """What mining gave."""
        about = self.stats()
        funnel = Funnel(about["temperatures"], about["texts"])
        if not funnel.accepted:
            raise NothingAccepted(advice(self.folder, funnel))
        pairs = read_pairs(self.folder / "pairs.parquet", on_bad="raise") if about["texts"]["pairs"] else []
        accepted = read_utterances(self.folder / "accepted.parquet", on_bad="raise")
        return Mined(accepted, pairs, funnel)

    def stats(self) -> dict[str, Any]:
        """The funnel, mean scores, seconds and bytes, as they stand in round.json."""
        return dict(json.loads((self.folder / "round.json").read_text()))

    def _claim(self, backbone: Backbone, weights: str | None) -> None:
        """Refuse a folder that other weights, sentences, settings or judges began."""
        wanted = {
            "sentences": sentences_hash(self.sentences),
            "plan": asdict(self.plan),
            "judge": self.judge.fingerprint if self.judge else None,
            "layout": layout_of(backbone),
            "sampler": backbone.sampler,
            "shards": self.waves,
        }
        self.shards = Shards(self.folder, wanted | ({"weights": weights} if weights else {}), "wave")
        self.barrier()  # nobody writes while another still looks
        odd, found = self.shards.odd(), self.shards.found()
        self.barrier()
        if odd == ["judge"] and found and not self._trained_on():
            self.barrier()  # the judge was mended: the waves stay, and its verdicts are filed under its own name
            if self.rank == 0:
                (self.folder / "round.json").unlink(missing_ok=True)
                write_json(self.folder / "about.json", {**found, "judge": wanted["judge"]})
            self.barrier()
        elif odd or self.rank == 0:
            self.shards.claim(
                "Resume with the checkpoint and the settings that began it, or give `work` another folder, or delete "
                "this one"
            )

    def _trained_on(self) -> bool:
        """Is it complete, and with something to learn from?"""
        return self.complete and self.stats()["accepted"] > 0

    def _own(self, backbone: Backbone) -> Iterator[list[Candidate]]:
        """This process's waves: first those on disk, then those that are still to be sampled."""
        own = range(self.rank, self.waves, self.world)
        missing = sorted(set(own) & set(self.shards.missing()))
        for wave in track(sorted(set(own) - set(missing)), "judging", True):
            yield read_candidates(self.shards.path(wave), self.by_id)
        made = explore(
            backbone,
            self.sentences,
            self.plan.temperatures,
            top_p=self.plan.top_p,
            max_len=self._limits(),
            batch=self.plan.batch,
            seed=self.plan.seed,
            wanted=set(missing).__contains__,
        )
        for _ in track(missing, "sampling and judging", True):
            with self._timed("sample"):
                wave, candidates = next(made)
            write_candidates(self.shards.path(wave), candidates)
            yield candidates

    def _ask(self, judge: Judge | None, candidates: list[Candidate], backbone: Backbone) -> None:
        if judge is None:
            return
        before = self.seconds["decode"]

        def decode(batch: Sequence[Candidate]) -> list[Candidate]:
            with self._timed("decode"):
                return decoded(batch, backbone)

        with self._timed("judge"):
            judge(candidates, decode)
        self.seconds["judge"] -= self.seconds["decode"] - before

    def _judged(self) -> list[Judged]:
        """All processes' candidates with their verdicts, out of the cache."""
        everything = [c for wave in range(self.waves) for c in read_candidates(self.shards.path(wave), self.by_id)]
        if self.judge is None:
            return [(candidate, Verdict.accept()) for candidate in everything]
        return list(zip(everything, self.judge.using(self._cache())(everything), strict=True))

    def _cache(self) -> VerdictCache:
        own = self.folder / f"verdicts-{self.rank}.jsonl"
        return VerdictCache(own, also=[path for path in sorted(self.folder.glob("verdicts-*.jsonl")) if path != own])

    def _mine(self) -> None:
        judged, plan = self._judged(), self.plan
        mined = mine(judged, loser_reasons=plan.loser_reasons, per_text=plan.per_text, seed=plan.seed)
        if mined.accepted:
            write_utterances(self.folder / "accepted.parquet", mined.accepted)
        if mined.pairs:
            write_pairs(self.folder / "pairs.parquet", mined.pairs)
        stats = {
            "sampler": self.shards.about["sampler"],
            "heard_by": self.judge.listeners if self.judge else [],
            **summary(mined, judged),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "bytes": sum(path.stat().st_size for path in self.folder.iterdir()),
        }
        write_json(self.folder / "round.json", stats)

    def _limits(self) -> list[int]:
        limit = self.plan.max_len
        return [limit] * len(self.sentences) if isinstance(limit, int) else list(limit)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.seconds[name] += time.monotonic() - begun


def prune(folder: Path) -> None:
    """Drop an iteration's candidates and verdicts; what was mined from them stays."""
    for path in (*folder.glob("wave-*.parquet"), *folder.glob("verdicts-*.jsonl")):
        path.unlink()
