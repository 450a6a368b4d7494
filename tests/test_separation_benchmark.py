"""The study of the separation: what its probes are given, by hand, and one whole examination on a minute world."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from seaalign import Disentangler

pytestmark = pytest.mark.audio


@pytest.fixture(scope="module")
def studies():
    folder = str(Path(__file__).resolve().parent.parent / "examples" / "benchmarks")
    sys.path.insert(0, folder)
    try:
        yield import_module("separation"), import_module("habits"), import_module("end_to_end_separation")
    finally:
        sys.path.remove(folder)
        for name in ("separation", "habits", "end_to_end_separation"):
            sys.modules.pop(name, None)


@pytest.fixture
def study(studies):
    return studies[0]


@pytest.fixture
def custom(studies):
    return studies[1]


@pytest.fixture
def whole(studies):
    return studies[2]


def test_steps_are_paired_with_the_contour_that_they_cover(study):
    values = torch.tensor([[1.0], [2.0], [3.0]])
    curve = torch.tensor([0.0, 2.0, torch.nan, torch.nan, 7.0])  # mean 3; steps of two frames: 1, unvoiced, 7
    x, y, groups = study.step_rows([values], [curve], ["a"], 2)
    assert x.tolist() == [[0.0, 1.0, 2.0], [2.0, 3.0, 0.0]] and y.tolist() == [-2.0, 4.0] and groups == ["a", "a"]


def test_decoded_r2_takes_the_timbre_of_the_next_utterance_of_the_speaker(study):
    class Perfect:
        asked: torch.Tensor

        def resynthesise(self, codes, timbres):
            self.asked = timbres
            return [
                torch.tensor([[0.0, 1, 0], [2.0, 1, 0]]),
                torch.tensor([[5.0, 1, 0], [7.0, 1, 0]]),
                torch.zeros(2, 3),
            ]

    module, timbres = Perfect(), torch.tensor([[1.0], [2.0], [3.0]])
    curves = [torch.tensor([0.0, 2.0]), torch.tensor([5.0, 7.0]), torch.tensor([9.0, 11.0])]
    r2 = study.decoded_r2(module, [torch.zeros(1)] * 3, timbres, curves, ["a", "b", "a"])
    assert module.asked.tolist() == [[3.0], [2.0], [1.0]]
    # a: mean 5.5; squares 30.25 + 12.25 + 12.25 + 30.25, wrong by 81 + 121; b: mean 6, squares 1 + 1, wrong by 0
    assert r2 == pytest.approx(1 - 202 / 87)


def test_a_minute_world_is_examined(study):
    heard, probed = study.voice_world(0, texts=66, words=1)
    assert len(heard) == 360 and len(probed) == 36 and {s.text for s in probed[:6]} == {probed[0].text}
    torch.manual_seed(0)
    found = study.examine(Disentangler(sample_rate=8000, weights={"speaker": 0.0}, dim=16), probed)
    assert set(study._KEYS) <= set(found)
    assert found["speaker_code"]["value"] == max(found[f"speaker_code_{k}"]["value"] for k in ("ids", "values"))
    assert found["speaker_code"]["chance"] == pytest.approx(1 / 6)


def test_level_rhythm_and_what_makes_a_voice_are_asked_for(study):
    """A module that passes on level and sounding in place of a code, and the tract in place of a timbre."""
    heard = study.hear

    class Glass:
        levels, hparams = (101,), {"stride": 10}

        def prosody(self, waves):
            frames = [h.frames[:, 2] for h in heard(waves, 8000, 8000)]
            steps = [torch.stack([part.mean() for part in f.split(10)]) for f in frames]
            return [(s - s.mean() + 50).clamp(0, 100).round().long() for s in steps]  # within half a decibel

        def timbre(self, waves):
            return torch.tensor([[s.tract, 0.0] for s in study.JUDGE_SPEAKERS.values() for _ in range(2)])

    found = study.parameters(Glass(), study.voice_world(0, texts=66, words=1)[1])
    assert found["level_code"] > 0.97 and 0.6 < found["rhythm_code"] < 1
    asked = study.strangers(Glass(), 0, each=2)
    assert asked["tract_timbre"] > 0.99 and max(asked["tilt_timbre"], asked["tract_code"]) < 0.5


def test_what_is_kept_is_counted_about_each_mean_or_about_the_given_one(custom):
    nan = torch.nan
    true = [torch.tensor([0.0, 2.0, nan]), torch.tensor([4.0, 8.0])]
    said = [torch.tensor([7.0, 8.0, 99.0]), torch.tensor([4.0, 8.0])]
    # about their means: (-1, 1) said as (-0.5, 0.5), (-2, 2) as it is: wrong by 0.5 of 2 + 8
    assert custom.explained(said, true) == pytest.approx(1 - 0.5 / 10)
    # about 1 and 6: wrong by 49 + 36 of the same 10
    assert custom.explained(said, true, [1.0, 6.0]) == pytest.approx(1 - 85 / 10)


def test_across_reads_speakers_off_codes_of_another_corpus(custom):
    g = torch.Generator().manual_seed(0)
    spoken = [
        custom.Spoken((i % 7, i % 10), torch.zeros(1), 8000, "ab"[i % 2], "real", torch.zeros(0)) for i in range(40)
    ]
    habits = custom.Habits(8000, levels=(5, 5), numbers=4)
    apart = [torch.randint(5, (2,), generator=g) + 20 * (i % 2) for i in range(40)]
    alike = [torch.randint(25, (2,), generator=g) for i in range(40)]
    assert custom.across([apart, apart[20:]], [spoken, spoken[20:]], habits) == 1.0
    assert custom.across([apart, alike], [spoken, spoken], habits) < 0.75


def test_the_style_is_of_the_next_utterance_of_that_speaker_and_source(whole):
    said = ("ada real", "ben real", "ada real", "ada flat", "ada real", "ben real")
    spoken = [SimpleNamespace(speaker=one[:3], source=one[4:]) for one in said]
    assert whole.following(spoken) == [2, 5, 4, 3, 0, 1]  # alone of its kind: itself


def test_shares_of_the_way_are_each_model_s_own(whole, capsys):
    assert whole.share(0.5, 0.75, 1.5) == 0.25 and whole.share(6.0, 5.5, 7.0) == -0.5
    assert whole.share(1.0, 1.0, 1.0) != whole.share(1.0, 1.0, 1.0)  # no way, no share: not a number

    def row(f0, bits, sim):
        return {"F0 std": f0, "H_p": bits, "SIM": sim}

    def run(after):
        sft = {"style on": row(1.5, 6.0, 0.9), "style off": row(0.5, 5.0, 0.9)}
        return {"SFT": sft, "DGSA, paired": {"style off": after}}

    goals = {"recordings, mixed tokens": {"recordings": row(2.5, 9.0, 1)}, "recordings": {"recordings": row(4.5, 7, 1)}}
    whole.compare([run(row(1.1, 5.5, 0.89)), run(row(0.7, 5.4, 0.9))], [goals | run(row(1.3, 5.2, 0.9))] * 2)
    lines = capsys.readouterr().out.splitlines()[3:]
    assert lines == [
        "| mixed, paired | style on | 0.40 (0.60, 0.20) | 0.45 (0.50, 0.40) |  | -0.010, +0.000 |",
        "| mixed, paired | recordings | 0.20 (0.30, 0.10) | 0.11 (0.12, 0.10) |  | -0.010, +0.000 |",
        "| separated, paired | style on | 0.80 (0.80, 0.80) | 0.20 (0.20, 0.20) |  | +0.000, +0.000 |",
        "| separated, paired | recordings | 0.20 (0.20, 0.20) | 0.10 (0.10, 0.10) |  | +0.000, +0.000 |",
    ]
