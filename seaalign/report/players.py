"""The same sentence from every system, to be heard without knowing which is which."""

from __future__ import annotations

import base64
import io
import random
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from seaalign.audio import load, soundfile
from seaalign.report.parts import Clip, Listening, Sentence
from seaalign.sampling.progress import track

MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
"""What MP3 knows, Hz."""
Heard = Mapping[str, tuple[Path, str]]
"""Of one sentence: the file of each system, and what is told of it once it is revealed."""


def listening(
    sentences: Mapping[str, tuple[str, Heard]], most: int, limit: int, seed: int, missing: list[str]
) -> Listening | None:
    """As many sentences as fit, drawn by the seed; those that most systems said come first.

    Args:
        sentences: text and files by id.
        most: how many sentences.
        limit: bytes that they may take in the page.
        seed: of the draw and of the order within each sentence.
        missing: what could not be read is noted here.

    Returns:
        None where there is nothing to hear.
    """
    draw = random.Random(seed)
    ids = sorted(sentences)
    draw.shuffle(ids)
    ids.sort(key=lambda key: -len(sentences[key][1]))
    found: list[Sentence] = []
    why = f"--sentences {most}"
    for key in track(ids, "compressing sounds", True):
        if len(found) == most:
            break
        made = _sentence(key, *sentences[key], draw, missing)
        size = sum(len(clip.uri) for clip in made.clips)
        if size > limit:
            why = "the size of the page"
            break
        limit -= size
        found += [made] if made.clips else []
    return Listening(found, len(ids), why) if found else None


def labels(count: int) -> list[str]:
    """Letters that say nothing.

    >>> labels(3), labels(28)[-2:]
    (['A', 'B', 'C'], ['AA', 'AB'])
    """
    letters = string.ascii_uppercase
    return [letters[i] if i < 26 else letters[i // 26 - 1] + letters[i % 26] for i in range(count)]


def encoded(path: Path) -> str:
    """A sound file as a data: URI that every browser plays, much smaller than its WAV: MP3, at most 114 kbit/s.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no sound.
    """
    wave, rate = load(path)
    if "MP3" in soundfile().available_formats() and rate in MP3_RATES:
        sound, kind = mp3(wave.clamp(-1, 1), rate, compression_level=0.3, bitrate_mode="CONSTANT"), "audio/mpeg"
    else:  # a libsndfile older than 1.1, or a rate that MP3 does not have
        sound, kind = _written(wave.clamp(-1, 1), rate, format="FLAC", subtype="PCM_16"), "audio/flac"
    return f"data:{kind};base64,{base64.b64encode(sound).decode()}"


def mp3(waveform: Tensor, rate: int, **how: Any) -> bytes:
    """Samples (T,) as MP3, the one compressed format that soundfile writes and every browser plays.

    Args:
        waveform: samples between -1 and 1.
        rate: one of `MP3_RATES`, Hz.
        how: `compression_level` and `bitrate_mode` of `soundfile.write`.
    """
    return _written(waveform, rate, format="MP3", subtype="MPEG_LAYER_III", **how)


def _written(waveform: Tensor, rate: int, **how: Any) -> bytes:
    file = io.BytesIO()
    soundfile().write(file, waveform.numpy(), rate, **how)
    return file.getvalue()


def _sentence(key: str, text: str, heard: Heard, draw: random.Random, missing: list[str]) -> Sentence:
    names = sorted(heard)
    draw.shuffle(names)
    sounds: list[tuple[str, str]] = []
    for name in names:
        path, truth = heard[name]
        try:
            sounds.append((encoded(path), truth))
        except (OSError, ValueError) as error:
            missing.append(f"{name} cannot be heard saying {key}: {error}")
    clips = [Clip(label, uri, truth) for label, (uri, truth) in zip(labels(len(sounds)), sounds, strict=True)]
    return Sentence(key, text, clips)


def inside(root: Path, name: str) -> Path | None:
    """A file under a folder; None for one that lies outside, which a file from a stranger might name."""
    path = (root / name).resolve()
    return path if name and path.is_relative_to(root.resolve()) else None
