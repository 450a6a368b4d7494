from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import struct
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seaalign import Prompt, Style, Triplet, Utterance
from seaalign.storage import (
    Refused,
    data_hash,
    layout_of,
    read_manifest,
    read_metadata,
    read_triplets,
    read_utterances,
    weights_hash,
    write_triplets,
    write_utterances,
)
from tests.toy import Toy, speech


def same(a, b) -> bool:
    if a is None or b is None:
        return a is b
    return torch.equal(a, b) and a.dtype == b.dtype


def same_prompt(a: Prompt, b: Prompt) -> bool:
    if (a.style is None) != (b.style is None):
        return False
    style = a.style is None or (same(a.style.tokens, b.style.tokens) and same(a.style.text, b.style.text))
    return style and same(a.text, b.text)


def triplet(key="a", length=3, **changes) -> Triplet:
    tokens = torch.arange(length)
    logps = tuple(-torch.rand(length + 1) for _ in range(3))
    made = Triplet(key, Prompt([1], Style([2])), tokens, tokens, tokens, (True, False, True), {"plain": logps})
    return replace(made, **changes)


def test_utterances_come_back_as_they_were(tmp_path):
    voice = {"xvector": torch.randn(4), "parts": [torch.tensor(3)]}
    rows = [
        Utterance("a", Prompt([1, 2], Style([3, 4], [5]), voice), [7, 8, 9]),
        Utterance("b", Prompt([3], Style([3])), [7], source="espeak"),
        Utterance("c", Prompt([4], None, voice), [1] * 50),
    ]
    write_utterances(tmp_path / "u.parquet", rows, {"language": "th"})
    back = read_utterances(tmp_path / "u.parquet")
    assert [(u.id, u.source) for u in back] == [("a", "real"), ("b", "espeak"), ("c", "real")]
    assert all(same_prompt(x.prompt, y.prompt) and same(x.tokens, y.tokens) for x, y in zip(rows, back, strict=True))
    assert same(back[0].prompt.timbre["xvector"], voice["xvector"]) and back[1].prompt.timbre is None
    assert back[0].prompt.timbre is back[2].prompt.timbre  # stored once, loaded once
    assert read_metadata(tmp_path / "u.parquet") == {
        **{"kind": "utterances", "version": 1, "rows": 3, "codebooks": None, "language": "th"}
    }


def test_triplets_come_back_with_their_log_probs_bit_for_bit(tmp_path):
    rows = [triplet("a"), triplet("b", 5, reference=None), triplet("c", 2)]
    rows[2].reference["styled"] = (torch.randn(3), torch.randn(3))
    write_triplets(tmp_path / "t.parquet", rows)
    back = read_triplets(tmp_path / "t.parquet")
    assert back[1].reference is None and back[0].reference.keys() == {"plain"}
    for mode, values in rows[2].reference.items():
        assert all(same(x, y) for x, y in zip(values, back[2].reference[mode], strict=True))
    assert back[0].ended == (True, False, True)
    assert all(same(x, y) for x, y in zip(rows[1].completions(), back[1].completions(), strict=True))


@given(st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=9), min_size=1, max_size=5), st.booleans())
def test_any_tokens_survive(tmp_path_factory, lists, two_books):
    path = tmp_path_factory.mktemp("p") / "u.parquet"
    rows = [Utterance(str(i), Prompt([i]), [[t, t] for t in ts] if two_books else ts) for i, ts in enumerate(lists)]
    write_utterances(path, rows)
    assert all(same(a.tokens, b.tokens) for a, b in zip(rows, read_utterances(path), strict=True))


