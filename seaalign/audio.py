"""The one door to torchaudio, speechbrain and soundfile: nothing else in seaalign imports them.

torchaudio is compiled against one line of torch releases, so a fresh environment can hold a pair that does not load.
Every other part of the library works without it; what needs sound asks here and is told exactly what to install.
"""

from __future__ import annotations

import importlib
import os
import tempfile
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

_PAIR = 'pip install "torch>=2.11,<2.13" "torchaudio==2.11.*"'
FLOOR = 1e-5
"""Added to mel power before the logarithm, about 50 dB below speech of normal level."""


def _door(name: str, install: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:  # absent, built for another torch, for another CUDA
        raise ImportError(
            f"{name} cannot be loaded beside torch {torch.__version__} ({type(error).__name__}: {error}). "
            f"Install: {install}"
        ) from error


def torchaudio() -> ModuleType:
    """Return torchaudio.

    Raises:
        ImportError: Missing, or built for another torch; the message holds the command that installs a fitting pair.
    """
    return _door("torchaudio", _PAIR)


def speechbrain() -> ModuleType:
    """Return speechbrain (which itself needs torchaudio).

    Raises:
        ImportError: It, or a torchaudio that fits this torch, is missing.
    """
    torchaudio()
    # Its first import changes settings of torch for the whole program (TF32: training would lose precision unasked),
    # unless this variable names them.
    ours = "SB_DISABLE_QUIRKS" not in os.environ
    if ours:
        os.environ["SB_DISABLE_QUIRKS"] = "allow_tf32,disable_jit_profiling,disable_cudnn_benchmarking"
    try:
        return _door("speechbrain", f"{_PAIR} speechbrain")
    finally:
        if ours:
            del os.environ["SB_DISABLE_QUIRKS"]


def speechbrain_recogniser(
    source: str, interface: str, device: torch.device, savedir: str | os.PathLike[str] | None = None
) -> Any:
    """A speech recogniser of speechbrain, loaded.

    Args:
        source: Name on the Hugging Face hub, or a folder with hyperparams.yaml. A recipe can run any code: trust it.
        interface: Its class in speechbrain.inference.ASR.
        device: Where it runs.
        savedir: Where downloaded files go; None = the cache of Hugging Face.

    Raises:
        ImportError: speechbrain does not load.
        ValueError: No such class, or one without `transcribe_batch`.
    """
    speechbrain()
    found: Any = getattr(_door("speechbrain.inference.ASR", f"{_PAIR} speechbrain"), interface, None)
    if not hasattr(found, "transcribe_batch"):
        raise ValueError(f"speechbrain has no recogniser {interface!r}: the model's page names one, as EncoderASR")
    return found.from_hparams(source=source, savedir=savedir and str(savedir), run_opts={"device": str(device)})


def speaker_encoder(source: str, savedir: str | os.PathLike[str] | None = None, device: str = "cpu") -> Any:
    """A speaker encoder of speechbrain: a function from waveforms and their rate to embeddings (B, D).

    Args:
        source: Name on the Hugging Face hub, as speechbrain/spkrec-ecapa-voxceleb, or a folder with hyperparams.yaml.
            A recipe can run any code: trust it.
        savedir: Where downloaded files go; None = the cache of Hugging Face.
        device: Where it runs.

    Raises:
        ImportError: speechbrain does not load.
    """
    speechbrain()
    found: Any = _door("speechbrain.inference.speaker", f"{_PAIR} speechbrain").EncoderClassifier
    model = found.from_hparams(source=source, savedir=savedir and str(savedir), run_opts={"device": device})
    rate = int(getattr(model.hparams, "sample_rate", 16_000))

    def embed(waveforms: Sequence[Tensor], sample_rate: int) -> Tensor:
        # one by one: the encoder normalises over time, so padding would change what it says
        heard = [resample(wave.to(device), sample_rate, rate) for wave in waveforms]
        return torch.stack([model.encode_batch(wave[None]).squeeze().detach().cpu() for wave in heard])

    return embed


def soundfile() -> ModuleType:
    """The package soundfile, or an error that says how to get it."""
    return _door("soundfile", "pip install soundfile")


def load(path: str | os.PathLike[str], sample_rate: int | None = None) -> tuple[Tensor, int]:
    """Read an audio file as mono float samples.

    Channels are averaged: a stereo file comes back as its mid signal.

    Args:
        path: Any file libsndfile reads (WAV, FLAC, OGG, ...).
        sample_rate: Resample to this rate (Hz); None keeps the file's own.

    Returns:
        Samples in [-1, 1] (T,) float32, and their rate (Hz).

    Raises:
        ValueError: The file is not audio, holds no samples, or holds NaN or infinite ones.
        FileNotFoundError: There is no such file.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"no audio file at {source}: check the path or the manifest's root folder")
    try:
        data, rate = soundfile().read(source, dtype="float32", always_2d=True)
    except RuntimeError as error:
        raise ValueError(f"{source} is not readable audio ({error}): convert it to WAV or drop the row") from error
    waveform = torch.from_numpy(data).mean(dim=1)
    check(waveform, str(source))
    if sample_rate is not None and sample_rate != rate:
        waveform, rate = resample(waveform, rate, sample_rate), sample_rate
    return waveform, int(rate)


def check(waveform: Tensor, name: str = "waveform") -> None:
    """Refuse a waveform nothing can be measured on.

    Raises:
        ValueError: Not one-dimensional, empty, or with NaN or infinite samples; the message counts them.

    >>> check(torch.tensor([0.0, float("nan")]), "a.wav")
    Traceback (most recent call last):
    ...
    ValueError: a.wav holds 1 NaN or infinite of 2 samples: re-export the file or drop the row
    """
    if waveform.ndim != 1:
        raise ValueError(f"{name} has shape {tuple(waveform.shape)}, expected (T,): mix it down to one channel first")
    if waveform.numel() == 0:
        raise ValueError(f"{name} holds 0 samples: drop the row or re-export the file")
    wrong = int((~torch.isfinite(waveform)).sum())
    if wrong:
        count = waveform.numel()
        raise ValueError(f"{name} holds {wrong} NaN or infinite of {count} samples: re-export the file or drop the row")


def save(path: str | os.PathLike[str], waveform: Tensor, rate: int) -> int:
    """Write 16-bit WAV, whole or not at all: a full disk or an interrupt leaves no half-written file at `path`.

    Args:
        path: Where to; the folder must exist.
        waveform: Samples (T,); those outside [-1, 1] are clipped, counted and reported by a warning.
        rate: Sample rate (Hz).

    Returns:
        How many samples were clipped.

    Raises:
        ValueError: The waveform is empty or holds NaN.
    """
    target = Path(path)
    waveform = waveform.detach().cpu().float()
    check(waveform, str(target))
    clipped = int((waveform.abs() > 1).sum())
    if clipped:
        peak = float(waveform.abs().max())
        message = f"{target}: {clipped} samples clipped (peak {peak:.2f}): scale the waveform to avoid it"
        warnings.warn(message, stacklevel=2)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            soundfile().write(file, waveform.clamp(-1, 1).numpy(), rate, format="WAV", subtype="PCM_16")
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return clipped


def resample(waveform: Tensor, rate: int, new_rate: int) -> Tensor:
    """Band-limited resampling of (..., T) from `rate` to `new_rate` (Hz).

    >>> resample(torch.zeros(1600), 16000, 8000).shape
    torch.Size([800])
    """
    if rate <= 0 or new_rate <= 0:
        raise ValueError(f"sample rates must be positive, got {rate} and {new_rate}: read the rate from the file")
    return waveform if rate == new_rate else torchaudio().functional.resample(waveform, rate, new_rate)


@lru_cache(maxsize=8)
def _mel(rate: int, n_mels: int, frame_rate: int) -> torch.nn.Module:
    if rate % frame_rate:
        raise ValueError(
            f"{frame_rate} frames a second do not divide {rate} Hz: resample, or choose another frame rate"
        )
    # 32 ms, up to the next power of two: 256 at 8 kHz, 512 at 16 kHz, 1024 at 24 kHz.
    n_fft = 1 << (int(0.032 * rate) - 1).bit_length()
    return torchaudio().transforms.MelSpectrogram(
        sample_rate=rate, n_fft=n_fft, hop_length=rate // frame_rate, n_mels=n_mels, power=2.0, pad_mode="constant"
    )


def log_mel(waveform: Tensor, rate: int, n_mels: int = 40, frame_rate: int = 100) -> Tensor:
    """Natural logarithm of mel power, with `FLOOR` added.

    Args:
        waveform: Samples (..., T).
        rate: Sample rate (Hz).
        n_mels: Mel bands between 0 Hz and half the sample rate.
        frame_rate: Frames a second; frame i is centred on sample ``i * rate / frame_rate``.

    Returns:
        (..., F, n_mels) with ``F = T // (rate / frame_rate) + 1``.

    >>> log_mel(torch.zeros(800), 8000).shape
    torch.Size([11, 40])
    """
    power: Tensor = _mel(rate, n_mels, frame_rate)(waveform)
    return torch.log(power + FLOOR).transpose(-1, -2)
