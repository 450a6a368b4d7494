"""The order of events: which stages run side by side, what is compared with what, and which claims hold."""

from __future__ import annotations

import argparse
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seaalign.demo import evaluate, scarce, show, train, world
from seaalign.demo.claims import claims, critique_claims
from seaalign.demo.evaluate import Outcome
from seaalign.demo.tasks import Crew, Task
from seaalign.miniature.codec import Codec
from seaalign.storage import read_utterances

ALPHA = 0.8
SFT_AT = f"sft-{ALPHA:g}"


def tell(args: argparse.Namespace, crew: Crew) -> dict[str, Any]:
    """Run every stage in a draft folder beside that of the results."""
    sizes = world.QUICK if args.quick else world.Sizes()
    folder = args.out.with_name(args.out.name + ".part")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    told = _Story(folder, sizes, args.seed, crew)
    description = told.prepare(args.fsdd)
    sweep = told.sweep()
    systems = told.repair()
    critique = told.criticise()
    results = told.report(sweep, systems, critique)
    return {"source": description, "seed": args.seed, "sizes": asdict(sizes), **results}


class _Story:
    def __init__(self, folder: Path, sizes: world.Sizes, seed: int, crew: Crew) -> None:
        self.folder, self.sizes, self.seed, self.crew, self.console = folder, sizes, seed, crew, crew.console

    def run(self, heading: str, *tasks: Task) -> list[Any]:
        self.console.print(f"[bold]{heading}[/]")
        return self.crew.run(list(tasks))

    def task(self, on_screen: str, function: Any, **arguments: Any) -> Task:
        return Task(on_screen, function, {"folder": self.folder, **arguments})

    def assess(self, name: str, title: str, style: bool = False, n: int = 1) -> Task:
        return self.task(title, evaluate.assess, name=name, title=title, style=style, seed=self.seed + 1000, n=n)

    def teach(self, title: str, name: str, width: int, seed: int) -> Task:
        return self.task(title, world.teach, name=name, width=width, sizes=self.sizes, seed=seed)

    def prepare(self, fsdd: str | None) -> str:
        """Speech, codec, judge."""
        common = {"sizes": self.sizes, "seed": self.seed}
        (description,) = self.run("Speech", self.task("speech of two kinds", world.record, path=fsdd, **common))
        self.console.print(f"  {description}", highlight=False)
        self.run(
            "Codec and judge",
            self.task("codec: tokenizer, flow, vocoder", world.tokenize, **common),
            self.teach("judge (filters, never reports)", "judge.pt", 96, self.seed + 1),
        )
        return description

    def sweep(self) -> tuple[list[Outcome], list[Outcome], list[Outcome]]:
        """One policy per synthetic share, and how each speaks with the style prefix off and on."""
        common = {"sizes": self.sizes, "seed": self.seed}
        self.run(
            "Synthetic Erosion: one language model per synthetic share",
            *(self.task(f"SFT, alpha = {alpha:g}", train.sft, alpha=alpha, **common) for alpha in self.sizes.alphas),
            self.task("SFT on little flat speech", scarce.sft, **common),
            self.teach("reporter (reports, never filters)", "reporter.pt", 80, self.seed + 2),
            self.task("speaker embedding", world.recognise_speakers, seed=self.seed),
        )
        names = [f"sft-{alpha:g}" for alpha in self.sizes.alphas]
        heard = self.run(
            "Listening to them",
            *(self.assess(name, f"α {name[4:]} off") for name in names),
            *(self.assess(name, f"α {name[4:]} on", style=True) for name in names),
            self.task("recordings", evaluate.assess_recordings),
            self.task("triplets for the repair", train.make_triplets, start=SFT_AT, seed=self.seed),
        )
        half = len(names)
        return heard[:half], heard[half : 2 * half], heard[2 * half]

    def repair(self) -> list[Outcome]:
        """Every remedy from the same checkpoint."""
        common = {"start": SFT_AT, "sizes": self.sizes, "seed": self.seed}
        arms: dict[str, tuple[float, float] | None] = {"DGSA": None, "standard DPO": (0.0, 1.0)}
        self.run(
            f"Repair, from the checkpoint at alpha = {ALPHA:g}",
            *(
                self.task(arm, train.align, name=show.slug(arm), alpha=ALPHA, weights=weights, **common)
                for arm, weights in arms.items()
            ),
            self.task("more SFT on real", train.more_sft, **common),
        )
        return self.run(
            "Listening to them",
            self.assess(SFT_AT, "rejection, 4", n=4),
            *(self.assess(show.slug(arm), arm) for arm in arms),
            self.assess("sft-real", "more SFT on real"),
        )

    def criticise(self) -> tuple[list[Outcome], dict[str, list[dict[str, Any]]]]:
        """No real speech at all: little flat speech, new texts, and what the policy makes of its own attempts."""
        common = {"sizes": self.sizes, "seed": self.seed}
        rounds = self.run(
            "Self-critique: no real speech, and texts that nobody has said",
            *(self.task(arm, scarce.criticise, name=show.slug(arm), title=arm, **common) for arm in scarce.ARMS),
        )
        heard = self.run(
            "Listening to them",
            self.assess(scarce.BASE, "SFT on little"),
            self.assess(scarce.BASE, "rejection, 4 of it", n=4),
            *(self.assess(show.slug(arm), arm) for arm in scarce.ARMS),
        )
        return heard, dict(zip(scarce.ARMS, rounds, strict=True))

    def report(
        self,
        sweep: tuple[list[Outcome], ...],
        repaired: list[Outcome],
        critique: tuple[list[Outcome], dict[str, list[dict[str, Any]]]],
    ) -> dict[str, Any]:
        """Tables, figures, sounds, and the claims."""
        (off, on, recordings), (criticised, rounds) = sweep, critique
        codec = Codec.load(self.folder / "codec.pt")
        everything = [*recordings, *off, *on, *repaired, *criticised]
        n_tokens = min(sum(len(row) for row in outcome.tokens) for outcome in everything)
        summary = {outcome.name: evaluate.summarise(outcome, codec, n_tokens, self.seed) for outcome in everything}
        at = self.sizes.alphas.index(ALPHA)
        base = off[at]
        systems = {
            o.name if o is not base else "SFT": summary[o.name] for o in (recordings[0], recordings[1], base, *repaired)
        }
        swept = {o.name: summary[o.name] for pair in zip(off, on, strict=True) for o in pair}
        self.console.print()
        show.table(f"Synthetic share and style (entropies at {n_tokens} tokens, ± over texts)", swept, self.console)
        show.table(
            f"Repair at alpha = {ALPHA:g}, style off; the reporter never filtered anything", systems, self.console
        )
        alone = {o.name: summary[o.name] for o in criticised}
        show.table("Self-critique from little flat speech, without any real speech", alone, self.console)
        show.rounds_table(rounds["TDSC"], self.console)
        off_rows, on_rows = ([summary[o.name] for o in rows] for rows in (off, on))
        show.plot_sweep(self.folder / "erosion.png", self.sizes.alphas, off_rows, on_rows)
        show.plot_plane(self.folder / "plane.png", systems)
        show.plot_rounds(self.folder / "critique.png", rounds["TDSC"])
        self._sounds(everything)
        return {
            "n_tokens": n_tokens,
            "sweep": swept,
            "systems": systems,
            "critique": alone,
            "rounds": rounds,
            "claims": claims(off_rows, on_rows, systems, at) + critique_claims(alone, rounds["TDSC"]),
        }

    def _sounds(self, outcomes: list[Outcome]) -> None:
        """The first test sentences from everybody; the rest of the speech has done its work."""
        texts = [case.prompt.text.tolist() for case in read_utterances(self.folder / "test.parquet")]
        show.write_sounds(self.folder / "wavs", {outcome.name: outcome for outcome in outcomes}, texts)
        (self.folder / "speech.pt").unlink()
