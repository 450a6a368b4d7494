from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from seaalign.records.recording import Recording
from seaalign.storage import Refused
from seaalign.storage.kaldi import read_kaldi
from seaalign.storage.recordings import read_common_voice, read_ljspeech, read_nemo


def touch(folder, *names):
    """Files that are there; the readers never look into them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def reasons(refused: list[Refused], want: list[tuple[str, str]]) -> None:
    """Every refusal stands where it should and says what it should."""
    found = [
        (r.where, next((part for w, part in want if w == r.where and part in r.reason), r.reason)) for r in refused
    ]
    assert found == want


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        ("id", "", ValueError, "needs an id and a text"),
        ("id", 7, TypeError, "id must be a text, got '7'"),
        ("text", "  ", ValueError, "needs an id and a text"),
        ("text", None, TypeError, "text must be a text"),
        ("speaker", 3, TypeError, "speaker must be a text or None"),
        ("language", "", TypeError, "language must be a text or None"),
        ("tokens", [], ValueError, "tokens of recording 'a' are empty"),
        ("tokens", [0.5], TypeError, "integer ids"),
        ("start", -0.1, ValueError, "start must be 0 or more seconds, got -0.1"),
        ("start", "1", TypeError, "start must be a number of seconds"),
        ("duration", 0, ValueError, "duration must be above 0 seconds, got 0"),
        ("duration", float("nan"), ValueError, "duration must be above 0"),
        ("audio", 5, TypeError, "audio must be a path, bytes"),
        ("audio", (torch.zeros(2, 4), 8000), ValueError, r"got \(2, 4\)"),
        ("audio", (np.zeros(4, np.int16), 8000), ValueError, "divide 16-bit numbers"),
        ("audio", (torch.zeros(4), 0), ValueError, "above 0 Hz"),
    ],
)
def test_a_recording_refuses_what_it_cannot_be(field, value, error, message):
    with pytest.raises(error, match=message):
        Recording(**{"id": "a", "text": "hello", field: value})


def test_a_recording_keeps_audio_in_three_kinds():
    one = Recording("a", "hello", "x/y.wav", [1, 2])
    assert one.audio == Path("x/y.wav") and one.tokens.dtype == torch.int64
    assert replace(one, audio=b"RIFF").audio == b"RIFF"
    samples, rate = replace(one, audio=(np.ones(3), 8000)).audio
    assert samples.dtype == torch.float32 and rate == 8000


def test_nemo(tmp_path):
    touch(tmp_path, "a/one.wav", "a/two.flac", "three.wav")
    rows = [
        {"audio_filepath": "a/one.wav", "text": 'say "hi"\tnow', "duration": 1.5, "speaker": 4, "lang": "th", "x": 1},
        {"audio_filepath": str(tmp_path / "a/two.flac"), "text": "two", "offset": 2.5, "duration": 1},
        {"audio_filepath": "three.wav", "text": "line\u2028separator", "id": "own"},
        {"audio_filepath": "a/one.wav", "text": "again", "offset": 3},
    ]
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n\r\n".join(json.dumps(row, ensure_ascii=False).encode() for row in rows))
    first, second, third, fourth = read_nemo(path, language="lo", source="espeak")
    assert (first.id, first.text, first.audio) == ("a/one", 'say "hi"\tnow', tmp_path / "a/one.wav")
    assert (first.duration, first.start, first.speaker, first.language) == (1.5, None, "4", "th")
    assert (second.id, second.start, second.duration) == (str(tmp_path / "a/two") + "@2.5", 2.5, 1.0)
    assert (third.id, third.text, third.language, third.source) == ("own", "line\u2028separator", "lo", "espeak")
    assert fourth.id == "a/one@3" and first.tokens is None


def test_nemo_refuses_and_says_why(tmp_path):
    touch(tmp_path, "corpus/a.wav", "secret.wav")
    lines = [
        '{"audio_filepath": "a.wav", "text": "fine"}',
        '{"audio_filepath": "a.wav", "text": "twice"}',
        '{"audio_filepath": "b.wav", "text": "x"}',
        '{"audio_filepath": "../secret.wav", "text": "x"}',
        '{"audio_filepath": "%s", "text": "x", "id": "abs"}' % (tmp_path / "secret.wav"),
        '{"audio_filepath": "a.wav", "id": "no text"}',
        '{"audio_filepath": "a.wav", "text": " ", "id": "blank"}',
        '{"audio_filepath": "a.wav", "text": ["x"], "id": "list"}',
        '{"text": "x"}',
        '{"audio_filepath": "a.wav", "text": "x", "id": "late", "offset": NaN}',
        '{"audio_filepath": "a.wav", "text": "x", "id": "long", "duration": "2"}',
        '{"audio_filepath": "a.wav", "text": "x", "id": 5}',
        '{"audio_filepath": "a\\u0000.wav", "text": "x", "id": "nul"}',
        "[1]",
        '{"audio_filepath": "a.wav", "tex',
    ]
    path = tmp_path / "corpus/m.jsonl"
    path.write_bytes("\n".join(lines).encode() + b'\n{"audio_filepath": "a.wav", "text": "\xe9"}\n')
    refused: list[Refused] = []
    with pytest.warns(UserWarning, match="15 of 16 rows refused"):
        kept = read_nemo(path, refused=refused)
    assert [r.text for r in kept] == ["fine"]
    want = ["duplicate of line 1", "audio file is missing", "leaves its folder", "leaves its folder", "key 'text'"]
    want += ["needs an id and a text", "text must be a text", "the audio path is missing: got None"]
    want += [
        "start must be 0 or more",
        "duration must be a number",
        "the id is missing (got 5)",
        "audio file is missing",
    ]
    want += ["not an object", "not JSON", "not UTF-8"]
    reasons(refused, [(f"line {number}", part) for number, part in enumerate(want, 2)])
    assert f"pass root={str(tmp_path)!r}" in refused[2].reason
    with pytest.raises(ValueError, match="line 2"):
        read_nemo(path, on_bad="raise")


def test_a_wider_root_lets_paths_leave_the_folder(tmp_path):
    touch(tmp_path, "data/secret.wav", "data/lists/own.wav")
    path = tmp_path / "data/lists/m.jsonl"
    names = ["../secret.wav", str(tmp_path / "data/secret.wav"), "lists/own.wav", "own.wav"]
    path.write_text("".join(f'{{"audio_filepath": {json.dumps(name)}, "text": "x"}}\n' for name in names))
    found = [r.audio for r in read_nemo(path, root=tmp_path / "data")]
    assert found == [tmp_path / "data/secret.wav"] * 2 + [tmp_path / "data/lists/own.wav"] * 2
    with pytest.warns(
        UserWarning, match="3 of 4 rows refused"
    ):  # a relative path starts at the root only if it is given
        read_nemo(path)


def test_a_folder_of_a_similar_name_is_another_folder(tmp_path):
    touch(tmp_path, "data/a.wav", "data2/a.wav")
    (tmp_path / "data/m.jsonl").write_text('{"audio_filepath": "../data2/a.wav", "text": "x"}')
    with pytest.raises(ValueError, match="leaves its folder"):
        read_nemo(tmp_path / "data/m.jsonl")


def test_a_linked_corpus_is_found_by_either_name(tmp_path):
    touch(tmp_path, "disk/a.wav")
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/m.jsonl").write_text(json.dumps({"audio_filepath": str(tmp_path / "disk/a.wav"), "text": "x"}))
    assert read_nemo(tmp_path / "link/m.jsonl")[0].audio == tmp_path / "disk/a.wav"


def test_nemo_with_another_text_key(tmp_path):
    touch(tmp_path, "a.wav")
    path = tmp_path / "m.jsonl"
    path.write_text('{"audio_filepath": "a.wav", "text": "3 $", "normalized_text": "three dollars"}')
    assert read_nemo(path, text="normalized_text")[0].text == "three dollars"
    with pytest.raises(
        ValueError, match="the key 'norm' is missing: the line has audio_filepath, normalized_text, text"
    ):
        read_nemo(path, text="norm")


@pytest.mark.parametrize("read", [read_nemo, read_common_voice, read_ljspeech, read_kaldi])
def test_a_file_that_is_not_there(read, tmp_path):
    with pytest.raises(FileNotFoundError, match="check the path"):
        read(tmp_path / "nothing")


def test_an_empty_file_is_an_error(tmp_path):
    (tmp_path / "m.jsonl").write_text("\n \n")
    with pytest.raises(ValueError, match="no rows"):
        read_nemo(tmp_path / "m.jsonl")


HEADER = "client_id\tpath\tsentence\tup_votes\tdown_votes\tlocale"


def table(folder, *rows, header=HEADER):
    touch(folder, *(f"clips/{name}.mp3" for name in "abcdef"))
    path = folder / "validated.tsv"
    path.write_text("\r\n".join([header, *rows]) + "\r\n", newline="")
    return path


def test_common_voice(tmp_path):
    path = table(tmp_path, 'ann\ta.mp3\t"Never", he said, and "why\t2\t0\tth', "\tb.mp3\tx, y\t2\t1\t")
    first, second = read_common_voice(path)
    assert (first.id, first.text, first.speaker) == ("a", '"Never", he said, and "why', "ann")
    assert (first.language, first.audio) == ("th", tmp_path / "clips/a.mp3")
    assert (second.speaker, second.language, second.text) == (None, None, "x, y")
    refused: list[Refused] = []
    with pytest.warns(UserWarning, match="1 of 2 rows refused"):
        assert [r.id for r in read_common_voice(path, min_votes=2, refused=refused)] == ["a"]
    assert "too few votes: 2 up, 1 down" in refused[0].reason


def test_common_voice_refuses_and_says_why(tmp_path):
    rows = [
        "ann\ta.mp3\tfine\t2\t0\tth",
        "ann\tb.mp3\ta tab\tinside\t2\t0\tth",
        "ann\tc.mp3\tshort",
        "ann\t\tno path\t2\t0\tth",
        "ann\t../../x.mp3\tout\t2\t0\tth",
        "ann\tg.mp3\tno file\t2\t0\tth",
        "ann\td.mp3\t\t2\t0\tth",
        "ann\ta.mp3\tagain\t2\t0\tth",
        "ann\te.mp3\tmany\tmany\t0\tth",
    ]
    refused: list[Refused] = []
    with pytest.warns(UserWarning, match="8 of 9 rows refused"):
        assert [r.text for r in read_common_voice(table(tmp_path, *rows), min_votes=0, refused=refused)] == ["fine"]
    want = ["7, and the first line has 6: a tab in a text?", "3, and the first line has 6", "the column path is empty"]
    want += [
        "leaves its folder",
        "audio file is missing",
        "needs an id and a text",
        "duplicate of line 2",
        "no numbers",
    ]
    reasons(refused, [(f"line {number}", part) for number, part in enumerate(want, 3)])


def test_common_voice_without_its_columns(tmp_path):
    with pytest.raises(ValueError, match=r"lacks the columns \['sentence'\], it has \['path', 'text'\]"):
        read_common_voice(table(tmp_path, "a.mp3\tx", header="path\ttext"))
    with pytest.raises(ValueError, match=r"\['down_votes', 'up_votes'\]"):
        read_common_voice(table(tmp_path, "a.mp3\tx", header="path\tsentence"), min_votes=1)
    assert read_common_voice(table(tmp_path, "a.mp3\tx", header="path\tsentence"))[0].speaker is None


def test_a_very_long_cell_is_a_cell(tmp_path):
    path = table(tmp_path, f"a.mp3\t{'x' * 200_000}", header="path\tsentence")  # the csv module stops at 131,072
    assert len(read_common_voice(path)[0].text) == 200_000


def test_ljspeech(tmp_path):
    folder = tmp_path / "Ann"
    touch(folder, "wavs/1.wav", "wavs/2.wav", "wavs/3.wav", "wavs/4.wav")
    rows = ["1|Dr. X|Doctor X", "2|no third|", "3|only two", "4|a | bar|x", "5|no file|x", "|x|y", "1|again|x"]
    (folder / "metadata.csv").write_text("\n".join(rows))
    refused: list[Refused] = []
    with pytest.warns(UserWarning, match="4 of 7 rows refused"):
        kept = read_ljspeech(folder, language="en", refused=refused)
    assert [(r.id, r.text, r.speaker, r.language) for r in kept] == [
        ("1", "Doctor X", "Ann", "en"),
        ("2", "no third", "Ann", "en"),
        ("3", "only two", "Ann", "en"),
    ]
    assert kept[0].audio == folder / "wavs/1.wav"
    want = ["number of cells is wrong: 4", "audio file is missing", "the id is missing", "duplicate of line 1"]
    reasons(refused, list(zip([f"line {n}" for n in (4, 5, 6, 7)], want, strict=True)))
    with pytest.warns(UserWarning):
        assert read_ljspeech(folder / "metadata.csv", speaker="bea")[0].speaker == "bea"


def kaldi(folder, **files):
    for name, lines in files.items():
        (folder / name.replace("__", ".")).write_text("\n".join(lines) + "\n")
    return folder


def test_kaldi(tmp_path):
    touch(tmp_path, "a.wav", "b b.wav")
    kaldi(
        tmp_path,
        wav__scp=["u1 a.wav", f"u2  {tmp_path}/b b.wav"],
        text=["u1 hello  there", "u2 ສະບາຍດີ"],
        utt2spk=["u1 ann", "u2 bea"],
        utt2lang=["u2 lo"],
    )
    first, second = read_kaldi(tmp_path, language="en")
    assert (first.id, first.text, first.speaker, first.language) == ("u1", "hello  there", "ann", "en")
    assert (second.audio, second.language, second.start) == (tmp_path / "b b.wav", "lo", None)


def test_kaldi_segments(tmp_path):
    touch(tmp_path, "long.wav")
    segments = ["s1 long 0.5 2.25", "s2 long 3 -1", "s3 long 4 4", "s4 long x 5", "s5 other 1 2"]
    kaldi(tmp_path, wav__scp=["long long.wav"], text=[f"s{i} text" for i in range(1, 7)], segments=segments)
    refused: list[Refused] = []
    with pytest.warns(UserWarning, match="4 of 6 rows refused"):
        kept = read_kaldi(tmp_path, refused=refused)
    assert [(r.id, r.start, r.duration) for r in kept] == [("s1", 0.5, 1.75), ("s2", 3.0, None)]
    want = ["must end after its start", "recording start end", "no entry in wav.scp: it has nothing for 'other'"]
    want += ["no entry in segments"]
    reasons(refused, [(f"utterance s{i}", part) for i, part in enumerate(want, 3)])


def test_a_command_in_kaldi_is_never_run(tmp_path):
    touch(tmp_path, "a.wav")
    sprung = tmp_path / "sprung"
    commands = [f"touch {sprung} |", f"touch {sprung}|", f"| touch {sprung}"]
    kaldi(
        tmp_path,
        wav__scp=["u0 a.wav", *(f"u{i} {command}" for i, command in enumerate(commands, 1)), "u4 feats.ark:17"],
        text=[f"u{i} text" for i in range(5)],
    )
    refused: list[Refused] = []
    with pytest.warns(UserWarning, match="4 of 5 rows refused"):
        assert [r.id for r in read_kaldi(tmp_path, refused=refused)] == ["u0"]
    assert [r.reason.split(":")[0] for r in refused] == ["a command in wav.scp"] * 3 + ["the audio file is missing"]
    assert not sprung.exists()


def test_kaldi_tables_that_disagree(tmp_path):
    touch(tmp_path, "a.wav", "b.wav")
    kaldi(
        tmp_path,
        wav__scp=["u1 a.wav", "u2 a.wav", "u2 b.wav", "u3 a.wav", "u4 a.wav"],
        text=["u1 fine", "u2 two files", "u3", "u5 no audio"],
        utt2spk=["u1 ann", "u2 ann", "u5 ann"],
    )
    refused: list[Refused] = []
    with pytest.warns(UserWarning, match="4 of 5 rows refused"):
        assert [r.id for r in read_kaldi(tmp_path, refused=refused)] == ["u1"]
    want = {
        "u2": "wav.scp has 'u2' more than once, again in line 3",
        "u3": "no entry in text",
        "u4": "no entry in text",
    }
    want["u5"] = "no entry in wav.scp"
    assert {r.id: want[r.id] for r in refused if want[r.id] in r.reason} == want


def test_kaldi_paths_start_where_the_recipe_runs(tmp_path):
    touch(tmp_path, "corpus/a.wav")
    (tmp_path / "data/train").mkdir(parents=True)
    kaldi(tmp_path / "data/train", wav__scp=["u1 corpus/a.wav"], text=["u1 x"])
    assert read_kaldi(tmp_path / "data/train", root=tmp_path)[0].audio == tmp_path / "corpus/a.wav"
    with pytest.raises(ValueError, match="audio file is missing"):
        read_kaldi(tmp_path / "data/train")
