"""The demo's parts: numbers to redo by hand, and what a user may do wrong. The whole of it is run by .ci/run."""

from __future__ import annotations

import json
import math

import pytest
import torch
from rich.console import Console

pytestmark = pytest.mark.audio

from seaalign.demo import SMALL, main, say_claims  # noqa: E402
from seaalign.demo.claims import claims  # noqa: E402
from seaalign.demo.evaluate import Outcome, summarise  # noqa: E402
from seaalign.demo.show import table  # noqa: E402
from seaalign.demo.tasks import Crew, Task  # noqa: E402
from seaalign.demo.world import embedded, texts  # noqa: E402
from seaalign.functional.comparison import group_weights  # noqa: E402
from seaalign.storage import write_json  # noqa: E402


class FakeCodec:
    frame_rate = 50
    vocabulary = 4

    def prosody(self, tokens):
        return tokens % 2


def outcome(tokens, errors, words, spread=(1.0, 3.0), voiced=(True, True)):
    return Outcome(
        "x",
        [torch.tensor(row) for row in tokens],
        [],
        torch.tensor(errors),
        torch.tensor(words),
        torch.arange(len(words)),
        torch.tensor(spread),
        torch.tensor(voiced),
        torch.tensor([0.5, 0.7]),
    )


def test_golden_summary():
    made = summarise(outcome([[0, 1, 2, 3], [0, 1, 2, 3]], [1, 2], [2, 4]), FakeCodec(), 8)
    values = {key: value for key, (value, _) in made.items()}
    assert values["wer"] == pytest.approx(50.0)  # 3 errors of 6 words
    assert values["entropy"] == pytest.approx(2.0)  # four codes, equally often
    assert values["prosody_entropy"] == pytest.approx(1.0)
    assert values["f0_std"] == pytest.approx(2.0) and values["similarity"] == pytest.approx(0.6)
    assert values["tokens_per_word"] == pytest.approx(8 / 6) and values["repetition"] == 0


def test_unvoiced_utterances_do_not_count_as_flat():
    made = summarise(outcome([[0], [1]], [0, 0], [1, 1], voiced=(False, True)), FakeCodec(), 2)
    assert made["f0_std"][0] == pytest.approx(3.0)


def test_repetition_spans_160_ms():
    # 50 Hz: nine equal tokens last 180 ms, and k + 1 = 8 of them 160 ms: positions 0 and 1 of 9 - 7 = 2 repeat
    made = summarise(outcome([[1] * 9, [0, 1] * 8], [0, 0], [1, 1]), FakeCodec(), 9)
    assert made["repetition"][0] == pytest.approx(100 * 2 / (2 + 9))


def test_sigma_is_that_of_the_bootstrap():
    # two utterances, one all wrong, one all right: WER of a resample is 0, 50 or 100 with weights 1/4, 1/2, 1/4
    made = summarise(outcome([[0, 1], [0, 1]], [2, 0], [2, 2]), FakeCodec(), 4)
    assert made["wer"][1] == pytest.approx(100 * math.sqrt(1 / 8), rel=0.15)


def test_the_draws_are_those_that_the_published_numbers_were_made_with():
    one, all_at_once = torch.Generator().manual_seed(4), torch.Generator().manual_seed(4)
    singly = [torch.randint(9, (9,), generator=one).bincount(minlength=9) for _ in range(30)]
    assert torch.equal(torch.stack(singly).double(), group_weights(9, 30, all_at_once))


def summary(**values):
    base = {"wer": 10.0, "entropy": 6.0, "f0_std": 1.0}
    return {key: (value, 0.1) for key, value in {**base, **values}.items()}


def test_claims_say_no_when_nothing_happens():
    same = summary()
    systems = dict.fromkeys(("SFT", "DGSA", "more SFT on real", "standard DPO"), same)
    said = claims([same] * 3, [same] * 3, systems, 1)
    assert [claim["holds"] for claim in said] == [False] * 11 + [True]  # the last: WER stays where it was
    assert [claim["verdict"] for claim in said] == ["undecided"] * 11 + ["holds"]  # nothing is shown, either way


def test_claims_say_yes_to_the_whole_story():
    off = [summary(wer=w, entropy=h, f0_std=f) for w, h, f in ((60, 7.0, 2.0), (30, 6.0, 0.5), (10, 5.0, 0.1))]
    on = [summary(wer=60, entropy=7.0, f0_std=2.0)] * 3
    systems = {
        "SFT": off[1],
        "DGSA": summary(wer=30.1, entropy=6.8, f0_std=1.0),
        "more SFT on real": summary(wer=45, entropy=6.8, f0_std=1.0),
        "standard DPO": summary(wer=40, entropy=6.8, f0_std=1.0),
    }
    assert all(claim["holds"] and claim["verdict"] == "holds" for claim in claims(off, on, systems, 1))
    said = claims(off[::-1], on, {**systems, "SFT": systems["DGSA"], "DGSA": off[1]}, 1)
    contrary = {claim["claim"].split(" (")[0] for claim in said if claim["verdict"] == "does not"}
    assert {"word errors fall with the synthetic share", "entropy collapses", "DGSA restores entropy"} <= contrary


