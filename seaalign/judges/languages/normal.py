"""The normal form of a text, in which only what is said counts, and its grapheme clusters."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import regex

from seaalign.judges.languages.codes import primary
from seaalign.judges.languages.marks import in_order
from seaalign.judges.languages.numbers import ascii_digits, spell

_INVISIBLE = regex.compile(r"[\p{Default_Ignorable_Code_Point}\p{Cf}]+")
# Burmese writes four words with signs that Unicode counts as punctuation.
_NOT_SAID = regex.compile(r"[^\p{L}\p{M}\p{N}\u104c-\u104f]+")
_NO_BASE = regex.compile(r"(?<![^ ])\p{M}+")
_APOSTROPHE = regex.compile(r"(?<=[\p{L}\p{M}])['’](?=\p{L})")
_ABBREVIATED = (("ฯลฯ", "และอื่นๆ"), ("ຯລຯ", "ແລະອື່ນໆ"), ("ฯ", ""), ("ຯ", ""))  # "and so on"; the rest is left unsaid
# The digit nought typed for the letter of its shape: it carries marks, or a word begins with it.
_BURMESE_WA = regex.compile("\u1040(?=[\u102b-\u103e])|(?<![\u1040-\u1049])\u1040(?=[\u1000-\u1021])")
_VIETNAMESE_TONE = regex.compile("(o)([\u0300\u0301\u0303\u0309\u0323])([ae])(?![\\p{L}\\p{M}])")
_VIETNAMESE_UY = regex.compile("(u)([\u0300\u0301\u0303\u0309\u0323])(y)(?![\\p{L}\\p{M}])")


def normalise(text: str, language: str | None = None) -> str:
    r"""Bring a text to the form in which texts that are said alike are written alike.

    Compatibility forms and case are folded, invisible characters go, punctuation and symbols become spaces, marks take
    one order (:func:`seaalign.judges.languages.marks.in_order`), digits become ASCII, and in Thai, Lao, Khmer, Burmese,
    Vietnamese and English numbers are spelled. Applying it twice changes nothing more.

    Args:
        text: any text.
        language: ISO 639 code, or None; it decides how numbers are read (None: digits stay) and the place of Vietnamese
            tones.

    Returns:
        Words or phrases with one space between them; empty where nothing is said.

    Raises:
        TypeError: text is no string.
        ValueError: language is no code.
        ImportError: a number has to be spelled and the package for it is missing, so results never differ in silence.

    >>> normalise("Don't\u00ad  STOP, “Ｎｏｗ”!"), normalise("น\u0e4d\u0e49า")  # SARA AM in parts, the tone between
    ('dont stop now', 'น้ำ')
    """
    if not isinstance(text, str):
        raise TypeError(f"text is {text!r}, but must be a string: a transcriber that hears nothing returns ''")
    return _normal(text, primary(language))


def graphemes(text: str, language: str | None = None) -> list[str]:
    """User-perceived characters of the normal form, without spaces: the unit of character error rates.

    Args:
        text: any text.
        language: as for :func:`normalise`.

    Returns:
        Extended grapheme clusters; joined they are the normal form without its spaces.

    Raises:
        TypeError, ValueError, ImportError: as :func:`normalise`.

    Source:
        Unicode Standard Annex 29, as the package `regex` implements it.

    >>> graphemes("ស្ត្រី!"), graphemes("น้ำ ดื่ม")
    (['ស្ត្រី'], ['น้ำ', 'ดื่', 'ม'])
    """
    return [cluster for piece in normalise(text, language).split() for cluster in regex.findall(r"\X", piece)]


@lru_cache(maxsize=4096)
def _normal(text: str, code: str | None) -> str:
    text = _fold(_BURMESE_WA.sub("\u101d", _INVISIBLE.sub("", text)))
    text = _INVISIBLE.sub("", text)
    for written, said in _ABBREVIATED:
        text = text.replace(written, said)
    text = _INVISIBLE.sub("", spell(ascii_digits(text), code))
    if code == "vi":
        text = unicodedata.normalize("NFD", text)
        text = _VIETNAMESE_UY.sub(r"\1\3\2", _VIETNAMESE_TONE.sub(r"\1\3\2", text))
    text = _NOT_SAID.sub(" ", _APOSTROPHE.sub("", _fold(text)))
    text = _NO_BASE.sub("", in_order(text))
    return " ".join(unicodedata.normalize("NFC", text).split())


def _fold(text: str) -> str:
    """Unicode's NFKC_Casefold, but for the invisible characters."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFD", text).casefold())
    return unicodedata.normalize("NFKC", text.casefold())
