"""From clips to a listening test: one page per rater, and the key that says what each of them heard."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from seaalign.listening.clips import Clip
from seaalign.listening.design import Design, Sound, Trial, design
from seaalign.listening.page import page_data, write_page
from seaalign.listening.sound import excerpt, levelled, load_all, spoil, volume_check
from seaalign.listening.words import load_words
from seaalign.report.players import mp3
from seaalign.sampling.progress import track
from seaalign.storage.columns import whole_folder, write_json

LARGEST = 25_000_000
CODING: dict[str, Any] = {"compression_level": 0.1, "bitrate_mode": "VARIABLE"}
"""About 70 kbit/s at 24 kHz."""
_SHORT = 3.0
_VOLUME = ("volume", 0)


@dataclass(frozen=True)
class Built:
    """A listening test on disk.

    Args:
        folder: holds key.json, which stays with you, and pages/, which go to the raters.
        test: its id.
        pages: one for each rater.
        trials: how many clips or comparisons each of them judges, by test.
        seconds: of sound in the longest page.
        largest: size of the largest page, bytes.
        seed: of all that was drawn.
    """

    folder: Path
    test: str
    pages: list[Path]
    trials: dict[str, int]
    seconds: float
    largest: int
    seed: int


def build_listening_test(
    clips: Iterable[Clip],
    folder: str | Path,
    tests: Sequence[str] = ("nmos",),
    *,
    raters: int = 20,
    ties: bool = True,
    language: str | Path = "en",
    consent: str | None = None,
    seed: int | None = None,
    **layout: Any,
) -> Built:
    """Build a listening test that runs from files: randomised, double-blind, every rater hears every system.

    Args:
        clips: of all systems; texts that not all of them say are left out.
        folder: a new one, whole or not there.
        tests: sections of each page: "nmos" naturalness 1-5, "smos" similarity to a speaker heard for 3 s 1-5, "ab"
            which of two sounds more natural.
        raters: how many.
        ties: may a rater of "ab" say that there is no difference?
        language: of the page: "en", "th", "lo", "vi", "id", or a file like those in seaalign/listening/languages.
        consent: what raters agree to, in their language; default: a sentence of the language file.
        seed: of all that is drawn; default: a new one, kept in the key.
        **layout: what else `design` takes, by name, namely the following.
        texts: how many each rater hears, in all systems; default all. With fewer than there are, raters share them out.
        systems: which, and only these are judged; default all.
        compare: pairs of systems for "ab"; default all pairs.
        people: recordings for screening; default: the system "recordings". Half of them are spoiled.
        screening: how many recordings, and how many spoiled ones, are hidden in each section (2).
        again: how many clips of each section come twice, to see whether raters agree with themselves (0).

    Raises:
        ValueError: an unknown test or system, fewer than two texts, no speaker to compare with in "smos", silence.
        FileExistsError: the folder is there already.

    Source: Geng et al. 2026, sec. 5 (NMOS, SMOS); ITU-T P.800 (five grades).
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists: a test that was sent out needs its key, so name another folder")
    if raters < 1:
        raise ValueError(f"a test needs raters, got {raters}")
    words = load_words(language, consent)
    seed = secrets.randbits(32) if seed is None else seed
    made = design(list(clips), tests, seed, **layout)
    names = [f"{rater + 1:02d}" for rater in range(raters)]
    plans = {name: {test: made.section(test, i) for test in tests} for i, name in enumerate(names)}
    sounds = sorted({sound for plan in plans.values() for trial in _all(plan) for sound in trial.sounds})
    coded, rate, seconds = _coded(made, sounds)
    test = f"{Random(f'{seed} test').getrandbits(40):010x}"
    hashes = {}
    with whole_folder(folder) as draft:
        for name, plan in plans.items():
            data = page_data(test, name, plan, coded, words, ties, Random(f"{seed} sounds {name}"))
            hashes[name] = write_page(draft / "pages" / f"rater-{name}.html", data, words)
        settings = {"tests": list(tests), "ties": ties, "language": words["code"], "rate": rate, "seed": seed}
        write_json(draft / "key.json", key_of(made, test, plans, hashes, settings))
    pages = [folder / "pages" / f"rater-{name}.html" for name in names]
    longest = max(sum(seconds[sound] for trial in _all(plan) for sound in trial.sounds) for plan in plans.values())
    counts = {name: len(part) for name, part in plans[names[0]].items()}
    return Built(folder, test, pages, counts, longest, max(page.stat().st_size for page in pages), seed)


def _all(plan: dict[str, list[Trial]]) -> list[Trial]:
    return [trial for part in plan.values() for trial in part]


def key_of(
    made: Design,
    test: str,
    plans: Mapping[str, dict[str, list[Trial]]],
    hashes: Mapping[str, str],
    settings: dict[str, Any],
) -> dict[str, Any]:
    """The key as it is written: what each trial of each rater is. It alone tells systems by name."""
    sheets = {}
    for name, plan in plans.items():
        trials = [{"id": t.id, "test": t.test, "role": t.role, "clips": t.clips} for t in _all(plan)]
        sheets[name] = {"page": hashes[name], "trials": trials}
    head = {"kind": "listening test", "version": 1, "test": test, "settings": settings, "systems": made.systems}
    return {**head, "clips": [_listed(clip) for clip in made.clips], "raters": sheets}


def _listed(clip: Clip) -> dict[str, Any]:
    return {name: str(part) if isinstance(part, Path) else part for name, part in asdict(clip).items()}


def _coded(made: Design, sounds: Sequence[Sound]) -> tuple[dict[Sound, bytes], int, dict[Sound, float]]:
    """All sounds in use as MP3, with the one to set the volume by; their rate (Hz) and length (s)."""
    paths = [made.clips[i].reference if kind == "reference" else made.clips[i].audio for kind, i in sounds]
    files = [path for path in dict.fromkeys(paths) if path is not None]
    loaded, rate = load_all(files)
    read = dict(zip(files, loaded, strict=True))
    waves: list[Tensor] = [volume_check(rate)]
    for (kind, i), path in zip(sounds, paths, strict=True):
        wave = read[path]  # type: ignore[index]
        if kind == "spoiled":
            wave = spoil(wave, rate, torch.Generator().manual_seed(i))
        waves.append(excerpt(wave, rate, _SHORT) if kind == "reference" else wave)
    speakers = {made.clips[i].reference for kind, i in sounds if kind == "reference"}
    short = [path for path in files if path in speakers and _seconds(read[path], rate) < _SHORT]
    if short:
        warnings.warn(f"{len(short)} references are shorter than {_SHORT} s, as {short[0]}", stacklevel=3)
    every = [_VOLUME, *sounds]
    waves = levelled(waves, rate, ["the test sound", *paths])
    coded = {
        key: mp3(wave, rate, **CODING) for key, wave in track(list(zip(every, waves, strict=True)), "coding", True)
    }
    return coded, rate, {key: _seconds(wave, rate) for key, wave in zip(every, waves, strict=True)}


def _seconds(wave: Tensor, rate: int) -> float:
    return len(wave) / rate
