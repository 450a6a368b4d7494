"""Verdicts on disk: found by content, whole after any crash, and never judged twice."""

from __future__ import annotations

import errno
import json
import os
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seaalign.judges import Judge, JudgeError, Repetition, VerdictCache
from seaalign.judges.cache import verdict_key
from seaalign.records import Candidate, Prompt, Sentence, Style, Verdict

VERDICTS = {
    "a": Verdict.accept({"error": 0.1 + 0.2}, "สวัสดี\u2028ชาวโลก\n"),
    "b": Verdict.reject("length", "repetition", scores={"repetition": 1e-300}),
    "c": Verdict.accept(),
}


def candidates(count: int) -> list[Candidate]:
    return [Candidate(Sentence(f"s{i}", f"text {i}", Prompt([i + 1])), torch.arange(5) + i) for i in range(count)]


class Counting:
    """A rule that counts what it judges, and can be told to fail."""

    needs_audio = False
    name = fingerprint = "counting"

    def __init__(self, fails_on=None):
        self.fails_on, self.judged = fails_on, []

    def __call__(self, batch):
        if any(c.name == self.fails_on for c in batch):
            raise RuntimeError("killed")
        self.judged += [c.name for c in batch]
        return [Verdict.accept({"first": float(c.tokens[0])}) for c in batch]


def test_nothing_is_judged_twice(tmp_path):
    path, rows = tmp_path / "made" / "verdicts.jsonl", candidates(10)
    rule = Counting()
    first = Judge(rule, batch=4, cache=VerdictCache(path))(rows)
    again = VerdictCache(path)
    assert Judge(rule, batch=4, cache=again)(rows) == first and again.hits == 10 == len(again)
    assert rule.judged == [c.name for c in rows]
    assert len(path.read_bytes().splitlines()) == 10


def test_verdicts_of_the_batches_before_a_failure_are_kept(tmp_path):
    path, rows = tmp_path / "v.jsonl", candidates(40)
    failing, mended = Counting("s27#0"), Counting()
    with pytest.raises(JudgeError, match="s27#0"):
        Judge(failing, retries=1, batch=10, cache=VerdictCache(path))(rows)
    cache = VerdictCache(path)
    verdicts = Judge(mended, batch=10, cache=cache)(rows)
    assert mended.judged == [f"s{i}#0" for i in range(20, 40)] and cache.hits == 20
    assert [v.scores["first"] for v in verdicts] == list(range(40))


def test_equal_candidates_are_judged_once(tmp_path):
    (one,) = candidates(1)
    rule = Counting()
    rows = [one, replace(one, index=1, temperature=0.7), replace(one, tokens=one.tokens + 1)]
    verdicts = Judge(rule, cache=VerdictCache(tmp_path / "v.jsonl"))(rows)
    assert rule.judged == ["s0#0", "s0#0"] and [v.scores["first"] for v in verdicts] == [0, 0, 1]


def test_another_judge_does_not_hit(tmp_path):
    path, rows = tmp_path / "v.jsonl", candidates(3)
    for judge in (Judge(Repetition(0.1)), Judge(Repetition(0.2)), Judge(Repetition(0.2), Counting())):
        cache = VerdictCache(path)
        judge.using(cache)(rows)
        assert cache.hits == 0
    assert len(VerdictCache(path)) == 9


def test_the_key_is_all_that_is_judged():
    sentence = Sentence("s", "hello", Prompt([1, 2], Style([3], [4]), {"voice": torch.ones(3)}), "th")
    base = Candidate(sentence, torch.tensor([5, 6, 7]))
    prompts = [
        Prompt([1, 3], Style([3], [4]), {"voice": torch.ones(3)}),
        Prompt([1, 2], Style([9], [4]), {"voice": torch.ones(3)}),
        Prompt([1, 2], Style([3], None), {"voice": torch.ones(3)}),
        Prompt([1, 2], None, {"voice": torch.ones(3)}),
        Prompt([1, 2], Style([3], [4]), {"voice": torch.zeros(3)}),
        Prompt([1, 2], Style([3], [4]), {"other": torch.ones(3)}),
        Prompt([1, 2], Style([3], [4]), "alice"),
        Prompt([1, 2], Style([3], [4]), "bob"),
    ]
    others = [
        replace(base, tokens=torch.tensor([5, 6])),
        replace(base, tokens=torch.tensor([[5, 6, 7]])),
        replace(base, ended=False),
        replace(base, waveform=torch.zeros(4), sample_rate=8000),
        replace(base, waveform=torch.zeros(4), sample_rate=16000),
        replace(base, waveform=torch.ones(4), sample_rate=8000),
        *(replace(base, sentence=replace(sentence, **change)) for change in
          ({"id": "t"}, {"text": "hello!"}, {"language": "lo"}, {"language": None})),
        *(replace(base, sentence=replace(sentence, prompt=prompt)) for prompt in prompts),
    ]  # fmt: skip
    keys = [verdict_key(candidate, "judge") for candidate in (base, *others)] + [verdict_key(base, "other")]
    assert len(set(keys)) == len(keys) and all(len(key) == 32 for key in keys)
    same = [replace(base, index=4), replace(base, temperature=0.7), replace(base, tokens=base.tokens.int())]
    same.append(replace(base, sentence=replace(sentence, prompt=sentence.prompt.to("cpu"))))
    assert {verdict_key(candidate, "judge") for candidate in same} == {keys[0]}


