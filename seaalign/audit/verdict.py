"""What follows from the findings, in one sentence, and the whole as a table, a file and a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from seaalign.audit.effects import TOGGLE, VOICE
from seaalign.audit.findings import Finding, table
from seaalign.audit.questions import SPEECH, STYLE
from seaalign.storage import write_json

Status = Literal["separated", "suspect", "mixed", "unknown"]


@dataclass(frozen=True)
class Separation:
    """What `SeparationAudit` found; `str()` is the table and the verdict.

    Args:
        backbone: the name of its class.
        findings: one per question.
        timbre: does the backbone have one, apart from its tokens?
        points: what the picture shows beside them: cosines and F0 spreads of the scenes.

    Attributes:
        status: "separated"; "mixed": the voice comes with the style, as was heard, or as there is no timbre; "suspect":
            style tokens identify the speaker and nobody has listened; "unknown": the data cannot tell.
        verdict: the sentence, with the numbers it rests on.
    """

    backbone: str
    findings: tuple[Finding, ...]
    timbre: bool = True
    points: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Finding:
        """The finding of that name."""
        return {finding.name: finding for finding in self.findings}[name]

    def get(self, name: str) -> Finding | None:
        """The finding of that name where the question could be asked."""
        found = next((f for f in self.findings if f.name == name), None)
        return found if found is not None and found.outcome != "skipped" else None

    @property
    def status(self) -> Status:
        """Listening decides; tokens alone can clear a backbone, but not convict it."""
        heard = [f for f in (self.get(VOICE), self.get(TOGGLE)) if f is not None]
        if heard:
            outcomes = {f.outcome for f in heard}
            return "mixed" if "leak" in outcomes else "separated" if outcomes == {"clear"} else "unknown"
        tokens = self.get(STYLE) or (None if self.timbre else self.get(SPEECH))
        outcome = tokens.leaks if tokens else None
        if outcome == "leak" and not self.timbre:
            return "mixed"
        return "suspect" if outcome == "leak" else "separated" if outcome == "clear" else "unknown"

    @property
    def verdict(self) -> str:
        """What follows, with the criterion."""
        return sentence(self)

    def __str__(self) -> str:
        return f"Separation of style and timbre: {self.backbone}\n{table(self.findings)}\n{self.status}: {self.verdict}"

    def to_json(self, path: str | Path) -> None:
        """Everything as numbers and texts, written whole or not at all."""
        rows = [{**asdict(f), "counts": dict(f.counts)} for f in self.findings]
        about = {"backbone": self.backbone, "status": self.status, "verdict": self.verdict}
        points = json.loads(json.dumps({k: list(v) for k, v in self.points.items()}))
        write_json(Path(path), {**about, "findings": rows, "points": points})

    def figure(self, path: str | Path) -> None:
        """The table as a picture: probes against chance, voices of swapped samples, what the toggle does."""
        from seaalign.audit.picture import draw

        draw(self, Path(path))


def sentence(found: Separation) -> str:
    """The verdict of a status; see `Separation.verdict`."""
    style, speech, voice, toggle = (found.get(name) for name in (STYLE, SPEECH, VOICE, TOGGLE))
    tokens = _identify("style", style) or _identify("speech", speech)
    listened = " and ".join(_listened(voice, toggle))
    cure = "DGSA pairs will differ in identity; wrap it with StylePrefix"
    if found.status == "mixed":
        why = listened or "without a timbre nothing else can carry the voice"
        return f"{tokens + '; ' if tokens else ''}{why}: {cure}"
    if found.status == "suspect":
        return (
            f"{tokens}: unless its decoder takes the voice from the timbre alone, {cure}. Tokens cannot tell which: "
            "let SeparationAudit listen (a backbone that decodes, a speaker embedder)"
        )
    if found.status == "separated":
        what = (
            listened or f"the style tokens do not tell who speaks ({style.number if style else ''}, {_chance(style)})"
        )
        although = f", although {tokens}" if listened and style and style.leaks == "leak" else ""
        return f"{what}{although}: DGSA pairs differ in prosody, not in identity{_idle(found)}"
    weak = [f"{f.name} {f.number}" for f in (voice, toggle, style) if f is not None and f.outcome == "unclear"]
    if weak:
        good = [f"{f.name} {f.number}" for f in (voice, toggle) if f is not None and f.outcome == "clear"]
        but = f" (clear: {'; '.join(good)})" if good else ""
        return f"the data cannot tell: {'; '.join(weak)} reaches across the limit{but}; give more utterances and texts"
    lacking = next((f.note for f in found.findings if f.name == STYLE and f.outcome == "skipped"), "nothing was asked")
    return f"nothing is known of the separation: {lacking}"


def _identify(what: str, probe: Finding | None) -> str:
    if probe is None or probe.value is None:
        return ""
    return f"this backbone's {what} tokens identify the speaker with {probe.value:.0%} ({_chance(probe)})"


def _chance(probe: Finding | None) -> str:
    return f"chance {probe.chance:.0%}" if probe is not None and probe.chance is not None else ""


def _listened(voice: Finding | None, toggle: Finding | None) -> list[str]:
    said = []
    if voice is not None:
        side = "style" if (voice.value or 0) < 0.5 else "timbre"
        said.append(f"the voice of swapped samples comes with the {side} ({voice.number} of the way to the timbre's)")
    if toggle is not None:
        said.append(f"the style toggle moves the voice by {toggle.number} of the way between speakers")
    return said


def _idle(found: Separation) -> str:
    """Does the toggle do anything at all?"""
    changes = [f for f in found.findings if f.name.startswith("toggle") and f.unit in ("bits", "semitones")]
    if changes and all(f.outcome == "measured" and f.low <= 0 <= f.high for f in changes):  # type: ignore[operator]
        return ". But the toggle changes neither H_p nor F0 std beyond chance: pairs may hardly differ at all"
    return ""
