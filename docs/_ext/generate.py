"""Pages that would only repeat the code, written into docs/_generated/ when the site is built."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, get_args
from unittest import mock

from docutils import nodes
from sphinx import addnodes

import seaalign
from seaalign import cli

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "docs" / "_generated"
NOT_SHOWN = ("miniature",)  # it stands for your model, and promises nothing
LINK = re.compile(r"\]\(\.\./([^)#\s]+)\)")


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", lambda app: write(pages()))
    app.connect("source-read", lambda app, name, source: source.__setitem__(0, linked(source[0])))
    app.connect("doctree-resolved", cross_referenced)
    app.connect("html-page-context", breakable)
    return {"parallel_read_safe": True}


def write(made: Mapping[str, str]) -> None:
    """Write what is new or different, and remove what no longer exists: an unchanged page is not built again."""
    OUT.mkdir(exist_ok=True)
    for old in OUT.iterdir():
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        page = OUT / name
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


def pages() -> dict[str, str]:
    """File name -> text."""
    rooms = [name for name in seaalign._ROOMS if name not in NOT_SHOWN]
    taken: set[int] = set()
    made = {f"api-{name}.rst": room(importlib.import_module(f"seaalign.{name}"), taken) for name in sorted(rooms)}
    return {"api.rst": overview(sorted(rooms)), "cli.md": commands(), "examples.md": examples(), **made}


def linked(text: str) -> str:
    """Links out of docs/: an example leads to its text in the site, other files are copied, folders are only named."""

    def new(found: re.Match[str]) -> str:
        target = ROOT / found[1]
        if target.is_dir():
            return "](_generated/examples.md)"
        if target.parent == ROOT / "examples":
            return f"](_generated/examples.md#{anchor(target.name)})"
        return found[0]

    return LINK.sub(new, text)


def anchor(name: str) -> str:
    """Of a heading that is a file name, as MyST and GitHub make it."""
    return re.sub(r"[^\w-]", "", name)


# ---- the API


def public(module: ModuleType) -> list[str]:
    """What a room offers: `__all__`, or what a single file defines."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__ and callable(value)
    ]


def room(module: ModuleType, taken: set[int]) -> str:
    """A page: the room's own words, a table of its names, and each name in full, once in the whole site."""
    names = [name for name in public(module) if id(getattr(module, name)) not in taken]
    taken.update(id(getattr(module, name)) for name in names)
    title = module.__name__
    documented = [name for name in names if callable(getattr(module, name)) and get_args(getattr(module, name)) == ()]
    table = "\n".join(f"   {name}" for name in sorted(documented, key=str.lower))
    parts = [
        f"{title}\n{'=' * len(title)}",
        f".. automodule:: {title}\n   :no-members:",
        f".. currentmodule:: {title}",
        f".. autosummary::\n   :nosignatures:\n\n{table}",
        *(full(module, name) for name in names),
    ]
    return "\n\n".join(parts) + "\n"


def full(module: ModuleType, name: str) -> str:
    """The directive that prints one name."""
    value = getattr(module, name)
    if inspect.isclass(value):
        return f".. autoclass:: {name}"
    if inspect.isroutine(value):
        return f".. autofunction:: {name}"
    what, choices = ("By name", value) if isinstance(value, dict) else ("One of", get_args(value))
    listed = ", ".join(f"``{choice}``" for choice in choices)
    return f".. py:data:: {name}\n\n   {what}: {listed}."


def overview(rooms: list[str]) -> str:
    """The first page: what `import seaalign` offers, and where each room is."""
    top = "\n".join(f"   {seaalign._HOME[name]}.{name}" for name in sorted(seaalign._HOME, key=str.lower))
    doors = "\n".join(
        f"   * - :doc:`{name} <api-{name}>`\n     - {headline(importlib.import_module(f'seaalign.{name}'))}"
        for name in rooms
    )
    hidden = "\n".join(f"   api-{name}" for name in rooms)
    return f"""Python
======

Made from the docstrings of version {seaalign.__version__}. Examples in them are run by the tests.

By room
-------

.. list-table::
   :widths: 20 80

{doors}

.. toctree::
   :hidden:

{hidden}

``from seaalign import ...``
----------------------------

These have a short name as well:

.. currentmodule:: seaalign

.. autosummary::
   :nosignatures:

{top}
"""


