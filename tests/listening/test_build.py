from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace

import pytest
import torch

from seaalign import audio
from seaalign.cli import main
from seaalign.evaluation.rows import Row, write_rows
from seaalign.listening import (
    build_listening_test,
    languages,
    load_words,
    read_evaluation_clips,
    read_key,
    read_manifests,
)
from seaalign.listening.build import CODING
from seaalign.listening.sound import LOUDNESS, excerpt, levelled, load_all, loudness, spoil, volume_check
from seaalign.report.players import mp3
from tests.listening.simulated import write_results

pytestmark = pytest.mark.audio
RATE = 8000


def tone(pitch: float, seconds: float = 0.25, level: float = 0.3) -> torch.Tensor:
    return level * torch.sin(2 * torch.pi * pitch * torch.arange(round(seconds * RATE)) / RATE)


def write_systems(folder, systems=("recordings", "dgsa", "sft"), texts=3, tokens=True, **more):
    """A manifest for each system, with sounds of its own; the names of files hide nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    manifests = {}
    for s, system in enumerate(systems):
        lines = []
        for t in range(texts):
            name = f"{system}-{t}.wav"
            audio.save(folder / name, tone(200 + 40 * s + 7 * t, **more) * (0.2 + 0.3 * s), RATE)
            row = {"id": f"t{t}", "text": f"text {t}", "audio": name, "reference": f"{systems[0]}-{t}.wav"}
            lines.append(json.dumps(row | ({"tokens": [s, t, 1]} if tokens else {})))
        manifests[system] = folder / f"{system}.jsonl"
        manifests[system].write_text("\n".join(lines))
    return manifests


def content(page):
    return json.loads(re.search(r'<script type="application/json" id="test">(.*?)</script>', page.read_text(), re.S)[1])


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return read_manifests(write_systems(tmp_path_factory.mktemp("systems")))


def build(clips, folder, tests=("nmos",), **more):
    with pytest.warns(UserWarning, match="shorter than 3") if "smos" in tests else _quiet():
        return build_listening_test(clips, folder, tests, **{"raters": 2, "seed": 0, "screening": 1, **more})


def _quiet():
    from contextlib import nullcontext

    return nullcontext()


def test_pages_say_nothing_of_systems_and_fetch_nothing(tmp_path, clips):
    built = build(clips, tmp_path / "test", ("nmos", "smos", "ab"))
    assert built.trials == {"nmos": 11, "smos": 11, "ab": 11}
    for page in built.pages:
        source = page.read_text()
        for name in ("dgsa", "sft", "recordings", ".wav", "t0", "text 1"):
            assert name not in re.sub(r'"sounds": \["[^]]*"\]', "", source), name
        assert "default-src 'none'" in source
        assert not re.search(r'(?:src|href)="(?!data:)|https?://|url\(', source)
        told = content(page)
        assert set(told) == {"test", "rater", "ties", "words", "sections", "sounds"}
        assert all(set(trial) == {"id", "sounds"} for part in told["sections"] for trial in part["trials"])


def test_every_sound_is_what_the_key_says(tmp_path, clips):
    """Decode each clip of a page and find its pitch: it is that of the system and text in the key."""
    import soundfile

    built = build(clips, tmp_path / "test")
    key, told = read_key(built.folder), content(built.pages[1])
    trials = {trial["id"]: trial for trial in key["raters"]["02"]["trials"]}
    for trial in told["sections"][0]["trials"]:
        known = trials[trial["id"]]
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(told["sounds"][trial["sounds"][0]])))
        found = torch.fft.rfft(torch.from_numpy(samples)).abs().argmax().item() * rate / len(samples)
        clip = key["clips"][known["clips"][0]]
        pitch = 200 + 40 * ["recordings", "dgsa", "sft"].index(clip["system"]) + 7 * int(clip["text_id"][1:])
        assert (abs(found - pitch) < 4) == (known["role"] != "low")


def test_the_same_seed_gives_the_same_test_and_another_seed_another(tmp_path, clips):
    first, second, other = (build(clips, tmp_path / name, seed=seed) for name, seed in (("a", 7), ("b", 7), ("c", 8)))
    assert first.pages[0].read_bytes() == second.pages[0].read_bytes()
    assert read_key(first.folder) == read_key(second.folder) != read_key(other.folder)
    unseeded = [build(clips, tmp_path / name, seed=None).test for name in ("d", "e")]
    assert unseeded[0] != unseeded[1]


def test_a_test_that_was_sent_out_is_not_overwritten(tmp_path, clips):
    build(clips, tmp_path / "test")
    before = (tmp_path / "test" / "key.json").read_bytes()
    with pytest.raises(FileExistsError, match="needs its key"):
        build(clips, tmp_path / "test")
    assert (tmp_path / "test" / "key.json").read_bytes() == before


def test_silence_is_refused_and_nothing_is_left(tmp_path):
    manifests = write_systems(tmp_path / "in")
    audio.save(tmp_path / "in" / "sft-1.wav", torch.zeros(4000), RATE)
    with pytest.raises(ValueError, match=r"sft-1\.wav is silent"):
        build(read_manifests(manifests), tmp_path / "test")
    assert not (tmp_path / "test").exists()


def test_all_are_equally_loud_and_none_is_clipped():
    quiet, loud, click = tone(200, 1, 0.01), tone(300, 1, 0.9), torch.zeros(RATE)
    click[::800] = 1.0
    same = levelled([quiet, loud], RATE, ["a", "b"])
    assert [loudness(wave, RATE) for wave in same] == pytest.approx([LOUDNESS] * 2, abs=0.1)
    spiky = levelled([quiet, loud, click], RATE, ["a", "b", "c"])
    assert max(float(wave.abs().max()) for wave in spiky) <= 0.892
    found = [loudness(wave, RATE) for wave in spiky]
    assert max(found) - min(found) < 0.1 and found[0] < LOUDNESS


def test_files_of_different_rates_come_out_at_the_highest(tmp_path):
    audio.save(tmp_path / "a.wav", tone(200), 8000)
    audio.save(tmp_path / "b.wav", tone(200), 20000)
    waves, rate = load_all([tmp_path / "a.wav", tmp_path / "b.wav"])
    assert rate == 22050
    assert [len(w) / rate for w in waves] == pytest.approx([0.25, 0.1], abs=1e-3)


def test_the_reference_is_the_loudest_three_seconds():
    wave = torch.cat([torch.zeros(4 * RATE), tone(200, 3), torch.zeros(RATE)])
    found = excerpt(wave, RATE)
    assert len(found) == 3 * RATE
    assert float(found.square().mean()) == pytest.approx(float(tone(200, 3).square().mean()), rel=0.02)
    assert len(excerpt(tone(200, 1), RATE)) == RATE


def test_spoiled_speech_is_short_noisy_and_the_same_for_all():
    given = [spoil(tone(200, 1.5), RATE, torch.Generator().manual_seed(0)) for _ in range(2)]
    assert given[0].equal(given[1]) and len(given[0]) == pytest.approx(RATE, abs=20)
    assert len(mp3(volume_check(RATE), RATE, **CODING)) < 40_000


@pytest.mark.parametrize("language", languages())
def test_languages_are_complete(language):
    words = load_words(language)
    assert words["code"] == language and "{rater}" in words["rater"] and {"{i}", "{n}"} <= set(words["count"].split())
    script = {"th": "\u0e00-\u0e7f", "lo": "\u0e80-\u0eff"}.get(language)
    if script:
        texts = [words[k] for k in ("about", "consent", "next")] + words["nmos"]["scale"] + words["smos"]["scale"]
        assert all(re.search(f"[{script}]", text) for text in texts)
        other = "\u0e80-\u0eff" if language == "th" else "\u0e00-\u0e7f"  # the two scripts are easily mixed up
        assert not re.search(f"[{other}]", json.dumps(words, ensure_ascii=False))


def test_a_language_of_your_own(tmp_path):
    words = json.loads(json.dumps(load_words("en")))
    (tmp_path / "km.json").write_text(json.dumps(words | {"code": "km", "next": "បន្ទាប់"}))
    assert load_words(tmp_path / "km.json", "I agree.")["consent"] == "I agree."
    del words["next"], words["nmos"]["title"]
    words |= {"smos": words["smos"] | {"scale": ["one"]}, "hello": "there", "start": " "}
    (tmp_path / "bad.json").write_text(json.dumps(words))
    with pytest.raises(ValueError) as caught:
        load_words(tmp_path / "bad.json")
    for part in (
        "next is missing",
        "nmos.title is missing",
        "hello is not known",
        "smos.scale must be 5",
        "start must",
    ):
        assert part in str(caught.value)
    with pytest.raises(ValueError, match="there are en, id, lo, th, vi"):
        load_words("klingon")


def test_manifests_refuse_rows_and_leave_out_texts_that_not_all_say(tmp_path, recwarn):
    manifests = write_systems(tmp_path / "in")
    with open(manifests["sft"], "a") as file:
        file.write('\nnonsense\n{"id": "t9", "audio": "../../etc/passwd"}\n')
    refused = []
    clips = read_manifests(manifests, refused=refused)
    assert [r.where for r in refused] == ["line 4", "line 5"] and "not JSON" in refused[0].reason
    assert len(clips) == 9 and clips[0].tokens == (0, 0, 1)


def write_evaluation(run):
    """What `seaalign evaluate` leaves: a table with more columns than are needed here, and the audio."""
    rows = []
    for s, (system, style) in enumerate(
        [("dgsa", "on"), ("dgsa", "off"), ("sft", "on"), ("recordings", "recordings"), ("other", "recordings")]
    ):
        for t in range(3):
            path = run / "audio" / system / style / f"p{t}-0.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            audio.save(path, tone(200 + 30 * s + t), RATE)
            tokens = torch.tensor([s, t] if style != "recordings" else [], dtype=torch.long)
            row = Row(system, style, f"p{t}", f"text {t}", tokens=tokens, scores={"wer": 0.5})
            rows += [replace(row, repeat=r, audio=str(path.relative_to(run)) if r == 0 else "") for r in (1, 0)]
    write_rows(run / "utterances.parquet", rows)


def test_an_evaluation_is_read_by_style(tmp_path):
    write_evaluation(tmp_path)
    clips = read_evaluation_clips(tmp_path)
    assert {(c.system, c.text_id) for c in clips} == {
        (s, f"p{t}") for s in ("dgsa", "sft", "recordings", "other") for t in range(3)
    }
    assert {c.tokens for c in clips if c.system == "dgsa"} == {(0, 0), (0, 1), (0, 2)}
    assert {c.tokens for c in clips if c.system == "recordings"} == {None}
    assert {c.system for c in read_evaluation_clips(tmp_path, "off")} == {"dgsa", "recordings", "other"}
    (tmp_path / "audio" / "ann.wav").write_bytes((tmp_path / clips[0].audio).read_bytes())
    texts = [{"id": f"p{t}", "voice": "audio/ann.wav", "audio": "gone.wav"} for t in range(2)]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, [*texts, {"id": "p2", "audio": "audio/ann.wav"}])))
    heard = read_evaluation_clips(tmp_path, references=tmp_path / "texts.jsonl")
    assert {c.reference for c in heard} == {tmp_path / "audio" / "ann.wav"}
    with pytest.raises(FileNotFoundError, match="no evaluation"):
        read_evaluation_clips(tmp_path / "none")


def test_the_command_line_from_an_evaluation_to_pairs(tmp_path, capsys, monkeypatch):
    from seaalign import Prompt, Utterance, write_utterances
    from seaalign.storage import read_pairs

    monkeypatch.chdir(tmp_path)
    write_evaluation(tmp_path / "run")
    write_utterances("real.parquet", [Utterance(f"p{t}", Prompt([t, 2]), [1]) for t in range(3)])
    asked = (
        "listen build --evaluation run --tests nmos ab --compare dgsa:sft --raters 6 --language lo --seed 1 --out test"
    )
    assert main(asked.split()) == 0
    said = capsys.readouterr().out
    assert "6 pages" in said and "16 nmos, 7 ab each" in said and "keep a copy" in said
    key = read_key("test")
    results = write_results(tmp_path, key, {"dgsa": 4.4, "sft": 2.5, "recordings": 4.8, "other": 3.0})
    results[5].write_text("{}")
    asked = ["listen", "analyse", "test", *map(str, results), "--out", "found", "--draws", "50"]
    assert main([*asked, "--pairs", "pairs.parquet", "--prompts", "real.parquet"]) == 0
    said = capsys.readouterr().out
    for part in (
        "Opinion scores",
        "recordings",
        "Preferences",
        "dgsa : sft",
        "alpha",
        "refused",
        "3 pairs for `PairData`",
    ):
        assert part in said
    assert sorted(p.prompt.text.tolist() for p in read_pairs("pairs.parquet")) == [[0, 2], [1, 2], [2, 2]]
    assert all(p.chosen.tolist()[0] == 0 for p in read_pairs("pairs.parquet"))
    assert main(["listen", "build", "--out", "x"]) == 2
    assert "give --evaluation RUN, or --system" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["build", "analyse"])
def test_help_teaches(capsys, part):
    assert main(["listen", part, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"seaalign listen {part}" in said and "--out" in said
