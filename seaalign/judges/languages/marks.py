"""One order of marks for what looks and sounds the same, where Unicode's own normal forms leave several.

Thai and Lao vowels and tones, Khmer subscripts and Burmese medials mostly have combining class 0, so NFC keeps them as
they were typed. Within one syllable they are sorted here, and a doubled mark counts once.

Source: Unicode Technical Note 11 (Burmese); the Khmer character specification of SIL; the Thai order is that of
WTT 2.0: consonant, vowel, tone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import regex


def _ranks(*groups: str) -> dict[str, int]:
    return {mark: rank for rank, group in enumerate(groups) for mark in group}


_AFTER = 99
# Below-letter signs, vowels, tones, signs of silence; what stands after the consonant carries no mark of its own.
_THAI = _ranks("\u0e3a", "\u0e31\u0e34\u0e35\u0e36\u0e37\u0e38\u0e39\u0e47\u0e4d", "\u0e48\u0e49\u0e4a\u0e4b")
_THAI |= {"\u0e4c": 3, "\u0e4e": 3, "\u0e30": _AFTER, "\u0e32": _AFTER}
_LAO = _ranks("\u0eba\u0ebc", "\u0eb1\u0eb4\u0eb5\u0eb6\u0eb7\u0eb8\u0eb9\u0ebb\u0ecd", "\u0ec8\u0ec9\u0eca\u0ecb")
_LAO |= {"\u0ecc": 3, "\u0ece": 3, "\u0eb0": _AFTER, "\u0eb2": _AFTER}

_COENG, _KHMER_LETTER = "\u17d2", "[\u1780-\u17b3]"
_KHMER_RO = "\u17d2\u179a"  # written before the others, said and stored after them
_KHMER = {"\u17cc": 0, _KHMER_RO: 2, "\u17c9": 3, "\u17ca": 3, **{chr(c): 4 for c in range(0x17B6, 0x17C6)}}
_KHMER_PARTS = {"\u17b6\u17c1": "\u17c4", "\u17b8\u17c1": "\u17be"}  # OO and OE typed as their two halves

_STACK = "\u1039"
_BURMESE_LETTER = "[\u1000-\u1021\u105a-\u105d\u1061\u1065\u1066\u106e-\u1070\u1075-\u1081]"
_KINZI = "[\u1004\u101b\u105a]\u103a\u1039"
_ASAT, _E, _AA = "\u103a", "\u1031", "\u102b\u102c"
_BURMESE = {"\u103b": 2, "\u103c": 2, "\u103d": 2, "\u103e": 2, _E: 3, "\u102f": 5, "\u1030": 5}
_BURMESE |= {**dict.fromkeys("\u102d\u102e\u1032\u1033\u1034\u1035", 4), **dict.fromkeys(_AA, 6)}
_BURMESE |= {"\u1036": 8, "\u1037": 9, "\u1038": 10}


def in_order(text: str) -> str:
    """Put the marks of Thai, Lao, Khmer and Burmese in their one order.

    Args:
        text: in NFKC, without invisible characters.

    Returns:
        The same text with marks sorted, doubled marks once, SARA AM and the Lao ligatures whole, dangling joiners gone.
    """
    text = text.replace("\u0e40\u0e40", "\u0e41").replace("\u0ec0\u0ec0", "\u0ec1")  # two E are typed for one AE
    for ha, one in (("ຫນ", "ໜ"), ("ຫມ", "ໝ"), ("ຫລ", "ຫຼ")):  # NFKC takes the first two apart
        text = text.replace(ha, one)
    text = regex.sub(f"{_COENG}(?!{_KHMER_LETTER})|{_STACK}(?!{_BURMESE_LETTER})", "", text)
    text = text.replace("\u17d2\u178a", "\u17d2\u178f")  # subscript DA and TA have one shape
    for pattern, order in _BLOCKS:
        text = pattern.sub(order, text)
    for parts, am in _AM:
        text = parts.sub(am, text)
    return text


def _sorted(units: list[str], rank: Mapping[str, int]) -> str:
    """By rank, then by code point; subscripts, and vowels behind the letter, keep their order among themselves."""
    loose = {unit for unit in units if len(unit) > 1 or rank[unit] == _AFTER}
    ordered = sorted(units, key=lambda unit: (rank[unit], "" if unit in loose else unit))
    twice = {i for i, unit in enumerate(ordered) if i and unit == ordered[i - 1] and rank[unit] != _AFTER}
    return "".join(unit for i, unit in enumerate(ordered) if i not in twice)


def _tai(rank: Mapping[str, int], block: regex.Match[str]) -> str:
    return _sorted(list(block[0]), rank)


def _khmer(block: regex.Match[str]) -> str:
    marks = block[0]
    for _ in range(2):  # the halves meet once sorted, and the whole sorts anew
        units = _KHMER_UNIT.findall(marks)
        marks = _sorted(units, {unit: _KHMER.get(unit, 1 if len(unit) > 1 else 5) for unit in units})
        for halves, whole in _KHMER_PARTS.items():
            marks = marks.replace(halves, whole)
    return marks


def _burmese(block: regex.Match[str]) -> str:
    if block[0][0] not in _BURMESE and block[0][0] not in (_STACK, _ASAT):
        return block[0]  # kinzi: it belongs to the letter that follows
    units = _BURMESE_UNIT.findall(block[0])
    # The killer stands right after its letter, but in the vowel AW it closes E..AA.
    killer = 7 if _E in units and set(_AA) & set(units) else 1
    return _sorted(units, {unit: _BURMESE.get(unit, 0) for unit in units} | {_ASAT: killer})


_Order = Callable[["regex.Match[str]"], str]
_KHMER_UNIT = regex.compile(f"{_COENG}{_KHMER_LETTER}|[\u17b6-\u17d1\u17d3\u17dd]")
_BURMESE_UNIT = regex.compile(f"{_STACK}{_BURMESE_LETTER}|[\u102b-\u1038\u103a-\u103e]")
_BLOCKS: tuple[tuple[regex.Pattern[str], _Order], ...] = (
    (regex.compile(f"[{''.join(_THAI)}]{{2,}}"), partial(_tai, _THAI)),
    (regex.compile(f"[{''.join(_LAO)}]{{2,}}"), partial(_tai, _LAO)),
    (regex.compile(f"(?:{_KHMER_UNIT.pattern})+"), _khmer),
    (regex.compile(f"{_KINZI}(?={_BURMESE_LETTER})|(?:{_BURMESE_UNIT.pattern})+"), _burmese),
)
_AM = (
    (regex.compile("\u0e4d([\u0e48-\u0e4e]*)\u0e32"), r"\1ำ"),
    (regex.compile("\u0ecd([\u0ec8-\u0ece]*)\u0eb2"), r"\1ຳ"),
)
