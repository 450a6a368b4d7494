"""What the page says, in the language of the rater: one small JSON file per language."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_HOME = Path(__file__).parent / "languages"


def languages() -> list[str]:
    """Codes of the languages that come along."""
    return sorted(path.stem for path in _HOME.glob("*.json"))


def load_words(language: str | Path = "en", consent: str | None = None) -> dict[str, Any]:
    """The texts of a page.

    Args:
        language: a code, or a file with the same entries as languages/en.json.
        consent: takes the place of the sentence that raters agree to.

    Raises:
        ValueError: no such language, or entries are missing, unknown or of another kind; the message names them.

    >>> load_words("lo")["code"], len(load_words("th")["nmos"]["scale"])
    ('lo', 5)
    """
    path = _HOME / f"{language}.json" if str(language) in languages() else Path(language)
    if not path.is_file():
        raise ValueError(
            f"no language {str(language)!r}: there are {', '.join(languages())}, or name a file like these"
        )
    try:
        words = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON in UTF-8: {error}") from error
    wrong = _differences(words, json.loads((_HOME / "en.json").read_text(encoding="utf-8")))
    if wrong:
        raise ValueError(f"{path}: {'; '.join(wrong)}; compare with {_HOME / 'en.json'}")
    return {**words, "consent": consent} if consent else dict(words)


def _differences(words: Any, model: Any, where: str = "") -> list[str]:
    if isinstance(model, dict) and isinstance(words, dict):
        missing = [f"{where}{name} is missing" for name in model if name not in words]
        unknown = [f"{where}{name} is not known" for name in words if name not in model]
        inside = [_differences(words[name], model[name], f"{where}{name}.") for name in model if name in words]
        return [*missing, *unknown, *sum(inside, [])]
    if isinstance(model, list):
        good = isinstance(words, list) and len(words) == len(model) and all(isinstance(w, str) and w for w in words)
        return [] if good else [f"{where.rstrip('.')} must be {len(model)} texts"]
    return [] if isinstance(words, str) and words.strip() else [f"{where.rstrip('.')} must be a text"]
