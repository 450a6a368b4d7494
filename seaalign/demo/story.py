"""The order of events: which stages run side by side, what is compared with what, and which claims hold."""

from __future__ import annotations

import argparse
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seaalign.demo import evaluate, show, train, world
from seaalign.demo.evaluate import Outcome
from seaalign.demo.show import Summary
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
    results = told.report(sweep, systems)
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

    def report(self, sweep: tuple[list[Outcome], ...], repaired: list[Outcome]) -> dict[str, Any]:
        """Tables, figures, sounds, and the claims."""
        off, on, recordings = sweep
        codec = Codec.load(self.folder / "codec.pt")
        everything = [*recordings, *off, *on, *repaired]
        n_tokens = min(sum(len(row) for row in outcome.tokens) for outcome in everything)
        summary = {outcome.name: evaluate.summarise(outcome, codec, n_tokens, self.seed) for outcome in everything}
        base = off[self.sizes.alphas.index(ALPHA)]
        systems = {
            o.name if o is not base else "SFT": summary[o.name] for o in (recordings[0], recordings[1], base, *repaired)
        }
        swept = {o.name: summary[o.name] for pair in zip(off, on, strict=True) for o in pair}
        self.console.print()
        show.table(f"Synthetic share and style (entropies at {n_tokens} tokens, ± over texts)", swept, self.console)
        show.table(
            f"Repair at alpha = {ALPHA:g}, style off; the reporter never filtered anything", systems, self.console
        )
        off_rows, on_rows = ([summary[o.name] for o in rows] for rows in (off, on))
        show.plot_sweep(self.folder / "erosion.png", self.sizes.alphas, off_rows, on_rows)
        show.plot_plane(self.folder / "plane.png", systems)
        cases = read_utterances(self.folder / "test.parquet")
        sounds = {o.name: o for o in (*recordings, *off, *on, *repaired)}
        show.write_sounds(self.folder / "wavs", sounds, [case.prompt.text.tolist() for case in cases])
        (self.folder / "speech.pt").unlink()
        return {
            "n_tokens": n_tokens,
            "sweep": swept,
            "systems": systems,
            "claims": claims(off_rows, on_rows, systems, self.sizes.alphas.index(ALPHA)),
        }


def z(a: Summary, b: Summary, key: str) -> float:
    """How far a lies above b, in units of the sigma of the difference."""
    return (a[key][0] - b[key][0]) / max((a[key][1] ** 2 + b[key][1] ** 2) ** 0.5, 1e-9)


def cheaper(unit: str, key: str, sft: Summary, dgsa: Summary, real: Summary) -> dict[str, Any]:
    """Does DGSA pay fewer word errors per unit restored than more SFT on real speech?"""
    claim = f"a restored {unit} costs fewer word errors than by more SFT on real"
    if not all(z(row, sft, key) > 2 for row in (dgsa, real)):  # a price for nothing says nothing
        return {"claim": claim, "holds": False, "numbers": "not comparable"}
    ours, theirs = ((row["wer"][0] - sft["wer"][0]) / (row[key][0] - sft[key][0]) for row in (dgsa, real))
    numbers = f"WER points per {unit}: DGSA {ours:.1f}, more SFT {theirs:.1f}"
    return {"claim": claim, "holds": ours < theirs, "numbers": numbers}


def claims(off: list[Summary], on: list[Summary], systems: dict[str, Summary], at: int) -> list[dict[str, Any]]:
    """The paper's claims that a miniature can test, asked of this run; differences count from 2 sigma.

    Args:
        off: one row per synthetic share, style off.
        on: the same, style on.
        systems: the remedies, and "SFT" before them.
        at: which of the shares the remedies start from.
    """
    sft, dgsa, real, plain = (systems[name] for name in ("SFT", "DGSA", "more SFT on real", "standard DPO"))

    def say(claim: str, holds: bool, key: str, *rows: Summary) -> dict[str, Any]:
        return {
            "claim": claim,
            "holds": bool(holds),
            "numbers": f"{key} " + " -> ".join(f"{row[key][0]:.2f}" for row in rows),
        }

    wers = [row["wer"][0] for row in off]
    falls = all(a >= b for a, b in zip(wers, wers[1:], strict=False)) and z(off[0], off[-1], "wer") > 2
    return [
        say("word errors fall with the synthetic share", falls, "wer", *off),
        say("entropy collapses", z(off[0], off[-1], "entropy") > 2, "entropy", *off),
        say("F0 spread collapses", z(off[0], off[-1], "f0_std") > 2, "f0_std", *off),
        say("style off -> on at 0.8 adds F0 spread", z(on[at], off[at], "f0_std") > 2, "f0_std", off[at], on[at]),
        say("style off -> on at 0.8 adds entropy", z(on[at], off[at], "entropy") > 2, "entropy", off[at], on[at]),
        say("DGSA restores entropy (SFT -> DGSA)", z(dgsa, sft, "entropy") > 2, "entropy", sft, dgsa),
        say("DGSA restores F0 spread (SFT -> DGSA)", z(dgsa, sft, "f0_std") > 2, "f0_std", sft, dgsa),
        say("fewer word errors for it than more SFT on real", dgsa["wer"][0] < real["wer"][0], "wer", sft, dgsa, real),
        cheaper("bit", "entropy", sft, dgsa, real),
        cheaper("semitone", "f0_std", sft, dgsa, real),
        say("fewer word errors for it than standard DPO", dgsa["wer"][0] < plain["wer"][0], "wer", dgsa, plain),
        say("DGSA leaves word errors where SFT had them, as in the paper", z(dgsa, sft, "wer") < 2, "wer", sft, dgsa),
    ]  # fmt: skip