def headline(module: ModuleType) -> str:
    """The first sentence of a docstring, in one line."""
    return " ".join((module.__doc__ or "").strip().split("\n\n")[0].split())


def cross_referenced(app: Any, tree: nodes.document, page: str) -> None:
    """Names in backticks lead to the API: those that only one object has, with its room or without."""
    known = app.env.domains.python_domain.objects
    full = dict(shortened(known))
    for literal in list(tree.findall(nodes.literal)):
        target = full.get(literal.astext())
        inside = literal.parent
        while inside is not None and not isinstance(inside, nodes.reference | nodes.title | addnodes.desc_signature):
            inside = inside.parent
        if target is None or inside is not None:
            continue
        entry = known[target]
        link = nodes.reference("", "", internal=True, reftitle=target)
        link["refuri"] = f"{app.builder.get_relative_uri(page, entry.docname)}#{entry.node_id}"
        literal.replace_self(link)
        link += literal


def shortened(known: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(how it may be written, full name): `functional.dpo_loss`, `dpo_loss`, `Speech.pack`; no plain word, `load`."""
    short: dict[str, set[str]] = {}
    for name in known:
        inside = name.partition(".")[2]
        bare = inside.partition(".")[2]
        for spelling in {name, inside, bare if re.search(r"[A-Z_.]", bare) else name}:
            short.setdefault(spelling, set()).add(name)
    return ((spelling, names.pop()) for spelling, names in short.items() if len(names) == 1)


def breakable(app: Any, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Long names in tables may go on in the next line after a slash, dot or underscore."""
    context["body"] = re.sub(
        r'(?<=<span class="pre">)[^<]+',
        lambda found: re.sub(r"[/._](?=\w)", r"\g<0><wbr>", found[0]),
        context.get("body", ""),
    )


# ---- the commands


def commands() -> str:
    """`seaalign --help`, and every command's."""
    parts = [
        "# Commands\n\nWhat `--help` of each prints, in version " + seaalign.__version__ + ".",
        block(said("--help")),
    ]
    for name, command in cli.COMMANDS.items():
        parts += [f"## seaalign {name}", command.help[0].upper() + command.help[1:] + ".", block(said(name, "--help"))]
        for part in subcommands(said(name, "--help")):
            parts += [f"### seaalign {name} {part}", block(said(name, part, "--help"))]
    return "\n\n".join(parts) + "\n"


def said(*arguments: str) -> str:
    """What a command prints."""
    out = io.StringIO()
    with mock.patch.dict(os.environ, COLUMNS="100"), contextlib.redirect_stdout(out):
        code = cli.main(arguments)
    if code:
        raise RuntimeError(f"seaalign {' '.join(arguments)}: exit code {code}")
    return out.getvalue().rstrip()


def subcommands(helped: str) -> list[str]:
    """The parts of a command that has parts, as argparse lists them."""
    _, _, listed = helped.partition("positional arguments:\n")
    return re.findall(r"^    (\w+)", listed.partition("\n\n")[0], flags=re.MULTILINE)


def block(text: str) -> str:
    """As it is printed."""
    return f"```text\n{text}\n```"


# ---- the example files


def examples() -> str:
    """The files of examples/ that stand on their own, as they are."""
    files = sorted(file for file in (ROOT / "examples").iterdir() if file.suffix in (".yaml", ".py"))
    parts = ["# Example files\n\nFrom the folder `examples/` of the repository, which also has the benchmarks."]
    for file in files:
        language = "python" if file.suffix == ".py" else "yaml"
        parts.append(f"## {file.name}\n\n```{language}\n{file.read_text().rstrip()}\n```")
    return "\n\n".join(parts) + "\n"
