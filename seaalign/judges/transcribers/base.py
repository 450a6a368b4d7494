"""What every transcriber is, and what those that hold a model share: waveforms in, one text for each out."""

from __future__ import annotations

import hashlib
import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from seaalign.audio import check, resample

SHORTEST = 0.025
"""Seconds. Nothing can be said in less, and no recogniser has a frame shorter: heard as silence, without asking."""


class Transcriber(ABC):
    """Writes down what is said.

    Subclass it and give `transcribe`; a function of waveforms and sample rate is enough too (`as_transcriber`).

    Attributes:
        name: how reports and messages call it.
        settings: what its answers depend on (model, precision, beam, ...), as JSON values.
    """

    name: str = ""
    settings: dict[str, Any]

    def __init__(self, name: str = "", **settings: Any) -> None:
        self.name = name or type(self).__name__
        self.settings = settings

    @abstractmethod
    def transcribe(self, waveforms: Sequence[Tensor], sample_rate: int, language: str | None = None) -> list[str]:
        """One text per waveform, in order; the same one whatever other waveforms are in the call.

        Args:
            waveforms: samples (S,) each, all in one language.
            sample_rate: of all of them, Hz.
            language: its code ("th", "lo", ...), or None where it is unknown.

        Returns:
            Texts; "" where nothing was heard.
        """
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """32 hex digits of class, name and settings: verdicts are kept under it, so other settings are asked anew.

        A model is known by its name. One that is trained further in the same folder is not noticed: rename it.
        """
        said = json.dumps([type(self).__qualname__, self.name, self.settings], sort_keys=True, default=str)
        return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


class Engine(Transcriber):
    """A transcriber around a model: subclasses give `recognise`, which gets only what a model can hear.

    Waveforms are checked (one with NaN is an error, never a text), resampled, and heard without gradients. Those
    under 25 ms are silence, "". What comes back is checked too.

    Attributes:
        sample_rate: what the model wants, Hz; None where it takes any.
    """

    sample_rate: int | None = 16_000

    @abstractmethod
    def recognise(self, waveforms: list[Tensor], sample_rate: int, language: str | None) -> list[str]:
        """Texts of waveforms (S,), float32 on the CPU, at `self.sample_rate` and 25 ms or longer."""
        raise NotImplementedError

    def transcribe(self, waveforms: Sequence[Tensor], sample_rate: int, language: str | None = None) -> list[str]:
        """See `Transcriber.transcribe`.

        Raises:
            ValueError: a waveform that is not (S,), holds NaN or infinite samples, or integers; its index is named.
            TypeError, ValueError: the model did not answer with one text per waveform.
        """
        rate = self.sample_rate or sample_rate
        texts = [""] * len(waveforms)
        audible = {}
        for index, waveform in enumerate(waveforms):
            sound = prepared(waveform, f"waveform {index}")
            if len(sound) >= SHORTEST * sample_rate:
                audible[index] = resample(sound, sample_rate, rate)
        if audible:
            # Reading through a DataLoader or making room for an adapter draws random numbers: not from the program's.
            devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
            with torch.no_grad(), torch.random.fork_rng(devices):
                heard = self.recognise(list(audible.values()), rate, language)
            for index, text in zip(audible, checked(heard, len(audible), self.name), strict=True):
                texts[index] = text.strip()
        return texts


def prepared(waveform: Tensor, name: str) -> Tensor:
    """The waveform (S,) as float32 on the CPU, or a ValueError that names it; S may be 0."""
    if not waveform.is_floating_point():
        raise ValueError(f"{name} holds {waveform.dtype}, expected floats in [-1, 1]: divide 16-bit samples by 32768")
    if waveform.shape != (0,):
        check(waveform, name)
    return waveform.detach().to("cpu", torch.float32)


def checked(texts: Any, count: int, name: str) -> list[str]:
    """What a recogniser answered, if it is one text per waveform; a judge fails closed.

    Raises:
        TypeError: not a list of texts.
        ValueError: not as many as waveforms.

    Example:
        >>> checked(["a", None], 2, "mine")
        Traceback (most recent call last):
        ...
        TypeError: mine answered None for waveform 1 of 2: it must return a str for each, "" where nothing was said
    """
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise TypeError(f"{name} answered {type(texts).__name__} for {count} waveforms: it must return a list of str")
    if len(texts) != count:
        raise ValueError(f"{name} answered {len(texts)} texts for {count} waveforms: it must return one for each")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(
                f"{name} answered {text!r} for waveform {index} of {count}: it must return a str for each, "
                '"" where nothing was said'
            )
    return list(texts)


def require(package: str, extra: str, who: str) -> ModuleType:
    """An optional package, imported now.

    Raises:
        ImportError: it does not load; the message says what to install.
    """
    try:
        return importlib.import_module(package)
    except (ImportError, OSError, RuntimeError) as error:  # absent, or built for other versions of what it needs
        raise ImportError(
            f"{who} needs {package}, which cannot be loaded ({type(error).__name__}: {error}). "
            f'Install: pip install "seaalign[{extra}]"'
        ) from error


def place(device: str | torch.device | None) -> torch.device:
    """The device asked for; None = the GPU where there is one."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
