"""How fast is what `seaalign evaluate` measures, without model and recogniser? On 5 s of spoken digits, one thread.

python examples/benchmarks/evaluation.py --fsdd free-spoken-digit-dataset/recordings
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from seaalign.audio import load
from seaalign.evaluation import Case, Policy, Row
from seaalign.evaluation.engine import put_together
from seaalign.evaluation.hearing import Heard, People, Repetition, contours, prosody
from seaalign.evaluation.parts import Listeners
from seaalign.judges.transcribers import as_transcriber

COUNT, RATE, TEXT = 64, 8000, "one two three four five six seven eight nine ten"


def seconds(work: Callable[[], Any]) -> float:
    """Processor time of a call."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def strings(folder: Path) -> list[torch.Tensor]:
    """Digits one after the other, 5 s each."""
    words = [load(path)[0] for path in sorted(folder.glob("*.wav"))[:400]]
    return [torch.cat([words[(7 * k + i) % len(words)] for i in range(20)])[: 5 * RATE] for k in range(COUNT + 1)]


def listening(waves: list[torch.Tensor]) -> None:
    """Answers a second: F0 alone, and all of it beside a person's recording."""
    cases = [Case(f"c{i}", TEXT, audio=(waves[i + 1], RATE), language="en") for i in range(COUNT)]
    people = People().say(cases)
    print(f"F0 contours: {COUNT / seconds(lambda: contours(waves[:COUNT], [RATE] * COUNT)):.0f} answers a second")
    heard = [
        Heard(case, wave, RATE, contour, torch.randint(0, 6561, (125,)), person)
        for case, wave, contour, person in zip(
            cases, waves, contours(waves[:COUNT], [RATE] * COUNT), people, strict=False
        )
    ]
    print(f"melody beside a person's: {COUNT / seconds(lambda: prosody(heard)):.0f} answers a second")
    listeners = Listeners(as_transcriber(lambda waves, rate: ["one two"] * len(waves)), True, [Repetition()])
    print(f"melody, errors, repetition: {COUNT / seconds(lambda: listeners.hear(heard)):.0f} answers a second")


def statistics(texts: int = 255, repeats: int = 3) -> None:
    """Intervals and tests of three systems with two styles."""
    systems = [Policy(name, torch.nn.Linear(1, 1)) for name in "abc"]  # type: ignore[arg-type]
    rows: dict[Any, list[Row]] = {(s.name, style): [] for s in systems for style in ("on", "off")}
    for (name, style), said in rows.items():
        for i in range(texts * repeats):
            scores = {
                "word_errors": float(i % 4),
                "words": 10.0,
                "f0_std": float(torch.rand(())),
                "repetition": 0.1 * i,
            }
            tokens = torch.randint(0, 6561, (125,))
            said.append(Row(name, style, f"c{i % texts}", TEXT, i // texts, tokens, scores=scores))
    cases = [Case(f"c{i}", TEXT) for i in range(texts)]
    told = {"texts": texts, "repeats": repeats, "draws": 1000, "transcriber": None}
    took = seconds(lambda: put_together(rows, systems, cases, told))
    print(f"intervals and tests over {sum(map(len, rows.values()))} answers: {took:.2f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fsdd", type=Path, required=True, help="folder of recordings")
    torch.set_num_threads(1)
    listening(strings(parser.parse_args().fsdd))
    statistics()
