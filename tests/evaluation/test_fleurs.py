"""The rules of the public FLEURS evaluation on a made-up corpus, with outcomes worked out by hand."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from seaalign.evaluation import Fleurs
from seaalign.evaluation.fleurs import DIRECTIONS, Utterance, prompts, read_fleurs, targets


def said(uid: str, sentence: int, seconds: float, gender: str = "FEMALE") -> Utterance:
    return Utterance(uid, sentence, f"text {sentence}", seconds, gender, Path(f"{uid}.wav"))


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


LAO = [
    said("l1", 7, 4.0),
    said("l2", 7, 5.5),  # nearer to 5 s than l1
    said("l3", 7, 4.5),  # as near: the first uid wins
    said("l4", 8, 1.4),  # too short to be a target
    said("l5", 8, 30.1),  # too long
    said("l6", 9, 12.0),
    said("l7", 3, 30.0, "MALE"),
]
THAI = [said("t1", 7, 9.0), said("t2", 8, 5.0), said("t3", 9, 5.0), said("t4", 3, 1.5), said("t5", 4, 5.0)]


def test_targets_are_shared_fit_and_nearest_to_five_seconds():
    # 8 has no Lao recording of 1.5 to 30 s, 4 is Thai alone; the order is that of the sentence ids
    assert [u.uid for u in targets({"lo_la": LAO, "th_th": THAI}, "lo_la")] == ["l7", "l2", "l6"]
    assert [u.uid for u in targets({"lo_la": LAO, "th_th": THAI}, "th_th")] == ["t4", "t1", "t3"]


def test_equally_near_recordings_go_by_uid():
    assert [u.uid for u in targets({"lo_la": [said("b", 1, 5.5), said("a", 1, 4.5)]}, "lo_la")] == ["a"]


def test_a_prompt_within_a_language():
    """Another sentence, 3 to 8 s, the same gender where there is one; the least used, then the smallest hash."""
    wanted = [said("x1", 1, 5.0), said("x2", 2, 5.0), said("x3", 3, 5.0, "MALE"), said("x4", 4, 5.0, "OTHER")]
    pool = [
        *wanted[:3],
        said("p1", 5, 3.0),
        said("p2", 6, 8.0),
        said("short", 7, 2.9),
        said("long", 8, 8.1),
        said("man", 9, 4.0, "MALE"),
    ]
    # x1: women with another sentence are x2, p1, p2, none of them used: the smallest hash of "x1::" + uid
    first = min(["x2", "p1", "p2"], key=lambda uid: sha(f"x1::{uid}"))
    # x2: x1, p1, p2, without the one that x1 took, if it is among them
    second = min({"x1", "p1", "p2"} - {first}, key=lambda uid: sha(f"x2::{uid}"))
    # x3 is a man with a sentence of his own: "man" is the only other man
    # x4: nobody is of this gender, so all count; unused by now are these
    unused = {"x1", "x2", "x3", "p1", "p2"} - {first, second}
    fourth = min(unused, key=lambda uid: sha(f"x4::{uid}"))
    assert [p.uid for p in prompts(wanted, pool, "lo_la", "lo_la")] == [first, second, "man", fourth]


def test_golden_hashes():
    """Once with the digests written out, so that the text that is hashed cannot drift."""
    digests = {"a::p": "eacf626c", "a::q": "6f705095"}
    digests |= {"en_us::th_th::1::a::p": "80f9ec24", "en_us::th_th::1::a::q": "b446fe2e"}
    assert {text: sha(text)[:8] for text in digests} == digests
    wanted, pool = [said("a", 1, 5.0)], [said("q", 2, 5.0), said("p", 3, 5.0)]
    assert [p.uid for p in prompts(wanted, pool, "th_th", "th_th")] == ["q"]  # 6f < ea
    assert [p.uid for p in prompts(wanted, pool, "en_us", "th_th")] == ["p"]  # 80 < b4


def test_a_prompt_of_another_language_may_be_of_any_gender_and_of_the_same_sentence():
    wanted = [said("x1", 1, 5.0), said("x2", 2, 5.0), said("x3", 3, 5.0)]
    pool = [said("e1", 1, 5.0, "MALE"), said("e2", 2, 5.0)]
    hashes = {
        (t, e): sha(f"en_us::lo_la::{n}::{t}::{e}") for n, t in enumerate(["x1", "x2", "x3"], 1) for e in ("e1", "e2")
    }
    first = min(("e1", "e2"), key=lambda e: hashes["x1", e])
    second = ({"e1", "e2"} - {first}).pop()  # least used
    third = min(("e1", "e2"), key=lambda e: hashes["x3", e])  # both were used once
    assert [p.uid for p in prompts(wanted, pool, "en_us", "lo_la")] == [first, second, third]


def test_prompts_are_used_evenly():
    wanted = [said(f"x{i}", i, 5.0) for i in range(20)]
    pool = [said(f"p{i}", 100 + i, 5.0) for i in range(6)]
    chosen = [p.uid for p in prompts(wanted, pool, "lo_la", "lo_la")]
    counts = sorted(map(chosen.count, {p.uid for p in pool}))
    assert counts == [3, 3, 3, 3, 4, 4]
    assert chosen == [p.uid for p in prompts(wanted, pool[::-1], "lo_la", "lo_la")]  # the order of the pool is nothing
    with pytest.raises(ValueError, match="no prompt of 3.0 to 8.0 s in en_us for x0"):
        prompts(wanted, [said("p", 1, 9.0)], "en_us", "lo_la")


def corpus(folder: Path) -> Path:
    """FLEURS as it is distributed, with empty files for sound."""
    rows = {
        "lo_la": [("1", "a1.wav", "ສະບາຍດີ", 80_000, "MALE"), ("2", "a2.wav", "ຂອບໃຈ", 64_000, "MALE")],
        "th_th": [("1", "b1.wav", "สวัสดี", 80_000, "FEMALE"), ("2", "b2.wav", "ขอบคุณ", 80_000, "FEMALE"),
                  ("5", "b3.wav", "ลาก่อน", 70_000, "FEMALE")],
        "en_us": [("1", "c1.wav", "Hello", 72_000, "FEMALE")],
    }  # fmt: skip
    for language, lines in rows.items():
        (folder / language / "audio" / "test").mkdir(parents=True)
        for _, name, *_ in lines:
            (folder / language / "audio" / "test" / name).touch()
        table = "".join(
            f"{i}\t{name}\t{raw}\t{raw}\t{'|'.join(raw)}\t{size}\t{who}\n" for i, name, raw, size, who in lines
        )
        (folder / language / "test.tsv").write_text(table)
    return folder


def test_a_folder_becomes_texts(tmp_path):
    corpus(tmp_path)
    with pytest.warns(UserWarning, match="gives 2 shared sentences, the published evaluation has 255"):
        first, second = Fleurs(tmp_path, "lo_la").read()
    assert (first.id, first.text, first.language) == ("lo_la-1", "ສະບາຍດີ", "lo")
    assert (first.audio.name, first.voice.name, first.voice_text) == ("a1.wav", "a2.wav", "ຂອບໃຈ")
    assert (second.audio.name, second.voice.name) == ("a2.wav", "a1.wav")
    with pytest.warns(UserWarning):
        thai, _ = Fleurs(tmp_path, "th_th", "en_us").read()
    assert (thai.text, thai.voice.name, thai.voice_text) == ("สวัสดี", "c1.wav", "Hello")
    assert read_fleurs(tmp_path, "en_us")[0].seconds == 4.5


def test_there_are_six_directions(tmp_path):
    assert len(DIRECTIONS) == 6 and ("lo_la", "lo_la") in DIRECTIONS and ("cmn_hans_cn", "th_th") in DIRECTIONS
    with pytest.raises(ValueError, match="no direction th_th -> lo_la: there are lo_la -> lo_la, cmn_hans_cn -> lo_la"):
        Fleurs(tmp_path, "lo_la", "th_th")
    with pytest.raises(FileNotFoundError, match="table of FLEURS for lo_la"):
        Fleurs(tmp_path).read()


def test_bad_rows_are_told(tmp_path):
    table = corpus(tmp_path) / "lo_la" / "test.tsv"
    table.write_text(table.read_text() + "3\tmissing.wav\tx\tx\tx\t9\tMALE\nnot a row\n4\ta1.wav\tx\tx\tx\t9\tMALE\n")
    refused = []
    with pytest.warns(UserWarning, match="3 of 5 rows refused"):
        assert len(read_fleurs(tmp_path, "lo_la", refused=refused)) == 2
    assert ["missing" in refused[0].reason, "id is missing" in refused[1].reason, "duplicate" in refused[2].reason] == [
        True
    ] * 3
