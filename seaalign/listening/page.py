"""One HTML page for one rater: sound, texts and program inside, nothing fetched, no name of a system."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from seaalign.listening.design import Trial
from seaalign.report.page import source_hash
from seaalign.storage.columns import whole_or_nothing

_HOME = Path(__file__).parent / "templates"


def page_data(
    test: str,
    rater: str,
    plan: Mapping[str, Sequence[Trial]],
    coded: Mapping[tuple[str, int], bytes],
    words: Mapping[str, Any],
    ties: bool,
    random: Random,
) -> str:
    """What the program of a page reads, as JSON: trials by their random ids, and each sound once, in random order.

    Args:
        test: id of the test.
        rater: id of the rater.
        plan: the trials of each section, in order.
        coded: sounds by what they are; that does not go along.
        words: of the language.
        ties: may two clips be called the same?
        random: shuffles the sounds, so that their places say nothing.
    """
    keys = sorted({key for part in plan.values() for trial in part for key in trial.sounds})
    random.shuffle(keys)
    place = {key: i for i, key in enumerate([("volume", 0), *keys])}
    sections = [
        {"test": name, "trials": [{"id": t.id, "sounds": [place[key] for key in t.sounds]} for t in part]}
        for name, part in plan.items()
    ]
    sounds = [base64.b64encode(coded[key]).decode() for key in place]
    content = {"test": test, "rater": rater, "ties": ties, "words": words, "sections": sections, "sounds": sounds}
    return json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")  # nothing in it may close the script


def write_page(path: Path, data: str, words: Mapping[str, Any]) -> str:
    """Write the page and return its hash, which results carry: they belong to this page and no other."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    script, style = ((_HOME / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    digest = hashlib.sha256(data.encode()).hexdigest()[:16]
    # the page may run this one program, look so, and play what it holds; it may ask nothing of a network
    allowed = {"script": source_hash(script), "style": source_hash(style)}
    around = Environment(loader=FileSystemLoader(_HOME), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    with whole_or_nothing(path) as file:
        html = around.get_template("page.html.j2").render(
            data=data, words=words, script=script, style=style, allowed=allowed, page=digest
        )
        file.write(html.encode())
    return digest
