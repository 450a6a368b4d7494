"""The house rules that a reader would otherwise have to take on trust, checked on the syntax tree.

Rooms are the modules and folders directly under seaalign/. Speech flows through them in one direction; so do imports.
"""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "seaalign"

FLOW = (
    *("records", "storage", "functional", "metrics", "audio", "backbones", "judges", "sampling"),
    *(
        "pairs",
        "critique",
        "data",
        "audit",
        "modules",
        "callbacks",
        "stages",
        "evaluation",
        "report",
        "listening",
        "testing",
        "miniature",
        "demo",
        "cli",
    ),
)
TOP_LEVEL = {"pyproject.toml", "README.md", "LICENSE", "seaalign", "examples", "tests", "docs"}
SOUND = {"torchaudio", "speechbrain", "soundfile"}
CALLS_THAT_IMPORT = {"import_module", "__import__"}
FORBIDDEN_NAMES = {"utils", "helpers", "common"}

FILE_LINES, FUNCTION_LINES, MODULE_LINES, STEP_LINES = 250, 40, 100, 12
# "path" or "path::Class.function" -> why this one may be longer
EXCEPTIONS: dict[str, str] = {}


def sources() -> dict[str, ast.Module]:
    files = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(), filename=str(path)) for path in files}


SOURCES = sources()
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def room_of(path: str) -> str:
    return path.split("/")[1].removesuffix(".py")


def imported(path: str, tree: ast.AST) -> Iterator[str]:
    """Dotted names of every module the file imports, at any depth, by statement or by `import_module("...")`."""
    package = path.split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in CALLS_THAT_IMPORT:
            yield from (arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant) and type(arg.value) is str)


def wrong_way(path: str, tree: ast.AST) -> list[str]:
    """Imports of this file that run against the flow, or that go through the front door instead of a room."""
    here, wrong = FLOW.index(room_of(path)), []
    for name in imported(path, tree):
        parts = name.split(".")
        if parts[0] != "seaalign" or parts[1:] == ["__version__"]:
            continue
        if len(parts) == 1 or parts[1] not in FLOW:
            wrong.append(f"{path} imports {name}: import from the room itself")
        elif FLOW.index(parts[1]) > here:
            wrong.append(f"{path} imports {name}, which comes later in the flow")
    return wrong


def length(node: Definition) -> int:
    """Lines from `def` or `class` on without docstrings (its own and those inside): examples there are welcome."""
    total = (node.end_lineno or node.lineno) - node.lineno + 1
    for inner in ast.walk(node):
        if isinstance(inner, Definition) and ast.get_docstring(inner) is not None:
            total -= (inner.body[0].end_lineno or 0) - inner.body[0].lineno + 1
    return total


def definitions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Definition]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Definition):
            yield f"{prefix}{node.name}", node
            yield from definitions(node, f"{prefix}{node.name}.")
        else:
            yield from definitions(node, prefix)


def over_budget(path: str, tree: ast.Module, lines: int) -> dict[str, str]:
    found = {path: f"{lines} lines, at most {FILE_LINES}"} if lines > FILE_LINES else {}
    for name, node in definitions(tree):
        if isinstance(node, ast.ClassDef):
            is_module = any(ast.unparse(base).endswith(("LightningModule", "Preference")) for base in node.bases)
            limit = MODULE_LINES if is_module else None
        else:
            limit = STEP_LINES if node.name == "training_step" else FUNCTION_LINES
        if limit is not None and length(node) > limit:
            found[f"{path}::{name}"] = f"{length(node)} lines, at most {limit}"
    return found


def test_there_is_something_to_check():
    assert len(SOURCES) > 5


def test_every_room_has_its_place_in_the_flow():
    rooms = {room_of(path) for path in SOURCES} - {"__init__", "__main__"}
    assert rooms <= set(FLOW), "a new room: give it its place in FLOW and in docs/architecture.md"


def test_imports_run_one_way():
    wrong = [w for path, tree in SOURCES.items() if room_of(path) in FLOW for w in wrong_way(path, tree)]
    assert not wrong, "\n".join(wrong)


def test_one_door_to_sound():
    visitors = {path for path, tree in SOURCES.items() if SOUND & {n.partition(".")[0] for n in imported(path, tree)}}
    assert visitors <= {"seaalign/audio.py"}, "import these through seaalign.audio"


def test_sizes_stay_within_the_budgets():
    found: dict[str, str] = {}
    for path, tree in SOURCES.items():
        found |= over_budget(path, tree, len((ROOT / path).read_text().splitlines()))
    assert {place: why for place, why in found.items() if place not in EXCEPTIONS} == {}
    assert set(EXCEPTIONS) <= set(found), "an exception that is no longer needed"


def test_no_room_for_odds_and_ends():
    parts = {part.removesuffix(".py") for path in SOURCES for part in path.split("/")}
    assert not parts & FORBIDDEN_NAMES


def test_top_level_holds_the_agreed_names_only():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout: nothing says which files belong to the project")
    names = {line.split("/")[0] for line in listed.stdout.splitlines()}
    assert {name for name in names if not name.startswith(".")} == TOP_LEVEL


def test_the_architecture_page_knows_every_room():
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `")]
    states = {row[1].strip().strip("`/").removesuffix(".py"): row[2].strip() for row in rows}
    built = {room_of(path) for path in SOURCES} - {"__init__", "__main__"}
    assert tuple(states) == FLOW, "docs/architecture.md lists the rooms in the order of the flow"
    assert {room for room, state in states.items() if state == "here"} == built
    assert set(states.values()) <= {"here", "planned"}


@pytest.mark.parametrize(
    ("path", "code", "expected"),
    [
        ("seaalign/records/speech.py", "from seaalign.modules import SFT", 1),
        ("seaalign/modules/sft.py", "from seaalign.records import Speech", 0),
        ("seaalign/modules/sft.py", "from seaalign import cli", 1),
        ("seaalign/modules/sft.py", "from seaalign import functional", 0),
        ("seaalign/modules/sft.py", "from seaalign import Speech", 1),
        ("seaalign/modules/sft.py", "from .dgsa import DGSA", 0),
        ("seaalign/modules/sft.py", "from ..callbacks import ErosionMonitor", 1),
        ("seaalign/backbones/base.py", "def f():\n    importlib.import_module('seaalign.demo')", 1),
        ("seaalign/demo/tasks.py", "import seaalign", 1),
    ],
)
def test_the_walk_sees_imports_that_run_the_wrong_way(path, code, expected):
    assert len(wrong_way(path, ast.parse(code))) == expected


def test_the_walk_sees_what_is_too_long():
    body = "\n".join(["        x = 1"] * 12)
    code = f"class A(L.LightningModule):\n    def training_step(self):\n        '''Doc\n        more'''\n{body}\n"
    assert list(over_budget("a.py", ast.parse(code), 251)) == ["a.py", "a.py::A.training_step"]
    assert over_budget("a.py", ast.parse(code.replace("        x = 1\n", "", 1)), 250) == {}
    long = "class A(LightningModule):\n" + "    x = 1\n" * 100
    assert list(over_budget("a.py", ast.parse(long), 1)) == ["a.py::A"]
