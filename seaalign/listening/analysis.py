"""From result files to what may be said of the systems: tables, a figure, and the same with and without screening."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seaalign.listening.results import Answer, read_key, read_results
from seaalign.listening.scores import (
    Row,
    Screening,
    agreement,
    chosen,
    opinion_scores,
    preferences,
    rater_table,
    score_differences,
)
from seaalign.storage.columns import whole_or_nothing, without_nan, write_json
from seaalign.storage.rows import Refused


@dataclass(frozen=True)
class Statistics:
    """What a group of raters says.

    Args:
        raters: how many.
        scores: one row per test and system, `opinion_scores`.
        differences: one per test and two systems, `score_differences`.
        preferences: one per two systems compared, `preferences`.
        agreement: Krippendorff's alpha per test.
    """

    raters: int
    scores: list[Row]
    differences: list[Row]
    preferences: list[Row]
    agreement: list[Row]


@dataclass(frozen=True)
class ListeningAnalysis:
    """A listening test, analysed.

    Args:
        test: its id.
        screened: what raters who passed the screening say: the result.
        everyone: what all raters say, to see what the screening did.
        raters: one row each.
        refused: files and answers that could not be used.
        comments: by rater.
        answers: all that could be used.
        key: of the test.
    """

    test: str
    screened: Statistics
    everyone: Statistics
    raters: list[Row]
    refused: list[Refused]
    comments: dict[str, str]
    answers: list[Answer]
    key: dict[str, Any]

    def passed(self) -> list[Answer]:
        """The answers of raters who passed the screening."""
        good = {row["rater"] for row in self.raters if row["passed"]}
        return [a for a in self.answers if a.rater in good]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain numbers, None where there is none; the answers go to scores.csv."""
        found = {"kind": "listening analysis", "version": 1, "test": self.test, "settings": self.key["settings"]}
        tables = {"screened": asdict(self.screened), "everyone": asdict(self.everyone), "raters": self.raters}
        counts = dict(Counter(r.reason.split(":")[0] for r in self.refused))
        refused = {"counts": counts, "rows": [asdict(r) for r in self.refused]}
        return dict(without_nan({**found, **tables, "refused": refused, "comments": self.comments}))

    def save(self, folder: str | Path) -> list[Path]:
        """Write analysis.json, four tables as CSV and, of what there is, listening.png; return their paths."""
        from seaalign.listening.tables import draw

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "analysis.json", self.to_json())
        tables = {
            "scores": self.screened.scores,
            "comparisons": [*self.screened.differences, *self.screened.preferences],
            "raters": self.raters,
            "answers": [self._row(a) for a in self.answers],
        }
        for name, rows in tables.items():
            _write_csv(folder / f"{name}.csv", rows)
        written = [folder / "analysis.json", *(folder / f"{name}.csv" for name in tables)]
        if self.screened.scores or self.screened.preferences:  # else there is nothing to draw
            draw(self.screened, folder / "listening.png")
            written.append(folder / "listening.png")
        return written

    def _row(self, answer: Answer) -> Row:
        heard = [self.key["clips"][i] for i in answer.clips]
        said = (chosen(answer, self.key["clips"]) or "tie") if answer.test == "ab" else answer.value
        if answer.test == "ab" and answer.role in ("high", "low"):
            said = answer.value  # both are the same recording, one of them spoiled
        times = {"seconds": answer.seconds, "plays": answer.plays}
        systems = " / ".join(clip["system"] for clip in heard)
        found = {"rater": answer.rater, "test": answer.test, "role": answer.role, "text": heard[0]["text_id"]}
        return {**found, "systems": systems, "answer": said, **times}


def analyse_listening(
    folder: str | Path,
    results: Sequence[str | Path],
    screening: Screening | None = None,
    *,
    partial: bool = False,
    draws: int = 2000,
    seed: int = 0,
) -> ListeningAnalysis:
    """Analyse what raters sent back.

    Args:
        folder: of the test, with its key.
        results: the files.
        screening: when a rater counts; default: three quarters of the screening clips judged right.
        partial: take files that are not complete.
        draws: of the bootstrap.
        seed: of the draws.

    Raises:
        FileNotFoundError: no key.
        ValueError: no file could be used (the message says why), or nobody passed the screening.
    """
    key = read_key(folder)
    answers, refused, comments = read_results(key, results, partial)
    if not answers:
        shown = "\n".join(f"  {r.where}: {r.reason}" for r in refused[:5])
        raise ValueError(f"none of {len(results)} result files could be used:\n{shown}")
    raters = rater_table(answers, screening or Screening(), key["systems"])
    good = {row["rater"] for row in raters if row["passed"]}
    if not good:
        raise ValueError(f"none of {len(raters)} raters passed the screening: look at its clips, or lower --gold-share")
    clips = key["clips"]

    def among(rows: list[Answer]) -> Statistics:
        given = rows, clips, draws, seed
        people = len({a.rater for a in rows})
        return Statistics(
            people, opinion_scores(*given), score_differences(*given), preferences(*given), agreement(rows)
        )

    screened = among([a for a in answers if a.rater in good])
    return ListeningAnalysis(key["test"], screened, among(answers), raters, refused, comments, answers, key)


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    table = csv.DictWriter(text, names, restval="")
    table.writeheader()
    table.writerows(rows)
    with whole_or_nothing(path) as file:
        file.write(text.getvalue().encode("utf-8-sig"))  # spreadsheets read Thai and Lao only with the mark
