from __future__ import annotations

import io
import os
import tarfile
import wave
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from seaalign import Pair, Prompt
from seaalign.records.recording import Recording
from seaalign.storage import Refused
from seaalign.storage.cosyvoice import read_cosyvoice, read_cosyvoice_pairs
from seaalign.storage.cosyvoice_write import write_cosyvoice


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def upstream(data_list):
    """What upstream's training sees: every listed file as Parquet in batches of 64, through pandas, row by row."""
    pytest.importorskip("pandas")
    for line in open(data_list, encoding="utf8"):
        for batch in pq.ParquetFile(line.strip()).iter_batches(batch_size=64):
            frame = batch.to_pandas()
            yield from (dict(frame.loc[i]) for i in range(len(frame)))


def listed(folder, *tables, names=None):
    """A list as upstream's tool leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    names = names or [str(folder / f"parquet_{i:09d}.tar") for i in range(len(tables))]
    for i, columns in enumerate(tables):
        pq.write_table(pa.table(columns), folder / f"parquet_{i:09d}.tar")
    (folder / "data.list").write_text("".join(f"{name}\n" for name in names))
    return folder / "data.list"


def columns(count=3, first=0, **changes):
    g = np.random.default_rng(first)
    made = {
        "utt": [f"u{first + i}" for i in range(count)],
        "audio_data": [f"sound {first + i}".encode() for i in range(count)],
        "wav": [f"/old/u{first + i}.wav" for i in range(count)],
        "text": [f"text {first + i}" for i in range(count)],
        "spk": ["ann", *["bea"] * (count - 1)],
        "utt_embedding": [g.standard_normal(192).tolist() for _ in range(count)],
        "spk_embedding": [[float(i)] * 192 for i in range(count)],
        "speech_token": [list(range(3 + i)) for i in range(count)],
    }
    return {name: values for name, values in {**made, **changes}.items() if values is not None}


def recordings(count=5, **changes):
    g = torch.Generator().manual_seed(0)
    return [
        Recording(
            f"u{i}",
            f"text {i}",
            f"sound {i}".encode(),
            torch.randint(6561, (20 + i,), generator=g),
            "ab"[i % 2],
            timbre={"embedding": torch.randn(192, generator=g)},
            **changes,
        )
        for i in range(count)
    ]


def pairs(originals):
    return [Pair(r.id, Prompt([1]), r.tokens, r.tokens.flip(0)[:7]) for r in originals]


def test_a_list_of_files(tmp_path):
    first, second = columns(3), columns(2, first=3)
    path = listed(tmp_path, first, second)
    made = read_cosyvoice(path, language="th")
    assert [(r.id, r.text, r.speaker) for r in made[1:4]] == [
        ("u1", "text 1", "bea"),
        ("u2", "text 2", "bea"),
        ("u3", "text 3", "ann"),
    ]
    assert [r.tokens.tolist() for r in made] == first["speech_token"] + second["speech_token"]
    assert torch.equal(made[4].timbre["embedding"], torch.tensor(second["utt_embedding"][1]))
    assert made[0].timbre["embedding"].shape == (192,) and made[0].language == "th"
    assert all(r.audio is None for r in made)  # most of the data, and left where it is
    assert [r.audio for r in read_cosyvoice(path, audio=True)] == first["audio_data"] + second["audio_data"]
    assert read_cosyvoice(path, embedding="spk")[2].timbre["embedding"].tolist() == [2.0] * 192
    assert [r.id for r in read_cosyvoice(tmp_path / "parquet_000000001.tar")] == ["u3", "u4"]


def test_many_rows_keep_their_own_tokens(tmp_path):
    table = columns(700)  # several batches of reading
    made = read_cosyvoice(listed(tmp_path, table))
    assert [r.tokens.tolist() for r in made] == table["speech_token"]


def test_optional_columns_are_optional(tmp_path):
    path = listed(tmp_path, columns(2, utt_embedding=None, spk_embedding=None, spk=None, audio_data=None, wav=None))
    assert [(r.timbre, r.speaker) for r in read_cosyvoice(path)] == [(None, None)] * 2


def test_an_instruction_comes_before_the_text(tmp_path):
    path = listed(tmp_path, columns(2, instruct=["Be kind.<|endofprompt|>", None]))
    assert [r.text for r in read_cosyvoice(path)] == ["Be kind.<|endofprompt|>text 0", "text 1"]


def test_rows_without_tokens_need_their_audio(tmp_path):
    path = listed(tmp_path, columns(3, speech_token=[[1], [], None]))
    with pytest.warns(UserWarning, match="2 of 3 rows refused(?s:.)*audio above 30 s"):
        assert [r.id for r in read_cosyvoice(path)] == ["u0"]
    assert [r.tokens for r in read_cosyvoice(path, audio=True)[1:]] == [None, None]
    bare = listed(tmp_path / "bare", columns(1, speech_token=None))
    assert read_cosyvoice(bare, audio=True)[0].audio == b"sound 0"


def test_bad_rows_are_refused(tmp_path):
    bad = [[0.0], [float("nan")], [0.0], [0.0], [0.0]]
    table = columns(
        5, utt=["a", "b", "a", "c", None], utt_embedding=bad, spk_embedding=None, text=["x"] * 3 + ["", "y"]
    )
    table["speech_token"] = [[6560], [1], [1], [1], [1]]
    path = listed(tmp_path, table, columns(1, speech_token=[[6561]]), columns(1, first=1, speech_token=[[-1]]))
    refused: list[Refused] = []
    with pytest.warns(UserWarning, match="6 of 7 rows refused"):
        assert [r.id for r in read_cosyvoice(path, vocab_size=6561, refused=refused)] == ["a"]
    want = ["embedding is broken: 1 numbers", "duplicate of row 0", "needs an id and a text", "the id is missing"]
    want += ["id 6561 at frame 0, outside the codebook", "id -1 at frame 0"]
    assert [part for r, part in zip(refused, want, strict=True) if part in r.reason] == want
    assert refused[0].where.startswith("row 1 of") and refused[0].where.endswith("parquet_000000000.tar")
    with pytest.raises(ValueError, match="row 1 of"):
        read_cosyvoice(path, on_bad="raise")


def test_bad_files_are_refused_and_the_others_read(tmp_path):
    listed(tmp_path, columns(2), columns(1, first=2, utt=None), columns(2, first=5, speech_token=[[0.5], [1.0]]))
    whole = (tmp_path / "parquet_000000000.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    with tarfile.open(tmp_path / "real.tar", "w") as tar:
        tar.add(tmp_path / "parquet_000000000.tar", "u0.wav")
    names = ["parquet_000000000.tar", "parquet_000000001.tar", "parquet_000000002.tar", "cut.tar", "real.tar", "no.tar"]
    (tmp_path / "data.list").write_text("\n".join(names))
    refused: list[Refused] = []
    with pytest.warns(UserWarning, match="5 of 7 rows refused"):
        assert [r.id for r in read_cosyvoice(tmp_path / "data.list", refused=refused)] == ["u0", "u1"]
    want = [
        "lacks the columns ['utt']",
        "Float",
        "a file cannot be read",
        "a real tar archive",
        "audio file is missing",
    ]
    want[1] = want[2]  # Arrow's own words
    assert [(r.where, part) for r, part in zip(refused, want, strict=True) if part in r.reason] == [
        (f"file {name}", part) for name, part in zip(names[1:], want, strict=True)
    ]


def test_a_list_names_files_under_its_root_only(tmp_path):
    listed(tmp_path / "elsewhere", columns(2))
    away = tmp_path / "elsewhere/parquet_000000000.tar"
    listed(tmp_path / "here", columns(1, first=9), names=[away, "../elsewhere/parquet_000000000.tar"])
    os.rename(tmp_path / "here/parquet_000000000.tar", tmp_path / "here/other.tar")
    with pytest.raises(ValueError, match=f"(?s)2 of 2 rows refused.*pass root={str(away.parent)!r}"):
        read_cosyvoice(tmp_path / "here/data.list")
    (tmp_path / "here/data.list").write_text(f"{away}\n")
    assert len(read_cosyvoice(tmp_path / "here/data.list", root=tmp_path)) == 2


def test_a_list_may_move_with_its_files(tmp_path):
    path = listed(tmp_path / "old", columns(2))
    os.rename(path.parent, tmp_path / "new")
    assert len(read_cosyvoice(tmp_path / "new/data.list")) == 2


def test_a_relative_list_starts_at_the_root(tmp_path):
    path = listed(tmp_path / "data/train", columns(2), names=["data/train/parquet_000000000.tar"])
    assert len(read_cosyvoice(path, root=tmp_path)) == 2


def test_pairs_of_upstream(tmp_path):
    table = columns(4, reject_speech_token=[[9, 9], None, [], [0, 1, 2, 3, 4, 5]])
    refused: list[Refused] = []
    with pytest.warns(UserWarning, match="3 of 4 rows refused"):
        (pair,) = read_cosyvoice_pairs(listed(tmp_path, table), letters, refused=refused)
    assert (pair.id, pair.chosen.tolist(), pair.rejected.tolist(), pair.ended) == (
        "u0",
        [0, 1, 2],
        [9, 9],
        (True, True),
    )
    assert pair.prompt.text.tolist() == letters("text 0") and pair.prompt.style is None
    assert torch.equal(pair.prompt.timbre["embedding"], torch.tensor(table["utt_embedding"][0]))
    assert [r.reason.split(":")[0] for r in refused] == ["no speech tokens"] * 2 + ["the answers are equal"]
    with pytest.raises(ValueError, match=r"lacks the columns \['reject_speech_token'\]"):
        read_cosyvoice_pairs(listed(tmp_path / "plain", columns(1)), letters)


def test_what_is_written_upstream_reads(tmp_path):
    made = recordings()
    path = write_cosyvoice(tmp_path / "out", pairs(made), made, rows_per_file=2)
    assert sorted(os.listdir(path.parent)) == ["data.list", *(f"parquet_{i:09d}.tar" for i in range(3))]
    assert os.listdir(tmp_path) == ["out"]
    rows = list(upstream(path))
    assert [row["utt"] for row in rows] == [r.id for r in made]
    for row, one, pair in zip(rows, made, pairs(made), strict=True):
        assert (row["audio_data"], row["text"], row["spk"]) == (one.audio, one.text, one.speaker)
        assert torch.tensor(row["speech_token"]).tolist() == pair.chosen.tolist()
        assert torch.tensor(row["reject_speech_token"]).tolist() == pair.rejected.tolist()
        # as parse_embedding of upstream makes them
        assert torch.equal(torch.tensor(row["utt_embedding"], dtype=torch.float32), one.timbre["embedding"])
    a = torch.stack([made[i].timbre["embedding"].double() for i in (0, 2, 4)]).mean(0)
    assert torch.tensor(rows[0]["spk_embedding"]).equal(a) and torch.tensor(rows[4]["spk_embedding"]).equal(a)
    assert "instruct" not in rows[0]


def test_recordings_and_pairs_come_back(tmp_path):
    made = recordings()
    back = read_cosyvoice(write_cosyvoice(tmp_path / "a", made), audio=True)
    for one, two in zip(made, back, strict=True):
        assert (one.id, one.text, one.audio, one.speaker) == (two.id, two.text, two.audio, two.speaker)
        assert torch.equal(one.tokens, two.tokens) and torch.equal(one.timbre["embedding"], two.timbre["embedding"])
    again = read_cosyvoice_pairs(write_cosyvoice(tmp_path / "b", pairs(made), made), letters)
    for pair, other in zip(pairs(made), again, strict=True):
        assert torch.equal(pair.chosen, other.chosen) and torch.equal(pair.rejected, other.rejected)
    bare = [replace(r, tokens=None, timbre=None) for r in made]
    assert not {"speech_token", "utt_embedding"} & set(next(upstream(write_cosyvoice(tmp_path / "c", bare))))


def test_instructions_get_their_column_where_every_row_has_one(tmp_path):
    told = [replace(r, text=f"Be kind.<|endofprompt|>{r.text}") for r in recordings(3)]
    rows = list(upstream(write_cosyvoice(tmp_path / "all", told)))
    assert {row["instruct"] for row in rows} == {"Be kind.<|endofprompt|>"} and rows[1]["text"] == "text 1"
    assert [r.text for r in read_cosyvoice(tmp_path / "all/data.list")] == [r.text for r in told]
    mixed = list(upstream(write_cosyvoice(tmp_path / "some", [*told[:2], recordings(3)[2]])))
    assert "instruct" not in mixed[0] and mixed[0]["text"] == told[0].text


def sound(data):
    with wave.open(io.BytesIO(data)) as file:
        return file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), "<i2")


def test_audio_of_every_kind_becomes_the_bytes_of_a_file(tmp_path):
    (tmp_path / "a.flac").write_bytes(b"as it is")
    samples = torch.tensor([0.0, 0.5, -1.0, 2.0])
    kinds = [tmp_path / "a.flac", (samples, 24_000), None]
    made = [replace(r, audio=audio) for r, audio in zip(recordings(3), kinds, strict=True)]
    with pytest.raises(ValueError, match=r"1 of 3 rows have no audio.*\['u2'\](?s:.)*silence=True"):
        write_cosyvoice(tmp_path / "out", made)
    first, second, third = upstream(write_cosyvoice(tmp_path / "out", made, silence=True))
    assert first["audio_data"] == b"as it is" and first["wav"] == str(tmp_path / "a.flac")
    rate, heard = sound(second["audio_data"])
    assert rate == 24_000 and heard.tolist() == [0, 16384, -32767, 32767]
    rate, heard = sound(third["audio_data"])
    assert len(heard) / rate == len(made[2].tokens) / 25 and not heard.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [], "got 0 rows"),
        (lambda rows: [*rows, rows[0]], r"more than once \['u0'\]"),
        (lambda rows: [replace(rows[0], tokens=None), *rows[1:]], r"1 of 3 rows lack tokens, first \['u0'\]"),
        (lambda rows: [*rows[:2], replace(rows[2], timbre=None)], r"lack an embedding, first \['u2'\]"),
        (lambda rows: [*rows[:2], replace(rows[2], tokens=[[1, 2]])], r"must be \(T,\) and not empty, got \(1, 2\)"),
        (lambda rows: [replace(rows[0], start=0.5), *rows[1:]], "'u0' is a part of a file"),
    ],
)
def test_what_upstream_would_stop_at_is_refused_before_anything_is_written(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_cosyvoice(tmp_path / "out", change(recordings(3)))
    assert os.listdir(tmp_path) == []


def test_pairs_need_their_originals(tmp_path):
    made = recordings(3)
    with pytest.raises(ValueError, match="pair 'u2' has no original"):
        write_cosyvoice(tmp_path / "out", pairs(made), made[:2])


def test_cut_answers_are_counted(tmp_path):
    made = recordings(3)
    cut = [replace(pair, ended=(True, i != 1)) for i, pair in enumerate(pairs(made))]
    with pytest.warns(UserWarning, match="1 of 3 pairs hold an answer that was cut"):
        write_cosyvoice(tmp_path / "out", cut, made)


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    write_cosyvoice(tmp_path / "out", recordings(3))
    before = (tmp_path / "out/data.list").stat().st_mtime_ns
    with pytest.raises(FileExistsError, match="not empty"):
        write_cosyvoice(tmp_path / "out", recordings(2))
    assert (tmp_path / "out/data.list").stat().st_mtime_ns == before
    (tmp_path / "empty").mkdir()
    write_cosyvoice(tmp_path / "empty", recordings(2))


def test_a_write_that_fails_leaves_nothing(tmp_path):
    made = [*recordings(3)[:2], replace(recordings(3)[2], audio=tmp_path / "gone.wav")]
    with pytest.raises(OSError, match="gone.wav"):
        write_cosyvoice(tmp_path / "out", made, rows_per_file=1)  # the first two files are complete by then
    assert os.listdir(tmp_path) == []