def test_a_file_torn_at_any_byte_keeps_its_whole_lines(tmp_path):
    path = tmp_path / "v.jsonl"
    cache = VerdictCache(path)
    cache.put({"a": VERDICTS["a"]})
    cache.put({"b": VERDICTS["b"], "c": VERDICTS["c"]})
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    assert len(ends) == 3
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        torn = VerdictCache(path)
        kept = list(VERDICTS)[: sum(end <= cut for end in ends)]
        assert [key for key in VERDICTS if key in torn] == kept and len(torn) == len(kept)
        assert path.read_bytes() == whole[:cut]  # reading changes nothing
        torn.put({"d": Verdict.accept()})
        lines = path.read_bytes().splitlines(keepends=True)
        assert [json.loads(line)["key"] for line in lines] == [*kept, "d"] and lines[-1].endswith(b"\n")
        assert {key: VerdictCache(path).get(key) for key in kept} == {key: VERDICTS[key] for key in kept}


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.tuples(st.lists(st.text(), max_size=2), st.dictionaries(st.text(), finite), st.none() | st.text()),
        min_size=1,
    )
)
def test_every_verdict_comes_back_as_it_was(tmp_path_factory, rows):
    made = {
        key: Verdict("reject" if reasons else "ok", tuple(reasons), scores, transcript)
        for key, (reasons, scores, transcript) in rows.items()
    }
    path = tmp_path_factory.mktemp("cache") / "v.jsonl"
    VerdictCache(path).put(made)
    again = VerdictCache(path)
    assert {key: again.get(key) for key in made} == made and len(again) == len(made)


def test_each_process_writes_its_own_file_and_reads_all(tmp_path):
    paths = [tmp_path / f"verdicts-{rank}.jsonl" for rank in range(2)]
    rows = candidates(8)
    for rank in range(2):
        cache = VerdictCache(paths[rank], also=[paths[1 - rank]])  # the other one may not be there yet
        Judge(Counting(), cache=cache)(rows[rank::2])
    rule, cache = Counting(), VerdictCache(paths[0], also=[paths[1], tmp_path / "missing.jsonl"])
    assert len(Judge(rule, cache=cache)(rows)) == 8 and cache.hits == 8 and not rule.judged
    sizes = [path.stat().st_size for path in paths]
    paths[1].write_bytes(paths[1].read_bytes() + b'{"key": "to')  # another process at its work
    cache = VerdictCache(paths[0], also=[paths[1]])
    cache.put({"new": Verdict.accept()})
    assert paths[1].stat().st_size == sizes[1] + 11 and paths[0].stat().st_size > sizes[0]


def test_two_writers_of_one_file_are_refused(tmp_path):
    one, other = VerdictCache(tmp_path / "v.jsonl"), VerdictCache(tmp_path / "v.jsonl")
    one.put({"a": Verdict.accept()})
    with pytest.raises(RuntimeError, match="was changed by another process.*a file of its own"):
        other.put({"b": Verdict.accept()})
    assert list(VerdictCache(tmp_path / "v.jsonl")._known) == ["a"]


def test_damaged_lines_are_counted_and_judged_again(tmp_path):
    path = tmp_path / "v.jsonl"
    VerdictCache(path).put(VERDICTS)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\0\0\0\n" + b'{"key": "x"}\n' + b'{"key": "y", "status": "fine", "reasons": [],'
                     b' "scores": {}, "transcript": null}\n' + lines[2])  # fmt: skip
    with pytest.warns(UserWarning, match="v.jsonl: 3 damaged lines passed over, first line 2; what they held will be"):
        cache = VerdictCache(path)
    assert sorted(cache._known) == ["a", "c"]


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    path = tmp_path / "v.jsonl"
    cache = VerdictCache(path)
    cache.put({"a": Verdict.accept()})
    before, write = path.read_bytes(), os.write

    def full(file, data):
        if len(data) < 60:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[:20])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="could not write verdicts to .*No space left on device; free some space"):
            cache.put({"b": Verdict.accept()})
    assert path.read_bytes() == before and "b" not in cache
    cache.put({"b": Verdict.accept()})
    assert sorted(VerdictCache(path)._known) == ["a", "b"]


def test_each_batch_is_on_disk_before_the_next_one(tmp_path, monkeypatch):
    synced, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.fstat(file).st_size), sync(file)))
    Judge(Counting(), batch=4, cache=VerdictCache(tmp_path / "v.jsonl"))(candidates(10))
    assert len(synced) == 3 and synced == sorted(set(synced)) and synced[-1] == (tmp_path / "v.jsonl").stat().st_size


def best_of_two(job) -> float:
    seconds = []
    for _ in range(2):  # others may be using the machine
        start = time.process_time()
        job()
        seconds.append(time.process_time() - start)
    return min(seconds)


def test_many_verdicts_load_hardly_slower_than_their_json(tmp_path):
    """A hundred thousand, from two runs of a large data set, in a second or two."""
    path = tmp_path / "v.jsonl"
    scores = {"repetition": 0.0123456789, "tokens_per_unit": 4.56789, "wer": 0.3333333, "cer": 0.1234567, "error": 0.3}
    text = "a sentence of ordinary length"
    VerdictCache(path).put({f"{i:032x}": Verdict.accept(scores, text) for i in range(100_000)})
    lines = path.read_text().splitlines()
    parsing = best_of_two(lambda: [json.loads(line) for line in lines])
    assert best_of_two(lambda: VerdictCache(path)) < 4 * parsing
    assert len(VerdictCache(path)) == 100_000
