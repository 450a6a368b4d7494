"""Candidates, pairs and texts on disk: what goes in comes out, and bad rows are refused with a reason."""

from __future__ import annotations

import json

import pytest
import torch

from seaalign import Candidate, Pair, Prompt, Sentence, Style
from seaalign.storage import read_candidates, read_pairs, read_texts, write_candidates, write_pairs

HELLO = Sentence("s", "hello", Prompt([1, 2]), "en")


def test_candidates_come_back(tmp_path):
    rows = [
        Candidate(HELLO, torch.tensor([1, 2, 3]), True, 0.7, 0),
        Candidate(HELLO, torch.zeros(0, dtype=torch.long), False, 1.3, 11),
    ]
    write_candidates(tmp_path / "c.parquet", rows)
    back = read_candidates(tmp_path / "c.parquet", {"s": HELLO})
    assert [(c.name, c.tokens.tolist(), c.ended, c.temperature) for c in back] == [
        ("s#0", [1, 2, 3], True, 0.7),
        ("s#11", [], False, 1.3),
    ]
    assert back[0].sentence is HELLO
    with pytest.raises(ValueError, match=r"answers sentences that are not among the 0 given: \['s'"):
        read_candidates(tmp_path / "c.parquet", {})
    books = [Candidate(HELLO, torch.tensor([[1, 2], [3, 4]]))]
    write_candidates(tmp_path / "k.parquet", books)
    assert read_candidates(tmp_path / "k.parquet", {"s": HELLO})[0].tokens.tolist() == [[1, 2], [3, 4]]


def test_pairs_come_back_with_and_without_reference(tmp_path):
    prompt = Prompt([1, 2], Style([3], [4]), torch.tensor([0.5]))
    pair = Pair("p", prompt, torch.tensor([1, 2]), torch.tensor([3]), (True, False))
    scored = Pair("q", prompt, pair.chosen, pair.rejected, reference=(torch.randn(3), torch.randn(2)))
    write_pairs(tmp_path / "p.parquet", [pair, scored])
    one, two = read_pairs(tmp_path / "p.parquet")
    assert one.reference is None and one.ended == (True, False) and one.prompt.style.text.tolist() == [4]
    assert torch.equal(one.rejected, pair.rejected) and torch.equal(one.prompt.timbre, prompt.timbre)
    assert all(torch.equal(a, b) for a, b in zip(two.reference, scored.reference, strict=True))
    with pytest.raises(ValueError, match="outside the codebook"):
        read_pairs(tmp_path / "p.parquet", vocab_size=3, on_bad="raise")


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def test_a_text_file_with_everything_wrong(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "hello\n\n   \nສະບາຍດີ\nhello\n".encode() + b"x\n" + b"y" * 2000 + b"\n")
    refused = []
    with pytest.warns(UserWarning, match="1 of 5 rows refused"):
        rows = read_texts(path, letters, timbres=["a", "b"], language="lo", refused=refused)
    assert [row.text for row in rows] == ["hello", "ສະບາຍດີ", "x", "y" * 2000]
    assert [row.id for row in rows] == ["texts-1", "texts-4", "texts-6", "texts-7"]
    assert [row.prompt.timbre for row in rows] == ["a", "b", "b", "a"] and rows[0].language == "lo"
    assert refused[0].where == "line 5" and refused[0].reason == "duplicate text: the same as line 1"


def test_a_manifest_of_texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    lines = [
        {"id": "a", "text": "hello", "ids": [1, 2], "language": "th"},
        {"text": "you"},
        {"id": "a", "text": "again", "ids": [1]},
        {"id": "c", "ids": [1]},
        {"id": "d", "text": "x", "ids": []},
        {"id": "e", "text": "x", "idz": [1]},
        ["no object"],
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n{broken\n")
    refused = []
    with pytest.warns(UserWarning, match="7 of 8 rows refused"):
        rows = read_texts(path, refused=refused)
    assert [(r.id, r.prompt.text.tolist(), r.language) for r in rows] == [("a", [1, 2], "th")]
    told = " / ".join(item.reason for item in refused)
    for reason in ("no ids", "duplicate of line 1", "text is missing", "empty", "unknown keys", "id is missing"):
        assert reason in told
    with pytest.warns(UserWarning):
        assert [r.id for r in read_texts(path, letters)] == ["a", "texts-2"]


def test_texts_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="check the path"):
        read_texts(tmp_path / "none.txt", letters)
    path = tmp_path / "texts.txt"
    path.write_bytes("สวัสดี".encode("tis-620"))
    with pytest.raises(ValueError, match="is not UTF-8"):
        read_texts(path, letters)
    with pytest.raises(ValueError, match="pass tokenize="):
        read_texts(path)
    path.write_text("\n\n")
    with pytest.raises(ValueError, match="holds no text"):
        read_texts(path, letters)
