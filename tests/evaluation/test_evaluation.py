"""Whole evaluations on a backbone that hums: numbers, files, going on after a kill, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from seaalign.audio import load, save
from seaalign.backbones import add_lora
from seaalign.evaluation import Case, Policy, Recorded, evaluate, read_evaluation
from seaalign.evaluation.parts import Parts
from seaalign.functional import entropy_at, error_rate, f0_std
from seaalign.functional.pitch import f0
from seaalign.judges import Duration, Intelligibility, Judge, Repetition
from seaalign.judges.transcribers import ByLanguage, Transcriber
from tests.evaluation.world import RATE, Hummer, cases, ear, hum

pytestmark = pytest.mark.audio


def policies() -> list[Policy]:
    return [Policy("a", Hummer(0), alpha=0.5, step=7, max_len=24), Policy("b", Hummer(1), styles=["off"], max_len=24)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    people = cases(5, folder)
    found = evaluate(policies(), people, folder / "run", transcriber=ear, repeats=2, draws=200, progress=False)
    return folder, people, found


def test_every_system_says_every_text(run):
    folder, people, found = run
    keys = {(row.system, row.style, row.prompt, row.repeat) for row in found.rows}
    assert len(keys) == len(found.rows) == 5 + 5 * 2 * 3  # people once; a with two styles and b with one, twice each
    assert [(r.name, r.style) for r in found.systems] == [("recordings",) * 2, ("a", "on"), ("a", "off"), ("b", "off")]
    assert (found.result("a").alpha, found.result("a").step) == (0.5, 7)
    again = read_evaluation(folder / "run")
    assert repr(again.systems) == repr(found.systems) and len(again.rows) == len(found.rows)
    for row in found.rows:
        wave, rate = load(folder / "run" / row.audio)
        assert rate == RATE and len(wave) / rate == pytest.approx(row.score("duration"))


def test_numbers_are_those_of_the_functions(run):
    """An independent way to each number: from the files alone, by the plain functions."""
    folder, people, found = run
    texts = {case.id: case.text for case in people}
    rows = [row for row in found.rows if (row.system, row.style) == ("a", "off")]
    metrics = found.result("a", "off").metrics
    heard = [row.transcript.split() for row in rows]
    assert metrics["wer"].value == pytest.approx(
        100 * float(error_rate(heard, [texts[r.prompt].split() for r in rows]))
    )
    letters = [[text.replace(" ", "") for text in pair] for pair in ((r.transcript, texts[r.prompt]) for r in rows)]
    assert metrics["cer"].value == pytest.approx(100 * float(error_rate(*map(list, zip(*letters, strict=True)))))
    waves = [load(folder / "run" / row.audio)[0] for row in rows]
    spread = [f0_std(contour, "hz") for contour in f0(waves, RATE)]
    wanted = torch.stack([s.value for s in spread if s.defined]).mean()
    assert metrics["f0_std_hz"].value == pytest.approx(float(wanted), rel=0.01)  # 16-bit files
    count = found.settings["entropy_tokens"]
    assert count == min(result.tokens for result in found.systems if result.tokens)
    counts = torch.bincount(torch.cat([row.tokens for row in rows]))
    assert metrics["entropy"].value == pytest.approx(float(entropy_at(counts, count)))
    tokens, units = sum(len(row.tokens) for row in rows), sum(row.score("characters") for row in rows)
    assert metrics["tokens_per_unit"].value == pytest.approx(tokens / units)
    assert metrics["wer"].n == 5 and metrics["wer"].low <= metrics["wer"].value <= metrics["wer"].high


def test_errors_are_calibrated_by_people(run):
    _, _, found = run
    first = {row.prompt: row for row in found.rows if row.system == "recordings"}
    assert found.result("recordings").metrics["wer"].value == 0.0  # they speak at the pace that the ear expects
    assert "wer_calibrated" not in found.result("recordings").metrics
    rows = [row for row in found.rows if row.system == "b"]
    for row in rows:
        own = 100 * row.score("word_errors") / row.score("words")
        assert row.score("wer_calibrated") == pytest.approx(max(0.0, own - 0.0))
        assert math.isfinite(row.score("f0_rmse")) and first[row.prompt].score("words") == row.score("words")


def test_systems_of_one_style_are_compared(run):
    _, _, found = run
    assert {(c.a, c.b, c.style) for c in found.comparisons} == {("a", "b", "off")}
    metrics = {c.metric: c for c in found.comparisons}
    assert {"wer", "entropy", "f0_std", "repetition", "f0_correlation"} <= set(metrics)
    wer = metrics["wer"]
    values = [found.result(name, "off").metrics["wer"].value for name in "ab"]
    assert wer.difference == pytest.approx(values[0] - values[1]) and wer.low <= wer.difference <= wer.high
    assert all(c.p <= c.p_holm <= 1 for c in found.comparisons if math.isfinite(c.p))


def test_draws_differ_between_repeats_and_not_between_runs(run, tmp_path):
    folder, people, found = run
    rows = {(r.system, r.style, r.prompt, r.repeat): r for r in found.rows if r.system != "recordings"}
    first, second = (rows["b", "off", "s3", repeat].tokens for repeat in (0, 1))
    assert not torch.equal(first, second)
    again = evaluate(policies()[1:], people, tmp_path, transcriber=ear, repeats=2, batch=2, draws=10, progress=False)
    for row in again.rows:
        if row.system == "b":  # another batch, other systems: the same answers
            assert torch.equal(row.tokens, rows["b", "off", row.prompt, row.repeat].tokens)


def test_a_killed_evaluation_goes_on(run, tmp_path, monkeypatch):
    folder, people, found = run
    made, whole = [], Parts._made

    def killed(self, system, style, repeat):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append((system.name, style, repeat))
        return whole(self, system, style, repeat)

    monkeypatch.setattr(Parts, "_made", killed)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        evaluate(policies(), people, out, transcriber=ear, repeats=2, draws=200, progress=False)
    assert not (out / "evaluation.json").exists()
    before = {path: path.read_bytes() for path in out.rglob("repeat-*.parquet")}
    assert len(before) == 3
    monkeypatch.setattr(Parts, "_made", whole)
    again = evaluate(policies(), people, out, transcriber=ear, repeats=2, draws=200, progress=False)
    assert {path: path.read_bytes() for path in before} == before
    assert (out / "evaluation.json").read_text() == (folder / "run" / "evaluation.json").read_text()
    assert repr(again.systems) == repr(found.systems)


def test_other_settings_are_not_mixed_in(run, tmp_path):
    folder, people, _ = run
    shutil.copytree(folder / "run", tmp_path / "run")

    def deaf(waves, rate):
        return [""] * len(waves)

    with pytest.raises(ValueError, match=r"begun by another run. It differs in\n  transcriber"):
        evaluate(policies(), people, tmp_path / "run", transcriber=deaf, repeats=2, progress=False)
    with pytest.raises(ValueError, match="weights"):
        evaluate(
            [Policy("a", Hummer(3), max_len=24)], people, tmp_path / "run", transcriber=ear, repeats=2, progress=False
        )
    more = [*policies(), Recorded("tts", {case.id: case.audio for case in people})]
    found = evaluate(more, people, tmp_path / "run", transcriber=ear, repeats=2, draws=200, progress=False)
    assert [r.name for r in found.systems] == ["recordings", "a", "a", "b", "tts"]  # a system more is welcome


def test_recordings_of_any_system(run, tmp_path):
    """A folder with repeats, one text missing, one silent; and a manifest. Tokens as a backbone encodes them."""
    _, people, _ = run
    for name, wave in {
        "s0-0": hum([150.0] * 5), "s0-1": hum([150.0, 180.0] * 3), "s1-0": hum([130.0] * 10), "s2": torch.zeros(4000),
        "s3": hum([140.0] * 20), "other": hum([99.0]),
    }.items():  # fmt: skip
        save(tmp_path / f"{name}.wav", wave, RATE)
    lines = [
        {"id": "s0", "audio": "s0-0.wav", "text": "one"},
        {"id": "s0", "audio": "s0-1.wav", "repeat": 1, "style": "on"},
    ]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    systems = [Recorded("folder", tmp_path, alpha=1.0), Recorded("list", tmp_path / "list.jsonl")]
    found = evaluate(
        systems, people, tmp_path / "run", transcriber=ear, backbone=Hummer(), encode_recordings=True, progress=False,
        draws=50,
    )  # fmt: skip
    rows = {(row.system, row.style, row.prompt, row.repeat): row for row in found.rows}
    assert rows["folder", "recordings", "s0", 1].score("duration") == pytest.approx(0.3)
    assert rows["folder", "recordings", "s4", 0].problem == "no recording"
    silent = rows["folder", "recordings", "s2", 0]
    assert silent.problem == "silent" and silent.score("word_errors") == silent.score("words") == 3
    assert math.isnan(silent.score("f0_std")) and len(silent.tokens) == 10
    assert found.result("folder").metrics["wer"].n == 4 and found.result("folder").metrics["f0_std"].n == 3
    assert found.result("folder").metrics["entropy"].value > 0 and found.result("recordings").tokens > 0
    assert ("list", "on", "s0", 1) in rows and ("list", "recordings", "s0", 0) in rows
    told = "\n".join(found.warnings)
    assert "folder: no recording, 5 of 10 answers (s4, s1, s2, ...)" in told
    assert "folder: silent, 1 of 10 answers (s2)" in told


def test_without_tokens_people_or_recogniser(tmp_path):
    texts = [Case("x", "one", language="en")]
    save(tmp_path / "x.wav", hum([150.0] * 5), RATE)
    found = evaluate([Recorded("tts", tmp_path)], texts, tmp_path / "run", progress=False)
    told = "\n".join(found.warnings)
    for line in (
        "one text only: there are no intervals", "no recordings of people: errors are not calibrated",
        "no recogniser: errors are not measured", "no speech tokens of tts: entropy",
    ):  # fmt: skip
        assert line in told
    metrics = found.systems[0].metrics
    assert set(metrics) == {"f0_std", "f0_std_hz", "f0_range", "energy_std"} and math.isnan(metrics["f0_std"].low)


def test_the_recogniser_fails_closed(run, tmp_path):
    _, people, _ = run

    def picky(waves, rate):
        if any(abs(len(wave) / rate - 0.5) < 0.01 for wave in waves):
            raise RuntimeError("out of memory")
        return ear(waves, rate)

    found = evaluate(
        [Recorded("tts", {c.id: c.audio for c in people})], people, tmp_path / "a", transcriber=picky, progress=False
    )
    lost = [row for row in found.rows if row.problem]
    assert {row.prompt for row in lost} == {"s1"} and all(math.isnan(row.score("word_errors")) for row in lost)
    assert "tts: the recogniser failed, 1 of 5 answers (s1)" in found.warnings
    assert found.result("tts").metrics["wer"].n == 4

    def broken(waves, rate):
        raise RuntimeError("no weights")

    with pytest.raises(ValueError, match="failed on all of 5 answers, first 's0': RuntimeError: no weights"):
        evaluate(
            [Recorded("tts", {c.id: c.audio for c in people})],
            people,
            tmp_path / "b",
            transcriber=broken,
            progress=False,
        )
    assert not (tmp_path / "b" / "evaluation.json").exists()


def test_what_cannot_be_evaluated(run, tmp_path):
    _, people, _ = run

    def refused(match, systems, texts=people, **more):
        with pytest.raises(ValueError, match=match):
            evaluate(systems, texts, tmp_path / "run", transcriber=ear, progress=False, **more)

    refused("systems of different names", [Policy("a", Hummer()), Policy("a", Hummer())])
    refused("systems of different names", [Recorded("recordings", {"s0": people[0].audio})])
    shared = Hummer()
    refused(
        "'a' shares its backbone with another system: name the `weights`", [Policy("a", shared), Policy("b", shared)]
    )
    refused("'a' has no backbone", [Policy("a")])
    refused("more than once: \\['x'\\]", policies(), [Case("x", "one"), Case("x", "two")])
    refused("nothing is spoken in 1 texts, first \\['x'\\]", policies(), [Case("x", "?!")])
    refused(
        "style 'on' needs a style prefix for every text, 0 of 1",
        [Policy("a", Hummer(), styles=["on"])],
        [Case("x", "one two")],
    )
    refused("none of its recordings belongs to a text", [Recorded("tts", {"zzz": people[0].audio})])
    wrong = tmp_path / "list.jsonl"
    wrong.write_text(json.dumps({"id": "s0", "audio": "a.wav", "text": "other words"}) + "\n")
    save(tmp_path / "a.wav", hum([150.0] * 4), RATE)
    refused("tts says 'other words' for 's0', where the text is 'one'", [Recorded("tts", wrong)])
    wrong.write_text('{"id": "s0", "audio": "a.wav", "styl": "on"}\n')
    with pytest.raises(ValueError, match=r"list.jsonl, line 1: a line has id and audio"):
        Recorded("tts", wrong)
    with pytest.raises(ValueError, match="temperature above 0"):
        Policy("a", temperature=0.0)


def test_checkpoints_share_a_backbone(tmp_path):
    """Each speaks with its own weights, and with its own step."""
    for seed in (0, 1):
        state = {f"backbone.{name}": value for name, value in Hummer(seed).state_dict().items()}
        torch.save({"state_dict": state, "global_step": 100 + seed}, tmp_path / f"{seed}.ckpt")
    texts = cases(3)
    both = [Policy(f"p{seed}", weights=tmp_path / f"{seed}.ckpt", max_len=12, styles=["off"]) for seed in (0, 1)]
    found = evaluate(both, texts, tmp_path / "run", backbone=Hummer(5), repeats=1, draws=10, progress=False)
    alone = [
        evaluate(
            [Policy("x", Hummer(seed), max_len=12, styles=["off"])],
            texts,
            tmp_path / f"alone{seed}",
            repeats=1,
            draws=10,
            progress=False,
        )
        for seed in (0, 1)
    ]
    for seed in (0, 1):
        ours = [row.tokens.tolist() for row in found.rows if row.system == f"p{seed}"]
        assert ours == [row.tokens.tolist() for row in alone[seed].rows]
        assert found.result(f"p{seed}").step == 100 + seed
    assert any("each text was said once" in line for line in found.warnings)


def test_what_one_file_holds_does_not_speak_along_with_the_next(tmp_path):
    """Adapters stay in a backbone when plain weights are loaded, and plain weights below adapters: unless undone."""
    pytest.importorskip("peft")

    def with_layers():
        return add_lora(Hummer(5), r=2, targets=["head"])

    tuned = with_layers()
    with torch.no_grad():
        for name, value in tuned.named_parameters():
            if "lora" in name:
                value.copy_(2 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
    for name, model in (("tuned", tuned), ("plain", Hummer(1))):
        torch.save(
            {"state_dict": {f"backbone.{k}": v for k, v in model.state_dict().items()}}, tmp_path / f"{name}.ckpt"
        )

    def said(*names):
        systems = [Policy(name, weights=tmp_path / f"{name}.ckpt", max_len=12, styles=["off"]) for name in names]
        out = tmp_path / "-".join(names)
        found = evaluate(systems, cases(3), out, backbone=with_layers(), repeats=1, draws=10, progress=False)
        return [row.tokens.tolist() for row in found.rows if row.system == "plain"]

    assert said("tuned", "plain") == said("plain", "tuned") == said("plain")


def test_one_bad_recording_of_a_person_or_of_a_codec_stops_nothing(tmp_path):
    people = cases(3, tmp_path)
    Path(people[1].audio).write_bytes(b"RIFF")
    found = evaluate(policies()[1:], people, tmp_path / "run", transcriber=ear, repeats=1, draws=10, progress=False)
    assert [row.prompt for row in found.rows if row.problem] == ["s1"]
    assert found.result("b").metrics["f0_correlation"].n == 2

    class Short(Hummer):
        def encode(self, waveforms, sample_rate):
            if len(waveforms[0]) > 0.3 * sample_rate:
                raise ValueError("longer than it takes")
            return super().encode(waveforms, sample_rate)

    spoken = Recorded("tts", {c.id: c.audio for c in (people[0], people[2])}, codec=Short())
    for texts, out in ((people[:1], "one"), ([people[0], people[2]], "two")):  # the same object, asked for more texts
        found = evaluate([spoken], texts, tmp_path / out, transcriber=ear, draws=10, progress=False)
    assert [row.problem for row in found.rows if row.system == "tts"] == ["", "no tokens of it: longer than it takes"]


def test_the_recogniser_that_filtered_is_named(tmp_path):
    work = tmp_path / "tdsc"
    (work / "round-01").mkdir(parents=True)
    (work / "checkpoints").mkdir()
    (work / "round-01" / "round.json").write_text(json.dumps({"heard_by": ["ear", "another"]}))
    state = {f"backbone.{name}": value for name, value in Hummer(2).state_dict().items()}
    torch.save(state, work / "checkpoints" / "last.pt")
    system = [Policy("tdsc", Hummer(), weights=work / "checkpoints" / "last.pt", max_len=8, styles=["off"])]
    found = evaluate(system, cases(2), tmp_path / "run", transcriber=ear, repeats=1, draws=10, progress=False)
    assert any(
        line.startswith("ear reports the errors, and chose training data, too (tdsc: ") for line in found.warnings
    )
    kept = tmp_path / "kept"  # of `seaalign erosion filter`
    kept.mkdir()
    (kept / "funnel.json").write_text(json.dumps({"settings": {"heard_by": ["ear"]}}))
    for named, count in (("EAR", 1), (work, 1), (kept, 1), ("someone else", 0)):
        found = evaluate(
            [Policy("x", Hummer(), max_len=8, styles=["off"])],
            cases(2),
            tmp_path / "other",
            transcriber=ear,
            repeats=1,
            draws=10,
            filtered_by=[named],
            progress=False,
        )
        assert sum("chose training data" in line for line in found.warnings) == count


def test_a_judge_says_who_listens():
    judge = Judge(Repetition(), Intelligibility(ByLanguage({"th": ear, "lo": Silent()})), Duration(per_unit=4.0))
    assert judge.listeners == ["Silent", "ear"]


class Silent(Transcriber):
    def transcribe(self, waveforms, sample_rate, language=None):
        return [""] * len(waveforms)


def test_measures_of_ones_own_become_metrics(tmp_path):
    def loudness(heard):
        return [{"peak": float(each.waveform.abs().max())} for each in heard]

    save(tmp_path / "x.wav", hum([150.0] * 5), RATE)
    save(tmp_path / "y.wav", 2 * hum([150.0] * 5), RATE)
    texts = [Case("x", "one"), Case("y", "one")]
    found = evaluate([Recorded("tts", tmp_path)], texts, tmp_path / "run", measures=[loudness], progress=False)
    assert found.systems[0].metrics["peak"].value == pytest.approx(0.45, abs=0.01)


def test_prompts_come_from_voices(tmp_path):
    """Text ids, style and timbre are made of text and voice where a case has no prompt."""
    save(tmp_path / "voice.wav", hum([150.0] * 8), RATE)
    (tmp_path / "texts.jsonl").write_text(
        '{"id": "x", "text": "one two", "voice": "voice.wav", "voice_text": "three"}\n'
    )
    from seaalign.evaluation import read_cases
    from seaalign.evaluation.prompting import prompts_of

    (prompt,) = prompts_of(read_cases(tmp_path / "texts.jsonl"), Hummer())
    assert prompt.text.tolist() == [3, 3] and prompt.style.tokens.tolist() == list(range(8))
    assert prompt.style.text.tolist() == [5] and prompt.timbre.tolist() == [3200 % 3]
    with pytest.warns(UserWarning, match="1 of 2 rows refused"):
        path = tmp_path / "bad.jsonl"
        path.write_text('{"id": "x", "text": "a"}\n{"id": "y", "text": "b", "wav": "c"}\n')
        assert [case.id for case in read_cases(path)] == ["x"]


def test_rows_hold_what_the_report_draws(run):
    _, _, found = run
    row = next(row for row in found.rows if row.system == "a" and row.style == "on" and row.prompt == "s3")
    assert len(row.f0) == int(row.score("duration") * 100 + 1e-6) and row.tokens.dtype == torch.long
    assert row.audio == "audio/a/on/s3-0.wav" and Path(row.audio).suffix == ".wav"
