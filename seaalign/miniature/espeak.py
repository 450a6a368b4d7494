"""Flat synthetic digits: eSpeak NG with its intonation range set to zero, if the program or its library is installed.

It is optional (GPL-3; the program runs as a separate process, `espeakng-loader` brings it as a library) and it is never
downloaded from here. Voices for the language model's data and voices for the judges do not overlap.
"""

from __future__ import annotations

import ctypes
import importlib
import io
import shutil
import subprocess
import wave
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from seaalign.audio import resample
from seaalign.miniature.analysis import word_spans
from seaalign.miniature.fsdd import splice, trim
from seaalign.miniature.spoken import HOP, RATE, WORDS, Spoken, check_words

VOICES = ("en-us", "en-gb", "en-us+f3", "en-gb-scotland")
"""Voices of the flat training data."""
JUDGE_VOICES = (
    "en-gb-x-rp", "en-029", "en-us+m3", "en-gb+m7", "en-us+f2", "en-gb-x-gbclan+f4", "en-us+m1", "en-gb+f5",
)  # fmt: skip
"""Other voices, heard by the judges only."""
SPEEDS = (140, 165, 190)
"""Words a minute at which every digit is rendered."""
_SSML = '<speak><prosody range="0">{}</prosody></speak>'


def available() -> str | None:
    """How eSpeak NG can be reached: ``"program"``, ``"library"`` or None."""
    if shutil.which("espeak-ng"):
        return "program"
    try:
        importlib.import_module("espeakng_loader")
    except (ImportError, OSError):
        return None
    return "library"


def say(words: Sequence[int], voice: str, generator: torch.Generator) -> Spoken:
    """A flat string of digits: words from the rendered ones, at a random speed each, with jittered pauses.

    Args:
        words: Digits.
        voice: An eSpeak NG voice, for instance one of `VOICES`.
        generator: Draws speeds and pauses.

    Raises:
        ValueError: Empty or unknown words, or a voice eSpeak NG does not have.
        ImportError: eSpeak NG is not installed.
    """
    words = check_words(list(words))
    speeds = [SPEEDS[int(torch.randint(len(SPEEDS), (), generator=generator))] for _ in words]
    chosen = [digits(voice, speed)[word] for word, speed in zip(words, speeds, strict=True)]
    return splice(words, chosen, voice, "flat", generator)


@lru_cache(maxsize=64)
def digits(voice: str, speed: int) -> tuple[Tensor, ...]:
    """All ten digits in one voice at one speed, 8 kHz, trimmed; rendered once and kept in memory."""
    spoken = render(_SSML.format('<break time="600ms"/>'.join(f"{word}." for word in WORDS)), voice, speed)
    spans = word_spans(spoken, 300)
    if len(spans) == len(WORDS):
        parts = [spoken[a * HOP : b * HOP] for a, b in spans.tolist()]
    else:
        parts = [render(_SSML.format(word), voice, speed) for word in WORDS]
    return tuple(trim(part) for part in parts)


def render(ssml: str, voice: str, speed: int) -> Tensor:
    """Waveform at 8 kHz (T,) of marked-up text.

    Raises:
        ImportError: Neither program nor library is installed.
        ValueError: eSpeak NG refuses the voice or gives no sound.
    """
    way = available()
    if way is None:
        raise ImportError(
            'eSpeak NG is not installed: pip install "seaalign[espeak]", or the espeak-ng program of your system, '
            "or use the embedded voice's flat mode"
        )
    samples, rate = _program(ssml, voice, speed) if way == "program" else _library(ssml, voice, speed)
    if samples.numel() == 0:
        raise ValueError(f"eSpeak NG gave no sound for voice {voice!r}: see `espeak-ng --voices` for those it has")
    return resample(samples, rate, RATE)


def _program(ssml: str, voice: str, speed: int) -> tuple[Tensor, int]:
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-m", "--stdout", ssml]
    done = subprocess.run(command, capture_output=True, timeout=30, check=False)
    if done.returncode or not done.stdout:
        reason = done.stderr.decode(errors="replace").strip() or "no output"
        raise ValueError(f"eSpeak NG refused voice {voice!r}: {reason}; see `espeak-ng --voices` for those it has")
    with wave.open(io.BytesIO(done.stdout)) as file:
        rate = file.getframerate()
        # Written to a pipe, the header cannot know the length: take what is there.
        data = done.stdout[44:]
    return torch.frombuffer(bytearray(data[: len(data) // 2 * 2]), dtype=torch.int16).float() / 32768, rate


class _Voice(ctypes.Structure):
    """What eSpeak NG selects a voice by (espeak_VOICE of speak_lib.h)."""

    _fields_ = (
        ("name", ctypes.c_char_p), ("languages", ctypes.c_char_p), ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte), ("age", ctypes.c_ubyte), ("variant", ctypes.c_ubyte), ("xx1", ctypes.c_ubyte),
        ("score", ctypes.c_int), ("spare", ctypes.c_void_p),
    )  # fmt: skip


@lru_cache(maxsize=1)
def _engine() -> tuple[ctypes.CDLL, int, list[bytes], object]:
    """The library, its sample rate, the list its callback fills, and the callback (kept alive)."""
    loader = importlib.import_module("espeakng_loader")
    library = ctypes.CDLL(str(loader.get_library_path()))
    rate = library.espeak_Initialize(2, 0, str(loader.get_data_path()).encode(), 0x8000)  # synchronous; never exit()
    if rate <= 0:
        raise ImportError(f"espeakng-loader is installed but its library does not start (code {rate}): reinstall it")
    chunks: list[bytes] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def keep(samples: ctypes._Pointer[ctypes.c_short], count: int, _: int) -> int:
        if count > 0 and samples:
            chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    library.espeak_SetSynthCallback(keep)
    return library, int(rate), chunks, keep


def _library(ssml: str, voice: str, speed: int) -> tuple[Tensor, int]:
    library, rate, chunks, _ = _engine()
    chunks.clear()
    # Some names are languages rather than voices ("en-gb" is the language of the voice "en").
    language = _Voice(languages=voice.encode())
    if library.espeak_SetVoiceByName(voice.encode()) and library.espeak_SetVoiceByProperties(ctypes.byref(language)):
        return torch.zeros(0), rate
    library.espeak_SetParameter(1, speed, 0)
    text = ssml.encode()
    # UTF-8 (1), marked up (0x10), pause at the end (0x1000)
    library.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 1, 0, 0x1011, None, None)
    data = b"".join(chunks)
    return (torch.frombuffer(bytearray(data), dtype=torch.int16).float() / 32768 if data else torch.zeros(0)), rate
