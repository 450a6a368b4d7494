"""The blocks of README.md and docs/*.md run, file by file, in the order they are read and in one namespace.

These are the Python blocks; in `console` blocks the lines that begin with `$ seaalign`; and the YAML blocks that say,
on the line before them, which file of the reader's they are: `<!-- file: dgsa.yaml -->`.

A block that cannot run in a test says so on the line before it, with the reason, and is counted as skipped:

    <!-- not run: downloads a checkpoint -->

`<!-- audio -->` marks one that needs torchaudio or speechbrain: it is left out where these are made unimportable.
`<!-- cosyvoice -->` marks one that needs it too, and a CosyVoice checkout: it finds a small stand-in, with the files
that the guides speak of.
"""

from __future__ import annotations

import os
import re
import shlex
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from seaalign import cli

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKED = os.environ.get("SEAALIGN_BLOCK_AUDIO", "") not in ("", "0")


class Block(NamedTuple):
    line: int
    code: str
    mark: str | None
    language: str = "python"


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page that run, with the line they start on and the comment right above the fence."""
    found: list[Block] = []
    lines, i = text.splitlines(), 0
    while i < len(lines):
        fence = re.fullmatch(r"(\s*)(`{3,}|~{3,})\s*(\w*).*", lines[i])
        if fence is None:
            i += 1
            continue
        end = next((j for j in range(i + 1, len(lines)) if lines[j].strip() == fence[2]), None)
        if end is None:
            raise ValueError(f"line {i + 1}: the block is never closed")
        above = next((line.strip() for line in reversed(lines[:i]) if line.strip()), "")
        comment = re.fullmatch(r"<!--\s*(.*?)\s*-->", above)
        mark = comment[1] if comment else None
        if fence[3] in ("python", "py", "console") or (fence[3] == "yaml" and mark and mark.startswith("file:")):
            code = "\n".join(line.removeprefix(fence[1]) for line in lines[i + 1 : end])
            found.append(Block(i + 2, code, mark, {"py": "python"}.get(fence[3], fence[3])))
        i = end + 1
    return found


def run(page: str, examples: list[Block]) -> int:
    """Run the blocks that are to be run; lines in tracebacks are those of the page."""
    namespace: dict[str, object] = {"__name__": "__docs__"}
    count = 0
    for block in examples:
        if not_run(block) is not None:
            continue
        if block.language == "console":
            for command in re.findall(r"^\$ seaalign (.+)", block.code, flags=re.MULTILINE):
                assert cli.main(shlex.split(command)) == 0, f"{page}:{block.line}: seaalign {command}"
        elif block.language == "yaml":
            Path(str(block.mark).removeprefix("file:").strip()).write_text(block.code)
        else:
            exec(compile("\n" * (block.line - 1) + block.code, page, "exec"), namespace)
        count += 1
    return count


def not_run(block: Block) -> str | None:
    if block.mark in ("audio", "cosyvoice"):
        return "audio packages are blocked" if BLOCKED else None
    marked = re.fullmatch(r"not run:\s*(.+)", block.mark or "")
    return marked[1] if marked else None


def surroundings(examples: list[Block], folder: Path) -> AbstractContextManager[object]:
    """What the blocks of a page expect to find."""
    if all(block.mark != "cosyvoice" for block in examples):
        return nullcontext()
    from tests.cosyvoice_world import world

    return world(folder)


EXAMPLES = {page.relative_to(ROOT).as_posix(): blocks(page.read_text()) for page in PAGES}


@pytest.mark.parametrize("page", [page for page, found in EXAMPLES.items() if any(not_run(b) is None for b in found)])
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]), surroundings(EXAMPLES[page], tmp_path):
        assert run(page, EXAMPLES[page]) > 0


@pytest.mark.parametrize(("page", "block"), [(p, b) for p, found in EXAMPLES.items() for b in found if not_run(b)])
def test_examples_not_run(page, block):
    pytest.skip(f"{page}:{block.line}: {not_run(block)}")


@pytest.mark.parametrize("page", EXAMPLES)
def test_links_between_pages_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    targets = [t.partition("#")[0] for t in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:|#", t)]
    assert [t for t in targets if not ((ROOT / page).parent / t).exists()] == []


PAGE = """# A page
```bash
exit 1
```
```python
x = 2
```
<!-- not run: needs a GPU -->
```python
raise SystemExit
```
<!-- audio -->

```python
y = x + 1
```
<!-- file: a.yaml -->
```yaml
a: 1
```
```console
$ seaalign --version
seaalign 0
```
"""


def test_blocks_are_found_with_their_marks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert blocks(PAGE) == [
        Block(6, "x = 2", None),
        Block(10, "raise SystemExit", "not run: needs a GPU"),
        Block(15, "y = x + 1", "audio"),
        Block(19, "a: 1", "file: a.yaml", "yaml"),
        Block(22, "$ seaalign --version\nseaalign 0", None, "console"),
    ]
    assert run("PAGE", blocks(PAGE)) == (3 if BLOCKED else 4)
    assert Path("a.yaml").read_text() == "a: 1" and capsys.readouterr().out.startswith("seaalign ")


def test_a_failing_command_fails():
    with pytest.raises(AssertionError, match="page.md:2: seaalign nonsense"):
        run("page.md", blocks("```console\n$ seaalign nonsense\n```\n"))


def test_a_failing_example_fails_at_its_own_line():
    with pytest.raises(ZeroDivisionError) as caught:
        run("page.md", blocks("text\n```python\nx = 1\nx / 0\n```\n"))
    last = caught.traceback[-1]
    assert (str(last.path), last.lineno + 1) == ("page.md", 4)


def test_a_mark_without_a_reason_does_not_skip():
    assert not_run(Block(1, "", "not run:")) is None


def test_an_open_fence_is_refused():
    with pytest.raises(ValueError, match="line 2"):
        blocks("\n```python\nx = 1\n")


def unexplained(text: str) -> list[str]:
    """Keys of a YAML file whose value has no comment: behind it, or on a line of its own above.

    A class says itself what it is, and what holds other keys needs no word.
    """
    lines = ["", *text.splitlines()]
    keys = [(i, re.match(r"\s*(?:- )?(\w+):\s*([^\s#]?)", line)) for i, line in enumerate(lines)]
    return [
        f"line {i}: {found[1]}"
        for i, found in keys
        if found and found[2] and found[1] != "class_path"
        if not re.search(r"\s# \S", lines[i]) and not re.match(r"\s*# ", lines[i - 1])
    ]


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda file: file.name)
def test_every_key_of_the_examples_is_explained(file):
    assert unexplained(file.read_text()) == []


def test_a_key_without_a_comment_is_found():
    explained = "a:  # a group\n  class_path: X\n  b: 1  # one\n  # two\n  c: 2\n  - d: '#3' # three\n"
    assert unexplained(explained) == []
    assert unexplained("a:\n  b: 1  # one\n  c: 2\n- d: '#3'\n  e: {f: 4}\n") == ["line 3: c", "line 4: d", "line 5: e"]
