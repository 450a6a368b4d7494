"""Runs as the library's own writers leave them on disk, small, with names that a page has to escape."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from seaalign.audio import save
from seaalign.evaluation import Comparison, Evaluation, Result, Row, Score, write_evaluation
from seaalign.storage import write_json

EVIL = "<script>window.pwned=1</script>$x_1$"
SYSTEMS = ("sft", "dgsa", EVIL)
TEXTS = ("ສະບາຍດີ & <b>hello</b>", "สวัสดี", "three")


def tone(hertz: float, seconds: float = 0.6) -> torch.Tensor:
    return 0.3 * torch.sin(torch.arange(int(8000 * seconds)) / 8000 * hertz * 2 * math.pi)


def write_evaluated(folder: Path, sound: bool = True) -> Path:
    """Three systems with the style on and off, and recordings; three sentences."""
    rows, results = [], []
    modes = [("recordings", "recordings"), *((name, style) for name in SYSTEMS for style in ("off", "on"))]
    for place, (name, style) in enumerate(modes):
        for number, text in enumerate(TEXTS):
            path = f"audio/{place}/{style}/{number}-0.wav" if sound else ""
            if path:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                save(folder / path, tone(150 + 40 * place), 8000)
            contour = torch.tensor([0.0] * 5 + [150.0 + 20 * place + i for i in range(40)] + [0.0] * 5)
            scores = {"word_errors": float(number), "words": 4.0, "f0_std": 0.5 + place}
            said = {"transcript": f"heard {number}", "f0": contour, "scores": scores}
            rows.append(Row(name, style, f"p{number}", text, audio=path, **said))
        alpha = {"sft": 0.8, "dgsa": 0.2}.get(name)
        wer, bits = 40.0 - 5 * place, 9.0 + 0.1 * (place % 4)
        metrics = {"wer": Score(wer, wer - 2, wer + 2, 3), "entropy": Score(bits, bits - 0.1, bits + 0.1, 3)}
        metrics |= {"f0_std": Score(0.5 + place, n=3)} if place else {}
        results.append(Result(name, style, metrics, 1000, alpha, 100 * place))
    compared = [
        Comparison("wer", "dgsa", "sft", "off", -10.0, -14.5, -5.5, 0.001, 0.002),
        Comparison("entropy", "dgsa", EVIL, "on", 0.1, -0.2, 0.4, 0.5, 0.5),
    ]
    write_evaluation(
        folder, Evaluation({"language": "lo"}, results, compared, rows, ["the judge of <b>training</b> reports"])
    )
    return folder


def write_rounds(folder: Path) -> Path:
    """Two iterations, and a third that was killed while it sampled."""
    for k in (1, 2):
        rows = [
            {
                "temperature": heat, "candidates": 40, "accepted": 10 * k, "pass_rate": 0.25 * k, "share": 0.5,
                "refused": {"intelligibility": 30 - 10 * k, "length <b>": 10}, "error": 0.6 - 0.2 * k,
                "repetition": 0.1 / k, "frames": 30.5, "entropy": 9.0 + k, "entropy_tokens": 1000,
                "winners": 4, "losers": 3,
            }
            for heat in (0.7, 1.0)
        ]  # fmt: skip
        texts = {"texts": 10, "with_accepted": 8, "pairs": 7, "nothing accepted": 2, "no loser": 1}
        stats = {
            "pass_rate": 0.25 * k, "candidates": 80, "accepted": 20 * k, "scores": {"f0_std": 0.4 * k},
            "temperatures": rows, "texts": texts, "seconds": {"sample": 1.0},
        }  # fmt: skip
        write_json(folder / f"round-{k:02d}" / "round.json", stats)
    board = {"iteration": 1, "error": 0.4, "entropy": 10.0, "repetition": 0.1, "pass_rate": 0.25, "f0_std": 0.4}
    write_json(folder / "dashboard.json", [{**board, "candidates": 80.0, "accepted": 20.0, "pairs": 7.0}])
    write_json(folder / "round-03" / "about.json", {"shards": 4})
    (folder / "round-03" / "wave-00000.parquet").write_bytes(b"PAR1")
    return folder


def write_log(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """As CSVLogger does: a column per key, blanks where a row has none."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "metrics.csv", "w", newline="") as file:
        table = csv.DictWriter(file, sorted({key for row in rows for key in row}))
        table.writeheader()
        table.writerows(rows)
    return folder


LOGGED = [
    {"step": 10, "epoch": 0, "val/erosion/entropy_corrected": 10.5, "val/erosion/f0_std": 1.5},
    {"step": 9, "epoch": 0, "train/loss": 2.5, "train/rewards/margins": 0.1},
    {"step": 9, "epoch": 0, "val/loss": 2.6, "val/wer": 50.0},
    {"step": 20, "epoch": 1, "val/erosion/entropy_corrected": 10.2, "val/erosion/f0_std": 1.1},
    {"step": 19, "epoch": 1, "train/loss": 1.5, "train/rewards/margins": 0.4},
    {"step": 19, "epoch": 1, "val/loss": 1.9, "val/wer": 40.0},
]


def write_plan(folder: Path) -> Path:
    """As `seaalign erosion plan` writes it."""
    from seaalign.report import Counted, erosion_plan

    def spoken(tokens: list[int]) -> Counted:
        return Counted().add(torch.tensor(tokens).numpy(), torch.ones(len(tokens), dtype=int).numpy(), GROUPS)

    GROUPS = torch.arange(100).numpy()  # noqa: N806
    made = erosion_plan({"real": spoken([0, 1] * 50)}, {EVIL: spoken([2] * 100)}, draws=20)
    write_json(folder / "plan.json", made.to_json())
    return folder


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One of each kind; tests read them only."""
    root = tmp_path_factory.mktemp("runs")
    return [
        write_evaluated(root / "evaluation"),
        write_rounds(root / "tdsc"),
        write_log(root / "log" / "version_1", LOGGED).parent,
        write_plan(root / "plan"),
    ]


@pytest.fixture(scope="session")
def report(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of all of them."""
    from seaalign.report import build_report

    return build_report(runs, tmp_path_factory.mktemp("report"), "Lao & <i>Thai</i>")
