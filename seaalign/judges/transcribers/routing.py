"""Which transcriber listens: one for each language, or a plain function of your own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from seaalign.judges.transcribers.base import Engine, Transcriber

Heard = Callable[[list[Tensor], int], Sequence[str]]


class Function(Engine):
    """A function of (waveforms, sample rate) as a transcriber: any recogniser that is already in your code.

    Known by its name and source text, so verdicts made by an edited function are not taken for those of the new one.
    What it reads from elsewhere is not seen: give the function an attribute `fingerprint` (a str) that tells.

    Args:
        function: gets waveforms (S,), float32 on the CPU, of 25 ms or more, and their rate (Hz); returns their texts.
    """

    sample_rate = None

    def __init__(self, function: Heard) -> None:
        thing = function if hasattr(function, "__qualname__") else type(function)
        told = getattr(function, "fingerprint", None)
        try:
            source = None if told else inspect.getsource(thing)  # type: ignore[arg-type]
        except (OSError, TypeError):  # typed at a prompt, or not written in Python
            source = None
        super().__init__(thing.__qualname__, module=thing.__module__, source=source, told=told)
        self._function = function

    def recognise(self, waveforms: list[Tensor], sample_rate: int, language: str | None) -> list[str]:
        return self._function(waveforms, sample_rate)  # type: ignore[return-value]  # checked by the caller


def as_transcriber(thing: Transcriber | Heard) -> Transcriber:
    """A transcriber as it is, a function as a `Function`.

    Raises:
        TypeError: neither; a class that was not constructed is named.

    Example:
        >>> import torch
        >>> ear = as_transcriber(lambda waveforms, sample_rate: [f"{len(w) / sample_rate:.1f} s" for w in waveforms])
        >>> ear.transcribe([torch.zeros(1600), torch.zeros(0)], 16000)
        ['0.1 s', '']
    """
    if isinstance(thing, Transcriber):
        return thing
    if isinstance(thing, type):
        raise TypeError(f"{thing.__name__} is a class: construct it, as in {thing.__name__}(...)")
    if not callable(thing):
        raise TypeError(
            f"{thing!r} is no transcriber: pass one, or a function (waveforms, sample_rate) -> list of texts"
        )
    return Function(thing)


class ByLanguage(Transcriber):
    """Sends each call to the transcriber of its language.

    Args:
        transcribers: by language code; the entry None serves every language that is not named.

    Raises:
        ValueError: no entry.

    Example:
        >>> ears = ByLanguage({"th": lambda waves, rate: ["thai"], "lo": lambda waves, rate: ["lao"]})
        >>> import torch
        >>> ears.transcribe([torch.zeros(1600)], 16000, "lo")
        ['lao']
        >>> ears.transcribe([torch.zeros(1600)], 16000, "km")
        Traceback (most recent call last):
        ...
        ValueError: no transcriber for language 'km', only for 'lo', 'th': add one, or a default under None
    """

    def __init__(self, transcribers: Mapping[str | None, Transcriber | Heard]) -> None:
        if not transcribers:
            raise ValueError('ByLanguage got no transcriber: give at least one, as in {"th": Whisper()}')
        order = sorted(transcribers, key=lambda language: (language is None, language or ""))
        self.transcribers = {language: as_transcriber(transcribers[language]) for language in order}
        routes = {language or "": ear.fingerprint for language, ear in self.transcribers.items()}
        named = [f"{language or 'others'}: {ear.name}" for language, ear in self.transcribers.items()]
        super().__init__(", ".join(named), routes=routes)

    def transcribe(self, waveforms: Sequence[Tensor], sample_rate: int, language: str | None = None) -> list[str]:
        """See `Transcriber.transcribe`.

        Raises:
            ValueError: a language without a transcriber, where there is no default.
        """
        ear = self.transcribers.get(language) or self.transcribers.get(None)
        if ear is None:
            known = ", ".join(map(repr, self.transcribers))
            raise ValueError(
                f"no transcriber for language {language!r}, only for {known}: add one, or a default under None"
            )
        return ear.transcribe(waveforms, sample_rate, language)


def names_of(ear: Transcriber) -> list[str]:
    """What listens: the name of a transcriber, or of each that it sends calls to.

    >>> names_of(ByLanguage({"th": Function(max), "lo": Function(min)}))
    ['min', 'max']
    """
    return (
        [ear.name]
        if not isinstance(ear, ByLanguage)
        else [n for each in ear.transcribers.values() for n in names_of(each)]
    )
