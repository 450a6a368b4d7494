"""One page that holds everything: no network, no folder of assets, readable on paper and aloud."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from seaalign.report.of_critique import critique_chapter
from seaalign.report.of_evaluation import Limits, evaluation_chapter
from seaalign.report.of_log import find_log, log_chapter
from seaalign.report.of_plan import filter_chapter, plan_chapter
from seaalign.report.parts import Chapter
from seaalign.storage.columns import whole_or_nothing

LIMIT = 20_000_000
_SOUNDS = 14_000_000
_MARK = b"<!-- seaalign report -->"


def build_report(
    runs: Sequence[str | Path], out: str | Path, title: str = "seaalign report", sentences: int = 10, seed: int = 0
) -> Path:
    """Put what runs left on disk onto one self-contained page.

    Args:
        runs: folders of `seaalign evaluate`, of TDSC's work, of a Lightning log (CSVLogger), of `seaalign erosion
            plan` and `filter`; each may be several of these.
        out: folder for `report.html`, `tables/*.csv`, `figures/*.svg` and `*.png`; those of an earlier report are
            replaced.
        title: of the page.
        sentences: most sentences to hear, per evaluation; fewer where the page would exceed 20 MB.
        seed: which sentences, and in what order their systems are played.

    Returns:
        The page. The same runs, title and seed give the same bytes.

    Raises:
        FileNotFoundError: there is no such run.
        ValueError: a folder holds nothing of that kind, or a file in it is damaged.
    """
    if not runs or sentences < 0:
        raise ValueError(f"a report needs one run or more and sentences >= 0, got {len(runs)} runs and {sentences}")
    folders = [Path(run) for run in runs]
    kinds = [kinds_of(folder) for folder in folders]
    heard = sum("evaluation" in kind for kind in kinds)
    limits = Limits(sentences, _SOUNDS // max(heard, 1), seed)
    chapters = []
    for name, folder, found in zip(names(folders), folders, kinds, strict=True):
        home = folder if folder.is_dir() else folder.parent
        chapters += [_chapter(kind, name if len(found) == 1 else f"{name}-{kind}", home, limits) for kind in found]
    page = render(title, chapters)
    if len(page) > LIMIT:
        raise ValueError(f"the page would take {len(page) / 1e6:.1f} MB, {LIMIT / 1e6:.0f} at most: name fewer runs")
    return _write(Path(out), chapters, page)


def kinds_of(run: Path) -> list[str]:
    """What a folder holds, by content: "plan", "filter", "evaluation", "critique", "log".

    Raises:
        FileNotFoundError: no such folder.
        ValueError: nothing that a report shows; the message says what was looked for.
    """
    if not run.exists():
        raise FileNotFoundError(f"there is no {run}: name the folder that a run wrote")
    folder = run if run.is_dir() else run.parent
    found = {
        "plan": (folder / "plan.json").is_file(),
        "filter": (folder / "funnel.json").is_file(),
        "evaluation": any((folder / name).exists() for name in ("evaluation.json", "utterances.parquet", "parts")),
        "critique": (folder / "dashboard.json").is_file() or any(folder.glob("round-*/about.json")),
        "log": find_log(folder) is not None,
    }
    kinds = [kind for kind, there in found.items() if there]
    if not kinds:
        raise ValueError(
            f"{run} holds nothing to report. Looked for: evaluation.json (seaalign evaluate), dashboard.json or "
            "round-*/ (the work folder of TDSC), metrics.csv, also in version_*/ (CSVLogger), plan.json (seaalign "
            "erosion plan), funnel.json (seaalign erosion filter)"
        )
    return kinds


def names(folders: Sequence[Path]) -> list[str]:
    """A name per run, of letters, digits and dashes, no two alike.

    >>> names([Path("runs/a b"), Path("old/a.b"), Path("x/metrics.csv")])
    ['a-b', 'a-b-2', 'x']
    """
    found: list[str] = []
    for folder in folders:
        stem = folder.resolve().parent.name if folder.suffix in (".json", ".csv") else folder.resolve().name
        slug = "".join(c if c.isascii() and c.isalnum() else "-" for c in stem).strip("-") or "run"
        found.append(next(n for i in count(1) if (n := slug if i == 1 else f"{slug}-{i}") not in found))
    return found


def render(title: str, chapters: Sequence[Chapter]) -> bytes:
    """The page. What comes from data is escaped; scripts run only if they are ours, and nothing is fetched."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    here = Environment(
        loader=PackageLoader("seaalign.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    script = here.get_template("script.js").render()
    given: dict[str, Any] = {"title": title, "chapters": chapters, "script": script, "allowed": source_hash(script)}
    return here.get_template("page.html").render(style=here.get_template("style.css").render(), **given).encode()


def source_hash(text: str) -> str:
    """How a content security policy names a script or style of a page that may run.

    >>> source_hash("")
    'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='
    """
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _chapter(kind: str, name: str, folder: Path, limits: Limits) -> Chapter:
    if kind == "evaluation":
        return evaluation_chapter(name, folder, limits)
    of = {"plan": plan_chapter, "filter": filter_chapter, "critique": critique_chapter, "log": log_chapter}
    return of[kind](name, folder)


def _write(out: Path, chapters: Sequence[Chapter], page: bytes) -> Path:
    target = out / "report.html"
    files: dict[Path, bytes] = {}
    for part in (part for chapter in chapters for part in chapter.parts):
        files |= {out / "tables" / f"{table.name}.csv": table.csv().encode() for table in part.tables}
        for figure in part.figures:
            files[out / "figures" / f"{figure.name}.svg"] = figure.file.encode()
            files[out / "figures" / f"{figure.name}.png"] = figure.png
    if target.is_file():
        if _MARK not in target.read_bytes()[:400]:
            raise ValueError(f"{target} is no report of seaalign, and would be lost: give another --out")
        for old in (*out.glob("tables/*.csv"), *out.glob("figures/*.svg"), *out.glob("figures/*.png")):
            if old not in files:
                old.unlink()
    for path, content in {**files, target: page}.items():
        with whole_or_nothing(path) as file:
            file.write(content)
    return target
