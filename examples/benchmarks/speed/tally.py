"""H_p and repetition of a corpus: by a loop over utterances in Python, and by `seaalign.functional`.

    python tally.py FOLDER VARIANT OUT

Variants: "loop" and "seaalign".
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import world
from meter import Meter
from world import Job

K = 4


def loop(corpus: list[list[int]]) -> tuple[float, float]:
    """H_p (bits), and the mean share of positions that begin a run of K + 1 equal tokens."""
    counts = Counter[int]()
    rates = []
    for tokens in corpus:
        counts.update(tokens)
        places = len(tokens) - K
        hits = sum(all(tokens[i + j] == tokens[i] for j in range(1, K + 1)) for i in range(places))
        if places > 0:
            rates.append(hits / places)
    total = sum(counts.values())
    return -sum(n / total * math.log2(n / total) for n in counts.values()), sum(rates) / len(rates)


def run(job: Job, folder: Path, variant: str, out: Path) -> dict[str, Any]:
    """Both statistics of utterances that repeat themselves now and then."""
    from seaalign.functional import repetition_rate, token_entropy

    g = torch.Generator().manual_seed(job.seed)
    sizes = world.lengths(job.frames, (job.utterances,), g)
    stream = torch.randint(job.codes, (int(sizes.sum()),), generator=g)
    held = torch.rand(len(stream), generator=g) < 0.3  # a token holds on with this probability
    kept = torch.where(held, 0, torch.arange(len(stream))).cummax(0).values
    corpus = list(stream[kept].split(sizes.tolist()))
    meter, lists = Meter("cpu"), [tokens.tolist() for tokens in corpus] if variant == "loop" else []

    def ours(some: list[torch.Tensor]) -> tuple[float, float]:
        return float(token_entropy(some, vocab_size=job.codes)), float(repetition_rate(some, k=K).rate)

    work, what = (loop, lists) if variant == "loop" else (ours, corpus)
    work(what[:20])  # to warm up
    meter.mark()
    meter.start()
    entropy, repetition = work(what)
    return {**meter.stop(), "tokens": int(sizes.sum()), "entropy": entropy, "repetition": repetition}


if __name__ == "__main__":
    world.work(run, ("seaalign",))