def test_codebooks_must_agree(tmp_path):
    rows = [Utterance("a", Prompt([1]), [1]), Utterance("b", Prompt([1]), [[1, 2]])]
    with pytest.raises(ValueError, match="'b' has 2 codebooks but 'a' has None"):
        write_utterances(tmp_path / "u.parquet", rows)
    with pytest.raises(ValueError, match="nothing to write"):
        write_utterances(tmp_path / "u.parquet", [])


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "u.parquet"
    write_utterances(path, [Utterance("old", Prompt([1]), [1])])

    def fails(table, file, **_):
        file.write(b"half a file")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "write_table", fails)
    with pytest.raises(OSError, match="No space left.*old file is untouched") as caught:
        write_utterances(path, [Utterance("new", Prompt([1]), [1])])
    assert caught.value.errno == errno.ENOSPC
    assert [u.id for u in read_utterances(path)] == ["old"] and os.listdir(tmp_path) == ["u.parquet"]
    with pytest.raises(OSError, match="no file was left behind"):
        write_utterances(tmp_path / "other.parquet", [Utterance("new", Prompt([1]), [1])])
    assert os.listdir(tmp_path) == ["u.parquet"]


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "u.parquet"
    write_utterances(path, [Utterance("old", Prompt([1]), [1])])

    def dies(table, file, **_):
        file.write(b"half a file")
        file.flush()
        os._exit(9)

    monkeypatch.setattr(pq, "write_table", dies)
    child = os.fork()
    if not child:
        write_utterances(path, [Utterance("new", Prompt([1]), [1])])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert [u.id for u in read_utterances(path)] == ["old"]


def tamper(path, **columns):
    """Change columns of a written file and keep what it says of itself."""
    table = pq.read_table(path)
    for name, values in columns.items():
        place = table.column_names.index(name)
        kind = table.schema.field(name).type
        values = pa.array(values, kind) if isinstance(values, list) else values
        table = table.set_column(place, name, values)
    pq.write_table(table.replace_schema_metadata({"seaalign": json.dumps(read_metadata(path))}), path)


GOOD, NAN = [-1.0] * 4, float("nan")


@pytest.mark.parametrize(
    ("column", "second", "reason"),
    [
        ("id", "a", "id 'a' is a duplicate of row 0"),
        ("id", None, "the id is missing"),
        ("id", "", "the id is missing"),
        ("text", [], "Prompt.text is empty"),
        ("real", [], "real are empty"),
        ("stable", None, "stable are empty"),
        ("expressive", [0, 6, 1], "expressive hold id 6 at frame 1, outside the codebook: ids must be 0..5"),
        ("style_tokens", [-1], "style tokens hold id -1 at frame 0"),
        ("reference_plain_real", [-1.0, NAN, -1.0, -1.0], "plain log-probs of real are not finite at column 1"),
        ("reference_plain_stable", [-1.0] * 3, "3 values for 3 tokens and the end"),
    ],
)
def test_bad_rows_are_refused_counted_and_listed(tmp_path, column, second, reason):
    path = tmp_path / "t.parquet"
    write_triplets(path, [triplet("a"), triplet("b"), triplet("c")])
    values = pq.read_table(path)[column].to_pylist()
    tamper(path, **{column: [values[0], second, values[2]]})
    refused: list[Refused] = []
    with pytest.warns(UserWarning, match="1 of 3 rows refused"):
        kept = read_triplets(path, vocab_size=6, refused=refused)
    assert [t.id for t in kept] == ["a", "c"]
    assert len(refused) == 1 and refused[0].where == "row 1" and reason in refused[0].reason
    with pytest.raises(ValueError, match="row 1"):
        read_triplets(path, vocab_size=6, on_bad="raise")


def test_no_good_row_is_an_error(tmp_path):
    write_utterances(tmp_path / "u.parquet", [Utterance("a", Prompt([1]), [9])])
    with pytest.raises(ValueError, match="1 of 1 rows refused.*(?s:.)*id 9 at frame 0"):
        read_utterances(tmp_path / "u.parquet", vocab_size=9)


