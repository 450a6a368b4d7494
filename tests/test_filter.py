"""The filter of synthetic speech: a funnel by hand, nothing lost, files larger than a batch, kills, bad rows, CLI."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seaalign import Prompt, Recording, Utterance, read_utterances, write_utterances
from seaalign.cli import main
from seaalign.data import filter as room
from seaalign.data.filter import filter_utterances
from seaalign.judges import JudgeError
from seaalign.judges.transcribers import Transcriber
from seaalign.report import erosion_plan
from seaalign.storage import Refused
from seaalign.storage.columns import read_metadata, write_columns
from seaalign.storage.parquet import _UTTERANCE

ROOT = Path(__file__).resolve().parent.parent
SAID = "one two three four"
WRONG = torch.full((800,), -0.5)  # is heard as "one two"
RIGHT = torch.full((800,), 0.5)


def recogniser(waveforms, sample_rate):
    return [SAID if float(waveform.mean()) > 0 else "one two" for waveform in waveforms]


def plain(n: int, start: int = 0) -> list[int]:
    return [(start + i) % 50 for i in range(n)]


def raw(path: Path, rows: list[tuple[str | None, str, list[int], list[int]]]) -> Path:
    """A file as no careful writer makes it."""
    table = [
        {"id": key, "source": source, "text": np.array(text, np.int32), "tokens": np.array(tokens, np.int32)}
        for key, source, text, tokens in rows
    ]
    write_columns(path, "utterances", _UTTERANCE, table, {"codebooks": None})
    return path


def stages(row: dict) -> list[int | None]:
    return [None if cell is None else cell["count"] for cell in row["stages"].values()]


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "refused.jsonl").read_text().splitlines()]


TEN = [
    ("kept", "a", [1, 2], plain(20)),
    ("misheard", "a", [1, 2], plain(20, 3)),
    ("short", "a", [1, 2], plain(15)),  # 0.75 of 20
    ("long", "a", [1, 2], plain(31)),
    ("bound-low", "a", [1, 2], plain(16)),  # both bounds belong to it
    ("bound-high", "b", [1, 2], plain(30)),
    ("loops", "b", [1, 2], [*plain(13), *[7] * 7]),  # 3 of 16 positions begin a run of five
    ("no-tokens", "b", [1, 2], []),
    ("no-text", "b", [], plain(20)),
    ("no-audio", "b", [1, 2], plain(20)),
]
HEARD = [
    *(Recording(key, SAID, (RIGHT, 8000)) for key in ("kept", "short", "bound-low", "bound-high", "no-tokens")),
    Recording("misheard", SAID, (WRONG, 8000)),
    *(Recording(key, SAID, "nowhere.wav") for key in ("long", "loops", "no-text", "no-audio")),
]


def test_ten_rows_by_hand(tmp_path: Path) -> None:
    path = raw(tmp_path / "tts.parquet", TEN)
    sieve = filter_utterances([path], tmp_path / "out", per_unit=10, transcriber=recogniser, recordings=HEARD)
    a, b, everything = sieve.rows
    #                            in readable duration loops error kept
    assert stages(a) == [5, 5, 3, 3, 2, 2]
    assert stages(b) == [5, 2, 2, 1, 1, 1]
    assert stages(everything) == [10, 7, 5, 4, 3, 3] and everything["stages"]["kept"]["percent"] == 30.0
    assert {line["id"]: line["stage"] for line in lines(tmp_path / "out")} == {
        "misheard": "error", "short": "duration", "long": "duration", "loops": "loops",
        "no-tokens": "readable", "no-text": "readable", "no-audio": "readable",
    }  # fmt: skip
    kept = read_utterances(tmp_path / "out" / "kept.parquet")
    assert [(u.id, u.source, len(u.tokens)) for u in kept] == [
        ("kept", "a", 20),
        ("bound-low", "a", 16),
        ("bound-high", "b", 30),
    ]
    assert a["error_rate"] == {"before": pytest.approx(2 / 12), "after": 0.0}  # 2 of 4 words of one of three
    assert b["repetition"] == {"before": pytest.approx(3 / 16 / 2), "after": 0.0}
    assert b["tokens"] == {"before": 50, "after": 30} and b["entropy"]["after"] == pytest.approx(math.log2(30))
    assert json.loads((tmp_path / "out" / "funnel.json").read_text()) == sieve.to_json()
    reasons = {line["id"]: line for line in lines(tmp_path / "out")}
    assert reasons["short"]["reason"] == "0.75 times the expected length, allowed are 0.8 to 1.5"
    assert reasons["loops"]["scores"]["repetition"] == 0.1875 and reasons["no-tokens"]["row"] == 7
    assert reasons["misheard"]["reason"] == "50 % of 4 words are wrong, allowed are less than 40 %"
    assert reasons["misheard"]["heard"] == "one two" and "nowhere.wav" in reasons["no-audio"]["reason"]


def test_without_a_recogniser_the_funnel_says_so(tmp_path: Path) -> None:
    sieve = filter_utterances([raw(tmp_path / "tts.parquet", TEN)], tmp_path / "out", per_unit=10)
    assert stages(sieve.rows[-1]) == [10, 8, 6, 5, None, 5]
    assert (
        "not asked" in str(sieve)
        and "no recogniser was given" in str(sieve)
        and not (tmp_path / "out/verdicts").exists()
    )
    assert sieve.rows[-1]["error_rate"] == {"before": None, "after": None} and sieve.settings["transcriber"] is None


def test_the_plan_reads_what_is_kept(tmp_path: Path) -> None:
    path = raw(tmp_path / "tts.parquet", TEN)
    filter_utterances([path], tmp_path / "out", per_unit=10)
    write_utterances(tmp_path / "real.parquet", [Utterance("r", Prompt([1, 2]), plain(40, 20))])
    plan = erosion_plan([tmp_path / "real.parquet"], [tmp_path / "out" / "kept.parquet"], draws=5)
    assert [(s.name, s.utterances) for s in plan.sources] == [("real", 1), ("a", 3), ("b", 2)]
    assert read_metadata(tmp_path / "out" / "kept.parquet")["filter"]["max_repetition"] == 0.1


def test_length_is_that_of_people_where_there_are_some(tmp_path: Path) -> None:
    path = raw(tmp_path / "tts.parquet", [(f"{i}", "slow", [1], plain(20)) for i in range(5)])
    write_utterances(
        tmp_path / "real.parquet", [Utterance(f"r{i}", Prompt([1, 2]), plain(n)) for i, n in enumerate((18, 20, 24))]
    )
    own = filter_utterances([path], tmp_path / "own")
    people = filter_utterances([path], tmp_path / "people", real=[tmp_path / "real.parquet"])
    assert (own.settings["per_unit"], people.settings["per_unit"]) == (20.0, 10.0)  # medians of 20s; of 9, 10, 12
    assert (own.kept, people.kept) == (5, 0) and "slow throughout is not noticed" in str(own)


@given(st.data())
@settings(max_examples=25)
def test_nothing_is_lost(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """In == kept + refused for every source, and each row goes where one that is asked alone goes."""
    folder = tmp_path_factory.mktemp("lost")
    row = st.tuples(
        st.sampled_from(["a", "b", "c", "d", "e", None]), st.sampled_from(["x", "y"]),
        st.lists(st.integers(0, 3), max_size=3), st.lists(st.integers(-1, 3), max_size=12),
    )  # fmt: skip
    rows = data.draw(st.lists(row, min_size=1, max_size=12))
    room.BATCH = data.draw(st.sampled_from([1, 3, 4096]))
    try:
        sieve = filter_utterances(
            [raw(folder / "t.parquet", rows)], folder / "out", per_unit=3, max_repetition=0.3, k=1
        )
    finally:
        room.BATCH = 4096
    refused = {line["row"]: line["stage"] for line in lines(folder / "out")}
    seen: set[str | None] = set()
    for i, (key, _, text, tokens) in enumerate(rows):
        fits = text and 0.8 * 3 * len(text) <= len(tokens) <= 1.5 * 3 * len(text)
        loops = sum(x == y for x, y in zip(tokens, tokens[1:], strict=False)) >= 0.3 * max(len(tokens) - 1, 1)
        bad = not key or key in seen or not text or not tokens or min(tokens) < 0
        assert refused.get(i, "") == ("readable" if bad else "duration" if not fits else "loops" if loops else "")
        seen.add(key)
    for line in sieve.rows:
        mine = [i for i, r in enumerate(rows) if line["source"] in ("all", r[1])]
        assert line["stages"]["in"]["count"] == len(mine)
        assert line["stages"]["kept"]["count"] == len(mine) - sum(i in refused for i in mine)
    kept = [rows[i][0] for i in range(len(rows)) if i not in refused]
    assert read_metadata(folder / "out" / "kept.parquet")["rows"] == len(kept)
    assert not kept or [u.id for u in read_utterances(folder / "out" / "kept.parquet")] == kept


def test_files_larger_than_a_batch_and_several_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, timbre = random.Random(0), torch.arange(3.0)
    said = [
        Utterance(
            f"{i}",
            Prompt([1] * 5, timbre=timbre),
            [rng.randrange(40) for _ in range(rng.randint(30, 90))],
            f"tts{i % 3}",
        )
        for i in range(1000)
    ]
    for number in range(2):
        write_utterances(tmp_path / f"{number}.parquet", said[500 * number : 500 * number + 500])
    paths = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    whole = filter_utterances(paths, tmp_path / "whole")
    monkeypatch.setattr(room, "BATCH", 7)
    parts = filter_utterances(paths, tmp_path / "parts")
    assert whole.to_json() == parts.to_json() and 0 < whole.kept < 1000
    one, two = (read_utterances(tmp_path / name / "kept.parquet") for name in ("whole", "parts"))
    assert [u.id for u in one] == [u.id for u in two] and torch.equal(two[0].prompt.timbre, timbre)
    assert (tmp_path / "whole/refused.jsonl").read_bytes() == (tmp_path / "parts/refused.jsonl").read_bytes()


def test_two_recordings_of_one_id_are_refused(tmp_path: Path) -> None:
    path = raw(tmp_path / "tts.parquet", TEN)
    with pytest.raises(ValueError, match="two recordings have the id 'kept'"):
        filter_utterances([path], tmp_path / "out", per_unit=10, transcriber=recogniser, recordings=[*HEARD, HEARD[0]])


def test_nothing_is_heard_twice(tmp_path: Path) -> None:
    asked: list[int] = []

    def counting(waveforms, sample_rate):
        asked.append(len(waveforms))
        return recogniser(waveforms, sample_rate)

    counting.fingerprint = "mine"  # type: ignore[attr-defined]
    path = raw(tmp_path / "tts.parquet", TEN)
    told = dict(per_unit=10, transcriber=counting, recordings=HEARD)
    first = filter_utterances([path], tmp_path / "out", **told)
    assert sum(asked) == 4
    assert filter_utterances([path], tmp_path / "out", **told).to_json() == first.to_json() and sum(asked) == 4
    loose = filter_utterances([path], tmp_path / "out", max_error=0.6, **told)
    assert loose.kept == 4 and sum(asked) == 4  # the threshold is no question to the recogniser
    mended = [Recording("no-audio", SAID, (RIGHT, 8000)) if r.id == "no-audio" else r for r in HEARD]
    assert filter_utterances([path], tmp_path / "out", **{**told, "recordings": mended}).kept == 4 and sum(asked) == 5


def test_what_is_wrong_with_a_recording_is_said_of_its_row(tmp_path: Path) -> None:
    keys = ["broken", "dots", "nan", "unread", "unknown"]
    recordings = [
        Recording("broken", SAID, (torch.zeros(0), 8000)),
        Recording("dots", "...", (RIGHT, 8000)),
        Recording("nan", SAID, (torch.full((9,), math.nan), 8000)),
    ]
    path = raw(tmp_path / "tts.parquet", [(key, "a", [1, 2], plain(20)) for key in keys])
    unread = [Refused("line 4", "unread", "the audio path leaves its folder")]
    sieve = filter_utterances(
        [path], tmp_path / "out", per_unit=10, transcriber=recogniser, recordings=recordings, unread=unread
    )
    reasons = {line["id"]: line["reason"] for line in lines(tmp_path / "out")}
    assert stages(sieve.rows[-1]) == [5, 0, 0, 0, 0, 0]
    told = ("holds 0 samples", "nothing is spoken", "NaN", "leaves its folder", "no recording has")
    for key, words in zip(keys, told, strict=True):
        assert words in reasons[key]
    assert read_metadata(tmp_path / "out" / "kept.parquet")["rows"] == 0


def test_a_recogniser_that_fails_stops_the_run(tmp_path: Path) -> None:
    def failing(waveforms, sample_rate):
        raise ConnectionError("no answer")

    path = raw(tmp_path / "tts.parquet", TEN)
    with pytest.raises(JudgeError, match="no answer"):
        filter_utterances([path], tmp_path / "out", per_unit=10, transcriber=failing, recordings=HEARD)
    assert not list(tmp_path.glob("out/*.*"))


class Slow(Transcriber):
    """Counts in a file what it was asked, and after a hundred waits to be killed, if it is to be."""

    def __init__(self, folder: Path, waits: bool) -> None:
        super().__init__()
        self.log, self.waits = folder / "asked", waits

    fingerprint = property(lambda self: "slow")  # type: ignore[assignment]  # the same, waiting or not

    def transcribe(self, waveforms, sample_rate, language=None):
        with open(self.log, "a") as file:
            file.write("x" * len(waveforms))
        if self.waits and self.log.stat().st_size > 100:
            time.sleep(600)
        return ["one" if float(waveform.mean()) > 0 else "two" for waveform in waveforms]


def slowly(folder: Path, out: str, waits: bool = False) -> None:
    recordings = [Recording(f"{i}", "one", (torch.full((400,), 0.5 - i % 2), 8000)) for i in range(200)]
    filter_utterances([folder / "tts.parquet"], folder / out, transcriber=Slow(folder, waits), recordings=recordings)


def test_killed_it_goes_on(tmp_path: Path) -> None:
    raw(tmp_path / "tts.parquet", [(f"{i}", "a", [1], plain(10, i)) for i in range(200)])
    code = f"from pathlib import Path; from {__name__} import slowly; slowly(Path({str(tmp_path)!r}), 'out', True)"
    first, asked = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT), tmp_path / "asked"
    while not asked.is_file() or asked.stat().st_size <= 100:
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    left = {path.name[:15] for path in (tmp_path / "out").iterdir()}
    assert left == {".refused.jsonl.", "verdicts"}
    slowly(tmp_path, "out")
    assert asked.stat().st_size == 128 + 200 - 96  # the 32 that were lost are heard again, and those before are not
    names = ["funnel.json", "kept.parquet", "refused.jsonl"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [*names, "verdicts"]
    slowly(tmp_path, "whole")
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert json.loads((tmp_path / "out" / "funnel.json").read_text())["rows"][-1]["stages"]["kept"]["count"] == 100


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"transcriber": recogniser}, "give recordings="),
        ({"max_error": 0.0}, "max_error"),
        ({"low": 2.0}, "low < high"),
        ({"k": 0}, "k >= 1"),
        ({"real": ["real.parquet"]}, "give one of them"),
        ({"synthetic": []}, "nothing to filter"),
        ({"real": ["nowhere.parquet"], "per_unit": None}, "nowhere.parquet"),
    ],
)
def test_settings_out_of_range(tmp_path: Path, changes: dict, said: str) -> None:
    path = raw(tmp_path / "tts.parquet", TEN)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        filter_utterances(**{"synthetic": [path], "out": tmp_path / "out", "per_unit": 10, **changes})
    assert not (tmp_path / "out" / "kept.parquet").exists()


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    path = raw(tmp_path / "tts.parquet", TEN)
    data = path.read_bytes()
    (tmp_path / "cut.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="cut.parquet is not a readable Parquet file"):
        filter_utterances([tmp_path / "cut.parquet"], tmp_path / "out")
    books = tmp_path / "books.parquet"
    write_utterances(books, [Utterance("u", Prompt([1]), [[1, 2]])])
    with pytest.raises(ValueError, match="differ in codebooks"):
        filter_utterances([path, books], tmp_path / "out")
    assert filter_utterances([books], tmp_path / "out").rows[0]["tokens"]["before"] == 1  # the first codebook's


class Loudness(Transcriber):
    """Hears "one" in what is loud."""

    def __init__(self, level: float = 0.1) -> None:
        super().__init__(level=level)
        self.level = level

    def transcribe(self, waveforms, sample_rate, language=None):
        assert language == "en"
        return ["one" if float(waveform.abs().mean()) > self.level else "" for waveform in waveforms]


def sound(path: Path, level: int) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.full(800, level, "<i2").tobytes())
    return path


@pytest.mark.audio
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "loudness", sys.modules[__name__])
    monkeypatch.setattr(Loudness, "__module__", "loudness")
    names = ("loud", "quiet", "gone", "broken")
    path = raw(tmp_path / "tts.parquet", [(key, "tts", [1, 2], plain(20)) for key in names])
    sound(tmp_path / "loud.wav", 9000), sound(tmp_path / "quiet.wav", 90)
    (tmp_path / "broken.wav").write_bytes(b"RIFF no sound")
    rows = [json.dumps({"id": key, "audio_filepath": f"{key}.wav", "text": "one"}) + "\n" for key in names]
    (tmp_path / "tts.jsonl").write_text("".join(rows))
    (tmp_path / "filter.yaml").write_text(
        f"synthetic: [{path}]\nout: {tmp_path}/out\ntranscriber: {{class_path: loudness.Loudness}}\n"
        f"format: nemo\ninput: [{tmp_path}/tts.jsonl]\nlanguage: en\n"
    )
    assert main(["erosion", "filter", "--config", str(tmp_path / "filter.yaml")]) == 0
    shown = capsys.readouterr().out
    assert "4 (100.0 %)" in shown and "1 (25.0 %)" in shown and "Heard by Loudness" in shown
    reasons = {line["id"]: line["reason"] for line in lines(tmp_path / "out")}
    assert "the audio file is missing" in reasons["gone"] and "cannot be read" in reasons["broken"]
    assert main(["erosion", "filter", "--config", str(tmp_path / "filter.yaml"), "--transcriber.level", "0.9"]) == 1
    assert "nothing was kept" in capsys.readouterr().err


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = str(raw(tmp_path / "tts.parquet", TEN)), str(tmp_path / "out")
    asked = ["erosion", "filter", "--synthetic", path, "--out", out]
    for more, code, said in (
        (["--max_eror", "0.3"], 2, "unknown key 'max_eror'; did you mean 'max_error'?"),
        (["--transcriber", "Wisper"], 2, "did you mean 'Whisper'?"),
        (["--transcriber", "Whisper", "--transcriber.model", "nowhere"], 1, "--format and --input"),
        (["--real", "nowhere.parquet"], 1, "no file nowhere.parquet"),
        (["--format", "kaldii"], 2, "Expected a typing.Literal['cosyvoice', 'nemo'"),
        # what costs nothing is looked at before a recogniser is loaded
        (["--transcriber", "Whisper", "--format", "nemo", "--input", "nowhere.jsonl"], 1, "there is no nowhere.jsonl"),
        (["--transcriber", "Whisper", "--format", "nemo", "--input", path, "--real", "no.parquet"], 1, "no.parquet"),
    ):
        assert main([*asked, *more]) == code
        assert said in capsys.readouterr().err
    for argv, code, said in (
        ([], 2, "say which: plan or filter"),
        (["plna"], 2, "no 'plna'; did you mean 'plan'?"),
        (["plan", "--real", path, "--synthetic", path, "--aplha", "0.8"], 2, "did you mean 'alpha'?"),
        (["plan", "--real", path, "--synthetic", path, "--draws", "0"], 1, "draws=0: an interval needs 2"),
        (["plan", "--real", __file__, "--synthetic", path], 1, "test_filter.py is not a readable Parquet file"),
    ):
        assert main(["erosion", *argv]) == code
        assert said in capsys.readouterr().err
    assert main(asked) == 0 and "no recogniser was given" in capsys.readouterr().out
