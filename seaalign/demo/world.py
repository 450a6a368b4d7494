"""The demo's world: speech of two kinds, test sentences, and what the judges learn from, written to a folder.

Expressive speech is scarce (a fixed list of utterances) and flat speech is plentiful: that is the setting of
Synthetic Erosion. With `--fsdd` the expressive speech is people's; without, everything is a toy voice and the demo
says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seaalign.miniature import codec_fit, ear, espeak, fsdd, voice
from seaalign.miniature.analysis import analyse, timbre
from seaalign.miniature.codec import Codec
from seaalign.miniature.speaker import fit_speakers
from seaalign.miniature.spoken import Spoken
from seaalign.records import Prompt, Style, Utterance
from seaalign.storage import write_utterances

Say = Callable[[tuple[int, ...], int, torch.Generator], Spoken]


@dataclass(frozen=True)
class Sizes:
    """How much of everything, and where policies are trained; `QUICK` is for a look, not for numbers."""

    real: int = 150
    flat: int = 600
    codec: int = 450
    lessons: int = 1600
    tests: int = 200
    held_out: int = 40
    alphas: tuple[float, ...] = (0.0, 0.5, 0.8, 1.0)
    codec_steps: int = 400
    ear_steps: int = 450
    sft_steps: int = 300
    align_steps: int = 60
    real_sft_steps: int = 100
    scarce: int = 100
    scarce_pairs: int = 30
    scarce_steps: int = 150
    prior_steps: int = 0
    sentences: int = 60
    rounds: int = 3
    round_sft_steps: int = 60
    round_dpo_steps: int = 25
    device: str = "cpu"


QUICK = Sizes(
    real=60,
    flat=240,
    codec=90,
    lessons=200,
    tests=30,
    alphas=(0.0, 0.8, 1.0),
    codec_steps=55,
    ear_steps=85,
    sft_steps=40,
    align_steps=15,
    real_sft_steps=30,
    scarce_steps=40,
    sentences=12,
    rounds=1,
    round_sft_steps=15,
    round_dpo_steps=8,
)


@dataclass(frozen=True)
class Source:
    """Where speech comes from: expressive, flat, for the test, for the judges; each says words as its i-th speaker."""

    description: str
    expressive: Say
    flat: Say
    test: Say
    lesson: Say


def embedded() -> Source:
    """The toy voice, both ways."""

    def say(expressive: bool, names: Sequence[str]) -> Say:
        return lambda words, i, g: voice.say(words, names[i % len(names)], expressive, g)

    own, other = list(voice.SPEAKERS), list(voice.JUDGE_SPEAKERS)
    lesson: Say = lambda words, i, g: voice.say(words, other[i % len(other)], i // len(other) % 2 == 0, g)  # noqa: E731
    return Source(
        "TOY: an embedded source-filter voice is both the expressive and the flat speaker; no human speech in it",
        say(True, own), say(False, own), say(True, own), lesson,
    )  # fmt: skip


def recorded(path: str | Path) -> Source:
    """People (FSDD), with flat synthetic speech from eSpeak NG or, where it is missing, from the toy voice."""
    corpus = fsdd.Fsdd(path)
    people, own, other = corpus.speakers, list(voice.SPEAKERS), list(voice.JUDGE_SPEAKERS)
    machine = espeak.available()

    def person(takes: Sequence[int]) -> Say:
        return lambda words, i, g: corpus.say(words, people[i % len(people)], takes, g)

    def flat(words: tuple[int, ...], i: int, g: torch.Generator) -> Spoken:
        return espeak.say(words, espeak.VOICES[i % 4], g) if machine else voice.say(words, own[i % len(own)], False, g)

    def lesson(words: tuple[int, ...], i: int, g: torch.Generator) -> Spoken:
        if i % 2:
            return corpus.say(words, people[i // 2 % len(people)], fsdd.JUDGE, g)
        if machine and i % 4:
            return espeak.say(words, espeak.JUDGE_VOICES[i // 4 % len(espeak.JUDGE_VOICES)], g)
        return voice.say(words, other[i // 4 % len(other)], i // 4 % 2 == 0, g)

    toy = "the embedded toy voice, flat mode (eSpeak NG is not installed)"
    synthetic = f"eSpeak NG ({machine}), intonation range 0" if machine else toy
    refused = f"; {len(corpus.refused)} files refused, first {corpus.refused[0]}" if corpus.refused else ""
    real = f"{len(corpus.words)} recordings of {len(people)} people from {path}"
    description = f"REAL: {real}{refused}; flat synthetic speech from {synthetic}"
    return Source(description, person(fsdd.TRAIN), flat, person(fsdd.TEST), lesson)


def texts(
    count: int, words: tuple[int, int], generator: torch.Generator, avoid: set[tuple[int, ...]]
) -> list[tuple[int, ...]]:
    """Random digit strings of words[0]..words[1] digits, none of them in `avoid`."""
    made: list[tuple[int, ...]] = []
    while len(made) < count:
        length = int(torch.randint(words[0], words[1] + 1, (), generator=generator))
        text = tuple(torch.randint(10, (length,), generator=generator).tolist())
        if text not in avoid:
            made.append(text)
    return made


def shuffled(items: Sequence[tuple[int, ...]], seed: int) -> list[tuple[int, ...]]:
    """The items in a random order."""
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed))
    return [items[i] for i in order.tolist()]


def record(folder: Path, path: str | None, sizes: Sizes, seed: int, progress: Any = iter) -> str:
    """Let everybody speak; writes `speech.pt` and returns a description of the source."""
    source = embedded() if path is None else recorded(path)
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randperm(100, generator=generator)[: sizes.held_out].tolist()
    held_out: set[tuple[int, ...]] = {(pair // 10, pair % 10) for pair in pairs}
    test = [sorted(held_out)[i % len(held_out)] for i in range(sizes.tests)]

    def two_thirds_expressive(words: tuple[int, ...], i: int, g: torch.Generator) -> Spoken:
        return source.flat(words, i, g) if i % 3 == 2 else source.expressive(words, i, g)

    plan: dict[str, tuple[Say, list[tuple[int, ...]]]] = {
        "real": (source.expressive, texts(sizes.real, (1, 2), generator, held_out)),
        "flat": (source.flat, texts(sizes.flat, (1, 2), generator, held_out)),
        "codec": (two_thirds_expressive, texts(sizes.codec, (1, 2), generator, held_out)),
        "test": (source.test, test),
        "lesson": (source.lesson, texts(sizes.lessons, (1, 3), generator, set())),
    }
    todo = [(name, say, text, i) for name, (say, rows) in plan.items() for i, text in enumerate(rows)]
    spoken: dict[str, list[dict[str, Any]]] = {name: [] for name in plan}
    for name, say, text, i in progress(todo):
        spoken[name].append(asdict(say(text, i, generator)))
    torch.save(spoken, folder / "speech.pt")
    return source.description


def heard(folder: Path, kind: str) -> list[Spoken]:
    """Read back one part of what `record` wrote: "real", "flat", "test" or "lesson"."""
    return [Spoken(**row) for row in torch.load(folder / "speech.pt", weights_only=True)[kind]]


def tokenize(folder: Path, sizes: Sizes, seed: int, progress: Any = iter) -> None:
    """Fit the codec and write `codec.pt`, `real.parquet`, `flat.parquet` and `test.parquet`.

    The codec has speech of its own to learn from, as those of real systems have: scarce is what the policy is taught.
    """
    parts = {kind: heard(folder, kind) for kind in ("codec", "real", "flat", "test")}
    frames = {kind: analyse([s.waveform for s in rows], f0=[s.f0 for s in rows]) for kind, rows in parts.items()}
    by_speaker: dict[str, list[Any]] = {}
    for kind in ("codec", "real", "flat"):
        for spoken, frame in zip(parts[kind], frames[kind], strict=True):
            by_speaker.setdefault(spoken.speaker, []).append(frame)
    timbres = {speaker: timbre(rows) for speaker, rows in by_speaker.items()}
    codec = Codec()
    rows = torch.stack([timbres[spoken.speaker] for spoken in parts["codec"]])
    codec_fit.fit(codec, frames["codec"], rows, sizes.codec_steps, seed=seed, progress=progress)
    codec.save(folder / "codec.pt")
    del parts["codec"]
    made = {
        kind: [codec.tokenize(f, timbres[s.speaker]) for s, f in zip(parts[kind], frames[kind], strict=True)]
        for kind in parts
    }
    generator = torch.Generator().manual_seed(seed)
    for kind in parts:
        pool = "real" if kind == "test" else kind
        styles = _references(parts[kind], parts[pool], generator)
        utterances = [
            Utterance(
                f"{kind}-{i:04d}",
                Prompt(
                    list(s.words), Style(made[pool][styles[i]], list(parts[pool][styles[i]].words)), timbres[s.speaker]
                ),
                tokens,
                "real" if s.source != "flat" else "flat",
            )
            for i, (s, tokens) in enumerate(zip(parts[kind], made[kind], strict=True))
        ]
        write_utterances(folder / f"{kind}.parquet", utterances)


def _references(rows: Sequence[Spoken], pool: Sequence[Spoken], generator: torch.Generator) -> list[int]:
    """For each utterance another one of the same speaker, whose prosody is its style prefix."""
    chosen = []
    for row in rows:
        same = [
            j for j, other in enumerate(pool) if other.speaker == row.speaker and other.waveform is not row.waveform
        ]
        chosen.append(same[int(torch.randint(len(same), (), generator=generator))])
    return chosen


def teach(folder: Path, name: str, width: int, sizes: Sizes, seed: int, progress: Any = iter) -> None:
    """Train a recogniser on the lessons, half of them vocoded, and write it to `name`."""
    spoken = heard(folder, "lesson")
    half = spoken[: len(spoken) // 2]
    waves: list[Tensor] = [*ear.vocoded(half, seed), *(s.waveform for s in spoken[len(spoken) // 2 :])]
    listener = ear.Ear(width)
    ear.fit(
        listener,
        [(wave, s.words) for wave, s in zip(waves, spoken, strict=True)],
        sizes.ear_steps,
        seed=seed,
        progress=progress,
    )
    listener.save(folder / name)


def recognise_speakers(folder: Path, seed: int, progress: Any = iter) -> None:
    """Train the speaker embedding on the lessons, half of them vocoded, and write it to `speaker.pt`."""
    spoken = heard(folder, "lesson")
    half = len(spoken) // 2
    for _ in progress(range(1)):
        fit_speakers(spoken, ear.vocoded(spoken[:half], seed)).save(folder / "speaker.pt")
