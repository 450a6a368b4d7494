"""What a parser's message means, and the name that was perhaps meant."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from itertools import takewhile
from textwrap import dedent

_TAKES_NO = re.compile(r"Problem with given class_path '(?P<path>[^']+)':\s+Option '(?P<key>[^']+)' is not accepted")
_NO_OPTION = re.compile(r"does not accept option '(?P<key>[^']+)'|unrecognized arguments: --(?P<argument>[^\s=]+)")
_NO_CLASS = re.compile(r"Expected a dot import path string: (?P<name>\w+)")
_LACKS = re.compile(
    r"Problem with given class_path '(?P<path>[^']+)':\s+the following arguments are required: (?P<keys>.+)"
)
_NO_MODULE = re.compile(r"No module named '(?P<module>[\w.]+)'")
_NOT_IN_MODULE = re.compile(r"module '(?P<module>[\w.]+)' has no attribute '(?P<name>\w+)'")
_NO_MODEL = re.compile(r"the following arguments are required: (?:\w+\.)?model$")
_UNION = "Does not validate against any of the Union subtypes"
_NOT_MEANT = ("Expected a", "Not a valid subclass of", "Type collections.abc.Callable")  # said of the other kinds


def explain(message: str, options: Sequence[str], classes: Sequence[str] = ()) -> str:
    """The message in one line where its kind is known, otherwise as it is.

    Args:
        message: of a jsonargparse parser.
        options: the parser's own options, without dashes.
        classes: names that need no path.

    Example:
        >>> explain("Subcommand 'fit' does not accept option 'trainer.max_epoch'", ["trainer.max_epochs"])
        "unknown key 'trainer.max_epoch'; did you mean 'trainer.max_epochs'?"
    """
    if _NO_MODEL.search(message):
        return "there is no model; give --config FILE, a YAML file in which `model: class_path: ...` names one"
    if found := _NO_MODULE.search(message):
        return (
            f"no module {found['module']!r}; if it is yours, run this in the folder that holds it, or put that folder "
            "on PYTHONPATH; otherwise install it"
        )
    if found := _NOT_IN_MODULE.search(message):
        inside = dir(import_module(found["module"]))
        return f"{found['module']} has no class {found['name']!r}{near(found['name'], inside)}"
    if found := _TAKES_NO.search(message):
        takes = parameters(found["path"])
        return f"{found['path']} takes no {found['key']!r}{near(found['key'], takes)} It takes: {', '.join(takes)}"
    if found := _LACKS.search(message):
        return f"{found['path']} needs {found['keys']}"
    if found := _NO_OPTION.search(message):
        key = found["key"] or found["argument"]
        tops = sorted({option.partition(".")[0] for option in options})
        known, asked = (options, key) if key.partition(".")[0] in tops else (tops, key.partition(".")[0])
        return f"unknown key {asked!r}{near(asked, known)}"
    if found := _NO_CLASS.search(message):
        name = found["name"]
        return f"no class {name!r}{near(name, classes)} A class of your own is named by its path, package.module.Class"
    return message


def reasons(message: str) -> str:
    r"""What the classes themselves said, out of jsonargparse's account of how it tried to build one.

    Args:
        message: of the error.

    Returns:
        The reasons without the settings of the whole run around them, or the message where it is no such account.

    Example:
        >>> reasons("Does not validate against any of the Union subtypes\nErrors:\n  - alpha is 80\nGiven value: 1")
        'alpha is 80'
    """
    if _UNION not in message:
        return message
    said = _reasons(message[message.index(_UNION) :])
    return "; ".join(dict.fromkeys(said)) or message.partition("\nGiven value")[0]


def _reasons(account: str) -> list[str]:
    """Depth first: what was said where a class was built, without the kinds of value that were not meant anyway."""
    head, _, rest = account.partition("\n")
    rest = dedent(rest)
    if head.startswith("Problem with given class_path") and rest:
        return _reasons(rest)
    if head != _UNION:
        return [] if head.startswith(_NOT_MEANT) else [account]
    # its own lines stand at the margin; "- " begins the answer of one kind, and what belongs to it is indented further
    _, _, errors = rest.partition("Errors:\n")
    block = "\n".join(takewhile(lambda line: not line.startswith("Given value"), errors.splitlines()))
    answers = re.split(r"^- ", dedent(block), flags=re.MULTILINE)[1:]
    return [reason for answer in answers for reason in _reasons(_hanging(answer))]


def _hanging(answer: str) -> str:
    """An item of a list as it was before its further lines were indented."""
    head, _, rest = answer.rstrip().partition("\n")
    return f"{head}\n{dedent(rest)}" if rest else head


def told(error: BaseException) -> str:
    """What was said first: a package that is missing, or else what the class itself said.

    Args:
        error: the last of a chain.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, ImportError):
            return str(link)
        link = link.__cause__ or link.__context__
    return reasons(str(error))


def near(name: str, known: Sequence[str]) -> str:
    """`; did you mean ...?`, or a full stop."""
    matches = get_close_matches(name, known, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else "."


def parameters(path: str) -> list[str]:
    """The names of a class's arguments."""
    module, _, name = path.rpartition(".")
    signature = inspect.signature(getattr(import_module(module), name))
    return [p.name for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
