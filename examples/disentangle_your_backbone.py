"""DGSA for a language model that mixes prosody and voice in its tokens: python examples/disentangle_your_backbone.py

A small Llama speaks tokens in which what is said, how, and by whom ride together, as Orpheus, Llasa or CSM do. DGSA
refuses it: switching a style off would change the speaker. Here a `Disentangler` learns from recordings a code of the
prosody and a vector of the voice, `StylePrefix` turns both into soft vectors before the prompt, and DGSA runs.

Writes sounds: same_voice_*.wav (one voice, three prosodies) and same_prosody_*.wav (one prosody, three voices), and
prints a table of what is in them. All speech is a toy voice made on the spot; `seaalign.miniature.mixed` is the model.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from pathlib import Path

import lightning as L
import torch
from torch import Tensor

from seaalign import DGSA, SFT, Disentangler, Prompt, SpeechData, StylePrefix, TripletData, Unsupported, Utterance
from seaalign.audio import save
from seaalign.data import ProsodyData
from seaalign.functional import f0
from seaalign.miniature import codec_fit, voice
from seaalign.miniature.analysis import analyse
from seaalign.miniature.mixed import MixedCodec, mixed_lm, slots
from seaalign.miniature.speaker import fit_speakers
from seaalign.miniature.spoken import RATE, Spoken, f0_std
from seaalign.miniature.vocoder import bridge
from seaalign.records import Recording, Style

VOICES = list(voice.SPEAKERS)


def say(count: int, expressive: bool, seed: int) -> list[Spoken]:
    """Random texts of one or two digits, by the six toy voices in turn."""
    g = torch.Generator().manual_seed(seed)
    texts = [tuple(torch.randint(10, (1 + i // 6 % 2,), generator=g).tolist()) for i in range(count)]
    return [voice.say(text, VOICES[i % 6], expressive, g) for i, text in enumerate(texts)]


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


def main() -> None:
    """Train, refuse, wrap, train, listen, align."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/disentangle"), help="where sounds and triplets go")
    parser.add_argument("--seed", type=int, default=0, help="of everything")
    parser.add_argument("--steps", type=int, default=400, help="of each of the two trainings of the language model")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    start = time.monotonic()

    def tell(what: str) -> None:
        print(f"[{time.monotonic() - start:4.0f} s] {what}", flush=True)

    L.seed_everything(args.seed, verbose=False)
    spoken = say(360, True, args.seed) + say(360, False, args.seed + 1)
    names = [f"u{i:03}" for i in range(len(spoken))]
    frames = analyse([one.waveform for one in spoken], f0=[one.f0 for one in spoken])
    codec = MixedCodec()
    codec_fit.fit(codec, frames, torch.zeros(len(frames), 41), 300, seed=args.seed)
    tokens = [codec.tokenize(frame, torch.zeros(41)) for frame in frames]
    tell(f"a codec of {codec.vocabulary} tokens: mel and F0 in one code, no voice beside it")

    data = [
        Utterance(name, Prompt(slots(one.words)), row, "real" if one.source == "expressive" else "flat")
        for name, one, row in zip(names, spoken, tokens, strict=True)
    ]
    lm = mixed_lm(codec, seed=args.seed)
    fit(SFT(lm, lr=3e-3, warmup_steps=40, schedule="cosine"), SpeechData(data, max_frames=1200), args.steps)
    tell("a language model on them, text to speech")
    try:
        DGSA(lm, alpha=0.5)
    except Unsupported as error:
        print(f"\n  refused: {error}\n")

    recordings = [
        Recording(name, one.text, (one.waveform, RATE), speaker=one.speaker)
        for name, one in zip(names, spoken, strict=True)
    ]
    heard = ProsodyData(recordings, sample_rate=RATE, max_frames=6000)
    apart = Disentangler(sample_rate=RATE, speakers=heard.speakers, stride=10, timbre_size=16)
    fit(apart, heard, 250)
    tell("a Disentangler: prosody as ids, a voice as a vector")

    waves = [one.waveform for one in spoken]
    styled = apart.restyle(data, waves, [one.speaker for one in spoken])
    model = StylePrefix(lm, apart.levels, apart.timbre_size, frozen=False)
    speech = SpeechData(styled, max_frames=1200, plain_fraction=0.5)
    fit(SFT(model, lr=2e-3, warmup_steps=40, schedule="cosine"), speech, args.steps)
    tell("StylePrefix, trained with style dropout: the same model, and it can be told how and who")

    voices = {one.speaker: row.prompt.timbre for one, row in zip(spoken, styled, strict=True)}
    references = [voice.say((3, 5), name, True, torch.Generator().manual_seed(70 + i)) for i, name in enumerate(VOICES)]
    codes = apart.prosody([one.waveform for one in references])
    text = slots((3, 5))
    told = [("ada", 1), ("ada", 2), ("ada", 3), ("ada", 4), ("ben", 4), ("eve", 4)]
    prompts = [Prompt(text, Style(codes[code]), voices[name]) for name, code in told]
    ears = fit_speakers([one for one in spoken if one.source == "expressive"])
    samples = model.sample(prompts, 8, 0.8, 0.9, 80, generator=torch.Generator().manual_seed(args.seed))
    sounds = model.decode(samples, [None] * len(samples))
    own = {name: [one.waveform for one in spoken if one.speaker == name][:12] for name in VOICES}
    centres = torch.stack([torch.nn.functional.normalize(ears.embed(own[name]).mean(0), dim=0) for name in VOICES])
    report(told, references, sounds, ears.embed(sounds) @ centres.T, args.out)
    tell(f"sounds are in {args.out}/")

    real = [row for row in styled if row.source == "real"][:120]
    fit(DGSA(model, alpha=0.5 + 0.3, lr=1e-5), TripletData(real, args.out / "triplets.parquet", max_frames=3000), 20)
    tell("DGSA: 120 triplets, 20 steps")


def report(told: list, references: list[Spoken], sounds: list[Tensor], likeness: Tensor, out: Path) -> None:
    """What is in the sounds: means over the samples of a prompt; the first of each is written."""
    each = len(sounds) // len(told)
    tracks = f0(sounds, RATE)
    print("\n  voice  prosody of      F0 std  r with its source  r with the others  median F0   sounds like")
    for k, (name, code) in enumerate(told):
        mine = tracks[k * each : (k + 1) * each]
        fits = [sum(correlation(track, one.f0) for track in mine) / each for one in references]
        others = [fit for i, fit in enumerate(fits) if i != code]
        scores = likeness[k * each : (k + 1) * each].mean(0)
        spread, middle = (sum(map(what, mine)) / each for what in (f0_std, register))
        print(
            f"  {name:6} {references[code].speaker:4} no. {code}   {spread:8.2f} st {fits[code]:15.2f} "
            f"{sum(others) / len(others):18.2f} {middle:10.0f} Hz   {VOICES[int(scores.argmax())]} ({scores.max():.2f})"
        )
        kind = "same_voice" if k < 3 else "same_prosody"
        save(out / f"{kind}_{k % 3 + 1}_{name}.wav", sounds[k * each], RATE)
    print(f"  registers when they speak themselves: {', '.join(f'{n} {voice.SPEAKERS[n].f0} Hz' for n in VOICES)}\n")


if __name__ == "__main__":
    main()
