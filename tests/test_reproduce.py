"""The paper in miniature: the rule that decides a claim, pieces that survive a kill, and tables of made-up results."""

from __future__ import annotations

import doctest
import json
import math
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytestmark = pytest.mark.audio  # the demo's parts, which it is made of, need sound

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "examples" / "reproduce"
NAMES = ("schedule", "paper", "claims", "pieces", "tables", "figures")


@pytest.fixture
def example(monkeypatch):
    """The files of the example as modules; they lie beside each other, as for a program in that folder."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = {name: sys.modules.pop(name, None) for name in NAMES}
    modules = {name: import_module(name) for name in NAMES}
    scope: dict = {"__name__": "reproduce_main"}
    exec(compile((FOLDER / "__main__.py").read_text(), str(FOLDER / "__main__.py"), "exec"), scope)
    yield SimpleNamespace(**modules, main=SimpleNamespace(**scope))
    for name, module in before.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


def claim(example, want, metric="wer"):
    return example.claims.Claim("table 0", "something", metric, "before", "after", want, (None, None))


def runs(before, after, metric="wer"):
    return [{"before": {metric: x}, "after": {metric: y}} for x, y in zip(before, after, strict=True)]


def test_golden_verdict(example):
    # differences -10, -12, -14: mean -12, sd 2, half-width 4.3027 x 2 / sqrt(3) = 4.968
    found = example.claims.judged(claim(example, "down"), runs([40, 50, 60], [30, 38, 46]))
    assert found.word == "reproduces"
    assert found.difference == -12 and found.low == pytest.approx(-16.968, abs=1e-3)
    assert found.p == pytest.approx(0.0092, abs=1e-4)  # t = 12 / (2 / sqrt(3)) = 10.39 on two degrees of freedom
    assert example.claims.judged(claim(example, "up"), runs([40, 50, 60], [30, 38, 46])).word == "contradicts"
    assert example.claims.judged(claim(example, "same"), runs([40, 50, 60], [30, 38, 46])).word == "contradicts"


def test_what_the_seeds_disagree_on_is_not_decided(example):
    undecided = runs([40, 50, 60], [30, 38, 65])
    for want in ("up", "down", "same"):
        assert example.claims.judged(claim(example, want), undecided).word == "not significant"


def test_no_change_is_found_only_within_the_margin(example):
    near = runs([40, 50, 60], [40.5, 49.5, 60.2])  # differences 0.5, -0.5, 0.2: half-width 1.27
    assert example.claims.judged(claim(example, "same"), near).word == "reproduces"
    assert example.claims.judged(claim(example, "same"), runs([40, 50, 60], [43, 48, 61])).word == "not significant"


def test_a_seed_without_one_of_the_two_does_not_count(example):
    some = [*runs([40, 50], [30, 38]), {"before": {"wer": 9.0}}, *runs([math.nan], [3.0])]
    assert example.claims.judged(claim(example, "down"), some).seeds == 2
    assert example.claims.judged(claim(example, "down"), some[2:]).word == "not measured"


def test_the_interval_is_the_one_scipy_gives(example):
    stats = pytest.importorskip("scipy.stats")
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.rand(5, generator=generator).tolist() for _ in range(2))
    found = example.claims.judged(claim(example, "down"), runs(a, b))
    twin = stats.ttest_rel(b, a).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((twin.low, twin.high))


def test_claims_name_systems_that_are_measured(example):
    """A misspelled system would be "not measured" for ever."""
    plan = example.pieces.plan(None, example.pieces.SIZES, 0)
    known = {piece.arguments["title"] for piece in plan if "title" in piece.arguments}
    known |= {"recordings", "codec only", "frontier", "coolest", "middle", "hottest"}
    known |= {"first iteration", "last iteration"}
    asked = {system for c in example.claims.CLAIMS for system in (c.a, c.b)}
    shown = {system for table in example.paper.TABLES.values() for system in table.rows}
    assert asked <= known and shown <= known


def test_the_papers_numbers_agree_with_the_papers_claims(example):
    """Where the paper gives both values, their difference has the direction that is claimed."""
    for c in example.claims.CLAIMS:
        if None not in c.paper:
            a, b = c.paper
            assert {"up": b > a, "down": b < a, "same": abs(b - a) <= example.claims.MARGIN}[c.want], c


def test_every_piece_can_begin(example):
    for seed in (0, 5):
        plan = example.pieces.plan(None, example.pieces.SIZES, seed)
        names = [piece.name for piece in plan]
        assert len(set(names)) == len(names) and all(need in names for piece in plan for need in piece.needs)
        done: set[str] = set()
        while len(done) < len(plan):
            free = [p.name for p in plan if p.name not in done and set(p.needs) <= done]
            assert free, f"pieces wait for each other: {set(names) - done}"
            done |= set(free)


def note(folder, name, fail=False):
    """A piece that leaves a trace each time it runs."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "trace").open("a") as file:
        file.write(f"{name}\n")
    if fail:
        raise ValueError(f"{name} went wrong")
    return name


