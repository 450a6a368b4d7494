"""Hours, storage and bottleneck of self-critique on 1, 8 and 64 GPUs, from a page of arithmetic.

    python examples/benchmarks/many_machines.py              # the tables of docs/many_machines.md
    python examples/benchmarks/many_machines.py --measure    # bytes and seconds per candidate, on this machine

Change the numbers in `Work` to yours: rates are per GPU. Which are measured and which assumed, the page says.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from seaalign import Candidate, Pair, Prompt, Sentence, Verdict
from seaalign.pairs import mine
from seaalign.storage import read_judged, write_candidates, write_judged, write_pairs

HOUR = 3600.0


@dataclass(frozen=True)
class Work:
    """What is done, and how fast.

    Args:
        texts: sentences per iteration.
        candidates: of each.
        iterations: K.
        tokens: of a candidate, mean; 8 seconds at 25 Hz.
        rate: tokens per second of the codec.
        sample: tokens per second that one GPU samples.
        heard: share of the candidates that passes the criteria on tokens, and is decoded and transcribed.
        decode: seconds of sound per second, of flow and vocoder.
        transcribe: seconds of sound per second, of the recogniser.
        pairs: per text.
        score: tokens per second of a forward pass.
        mine: seconds per candidate to read and mine, in one process.
        candidate_bytes, judged_bytes, pair_bytes: on disk, each.
    """

    texts: int = 1_000_000
    candidates: int = 12
    iterations: int = 5
    tokens: int = 200
    rate: float = 25.0
    sample: float = 20_000.0
    heard: float = 0.8
    decode: float = 50.0
    transcribe: float = 100.0
    pairs: float = 0.7
    score: float = 290_000.0
    mine: float = 60e-6
    candidate_bytes: float = 332.0
    judged_bytes: float = 360.0
    pair_bytes: float = 3094.0

    def gpu_hours(self) -> dict[str, float]:
        """Of all iterations, by stage."""
        made = self.texts * self.candidates * self.iterations
        sound = made * self.heard * self.tokens / self.rate
        answers = 2 * self.pairs * self.texts * self.iterations
        return {
            "sampling": made * self.tokens / self.sample / HOUR,
            "decoding": sound / self.decode / HOUR,
            "transcribing": sound / self.transcribe / HOUR,
            "scoring": answers * self.tokens / self.score / HOUR,
        }

    def hours(self, gpus: int) -> dict[str, float]:
        """Of all iterations on so many GPUs, by stage; mining is done by one process."""
        shared = {stage: hours / gpus for stage, hours in self.gpu_hours().items()}
        return shared | {"mining": self.texts * self.candidates * self.iterations * self.mine / HOUR}

    def gigabytes(self) -> dict[str, float]:
        """Of one iteration, by folder."""
        made, pairs = self.texts * self.candidates, self.texts * self.pairs
        sizes = {"candidates": made * self.candidate_bytes, "judged": made * self.judged_bytes}
        sizes |= {"reference": pairs * self.pair_bytes, "pairs.parquet": pairs * self.pair_bytes}
        return {name: size / 1e9 for name, size in sizes.items()}


def hours_table(work: Work, gpus: tuple[int, ...] = (1, 8, 64)) -> str:
    """Hours by stage, their sum, and what takes the most."""
    found = {count: work.hours(count) for count in gpus}
    lines = ["| hours of | " + " | ".join(f"{count} GPU{'s' * (count > 1)}" for count in gpus) + " |"]
    lines.append("|---" * (len(gpus) + 1) + "|")
    for stage in found[gpus[0]]:
        lines.append(f"| {stage} | " + " | ".join(_hours(found[count][stage]) for count in gpus) + " |")
    lines.append("| **together** | " + " | ".join(f"**{_hours(sum(found[count].values()))}**" for count in gpus) + " |")
    worst = [max(found[count], key=found[count].__getitem__) for count in gpus]
    return "\n".join([*lines, f"| bottleneck | {' | '.join(worst)} |"])


def rates_table(work: Work) -> str:
    """GPU-hours of sampling at other rates, beside what the rest takes."""
    rest = sum(hours for stage, hours in work.gpu_hours().items() if stage != "sampling")
    lines = ["| tokens/s of one GPU | GPU-hours of sampling | of all GPU-hours |", "|---|---|---|"]
    for rate in (505, 2_114, 20_000, 242_000):
        hours = work.gpu_hours()["sampling"] * work.sample / rate
        lines.append(f"| {rate:,} | {hours:,.0f} | {100 * hours / (hours + rest):.0f} % |")
    return "\n".join(lines)


def storage_table(work: Work) -> str:
    """Gigabytes of an iteration by folder."""
    sizes = work.gigabytes()
    rows = [f"| {name} | {size:.1f} |" for name, size in sizes.items()]
    whole = [f"| **together** | **{sum(sizes.values()):.1f}** |"]
    return "\n".join(["| folder, one iteration | GB |", "|---|---|", *rows, *whole])


def measured(folder: Path, sentences: int = 256, work: Work = Work()) -> dict[str, float]:  # noqa: B008
    """Bytes and seconds per candidate, by writing, reading and mining a real shard of random tokens of 6,561 codes."""
    draw = torch.Generator().manual_seed(0)
    texts = [
        Sentence(f"text-{i:07d}", "a sentence of fifty letters or so, as they come  ", Prompt([i]))
        for i in range(sentences)
    ]
    said, verdicts = [], []
    for text in texts:
        for k in range(work.candidates):
            length = int(torch.randint(work.tokens // 2, work.tokens * 3 // 2 + 1, (), generator=draw))
            tokens = torch.randint(6561, (length,), generator=draw)
            said.append(Candidate(text, tokens, True, (0.7, 1.0, 1.3)[k % 3], k))
            error = float(torch.rand((), generator=draw))
            scores = {"repetition": error / 10, "tokens_per_unit": length / 50, "error": error, "f0_std": 3 * error}
            heard = text.text[: int(50 * (1 - error / 2))]
            reject = Verdict.reject("intelligibility", scores=scores, transcript=heard)
            verdicts.append(Verdict.accept(scores, heard) if error < 0.4 else reject)
    write_candidates(folder / "candidates.parquet", said)
    write_judged(folder / "judged.parquet", list(zip(said, verdicts, strict=True)))
    begun = time.perf_counter()
    mined = mine(read_judged(folder / "judged.parquet", {text.id: text for text in texts}))
    seconds = time.perf_counter() - begun
    scored = [
        Pair(p.id, p.prompt, *p.completions(), reference=tuple(-5 * torch.rand(len(t) + 1) for t in p.completions()))
        for p in mined.pairs
    ]
    write_pairs(folder / "pairs.parquet", scored)
    size = {name: (folder / f"{name}.parquet").stat().st_size for name in ("candidates", "judged", "pairs")}
    return {
        "candidate_bytes": size["candidates"] / len(said),
        "judged_bytes": size["judged"] / len(said),
        "pair_bytes": size["pairs"] / len(scored),
        "mine": seconds / len(said),
    }


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}"


if __name__ == "__main__":
    if "--measure" in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as place:
            for name, value in measured(Path(place)).items():
                print(f"{name} {value:.6g}")
    else:
        print("\n\n".join(table(Work()) for table in (hours_table, rates_table, storage_table)))
