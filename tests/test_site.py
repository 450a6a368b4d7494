"""What the docs site is made of: every page can be reached, and the method index names what exists.

That the site builds without a warning is a stage of .ci/run.
"""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

import seaalign
from seaalign.cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def rows(text: str) -> list[dict[str, str]]:
    """Rows of the tables that have a column "function" and a column "test", by column."""
    found, names = [], None
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells:
            names = None
        elif names is None:
            names = cells
        elif {"function", "test"} <= set(names) and not set(line) <= set("|-"):
            found.append(dict(zip(names, cells, strict=True)))
    return found


INDEX = rows((DOCS / "method.md").read_text())


def resolved(path: str) -> object:
    """A name of the library, or a command: `seaalign erosion filter`."""
    if path.startswith("seaalign "):
        return COMMANDS[path.split()[1]]
    value: object = seaalign
    for part in path.split("."):
        value = getattr(value, part)
    return value


def test_the_index_has_every_equation_of_the_paper_that_the_library_computes():
    numbers = " ".join(row.get("equation", "") for row in INDEX)
    spans = [(int(a), int(b or a)) for a, b in re.findall(r"(\d+)(?:-(\d+))?", numbers)]
    assert {n for a, b in spans for n in range(a, b + 1)} == {*range(1, 20), 22, 25, 26}


@pytest.mark.parametrize("row", INDEX, ids=lambda row: row["function"].partition(",")[0].strip("`"))
def test_names_and_tests_of_the_index_exist_and_belong_together(row):
    names, files = (re.findall(r"`([^`]+)`", row[column]) for column in ("function", "test"))
    assert names and files
    for name in names:
        resolved(name)
    for file in files:
        text = (ROOT / file).read_text()
        assert any(re.search(rf"\b{name.rpartition('.')[2]}\b", text) for name in names), f"{file}: none of {names}"


def test_a_name_that_is_gone_is_found():
    table = "| function | test |\n|---|---|\n| `functional.nothing` | `tests/x.py` |\n"
    assert rows(table) == [{"function": "`functional.nothing`", "test": "`tests/x.py`"}]
    with pytest.raises(AttributeError):
        resolved("functional.nothing")


def test_every_page_is_in_the_table_of_contents():
    trees = re.findall(r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text(), flags=re.DOTALL)
    entries = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    pages = {page.stem for page in DOCS.glob("*.md")} - {"index"}
    assert {page for page in pages if not any(fnmatch(page, entry) for entry in entries)} == set()
