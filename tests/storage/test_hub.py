from __future__ import annotations

import numpy as np
import pytest
import torch

from seaalign.storage import Refused
from seaalign.storage.hub import read_dataset


def test_rows_that_are_dictionaries(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"")
    rows = [
        {"sentence": "path", "audio": str(tmp_path / "a.wav"), "codes": [1, 2], "who": 7, "lang": "th", "utt": 10},
        {"sentence": "bytes", "audio": b"RIFF", "codes": np.array([3]), "who": "ann", "lang": None, "utt": "x"},
        {"sentence": "undecoded", "audio": {"bytes": b"RI", "path": "name.wav"}, "codes": [4], "utt": 12},
        {"sentence": "by path", "audio": {"bytes": None, "path": str(tmp_path / "a.wav")}, "codes": [5], "utt": 13},
        {
            "sentence": "decoded",
            "audio": {"array": np.array([0.5, -0.5]), "sampling_rate": 8000},
            "codes": [6],
            "utt": 14,
        },
        {"sentence": "silent", "audio": None, "codes": [[1, 2], [3, 4]], "utt": 15},
    ]
    names = {"text": "sentence", "tokens": "codes", "speaker": "who", "language": "lang", "id": "utt"}
    made = read_dataset(rows, **names, source="mms")
    assert [r.id for r in made] == ["10", "x", "12", "13", "14", "15"]
    assert [r.text for r in made] == [row["sentence"] for row in rows]
    assert [r.speaker for r in made[:3]] == ["7", "ann", None] and made[0].language == "th" and made[0].source == "mms"
    assert [r.audio for r in made[:4]] == [tmp_path / "a.wav", b"RIFF", b"RI", tmp_path / "a.wav"]
    samples, rate = made[4].audio
    assert samples.tolist() == [0.5, -0.5] and samples.dtype == torch.float32 and rate == 8000
    assert made[5].audio is None and made[5].tokens.tolist() == [[1, 2], [3, 4]]


class Decoder:
    """As the decoder objects of newer releases of `datasets`: no dictionary, but it knows these two keys."""

    def __getitem__(self, key):
        return {"array": np.zeros(3, np.float32), "sampling_rate": 16_000}[key]


def test_decoder_objects_are_heard():
    samples, rate = read_dataset([{"text": "x", "audio": Decoder()}])[0].audio
    assert len(samples) == 3 and rate == 16_000


def test_timbres_become_tensors():
    rows = [{"text": "x", "audio": None, "xvec": [1, 2.5]}, {"text": "y", "audio": None, "xvec": {"embedding": [1.0]}}]
    first, second = read_dataset(rows, timbre="xvec")
    assert first.timbre.tolist() == [1.0, 2.5] and second.timbre["embedding"].tolist() == [1.0]


def test_bad_rows_are_refused(tmp_path):
    rows = [
        {"text": "fine", "audio": b"x", "codes": [1]},
        {"text": None, "audio": b"x", "codes": [1]},
        {"text": "no codes", "audio": b"x", "codes": None},
        {"text": "empty", "audio": b"x", "codes": []},
        {"text": "large", "audio": b"x", "codes": [9]},
        {"text": "hollow", "audio": {"bytes": None, "path": None}, "codes": [1]},
        {"text": "gone", "audio": {"bytes": None, "path": str(tmp_path / "a.wav")}, "codes": [1]},
        {"text": "odd", "audio": 5, "codes": [1]},
        {"text": "stereo", "audio": {"array": np.zeros((2, 4)), "sampling_rate": 8000}, "codes": [1]},
        {"audio": b"x", "codes": [1]},
        "no row",
    ]
    refused: list[Refused] = []
    with pytest.warns(UserWarning, match="10 of 11 rows refused"):
        assert [r.id for r in read_dataset(rows, tokens="codes", vocab_size=9, refused=refused)] == ["row-0"]
    want = [
        "column 'text' (text) holds nothing",
        "column 'codes' (tokens) holds nothing",
        "are empty",
        "id 9 at frame 0",
    ]
    want += ["neither bytes nor a path", "audio file is missing", "unknown kind: int", "(2, 4)", "'text' (text)"]
    want += ["must be a dictionary of columns: got str"]
    assert [(r.where, part) for r, part in zip(refused, want, strict=True) if part in r.reason] == [
        (f"row {number}", part) for number, part in enumerate(want, 1)
    ]


def test_paths_stay_under_a_root_that_is_given(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("in/a.wav", "b.wav"):
        (tmp_path / name).write_bytes(b"")
    rows = [{"text": "x", "audio": "a.wav"}, {"text": "y", "audio": str(tmp_path / "b.wav")}]
    with pytest.warns(UserWarning, match="leaves its folder"):
        assert [r.audio for r in read_dataset(rows, root=tmp_path / "in")] == [tmp_path / "in/a.wav"]


def test_columns_that_are_not_there():
    with pytest.raises(ValueError, match=r"no columns \['audio'\]; it has \['sentence', 'text'\]"):
        read_dataset([{"text": "x", "sentence": "x"}])
    with pytest.raises(TypeError, match=r"got splits \['test', 'train'\]"):
        read_dataset({"train": [], "test": []})
    with pytest.raises(ValueError, match="no rows"):
        read_dataset([])


class TestTheRealPackage:
    """`datasets` itself, without torchcodec: reading must not decode."""

    @pytest.fixture
    def rows(self, tmp_path):
        datasets = pytest.importorskip("datasets")
        (tmp_path / "a.wav").write_bytes(b"by path")
        cells = [{"bytes": b"by bytes", "path": "x.wav"}, {"bytes": None, "path": str(tmp_path / "a.wav")}]
        plain = datasets.Dataset.from_dict(
            {"audio": cells, "sentence": ["one", "two"], "codes": [[1, 2], [3]], "image": ["left", "alone"]}
        )
        return plain.cast_column("audio", datasets.Audio())

    @pytest.mark.parametrize("streamed", [False, True])
    def test_a_dataset(self, rows, tmp_path, streamed):
        made = read_dataset(rows.to_iterable_dataset() if streamed else rows, text="sentence", tokens="codes")
        assert [r.audio for r in made] == [b"by bytes", tmp_path / "a.wav"]
        assert [(r.id, r.text, r.tokens.tolist()) for r in made] == [("row-0", "one", [1, 2]), ("row-1", "two", [3])]
        assert rows.features["audio"].decode  # the caller's own is as it was

    def test_columns_that_are_not_there(self, rows):
        with pytest.raises(
            ValueError, match=r"no columns \['text'\]; it has \['audio', 'codes', 'image', 'sentence'\]"
        ):
            read_dataset(rows)

    def test_a_dictionary_of_splits(self, rows):
        import datasets

        with pytest.raises(TypeError, match=r"got splits \['train'\]: pass one of them"):
            read_dataset(datasets.DatasetDict({"train": rows}))
