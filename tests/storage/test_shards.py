"""Shards on disk: claimed by one run, counted by their files, merged in order, and refused where they are not right."""

from __future__ import annotations

import errno
import json
import os
from functools import partial

import pytest
import torch

from seaalign import Candidate, Pair, Prompt, Sentence, Style, Triplet, Verdict
from seaalign.storage import (
    Shards,
    read_candidates,
    read_judged,
    read_metadata,
    read_pairs,
    read_triplets,
    write_candidates,
    write_judged,
    write_pairs,
    write_triplets,
)

SENTENCES = {
    f"s{i}": Sentence(f"s{i}", f"text {i}", Prompt([i], timbre=torch.tensor([float(i % 2)]))) for i in range(7)
}


def attempts(key: str) -> list[Candidate]:
    return [Candidate(SENTENCES[key], torch.arange(int(key[1]) + k), k > 0, (0.7, 1.0, 1.3)[k], k) for k in range(3)]


def filled(folder, count: int = 3, **about) -> Shards:
    shards = Shards(folder, {"shards": count, "weights": "a1", **about})
    shards.claim()
    for number in range(count):
        rows = [c for key in list(SENTENCES)[number::count] for c in attempts(key)]
        write_candidates(shards.path(number), rows, shards.stamp(number))
    return shards


def plain(candidates) -> list:
    return [(c.name, c.tokens.tolist(), c.ended, c.temperature) for c in candidates]


def test_a_merge_is_the_rows_in_order(tmp_path):
    shards = filled(tmp_path / "c")
    read = partial(read_candidates, sentences=SENTENCES)
    rows = list(shards.rows(read))
    assert [c.sentence.id for c in rows[::3]] == ["s0", "s3", "s6", "s1", "s4", "s2", "s5"]
    shards.merge(tmp_path / "all.parquet", {"note": "mine"})
    assert plain(read(tmp_path / "all.parquet")) == plain(rows)
    about = read_metadata(tmp_path / "all.parquet")
    assert about["rows"] == 21 and about["weights"] == "a1" and about["note"] == "mine" and "shard" not in about
    assert plain(Shards.at(tmp_path / "c").rows(read)) == plain(rows)


def test_pairs_and_triplets_merge_with_their_voices(tmp_path):
    """Each file has a dictionary of timbres of its own; merged, they must not be mixed up."""
    voices = [torch.tensor([v]) for v in (1.0, 2.0, 3.0)]
    pairs, triplets = Shards(tmp_path / "p", {"shards": 4}), Shards(tmp_path / "t", {"shards": 4})
    wanted = []
    for number in range(4):
        prompts = [Prompt([number, i], Style([3]), voices[(number + i) % 3]) for i in range(3)]
        some = [Pair(f"p{number}{i}", p, torch.tensor([i + 1]), torch.tensor([2, 3])) for i, p in enumerate(prompts)]
        one = torch.tensor([1, 2])
        few = [Triplet(f"t{number}{i}", p, one, one, one) for i, p in enumerate(prompts)] if number != 2 else []
        write_pairs(pairs.path(number), some, pairs.stamp(number))
        write_triplets(triplets.path(number), few, triplets.stamp(number), allow_empty=True)
        wanted += [float(p.timbre) for p in prompts]
    pairs.merge(tmp_path / "p.parquet")
    assert [float(p.prompt.timbre) for p in read_pairs(tmp_path / "p.parquet")] == wanted
    triplets.merge(tmp_path / "t.parquet")  # one shard of them is empty
    assert [float(t.prompt.timbre) for t in read_triplets(tmp_path / "t.parquet")] == wanted[:6] + wanted[9:]


def test_nothing_to_merge(tmp_path):
    shards = Shards(tmp_path, {"shards": 1})
    write_triplets(shards.path(0), [], shards.stamp(0), allow_empty=True)
    with pytest.raises(ValueError, match="nothing to merge"):
        shards.merge(tmp_path / "all.parquet")
    with pytest.raises(ValueError, match="nothing to write"):
        write_triplets(tmp_path / "t.parquet", [])


def test_verdicts_come_back_bit_for_bit(tmp_path):
    said = [
        Verdict.accept({"error": 1 / 3, "f0_std": 2.5}, "ສະບາຍດີ"),
        Verdict.reject("repetition", "intelligibility", scores={"error": 1e-17}),
        Verdict.failed("no answer"),
    ]
    rows = list(zip(attempts("s4"), said, strict=True))
    write_judged(tmp_path / "j.parquet", rows)
    back = read_judged(tmp_path / "j.parquet", SENTENCES)
    assert [v for _, v in back] == said and plain(c for c, _ in back) == plain(c for c, _ in rows)
    with pytest.raises(ValueError, match="holds judged, not candidates: use read_judged"):
        read_candidates(tmp_path / "j.parquet", SENTENCES)


def test_a_folder_of_another_run_is_refused_by_what_differs(tmp_path):
    filled(tmp_path / "c")
    other = Shards(tmp_path / "c", {"shards": 3, "weights": "b2", "seed": 1})
    assert other.odd() == ["weights", "seed"]
    with pytest.raises(ValueError, match=r"begun by another run(?s:.)*weights: here b2, folder a1(?s:.)*seed: here 1"):
        other.claim()
    with pytest.raises(FileNotFoundError, match="holds no shards"):
        Shards.at(tmp_path)
    with pytest.raises(ValueError, match="must say how many"):
        Shards(tmp_path, {"weights": "a1"})


def test_missing_shards_are_counted_and_drafts_swept_away(tmp_path):
    shards = filled(tmp_path / "c")
    shards.path(1).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 of 3 shards are missing in .*first \[1\]: run the same command again"
    ):
        shards.paths()
    draft = tmp_path / "c" / f".{shards.path(1).name}.abc.tmp"
    draft.write_bytes(b"half")
    write_candidates(shards.path(1), attempts("s1"), shards.stamp(1))
    assert len(shards.paths()) == 3 and not draft.exists()


def test_damaged_and_strayed_shards_are_named(tmp_path):
    shards, other = filled(tmp_path / "c"), filled(tmp_path / "d", weights="b2")
    read = partial(read_candidates, sentences=SENTENCES)
    whole = shards.path(1).read_bytes()
    for broken in (whole[:100], whole[: len(whole) // 2], b"", other.path(1).read_bytes(), shards.path(2).read_bytes()):
        shards.path(1).write_bytes(broken)
        for use in (lambda: list(shards.rows(read)), lambda: shards.merge(tmp_path / "all.parquet")):
            with pytest.raises(ValueError, match=r"shard-00001.parquet.*(delete it)"):
                use()
    torn = bytearray(whole)  # the footer is right, the pages are not
    torn[4:200] = bytes(196)
    shards.path(1).write_bytes(torn)
    with pytest.raises(ValueError, match=r"shard-00001.parquet cannot be read (?s:.*)delete it"):
        shards.merge(tmp_path / "all.parquet")
    assert not (tmp_path / "all.parquet").exists()
    shards.path(1).write_bytes(whole)
    assert len(list(shards.rows(read))) == 21


def test_a_full_disk_is_told_and_leaves_no_shard(tmp_path, monkeypatch):
    shards = filled(tmp_path / "c")
    shards.path(1).unlink()

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"shard-00001.parquet: No space left on device.*free some space and run again"):
        write_candidates(shards.path(1), attempts("s1"), shards.stamp(1))
    assert shards.missing() == [1] and len(json.loads((tmp_path / "c" / "about.json").read_text())) == 2
