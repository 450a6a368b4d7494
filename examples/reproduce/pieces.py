"""What one seed does: its speech, codec and judges, the sweep over alpha, the repair, and self-critique.

Everything is `seaalign.demo` and the library's modules; here is which arm is which argument.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from schedule import Piece

from seaalign.critique import NothingAccepted
from seaalign.data import TextData
from seaalign.demo import evaluate, scarce, train, world
from seaalign.demo.show import slug
from seaalign.demo.world import Sizes
from seaalign.functional import repetition_span
from seaalign.judges import Duration, Intelligibility, Judge, Liveliness, Repetition
from seaalign.miniature.codec import Codec
from seaalign.miniature.ear import Ear
from seaalign.modules import TDSC

AT = 0.8
SFT_AT = f"sft-{AT:g}"
TOKENS_PER_TEST = (
    25  # entropies are those of a corpus of so many tokens for each test utterance; two words are about 37
)
SIZES = replace(Sizes(), alphas=(0.0, 0.25, 0.5, 0.8, 1.0), prior_steps=300)
QUICK = replace(
    world.QUICK, real=24, flat=96, codec=40, lessons=60, tests=8, codec_steps=8, ear_steps=8, sft_steps=8,
    align_steps=3, real_sft_steps=3, scarce_steps=12, prior_steps=4, alphas=(0.0, 0.5, 0.8, 1.0), sentences=6, rounds=2,
    round_sft_steps=3, round_dpo_steps=2,
)  # fmt: skip
PRIOR = "sft-prior"
"""A policy that, before the little flat speech, learned the expressive speech with its words renamed."""
REPAIR: dict[str, dict[str, Any]] = {
    "DGSA": {},
    "no stability": {"weights": (0.0, 1.0)},
    "no expressivity": {"weights": (1.0, 0.0)},
    "fixed weights": {"weights": (0.5, 0.5)},
    "random pairing": {"pairing": "shuffled"},
}
ONE_HEAT: dict[str, Any] = {"temperatures": (1.0,), "hottest": None, "n": 12}
CRITIQUE: dict[str, dict[str, Any]] = {
    "TDSC": {},
    "self-training": {"filters": (), "dpo_steps": 0, **ONE_HEAT},
    "no DPO": {"dpo_steps": 0},
    "T = 1 only": ONE_HEAT,
    "no length filter": {"filters": ("repetition", "words")},
    "no repetition filter": {"filters": ("length", "words")},
    "no curriculum": {"hottest": (1.3, 0.0)},
    "TDSC with a prior": {"start": PRIOR},
}


def scaled(sizes: Sizes, scale: float, device: str) -> Sizes:
    """More speech, texts and steps, on a device; the digits there are to say stay the same, and so do the rounds."""
    grow = ("real", "flat", "codec", "lessons", "tests", "codec_steps", "ear_steps", "sft_steps", "align_steps")
    grow += (
        "real_sft_steps",
        "scarce",
        "scarce_steps",
        "prior_steps",
        "sentences",
        "round_sft_steps",
        "round_dpo_steps",
    )
    return replace(sizes, device=device, **{name: round(getattr(sizes, name) * scale) for name in grow})


def plan(fsdd: str | None, sizes: Sizes, seed: int) -> list[Piece]:
    """All pieces of a seed, in the order in which they are best begun."""
    common = {"sizes": sizes, "seed": seed}
    ears = ("judge", "reporter", "speaker")
    pieces = [
        Piece("speech", speak, {"fsdd": fsdd, **common}),
        Piece("judge", call, {"do": world.teach, "name": "judge.pt", "width": 96, **later(common, 1)}, ("speech",)),
        Piece(
            "reporter", call, {"do": world.teach, "name": "reporter.pt", "width": 80, **later(common, 2)}, ("speech",)
        ),
        Piece("speaker", call, {"do": world.recognise_speakers, "seed": seed}, ("speech",)),
    ]
    heard: list[Piece] = []

    def listen(title: str, policy: str, trained: tuple[str, ...], **how: Any) -> None:
        how = {"policy": policy, "title": title, "sizes": sizes, "seed": seed + 1000, **how}
        heard.append(Piece(f"heard-{slug(title).replace('=', '')}", hear, how, (*trained, *ears)))

    for alpha in sorted(sizes.alphas, key=lambda alpha: alpha != AT):  # the repair waits for this one
        name = f"sft-{alpha:g}"
        pieces.append(Piece(name, call, {"do": train.sft, "alpha": alpha, **common}, ("speech",)))
        listen(f"alpha {alpha:g}", name, (name,))
        listen(f"alpha {alpha:g} styled", name, (name,), style=True)
    for pairing in ("paired", "shuffled"):
        how = {"do": train.make_triplets, "start": SFT_AT, "seed": seed, "pairing": pairing}
        pieces.append(Piece(f"triplets-{pairing}", call, how, (SFT_AT,)))
    listen("rejection", SFT_AT, (SFT_AT,), n=4)
    for arm, how in REPAIR.items():
        how = {"do": train.align, "name": slug(arm), "start": SFT_AT, "alpha": AT, **common, **how}
        pieces.append(Piece(slug(arm), call, how, (f"triplets-{how.get('pairing', 'paired')}",)))
        listen(arm, slug(arm), (slug(arm),))
    pieces.append(Piece("more-sft", call, {"do": train.more_sft, "start": SFT_AT, **common}, (SFT_AT,)))
    listen("more SFT on real", "sft-real", ("more-sft",))
    without = {"do": scarce.sft, "sizes": replace(sizes, prior_steps=0), "seed": seed}
    pieces.append(Piece("scarce", call, without, ("speech",)))
    pieces.append(Piece("prior", call, {"do": scarce.sft, "name": PRIOR, **common}, ("speech",)))
    listen("SFT", scarce.BASE, ("scarce",))
    listen("SFT with a prior", PRIOR, ("prior",))
    listen("rejection of SFT", scarce.BASE, ("scarce",), n=4)
    for arm in CRITIQUE:
        name = f"critique-{slug(arm).replace('=', '')}"
        start = "prior" if CRITIQUE[arm].get("start") == PRIOR else "scarce"
        pieces.append(Piece(name, criticise, {"name": name, "arm": arm, **common}, (start, "judge")))
        listen(arm, name, (name,))
    return [*pieces, *heard, Piece("heard-recordings", hear_recordings, {"sizes": sizes}, ("speech", *ears))]


def later(common: dict[str, Any], by: int) -> dict[str, Any]:
    """The same with another seed: of a listener that is to err independently."""
    return {**common, "seed": common["seed"] + by}


def call(folder: Path, do: Callable[..., Any], **arguments: Any) -> None:
    """A step of the demo whose result is a file."""
    do(folder, **arguments)


def speak(folder: Path, fsdd: str | None, sizes: Sizes, seed: int) -> str:
    """Everybody speaks, and the codec is fitted; returns who spoke."""
    folder.mkdir(parents=True, exist_ok=True)
    source = world.record(folder, fsdd, sizes, seed)
    world.tokenize(folder, sizes, seed)
    return source


def hear(folder: Path, policy: str, title: str, sizes: Sizes, seed: int, style: bool = False, n: int = 1) -> Any:
    """What the reporter, which never filters, hears of a policy: metric -> (value, sigma over texts)."""
    outcome = evaluate.assess(folder, policy, title, style, seed, n)
    return {title: summary(folder, outcome, sizes)}


def hear_recordings(folder: Path, sizes: Sizes) -> Any:
    """The ceiling: the test sentences as recorded, and after the codec."""
    return {outcome.name: summary(folder, outcome, sizes) for outcome in evaluate.assess_recordings(folder)}


def summary(folder: Path, outcome: evaluate.Outcome, sizes: Sizes) -> Any:
    """Its numbers, entropies at the same token count for all."""
    return evaluate.summarise(outcome, Codec.load(folder / "codec.pt"), TOKENS_PER_TEST * sizes.tests)


def criticise(folder: Path, name: str, arm: str, sizes: Sizes, seed: int) -> Any:
    """TDSC or one of its arms, from the policy that has had little flat speech; returns its rounds and temperatures."""
    how = {"filters": ("length", "repetition", "words"), "dpo_steps": sizes.round_dpo_steps, **CRITIQUE[arm]}
    codec, known = Codec.load(folder / "codec.pt"), scarce.scarce(folder, sizes, seed)
    wanted, start = how.pop("filters"), how.pop("start", scarce.BASE)
    criteria = {
        "repetition": Repetition(0.1, k=repetition_span(160, codec.frame_rate)),
        "length": Duration(data=known),
        "words": Intelligibility(scarce.Listener(Ear.load(folder / "judge.pt"), "judge.pt")),
    }
    filters = [criterion for what, criterion in criteria.items() if what in wanted]
    work = folder / name
    shutil.rmtree(work, ignore_errors=True)  # of an arm that was killed on its way
    module = TDSC(
        train.load(folder, start), Judge(*filters, Liveliness()) if filters else None, work=work,
        iterations=sizes.rounds, sft_steps=sizes.round_sft_steps, frames_per_symbol=0.8 * codec.frame_rate, batch=30,
        lr=scarce.ROUND_SFT_LR, dpo_lr=scarce.ROUND_DPO_LR, weight_decay=0.0, seed=seed,
        **{"hottest": hottest(sizes.rounds), **how},
    )  # fmt: skip
    data = TextData(scarce.sentences(folder, sizes, seed), sft=known, replay=0.3, max_frames=train.MAX_FRAMES)
    runner = train.trainer(sizes.rounds * (sizes.round_sft_steps + how["dpo_steps"]), iter, sizes.device)
    with suppress(NothingAccepted):  # small sizes: a policy that says nothing right stays as it is
        runner.fit(module, data)
    train.save(runner, folder, name)
    rounds = module.loop.history(sizes.rounds + 1)
    last = work / f"round-{len(rounds):02d}" / "round.json"
    return {"rounds": rounds, "temperatures": json.loads(last.read_text())["temperatures"] if rounds else []}


def hottest(rounds: int) -> tuple[float, float]:
    """T_max(k) = a + 0.1 k that reaches the paper's 1.3 in the last of fewer rounds than its five (there a = 0.8)."""
    return round(1.3 - 0.1 * rounds, 1), 0.1
