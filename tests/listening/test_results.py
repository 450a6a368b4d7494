from __future__ import annotations

import json

import pytest

from seaalign.listening import analyse_listening, read_key, read_results
from tests.listening.simulated import listen, made_clips, result, write_key

QUALITY = {"recordings": 4.6, "dgsa": 4.0, "sft": 3.0}


@pytest.fixture
def key(tmp_path):
    return write_key(tmp_path, made_clips(texts=4), ("nmos", "ab"), raters=3)


def put(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def refused_for(key, *paths, **more):
    answers, refused, _ = read_results(key, paths, **more)
    return len(answers), [(r.where.rpartition("/")[2], r.reason.split(":")[0]) for r in refused]


def test_a_good_file_is_read_whole(tmp_path, key):
    given = listen(key, "01", QUALITY)
    path = put(tmp_path, "a.json", result(key, "01", given, comment="ok"))
    answers, refused, comments = read_results(key, [path])
    assert len(answers) == len(given) == len(key["raters"]["01"]["trials"])
    assert not refused and comments == {"01": "ok"}
    assert [a.value for a in answers] == [row["answer"] for row in given]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"test": "xyz"}, "another test"),
        ({"rater": "77"}, "unknown rater"),
        ({"rater": ["01"]}, "unknown rater"),
        ({"rater": "02"}, "another page"),
        ({"page": "old"}, "another page"),
        ({"checksum": "0"}, "changed after the download"),
        ({"kind": "letter"}, "no result file"),
        ({"answers": [1, 2]}, "no list of answers"),
    ],
)
def test_files_that_are_something_else_are_refused(tmp_path, key, changed, reason):
    path = put(tmp_path, "a.json", result(key, "01", listen(key, "01", QUALITY), **changed))
    assert refused_for(key, path) == (0, [("a.json", reason)])


def test_a_changed_answer_is_found(tmp_path, key):
    made = result(key, "01", listen(key, "01", QUALITY))
    first = next(a for a in made["answers"] if isinstance(a["answer"], int))
    first["answer"] = first["answer"] % 5 + 1
    assert refused_for(key, put(tmp_path, "a.json", made)) == (0, [("a.json", "changed after the download")])


def test_what_is_no_json_or_not_there_is_refused(tmp_path, key):
    count, refused = refused_for(key, put(tmp_path, "a.json", "<html>"), tmp_path / "none.json")
    assert count == 0 and refused[0] == ("a.json", "not JSON") and refused[1][0] == "none.json"


def test_incomplete_files_count_only_when_asked_for(tmp_path, key):
    path = put(tmp_path, "a.json", result(key, "01", listen(key, "01", QUALITY)[:5]))
    assert refused_for(key, path) == (0, [("a.json", "incomplete")])
    assert refused_for(key, path, partial=True) == (5, [])


def test_of_two_files_of_a_rater_the_fuller_counts_and_of_contradictions_neither(tmp_path, key):
    given = listen(key, "01", QUALITY)
    part = put(tmp_path, "a.json", result(key, "01", given[:5]))
    whole = put(tmp_path, "b.json", result(key, "01", given))
    copy = put(tmp_path, "c.json", result(key, "01", given))
    total = len(given)
    assert refused_for(key, part, whole, partial=True) == (total, [("a.json", "duplicate")])
    assert refused_for(key, whole, copy) == (total, [("c.json", "duplicate")])
    other = put(tmp_path, "d.json", result(key, "01", listen(key, "01", QUALITY, seed=5)))
    assert refused_for(key, whole, other) == (0, [("b.json", "contradiction"), ("d.json", "contradiction")])
    assert refused_for(key, whole, copy, other)[0] == 0  # nor do two copies outvote it


def test_single_answers_are_refused_and_the_rest_counts(tmp_path, key):
    given = listen(key, "01", QUALITY)
    scores = [i for i, t in enumerate(key["raters"]["01"]["trials"]) if t["test"] == "nmos"]
    for i, wrong in zip(scores, (0, 6, "left", True, None), strict=False):
        given[i] = {**given[i], "answer": wrong}
    given[scores[6]] = dict(given[scores[5]])
    given[scores[7]] = {**given[scores[7]], "trial": "nonsense"}
    count, refused = refused_for(key, put(tmp_path, "a.json", result(key, "01", given)))
    assert count == len(given) - 7
    assert [reason for _, reason in refused] == ["no answer"] * 5 + ["unknown trial"] * 2


def test_no_usable_file_is_an_error_that_says_why(tmp_path, key):
    path = put(tmp_path, "a.json", result(key, "01", [], test="xyz"))
    with pytest.raises(ValueError, match="none of 1 result files could be used:\n.*another test"):
        analyse_listening(tmp_path, [path])


def test_keys_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="key of a listening test"):
        read_key(tmp_path)
    (tmp_path / "key.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        read_key(tmp_path)
    (tmp_path / "key.json").write_text('{"kind": "listening test", "version": 2}')
    with pytest.raises(ValueError, match="no key that this seaalign reads"):
        read_key(tmp_path)