def test_what_is_there_is_not_done_again(example, tmp_path, monkeypatch):
    Piece, run = example.schedule.Piece, example.schedule.run
    monkeypatch.setattr(example.schedule, "ProcessPoolExecutor", Here)
    plan = [
        Piece("last", note, {"name": "last"}, needs=("middle",)),
        Piece("first", note, {"name": "first"}),
        Piece("middle", note, {"name": "middle", "fail": True}, needs=("first",)),
    ]
    with pytest.raises(ValueError, match="middle went wrong"):
        run([(tmp_path, plan)], 2)
    plan[2] = replace(plan[2], arguments={"name": "middle"})
    run([(tmp_path, plan)], 2)
    run([(tmp_path, plan)], 2)
    assert (tmp_path / "trace").read_text().split() == ["first", "middle", "middle", "last"]
    assert example.schedule.result(tmp_path, "last") == "last"


class Here:
    """A pool of this process: fresh ones would take half of the test's time to import what is here already."""

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, function, *arguments):
        from concurrent.futures import Future

        future: Future = Future()
        try:
            future.set_result(function(*arguments))
        except ValueError as error:
            future.set_exception(error)
        return future


def made_up(example, seeds=3):
    """Numbers of all systems; DGSA and TDSC are better by more than the noise."""
    generator = torch.Generator().manual_seed(0)
    plan = example.pieces.plan(None, example.pieces.SIZES, 0)
    systems = [piece.arguments["title"] for piece in plan if "title" in piece.arguments]
    systems += ["recordings", "codec only", "frontier", "coolest", "middle", "hottest"]
    keys = {"wer": 40.0, "entropy": 7.0, "repetition": 3.0, "f0_std": 1.0, "similarity": 0.7, "pass": 50, "share": 33}
    numbers = []
    for _ in range(seeds):
        run = {s: {k: v + 0.01 * float(torch.rand((), generator=generator)) for k, v in keys.items()} for s in systems}
        run["TDSC"]["wer"] -= 20
        numbers.append(run)
    return numbers


def test_tables_and_figures_of_made_up_results(example, tmp_path):
    numbers = made_up(example)
    text = example.tables.everything(numbers)
    claimed = "| TDSC: fewer word errors than SFT | WER | 38.5 → 29.8 | 40.0 → 20.0 | -20.0 [-20.0, -20.0] | < 0.001 |"
    assert claimed in text
    assert "### Table 8" in text and "3 were not measured" in text  # figure 6 has no iterations here
    rows = [{"iteration": k, "pass_rate": 0.2 * k, "error": 0.5 / k, "entropy": 7.0, "repetition": 0.1} for k in (1, 2)]
    files = example.figures.draw(tmp_path, numbers, [{"TDSC": rows}] * 3)
    assert len(files) == 4 and all(file.stat().st_size < 200_000 for file in files)


def test_scale_makes_it_larger_and_a_device_is_handed_on(example):
    sizes = example.pieces.scaled(example.pieces.QUICK, 2.0, "cuda")
    assert sizes.sft_steps == 2 * example.pieces.QUICK.sft_steps and sizes.rounds == example.pieces.QUICK.rounds
    assert sizes.device == "cuda" and sizes.held_out == example.pieces.QUICK.held_out


def test_other_settings_are_refused_in_a_folder_that_was_begun(example, tmp_path, capsys):
    example.main.claim_folder(tmp_path / "out", {"fsdd": None, "sizes": {"real": 1}})
    example.main.claim_folder(tmp_path / "out", {"fsdd": None, "sizes": {"real": 1}})
    with pytest.raises(SystemExit):
        example.main.claim_folder(tmp_path / "out", {"fsdd": None, "sizes": {"real": 2}})
    assert "(real)" in capsys.readouterr().err


def test_one_policy_from_speech_to_its_arms(example, tmp_path):
    """The shortest way through real pieces: toy speech, a policy of little of it, self-training, and listening."""
    sizes = replace(
        example.pieces.QUICK, real=12, flat=24, codec=12, lessons=48, tests=4, codec_steps=2, ear_steps=2, rounds=2
    )
    plan = {piece.name: piece for piece in example.pieces.plan(None, sizes, 0)}
    wanted = ("speech", "judge", "reporter", "speaker", "scarce", "critique-self-training", "heard-self-training")
    for name in wanted:
        example.schedule._do(example.schedule.path_of(tmp_path, name), tmp_path, plan[name])
    heard = example.schedule.result(tmp_path, "heard-self-training")["self-training"]
    assert 0 < heard["entropy"][0] < 10 and heard["wer"][0] >= 0
    rounds = example.schedule.result(tmp_path, "critique-self-training")["rounds"]
    assert [row["iteration"] for row in rounds] == [1, 2]
    assert "TOY" in example.schedule.result(tmp_path, "speech")


def test_the_page_shows_what_the_results_say(example):
    """docs/reproduce.md holds the tables that docs/reproduce.json gives."""
    found = json.loads((ROOT / "docs" / "reproduce.json").read_text())
    text = example.tables.everything([run["numbers"] for run in found["runs"]])
    assert text.strip() in (ROOT / "docs" / "reproduce.md").read_text()


def test_examples_of_the_docstrings(example):
    for module in (example.claims, example.tables):
        found = doctest.testmod(module)
        assert found.attempted and not found.failed
