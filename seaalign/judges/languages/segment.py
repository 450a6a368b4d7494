"""Words, also of scripts that put no spaces between them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import regex

from seaalign.judges.languages.codes import package
from seaalign.judges.languages.normal import normalise

_UNSPACED = {"Thai": "th", "Lao": "lo", "Khmer": "km", "Myanmar": "my"}
_EACH = r"[\p{Han}\p{Hiragana}\p{Katakana}ー]\p{M}*"  # Chinese and Japanese: each character is a word
_SPACED = rf"(?!{_EACH})[^ \p{{Thai}}\p{{Lao}}\p{{Khmer}}\p{{Myanmar}}]"
_RUNS = regex.compile(
    "|".join(rf"(?P<{code}>(?:\p{{{script}}}\p{{Inherited}}*)+)" for script, code in _UNSPACED.items())
    + rf"|(?P<each>{_EACH})|(?P<word>(?:{_SPACED})+)"
)
_SPACE_INSIDE = regex.compile("|".join(rf"(?<=\p{{{script}}}) (?=\p{{{script}}})" for script in _UNSPACED))
_REPEATED = regex.compile("([ๆໆៗ])")


def words(text: str, language: str | None = None) -> list[str]:
    """Words of the normal form: the unit of word error rates.

    Thai, Lao, Khmer and Burmese script is cut by a kept library, whatever the language and whatever spaces are there;
    Chinese and Japanese characters are a word each; anything else is cut at spaces (Vietnamese so into syllables).
    A repetition mark stands for the word before it, once more.

    Args:
        text: any text.
        language: as for :func:`normalise`.

    Returns:
        The words; none where nothing is said.

    Raises:
        TypeError, ValueError: as :func:`seaalign.judges.languages.normalise`.
        ImportError: the package for a script or for spelling a number is missing.

    >>> words("Xin chào, Việt Nam!", "vi"), words("我有 iPhone")
    (['xin', 'chào', 'việt', 'nam'], ['我', '有', 'iphone'])
    """
    return list(_words(normalise(text, language)))


@lru_cache(maxsize=4096)
def _words(text: str) -> tuple[str, ...]:
    found: list[str] = []
    for run in _RUNS.finditer(_SPACE_INSIDE.sub("", text)):
        cut = _CUTTERS.get(str(run.lastgroup))
        for part in _REPEATED.split(run[0]) if cut else [run[0]]:
            if cut and _REPEATED.fullmatch(part):
                found.extend(found[-1:])
            elif part:
                found.extend(cut(part) if cut else [part])
    return tuple(found)


def _thai(run: str) -> list[str]:
    return list(package("pythainlp.tokenize", "cutting Thai into words").word_tokenize(run, engine="newmm"))


def _lao(run: str) -> list[str]:
    return list(package("laonlp.tokenize", "cutting Lao into words").word_tokenize(run))


def _khmer(run: str) -> list[str]:
    return list(package("khmercut", "cutting Khmer into words").tokenize(run))


def _burmese(run: str) -> list[str]:
    return list(package("icu4py.breakers", "cutting Burmese into words").WordBreaker(run, "my"))


_CUTTERS: dict[str, Callable[[str], list[str]]] = {"th": _thai, "lo": _lao, "km": _khmer, "my": _burmese}