def test_noise_is_no_verdict():
    """As `--quick` had them: 6.70 -> 7.02 bits, and 110 -> 118 % that no test tells apart."""
    wide = {"wer": (110.0, 6.0), "entropy": (6.7, 0.2), "f0_std": (1.0, 0.1)}
    livelier = {"wer": (118.33, 6.0), "entropy": (7.02, 0.2), "f0_std": (1.0, 0.1)}
    systems = dict.fromkeys(("SFT", "more SFT on real", "standard DPO"), wide) | {"DGSA": livelier}
    said = {claim["claim"]: claim for claim in claims([wide] * 3, [wide] * 3, systems, 1)}
    restored = said["DGSA restores entropy (SFT -> DGSA)"]
    assert restored["verdict"] == "undecided" and restored["interval"] == pytest.approx((-0.2457, 0.8857), abs=1e-3)
    stays = said["DGSA leaves word errors where SFT had them, as in the paper"]
    assert stays["holds"] and stays["verdict"] == "undecided" and stays["tolerance"] == 2


@pytest.mark.parametrize("quick", [True, False])
def test_a_verdict_is_said_with_its_noise(capsys, quick):
    same = summary()
    systems = dict.fromkeys(("SFT", "DGSA", "more SFT on real", "standard DPO"), same)
    say_claims(claims([same] * 3, [same] * 3, systems, 1), quick, Console(width=80))
    shown = capsys.readouterr().out
    assert (SMALL in shown) == quick and "2 sigma" in shown.splitlines()[0]
    assert "  undecided DGSA restores entropy (SFT -> DGSA): entropy 6.00 -> 6.00 [-0.28, +0.28]" in shown
    assert "wer 10.00 -> 10.00 [-0.28, +0.28]; holds where the rise is below 2 points" in shown
    assert "by more SFT on real: not comparable\n" in shown


def test_held_out_texts_stay_out():
    made = texts(300, (1, 2), torch.Generator().manual_seed(0), {(3, 4), (5,)})
    assert len(made) == 300 and not {(3, 4), (5,)} & set(made) and {len(text) for text in made} == {1, 2}


def test_the_toy_source_says_that_it_is_one():
    source = embedded()
    assert source.description.startswith("TOY") and "no human speech" in source.description
    flat, lively = (say((3,), 0, torch.Generator().manual_seed(0)) for say in (source.flat, source.expressive))
    assert flat.source == "flat" and lively.source == "expressive" and flat.speaker == lively.speaker
    assert source.lesson((3,), 0, torch.Generator().manual_seed(0)).speaker != flat.speaker


def double(value, progress):
    for _ in progress(range(3)):
        value *= 2
    if value < 0:
        raise ValueError(f"no negative numbers, got {value}")
    return value, torch.get_num_threads()


@pytest.mark.slow
def test_a_crew_keeps_order_and_hands_on_failures():
    with Crew(2, Console(quiet=True)) as crew:
        assert crew.run([Task(str(i), double, {"value": i}) for i in range(5)]) == [(8 * i, 1) for i in range(5)]
        with pytest.raises(ValueError, match="no negative numbers, got -8"):
            crew.run([Task("bad", double, {"value": -1}), Task("good", double, {"value": 1})])


def test_results_are_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_json(path, {"a": 1})
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}


def test_a_table_fits_eighty_columns(capsys):
    row = {"wer": (62.5, 2.8), "entropy": (7.22, 0.04), "prosody_entropy": (2.6, 0.01), "f0_std": (1.51, 0.04)}
    row |= {"repetition": (3.73, 1.13), "similarity": (0.79, 0.02), "tokens_per_word": (18.84, 0.39)}
    table("title", {"more SFT on real": row}, Console(width=80))
    shown = capsys.readouterr().out
    assert "…" not in shown and "more SFT on real" in shown and "62.5±2.8" in shown and "3.7±1.1" in shown


def test_a_missing_folder_is_named(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--fsdd", "nowhere"])
    assert stopped.value.code == 2 and "nowhere: no such folder" in capsys.readouterr().err


def test_a_folder_of_something_else_is_not_replaced(tmp_path, capsys, monkeypatch):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SystemExit) as stopped:
        main(["--out", str(tmp_path)])
    assert stopped.value.code == 2 and "holds something else" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(SystemExit):
        main(["--out", "."])
    assert (tmp_path / "thesis.tex").exists()
