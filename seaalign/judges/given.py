"""What a user gives as a judge, and how messages speak of those in it that listen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from seaalign.judges.base import Criterion, Judge, Rule, _Function
from seaalign.judges.liveliness import Liveliness


def as_judge(given: Judge | Criterion | Rule | Sequence[Criterion | Rule], **settings: Any) -> Judge:
    """A judge as it is, or one made of a criterion, a function, or several of them.

    Args:
        given: any of these.
        **settings: of the judge that is made.

    Raises:
        TypeError: something that is no criterion.
        ValueError: see `Judge`.
    """
    if isinstance(given, Judge):
        return given
    several = isinstance(given, Iterable) and not isinstance(given, str | Criterion)
    return Judge(*given, **settings) if several else Judge(given, **settings)  # type: ignore[misc, arg-type]


def who_listens(judge: Judge | None) -> tuple[str, str]:
    """Who in a judge listens, as a clause, and a remedy if a function only forgot to say that it does not.

    Returns:
        Two texts, both empty if nobody listens; the second is empty too if no function does.
    """
    ears = [criterion for criterion in judge.criteria if criterion.needs_audio] if judge else []
    own = [ear for ear in ears if not (isinstance(ear, Liveliness) and ear.by_default)]
    if not own:
        return "", ""
    names = " and ".join(repr(ear.name) for ear in own)
    clause = f"criterion {names} listens" if len(own) == 1 else f"criteria {names} listen"
    if len(own) < len(ears):
        clause += " (so does 'liveliness', which TDSC adds by default to a judge that listens)"
    functions = [f"{ear.name}.needs_audio = False" for ear in own if isinstance(ear, _Function)]
    reads = "it reads" if len(functions) == 1 else "they read"
    return clause, f"; or set {' and '.join(functions)} if {reads} tokens alone" if functions else ""
