"""DGSA for a language model that mixes prosody and voice in its tokens.

    python examples/disentangle_your_backbone.py

A small Llama speaks tokens in which what is said, how, and by whom ride together, as Orpheus, Llasa or CSM do. DGSA
refuses it: switching a style off would change the speaker. Here a `Disentangler` learns from recordings a code of the
prosody and a vector of the voice, `StylePrefix` turns both into soft vectors before the prompt, and DGSA runs.

Writes sounds: same_voice_*.wav (one voice, three prosodies) and same_prosody_*.wav (one prosody, three voices), and
prints a table of what is in them. All speech is a toy voice made on the spot; `seaalign.miniature.mixed` is the model.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from seaalign import DGSA, SFT, Disentangler, Prompt, SpeechData, StylePrefix, TripletData, Unsupported, Utterance
from seaalign.audio import save
from seaalign.data import ProsodyData
from seaalign.functional import entropy_at, f0
from seaalign.miniature import codec_fit, voice
from seaalign.miniature.analysis import analyse
from seaalign.miniature.mixed import MixedCodec, mixed_lm, slots
from seaalign.miniature.speaker import Speakers, fit_speakers
from seaalign.miniature.spoken import RATE, Spoken, f0_std
from seaalign.miniature.vocoder import bridge
from seaalign.records import Recording, Style

VOICES = ["ada", "ben", "fin"]
WORD = (9,)  # voiced throughout: all of its contour is heard


def say(count: int, expressive: bool, seed: int) -> list[Spoken]:
    """Random digits, by the toy voices in turn."""
    g = torch.Generator().manual_seed(seed)
    words = torch.randint(10, (count,), generator=g).tolist()
    return [voice.say((word,), VOICES[i % len(VOICES)], expressive, g) for i, word in enumerate(words)]


def fit(module: L.LightningModule, data: L.LightningDataModule, steps: int) -> None:
    """A quiet Trainer on the CPU."""
    quiet = ("logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar")
    trainer = L.Trainer(
        accelerator="cpu", max_steps=steps, max_epochs=-1, gradient_clip_val=1.0, **dict.fromkeys(quiet, False)
    )
    trainer.fit(module, data)


def contour(hertz: Tensor, points: int = 60) -> Tensor:
    """F0 in semitones about its mean (points,), unvoiced stretches filled, over the voiced part of an utterance."""
    where = torch.nonzero(hertz > 0)[:, 0]
    inside = bridge(hertz[where[0] : where[-1] + 1][None]) if len(where) > 1 else torch.full((1, 2), 100.0)
    track = torch.nn.functional.interpolate(12 * inside.log2()[None], size=points, mode="linear")[0, 0]
    return track - track.mean()


def correlation(one: Tensor, other: Tensor) -> float:
    """Of two contours in Hz."""
    return float(torch.nn.functional.cosine_similarity(contour(one), contour(other), dim=0))


def register(hertz: Tensor) -> float:
    """Median F0 (Hz)."""
    return float(hertz[hertz > 0].median()) if bool((hertz > 0).any()) else 0.0


def settings(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/disentangle"), help="where sounds and triplets go")
    parser.add_argument("--seed", type=int, default=0, help="of everything")
    parser.add_argument("--steps", type=int, default=900, help="of the training of StylePrefix")
    parser.add_argument("--align", type=int, default=60, help="steps of DGSA")
    parser.add_argument("--lr", type=float, default=2e-5, help="of DGSA")
    parser.add_argument(
        "--pairing", nargs="+", default=["paired"], help="arms of DGSA: paired, shuffled (strangers' voices)"
    )
    return parser.parse_args(argv)


def begin(args: argparse.Namespace) -> Callable[[str], None]:
    """Quiet, seeded, one thread; returns what tells the time."""
    args.out.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    start = time.monotonic()

    def tell(what: str) -> None:
        print(f"[{time.monotonic() - start:4.0f} s] {what}", flush=True)

    L.seed_everything(args.seed, verbose=False)
    return tell


def main() -> None:
    """Train, refuse, wrap, train, listen, align."""
    args = settings()
    tell = begin(args)
    spoken = say(2000, True, args.seed) + say(2000, False, args.seed + 1)
    few = spoken[:500] + spoken[-100:]  # enough for the codec and the Disentangler
    names = [f"u{i:03}" for i in range(len(spoken))]
    frames = analyse([one.waveform for one in spoken], f0=[one.f0 for one in spoken])
    codec = MixedCodec()
    codec_fit.fit(codec, frames[:500] + frames[-100:], torch.zeros(600, 41), 250, seed=args.seed)
    tokens = [codec.flat(codec.tokenize(frame, torch.zeros(41))) for frame in frames]
    tell(f"a codec of {codec.said} tokens: spectrum and F0 as they are, no voice beside them")

    data = [
        Utterance(name, Prompt(slots(one.words)), row, "real" if one.source == "expressive" else "flat")
        for name, one, row in zip(names, spoken, tokens, strict=True)
    ]
    lm = mixed_lm(codec, dim=96, layers=2, seed=args.seed)
    fit(SFT(lm, lr=3e-3, warmup_steps=20), SpeechData(data, max_frames=1000), 100)
    tell("a language model on them, text to speech")
    try:
        DGSA(lm, alpha=0.5)
    except Unsupported as error:
        print(f"\n  refused: {error}\n")

    recordings = [
        Recording(name, one.text, (one.waveform, RATE), speaker=one.speaker)
        for name, one in zip(names[:500] + names[-100:], few, strict=True)
    ]
    heard = ProsodyData(recordings, sample_rate=RATE, max_frames=3000)
    apart = Disentangler(sample_rate=RATE, speakers=heard.speakers, stride=10, timbre_size=16)
    fit(apart, heard, 200)
    tell("a Disentangler: prosody as ids, a voice as a vector")

    waves = [one.waveform for one in spoken]
    styled = apart.restyle(data, waves, [one.speaker for one in spoken])
    model = StylePrefix(lm, apart.levels, apart.timbre_size, frozen=False)
    speech = SpeechData(styled, max_frames=1000, plain_fraction=0.2)
    fit(SFT(model, lr=4e-3, warmup_steps=40, schedule="cosine"), speech, args.steps)
    tell("StylePrefix, trained with style dropout: the same model, and it can be told how and who")

    voices = {one.speaker: row.prompt.timbre for one, row in zip(spoken, styled, strict=True)}
    sources = prosodies(args.seed)
    codes = apart.prosody([one.waveform for one in sources])
    told = [("ada", 0), ("ada", 1), ("ada", 2), ("ada", 0), ("ben", 0), ("fin", 0)]
    ears, centres = judges(few)
    prompts = [Prompt(slots(WORD), Style(codes[code]), voices[name]) for name, code in told]
    sounds = spoken_by(model, prompts, args.seed)
    report(told, sources, sounds, ears.embed(sounds) @ centres.T, args.out)
    tell(f"sounds are in {args.out}/")
    found = repair(model, styled, lambda policy: every(policy, apart, voices, ears, centres, args.seed), args, tell)
    (args.out / "numbers.json").write_text(json.dumps(found, indent=1) + "\n")


def judges(few: list[Spoken]) -> tuple[Speakers, Tensor]:
    """A speaker embedding, and where in it each of VOICES lies (3, D)."""
    ears = fit_speakers([one for one in few if one.source == "expressive"])
    centres = [ears.embed([one.waveform for one in few if one.speaker == name][:20]).mean(0) for name in VOICES]
    return ears, torch.nn.functional.normalize(torch.stack(centres), dim=-1)


def repair(
    model: Any, styled: list[Utterance], measure: Callable[[Any], dict], args: argparse.Namespace, tell: Callable,
    frames: int = 3000,
) -> dict[str, dict]:  # fmt: skip
    """What is measured before DGSA and after it, by arm; every arm begins at the same model."""
    found = {"SFT": measure(model)}
    real = [row for row in styled if row.source == "real"][:240]
    for pairing in args.pairing:
        policy, file = copy.deepcopy(model), args.out / f"triplets_{pairing}.parquet"
        file.unlink(missing_ok=True)  # of an earlier run
        module = DGSA(policy, alpha=0.5, weights=(0.4, 0.6), lr=args.lr, weight_decay=0.0)
        fit(module, TripletData(real, file, max_frames=frames, pairing=pairing), args.align)
        tell(f"DGSA, {pairing}: {args.align} steps on what the model says with style and without")
        found[f"DGSA, {pairing}"] = measure(policy)
    return found


def prosodies(seed: int) -> list[Spoken]:
    """Three ways to say one word, of those tried the ones least like each other."""
    g = torch.Generator().manual_seed(seed + 70)
    tried = [voice.say(WORD, VOICES[i % 3], True, g) for i in range(40)]
    chosen = tried[:1]
    while len(chosen) < 3:
        chosen.append(min(tried, key=lambda one: max(correlation(one.f0, other.f0) for other in chosen)))
    return chosen


def spoken_by(model: StylePrefix, prompts: list[Prompt], seed: int, each: int = 8) -> list[Tensor]:
    """Samples of every prompt, as sound."""
    drawn = model.sample(prompts, each, 0.8, 0.9, 100, 8, torch.Generator().manual_seed(seed))
    return model.decode(drawn, [None] * len(drawn))


def diversity(rows: list[Tensor]) -> dict[str, float]:
    """H_p at 1,500 tokens (bits)."""
    return {"H_p": float(entropy_at(torch.bincount(torch.cat(rows)), 1500))}


def every(
    model: Any, apart: Any, voices: dict[str, Tensor], ears: Speakers, centres: Tensor, seed: int,
    bits: Callable[[list[Tensor]], dict[str, float]] = diversity,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Over 60 words that nobody has heard, each in the prosody of its recording and the voice of another."""
    unheard = say(60, True, seed + 99)
    codes = apart.prosody([one.waveform for one in unheard])
    owner = [(i + 1) % 3 for i in range(60)]  # not who said it
    prompts = [
        Prompt(slots(one.words), Style(code), voices[VOICES[k]])
        for one, code, k in zip(unheard, codes, owner, strict=True)
    ]
    found, wanted = {}, torch.tensor(owner).repeat_interleave(2)
    print("\n  60 unheard words  r with the recording  with another  F0 std   H_p   SIM  the voice asked for")
    for title, asked in (("style on", prompts), ("style off", [prompt.plain() for prompt in prompts])):
        drawn = model.sample(asked, 2, 0.8, 0.9, 100, 8, torch.Generator().manual_seed(seed))
        sounds = model.decode(drawn, [asked[i].timbre for i in drawn.prompt.tolist()])
        tracks, likeness = f0(sounds, RATE), ears.embed(sounds) @ centres.T
        fits = [[correlation(t, unheard[(i // 2 + far) % 60].f0) for i, t in enumerate(tracks)] for far in (0, 20)]
        found[title] = {
            "r own": mean(fits[0]),
            "r other": mean(fits[1]),
            "F0 std": mean([f0_std(track) for track in tracks]),
            **bits(drawn.rows()),
            "SIM": float(likeness[torch.arange(len(wanted)), wanted].mean()),
            "voice": float((likeness.argmax(1) == wanted).float().mean()),
        }
        a, b, spread, h_p, sim, right = (found[title][k] for k in ("r own", "r other", "F0 std", "H_p", "SIM", "voice"))
        print(
            f"  {title:16} {a:18.2f} {b:17.2f} {spread:8.2f} {h_p:6.2f} {sim:5.2f} {100 * right:6.0f} % (chance 33 %)"
        )
    print()
    return found


def mean(values: list[float]) -> float:
    """Of numbers."""
    return sum(values) / len(values)


def report(told: list, sources: list[Spoken], sounds: list[Tensor], likeness: Tensor, out: Path) -> None:
    """What is in the sounds: means over the samples of a prompt; the first of each is written."""
    each = len(sounds) // len(told)
    tracks = f0(sounds, RATE)
    print("\n  voice  prosody of      F0 std  r with its source  r with the others  median F0   sounds like")
    for k, (name, code) in enumerate(told):
        mine = tracks[k * each : (k + 1) * each]
        fits = [sum(correlation(track, one.f0) for track in mine) / each for one in sources]
        others = [fit for i, fit in enumerate(fits) if i != code]
        scores = likeness[k * each : (k + 1) * each].mean(0)
        spread, middle = (sum(map(what, mine)) / each for what in (f0_std, register))
        print(
            f"  {name:6} {sources[code].speaker:4} no. {code}   {spread:8.2f} st {fits[code]:15.2f} "
            f"{sum(others) / len(others):18.2f} {middle:10.0f} Hz   {VOICES[int(scores.argmax())]} ({scores.max():.2f})"
        )
        kind = "same_voice" if k < 3 else "same_prosody"
        save(out / f"{kind}_{k % 3 + 1}_{name}.wav", sounds[k * each], RATE)
    print(f"  medians when they speak themselves: {', '.join(f'{n} {voice.SPEAKERS[n].f0} Hz' for n in VOICES)}\n")


if __name__ == "__main__":
    main()
