"""The sound of a recording, whatever it is kept as."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor

from seaalign import audio
from seaalign.records.recording import Recording


def sound_of(recording: Recording) -> tuple[Tensor, int]:
    """Samples of a recording, from its start and for its duration where it has them; channels are averaged.

    Of a long file only the part that is asked for is read.

    Returns:
        Samples (S,) in [-1, 1], float32, and their rate (Hz).

    Raises:
        ValueError: there is no audio, it cannot be read, it ends before the start, or holds NaN or infinite samples.

    Example:
        >>> part = Recording("u1", "hello", (torch.zeros(16000), 16000), start=0.25, duration=0.5)
        >>> sound_of(part)[0].shape
        torch.Size([8000])
    """
    kept = recording.audio
    if kept is None:
        raise ValueError("no audio: the recording has neither speech tokens nor sound; give it one of them")
    if isinstance(kept, tuple):
        whole, rate = kept
        first, count = _part(recording, rate, len(whole))
        waveform = whole[first:] if count is None else whole[first : first + count]
    else:
        waveform, rate = _read(recording, kept)
    name = str(kept) if isinstance(kept, str | Path) else f"the audio of {recording.id!r}"
    audio.check(waveform, name)
    return waveform, rate


def _read(recording: Recording, kept: Path | str | bytes) -> tuple[Tensor, int]:
    soundfile = audio.soundfile()
    try:
        with soundfile.SoundFile(io.BytesIO(kept) if isinstance(kept, bytes) else str(kept)) as file:
            first, count = _part(recording, file.samplerate, file.frames)
            file.seek(first)
            data = file.read(-1 if count is None else count, dtype="float32", always_2d=True)
            return torch.from_numpy(data).mean(dim=1), int(file.samplerate)
    except (OSError, RuntimeError) as error:  # libsndfile's errors are RuntimeErrors
        raise ValueError(f"the audio cannot be read: {error}; convert it to WAV, or leave the row out") from error


def _part(recording: Recording, rate: int, frames: int) -> tuple[int, int | None]:
    """The first sample, and how many; None = all that follow."""
    first = round((recording.start or 0.0) * rate)
    if first and first >= frames:
        raise ValueError(
            f"the audio ends before the start: it has {frames / rate:.2f} s, and start is {recording.start} s"
        )
    return first, None if recording.duration is None else round(recording.duration * rate)
