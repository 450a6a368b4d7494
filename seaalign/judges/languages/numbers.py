"""Digits as a listener hears them: where a kept library can spell a language's numbers, they are spelled."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import regex

from seaalign.judges.languages.codes import package

SPELLED = frozenset({"th", "lo", "km", "my", "vi", "en"})
"""Languages whose numbers are spelled; in others digits stay, in ASCII."""
_LONGEST = 9  # digits of a number that is said as one; longer ones are telephone numbers and the like
_GROUPED = {
    code: regex.compile(rf"(?<=[0-9])[{',.' if code in ('lo', 'km', 'vi') else ','}](?=[0-9]{{3}}(?![0-9]))")
    for code in SPELLED
}


def ascii_digits(text: str) -> str:
    """Every script's decimal digits as 0-9.

    >>> ascii_digits("๕ ໕ ៥ ၅ ５")
    '5 5 5 5 5'
    """

    def one(found: regex.Match[str]) -> str:
        return str(unicodedata.decimal(found[0], found[0]))  # as it is where this Python knows no such digit yet

    return regex.sub(r"\p{Nd}", one, text)


def spell(text: str, code: str | None) -> str:
    """Replace runs of ASCII digits by the words for them, spaces around; text without digits is untouched.

    A run with a leading zero, or of more than nine digits, is read digit by digit.

    Raises:
        ImportError: there are digits to spell and the package for this language is missing.
    """
    if code not in SPELLED or not regex.search("[0-9]", text):
        return text
    return regex.sub("[0-9]+", lambda found: f" {_read(found[0], code)} ", _GROUPED[code].sub("", text))


def _read(digits: str, code: str) -> str:
    if len(digits) > _LONGEST or (len(digits) > 1 and digits[0] == "0"):
        return " ".join(_number(int(digit), code) for digit in digits)
    return _number(int(digits), code)


@lru_cache(maxsize=4096)
def _number(value: int, code: str) -> str:
    if code == "th":
        return str(package("pythainlp.util", "spelling Thai numbers").num_to_thaiword(value))
    if code == "lo":
        return _lao(value)
    # ICU's rules (RBNF); its Lao ones mix in Thai words, and for Thai it says "one" where "et" is said.
    spellout = package("icu4py.messageformat", f"spelling numbers of {code!r}").MessageFormat("{n,spellout}", code)
    return str(spellout.format({"n": value}))


def _lao(value: int) -> str:
    """laonlp spells up to 999; beyond that it is wrong (1.3.0), and the words are put together here."""
    if value < 1000:
        said = str(package("laonlp.util", "spelling Lao numbers").num_to_laoword(value))
        return said.replace("ນຶ່ງ", "ໜຶ່ງ")  # the spelling in use
    for size, name in ((1_000_000, "ລ້ານ"), (100_000, "ແສນ"), (1000, "ພັນ")):
        if value >= size:
            count, rest = divmod(value, size)
            return _lao(count) + name + (_lao(rest) if rest else "")
    raise AssertionError(value)