def test_faults_of_the_file_are_errors(tmp_path):
    path, table = tmp_path / "t.parquet", None
    with pytest.raises(FileNotFoundError, match="no file"):
        read_triplets(path)
    write_triplets(path, [triplet("a"), triplet("b")])
    whole, table = path.read_bytes(), pq.read_table(path)
    with pytest.raises(ValueError, match="holds triplets, not utterances: use read_triplets"):
        read_utterances(path)
    pq.write_table(table.drop_columns(["stable"]), path)
    with pytest.raises(ValueError, match=r"lacks the columns \['stable'\]"):
        read_triplets(path)
    pq.write_table(table.replace_schema_metadata(None), path)
    with pytest.raises(ValueError, match="not written by seaalign"):
        read_triplets(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a readable Parquet file"):
        read_triplets(path)
    path.write_bytes(whole)
    tamper(path, stable=pa.array(["x", "y"]))
    with pytest.raises(ValueError, match="column 'stable' is not what it should be"):
        read_triplets(path)
    write_triplets(path, [triplet()])
    about = json.dumps({**read_metadata(path), "version": 99})
    pq.write_table(pq.read_table(path).replace_schema_metadata({"seaalign": about}), path)
    with pytest.raises(ValueError, match="format 99"):
        read_triplets(path)


class Trap:
    def __reduce__(self):
        return os.mkdir, (os.environ["SEAALIGN_TRAP"],)


def test_a_timbre_cannot_run_code(tmp_path, monkeypatch):
    monkeypatch.setenv("SEAALIGN_TRAP", str(tmp_path / "sprung"))
    path = tmp_path / "u.parquet"
    write_utterances(path, [Utterance("a", Prompt([1], None, torch.ones(2)), [1])])
    tamper(path, timbre=pa.array([pickle.dumps(Trap())], pa.binary()).dictionary_encode())
    with pytest.raises(ValueError, match="1 of 1 rows refused(?s:.)*timbre: its bytes are damaged"):
        read_utterances(path)
    assert not (tmp_path / "sprung").exists()


def test_rows_with_a_damaged_timbre_are_refused_and_the_others_kept(tmp_path):
    path = tmp_path / "u.parquet"
    voices = [torch.randn(4) for _ in range(5)]
    write_utterances(path, [Utterance(f"u{i}", Prompt([1], None, voice), [1]) for i, voice in enumerate(voices)])
    blobs = pq.read_table(path)["timbre"].to_pylist()
    bad = [blobs[0], b"", blobs[2][: len(blobs[2]) // 2], b"hello\n", b"\x80\x02K\x01."]
    tamper(path, timbre=pa.array(bad, pa.binary()).dictionary_encode())
    refused: list[Refused] = []
    with pytest.warns(UserWarning, match="4 of 5 rows refused"):
        kept = read_utterances(path, refused=refused)
    assert [u.id for u in kept] == ["u0"] and same(kept[0].prompt.timbre, voices[0])
    assert [r.id for r in refused] == ["u1", "u2", "u3", "u4"]
    assert all("timbre" in r.reason and "damaged" in r.reason and "write the file again" in r.reason for r in refused)


@pytest.mark.parametrize("bad", ["[0.5, NaN]", "[Infinity]", "[1e99]", '"low"', '["x"]', "[[1], [1, 2]]", "{}"])
def test_a_manifest_line_with_a_timbre_that_is_no_numbers_is_refused(tmp_path, bad):
    path = tmp_path / "m.jsonl"
    path.write_text(
        f'{{"id": "a", "text": [1], "tokens": [3]}}\n{{"id": "b", "text": [1], "tokens": [3], "timbre": {bad}}}\n'
    )
    refused: list[Refused] = []
    with pytest.warns(UserWarning, match="1 of 2 rows refused"):
        kept = read_manifest(path, refused=refused)
    assert [u.id for u in kept] == ["a"] and refused[0].id == "b" and refused[0].reason.startswith("timbre: ")


def test_a_manifest_that_people_edited(tmp_path):
    path = tmp_path / "m.jsonl"
    lines = [
        '{"id": "a", "text": [1, 2], "tokens": [3], "style_tokens": [4], "timbre": [0.5, 1.0]}',
        "",
        '{"id": "a", "text": [1], "tokens": [3]}',
        '{"id": "b", "text": [1], "tokens": [3',
        '{"id": "c", "text": "hello", "tokens": [3]}',
        '{"id": "d", "text": [1], "tokens": [3], "speker": "x"}',
        '{"id": "e", "text": [1], "tokens": [0.5]}',
        '{"text": [1], "tokens": [3]}',
        '{"id": "f", "text": [1], "tokens": []}',
        '{"id": "g", "text": [1], "tokens": [11]}',
        "[1, 2]",
        '{"id": "h", "text": [[1]], "tokens": ["x"]}',
        '{"id": "z", "text": [1], "tokens": [[3, 4], [5, 6]], "source": "espeak"}',
    ]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    refused: list[Refused] = []
    with pytest.warns(UserWarning, match="10 of 12 rows refused"):
        kept = read_manifest(path, vocab_size=10, refused=refused)
    assert [(u.id, u.source) for u in kept] == [("a", "real"), ("z", "espeak")]
    assert kept[1].tokens.shape == (2, 2) and same(kept[0].prompt.timbre, torch.tensor([0.5, 1.0]))
    want = [
        ("line 3", "duplicate of line 1"),
        ("line 4", "not JSON"),
        ("line 5", "need the ids"),
        ("line 6", "unknown ['speker']"),
        ("line 7", "integer ids"),
        ("line 8", "id is missing"),
        ("line 9", "no speech tokens"),
        ("line 10", "id 11 at frame 0"),
        ("line 11", "must be an object"),
        ("line 12", "not a list of ids"),
    ]
    assert [(r.where, part in r.reason) for r, (_, part) in zip(refused, want, strict=True)] == [
        (where, True) for where, _ in want
    ], refused
    with pytest.raises(ValueError, match="line 3"):
        read_manifest(path, on_bad="raise")
    with pytest.raises(FileNotFoundError):
        read_manifest(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "\xe9", "text": [1], "tokens": [3]}')
    with pytest.raises(ValueError, match="line 1.*not JSON in UTF-8"):
        read_manifest(tmp_path / "latin.jsonl")


def test_the_weights_hash_is_a_fixed_function_of_names_types_shapes_and_bytes():
    layer = torch.nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
        layer.bias.copy_(torch.tensor([4.0, 5.0]))
    first = weights_hash(layer)
    bias = b"bias|torch.float32|(2,)|" + struct.pack("<2f", 4, 5)
    weight = b"weight|torch.float32|(2, 2)|" + struct.pack("<4f", 0, 1, 2, 3)
    assert first == hashlib.blake2b(bias + weight, digest_size=16).hexdigest()
    variants = [layer]
    for change in (lambda s: s["bias"].add_(1), lambda s: s["weight"].copy_(s["weight"].t().clone())):
        other = torch.nn.Linear(2, 2)
        other.load_state_dict(layer.state_dict())
        change(other.state_dict())
        variants.append(other)
    variants += [torch.nn.Sequential(layer)]
    hashes = [weights_hash(v) for v in variants] + [weights_hash(torch.nn.Linear(2, 2).bfloat16())]
    assert len(set(hashes)) == len(hashes)
    assert weights_hash(Toy(0)) == weights_hash(Toy(0)) != weights_hash(Toy(1))


def test_the_layout_names_the_class_and_its_own_layout():
    toy = Toy()
    assert layout_of(toy) == "tests.toy.Toy"
    toy.layout = "text-first"
    assert layout_of(toy) == "tests.toy.Toy:text-first"
    toy.layout = ""  # as good as none
    assert layout_of(toy) == "tests.toy.Toy"


def test_the_data_hash_sees_content_and_not_order():
    rows = speech(5)
    assert data_hash(rows) == data_hash(rows[::-1])
    changed = [replace(rows[0], tokens=rows[0].tokens + 1), *rows[1:]]
    styleless = [replace(rows[0], prompt=rows[0].prompt.plain()), *rows[1:]]
    assert len({data_hash(rows), data_hash(rows[1:]), data_hash(changed), data_hash(styleless)}) == 4


def test_the_data_hash_sees_the_timbre_and_not_the_object_that_holds_it():
    def of(timbre):
        return data_hash([Utterance("a", Prompt([1], None, timbre), [2])])

    nests = [None, torch.ones(2), torch.zeros(2), {"x": torch.ones(2), "y": [torch.tensor(3)]}, torch.ones(2).double()]
    assert len({of(nest) for nest in nests}) == len(nests)
    assert of(torch.ones(2)) == of(torch.ones(4)[:2])
