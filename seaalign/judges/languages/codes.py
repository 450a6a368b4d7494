"""Language codes, and the packages that know a language."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

_SHORT = {"tha": "th", "lao": "lo", "khm": "km", "mya": "my", "bur": "my", "vie": "vi", "eng": "en"}


def primary(language: str | None) -> str | None:
    """The language itself, without region or script, by its short code where it has one.

    Args:
        language: ISO 639-1 or 639-3, also with what BCP 47 lets follow, in any case; None: not known.

    Raises:
        TypeError: neither a string nor None.
        ValueError: a name, or anything else that is no code.

    >>> primary("th-TH"), primary("LAO"), primary("yue_Hant"), primary(None)
    ('th', 'lo', 'yue', None)
    """
    if language is None:
        return None
    if not isinstance(language, str):
        raise TypeError(f"language is {language!r}, but must be a code such as 'th', or None")
    code = language.strip().lower().replace("_", "-").partition("-")[0]
    if not (code.isascii() and code.isalpha() and len(code) in (2, 3)):
        raise ValueError(f"language {language!r} is no code: give ISO 639, for example 'th' or 'tha' for Thai, or None")
    return _SHORT.get(code, code)


def package(module: str, task: str) -> ModuleType:
    """Import what a language package offers.

    Raises:
        ImportError: it is not there; the message says what to install, and what works without it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise ImportError(
            f'{task} needs {name} ({error}): pip install "seaalign[languages]". Without it, unit="grapheme" works on '
            "texts that hold no digits: it needs no segmenter"
        ) from error
