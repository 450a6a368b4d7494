"""The plan of a mixture: by hand, against a plain count, in parts, and where the curve has no peak."""

from __future__ import annotations

import json
import math
import random
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from seaalign import Prompt, Utterance, write_utterances
from seaalign.cli import main
from seaalign.functional import critical_ratio, token_counts
from seaalign.report import Counted, count, erosion_plan
from seaalign.report.counts import GROUPS
from seaalign.storage.streams import stream_tokens


def write(path: Path, rows: list[list[int]], source: str = "real") -> Path:
    write_utterances(path, [Utterance(f"{source}-{i}", Prompt([1]), row, source) for i, row in enumerate(rows)])
    return path


def rows(seed: int, codes: int, n: int = 300, low: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [
        [low + min(int(rng.expovariate(1.0) * codes / 5), codes - 1) for _ in range(rng.randint(1, 20))]
        for _ in range(n)
    ]


def bits(counts: dict[int, float]) -> float:
    total = sum(counts.values())
    return -sum(c / total * math.log2(c / total) for c in counts.values() if c)


def test_golden(tmp_path: Path) -> None:
    # real: two codes evenly, synthetic: a third one. H(a) = h(a) + (1 - a), which peaks at 1/3 with log2 3 bits
    plan = erosion_plan([write(tmp_path / "r", [[0, 1]] * 60)], [write(tmp_path / "s", [[2, 2]] * 60, "tts")], draws=20)
    assert plan.critical == pytest.approx(1 / 3) and max(plan.bits) == pytest.approx(math.log2(3), abs=1e-3)
    assert plan.interval == pytest.approx((1 / 3, 1 / 3)) and plan.alpha == 0.5
    assert plan.weights == pytest.approx((0.75, 0.25))  # (1/2 - 1/3) / (1 - 1/3) = 1/4
    assert [s.entropy for s in plan.sources] == [1.0, 0.0] and plan.by_size[0.25] == pytest.approx(1 / 3)


def test_agrees_with_a_plain_count(tmp_path: Path) -> None:
    real, a, b = rows(1, 40), rows(2, 12, low=3), rows(3, 25, 100, low=20)
    paths = [write(tmp_path / name, part, name) for name, part in (("real", real), ("a", a), ("b", b))]
    plan = erosion_plan(paths[:1], paths[1:], draws=30)
    mine = {name: Counter(t for row in part for t in row) for name, part in (("real", real), ("a", a), ("b", b))}
    n = {name: sum(c.values()) for name, c in mine.items()}
    assert [(s.name, s.tokens) for s in plan.sources] == [("real", n["real"]), ("a", n["a"]), ("b", n["b"])]
    assert plan.sources[1].entropy == pytest.approx(bits(mine["a"]))
    assert plan.alpha == pytest.approx((n["a"] + n["b"]) / sum(n.values()))

    def mixed(alpha: float, *systems: str) -> float:
        total = sum(n[s] for s in systems)
        shares: Counter[int] = Counter()
        for v, c in mine["real"].items():
            shares[v] += (1 - alpha) * c / n["real"]  # type: ignore[assignment]
        for s in systems:
            for v, c in mine[s].items():
                shares[v] += alpha * c / total  # type: ignore[assignment]
        return bits(shares)

    assert plan.bits[37] == pytest.approx(mixed(0.37, "a", "b"))
    assert plan.sources[1].without == pytest.approx(mixed(plan.alpha, "b"))
    best = max(range(10001), key=lambda i: mixed(i / 10000, "a", "b")) / 10000
    assert plan.plug_in == pytest.approx(best, abs=2e-4)
    assert plan.interval[0] <= plan.critical <= plan.interval[1] and plan.interval[0] < plan.interval[1]
    assert all(low <= h <= high for low, h, high in zip(plan.low[1:-1], plan.bits[1:-1], plan.high[1:-1], strict=True))


@pytest.mark.parametrize("batch", [1, 7, 4096])
def test_parts_of_a_file_add_up(tmp_path: Path, batch: int) -> None:
    part = rows(4, 30)
    path, found = write(tmp_path / "u", part), Counted()
    for piece in stream_tokens(path, batch):
        group = np.array([zlib.crc32(key.encode()) % GROUPS for key in piece.ids])
        found = found.add(piece.tokens, piece.lengths, group)
    whole = count([path])["real"]
    assert torch.equal(found.groups, whole.groups) and torch.equal(found.utterances, whole.utterances)
    assert torch.equal(whole.total, token_counts([torch.tensor(row) for row in part], vocab_size=len(whole.total)))
    assert int(whole.utterances.sum()) == len(part)


def test_the_first_codebook_alone_is_counted(tmp_path: Path) -> None:
    write_utterances(tmp_path / "k", [Utterance("a", Prompt([1]), torch.tensor([[1, 9], [1, 8], [3, 9]]))])
    assert count([tmp_path / "k"])["real"].total.tolist() == [0, 2, 0, 1]


def test_a_curve_without_a_peak(tmp_path: Path) -> None:
    wide, narrow = write(tmp_path / "w", [list(range(8))] * 20), write(tmp_path / "n", [[0, 1, 2, 3]] * 20, "tts")
    falls, rises = erosion_plan([wide], [narrow], draws=5), erosion_plan([narrow], [wide], draws=5)
    assert falls.critical == 0.0 and falls.weights == pytest.approx((2 / 3, 1 / 3))  # alpha = 80 / 240
    assert "only falls" in falls.shape
    assert rises.critical == 1.0 and rises.weights == (1.0, 0.0) and "only rises" in rises.shape


def test_the_interval_covers_what_is_true() -> None:
    """Few tokens of many codes: the plug-in is off by more than its own spread, the interval is not."""
    p = torch.rand(600, generator=torch.Generator().manual_seed(0)) ** 2
    q = torch.where(torch.arange(600) < 200, p.flip(0), 0.0)
    truth, held, plain, corrected = critical_ratio((p / p.sum()).double(), (q / q.sum()).double()), 0, 0.0, 0.0
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        sides = []
        for weights, n in ((p, 150), (q, 300)):
            tokens = torch.multinomial(weights, 60 * n, True, generator=generator).numpy()
            sides.append(Counted().add(tokens, np.full(n, 60), np.arange(n) % GROUPS))
        plan = erosion_plan({"r": sides[0]}, {"s": sides[1]}, draws=60, seed=seed)
        held += plan.interval[0] <= truth <= plan.interval[1]
        plain, corrected = plain + plan.plug_in / 30, corrected + plan.critical / 30
    assert 26 <= held <= 30
    assert abs(corrected - truth) < 0.5 * abs(plain - truth)


def test_as_a_user_types_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real, tts = write(tmp_path / "real.parquet", rows(1, 40)), write(tmp_path / "tts.parquet", rows(2, 12), "espeak")
    command = ["erosion", "plan", "--real", str(real), "--synthetic", str(tts), "--out", str(tmp_path / "plan")]
    assert main([*command, "--draws", "20", "--alpha", "0.8"]) == 0
    told = capsys.readouterr().out
    assert "espeak" in told and "DGSA(alpha=0.800" in told
    stored = json.loads((tmp_path / "plan" / "plan.json").read_text())
    assert stored["alpha"] == 0.8 and (tmp_path / "plan" / "plan.png").stat().st_size > 10_000
    assert main([*command[:3], str(tmp_path / "none.parquet"), *command[4:]]) == 1
    assert "no file" in capsys.readouterr().err
    assert main([*command, "--alpha", "1.5"]) == 1
    assert "alpha must be a share between 0 and 1, got 1.5" in capsys.readouterr().err
