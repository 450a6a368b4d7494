"""The nouns refuse what is not meant, with the value and the next step, and pack, select and mask as documented."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seaalign import Prompt, Speech, Style, Triplet, Utterance


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: Prompt([0.5, 1.0]),
            TypeError,
            "Prompt.text must hold integer ids, got torch.float32; run the tokenizer",
        ),
        (lambda: Prompt(torch.tensor([True])), TypeError, "torch.bool"),
        (
            lambda: Prompt("hello"),
            TypeError,
            r"Prompt.text needs text ids: tokenise first \(backbone.tokenize\), got 'hel",
        ),
        (lambda: Prompt(7), ValueError, r"Prompt.text must be a list of ids, got the single number 7: give \[7\]"),
        (lambda: Prompt([1], [2, 3]), TypeError, "Prompt.style must be a Style or None, got list: give Style"),
        (lambda: Utterance("a", [1, 2], [3, 4]), TypeError, "prompt of utterance 'a' must be a Prompt, got list"),
        (lambda: Prompt([]), ValueError, "Prompt.text is empty: there is nothing to say"),
        (lambda: Prompt([[1, 2]]), ValueError, r"Prompt.text must have 1 dimension.*\(1, 2\)"),
        (lambda: Style(torch.zeros(3)), TypeError, "Style.tokens"),
        (lambda: Style([1], text=[[1]]), ValueError, "Style.text"),
        (
            lambda: Speech(torch.zeros(2, 3), [3, 3]),
            TypeError,
            "Speech.tokens must hold integer ids, got torch.float32",
        ),
        (lambda: Speech([1, 2], [2]), ValueError, r"Speech.tokens must have 2 or 3 dimension\(s\), got shape \(2,\)"),
        (lambda: Speech([[1, 2]], [3]), ValueError, r"Speech.lengths must lie in 0..2 \(T\), got \[3\]"),
        (lambda: Speech([[1, 2]], [-1]), ValueError, r"Speech.lengths must lie in 0..2 \(T\), got \[-1\]"),
        (
            lambda: Speech([[1, 2]], [1, 2]),
            ValueError,
            r"Speech.lengths must have shape \(1,\) like the rows, got \(2,\)",
        ),
        (lambda: Speech([[1, 2]], [2], ended=[True, True]), ValueError, r"Speech.ended must have shape \(1,\)"),
        (
            lambda: Speech([[1, 2]], [2], prompt=[[0]]),
            ValueError,
            r"Speech.prompt must have shape \(1,\).*got \(1, 1\)",
        ),
        (
            lambda: Speech([[1, 2]], [2], prompt=[-1]),
            ValueError,
            r"Speech.prompt must hold indices >= 0 .*, got \[-1\]",
        ),
        (lambda: Speech.pack([[1], [0.5]]), TypeError, "row 1 must hold integer ids"),
        (lambda: Utterance("a7", Prompt([1]), []), ValueError, "utterance 'a7' has no speech tokens"),
        (lambda: Utterance("a7", Prompt([1]), [0.1]), TypeError, "tokens of utterance 'a7'"),
    ],
)
def test_bad_input_is_refused_with_its_value(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_ids_of_any_integer_type_become_int64():
    for kind in (torch.int8, torch.uint8, torch.int32, torch.int64):
        assert Prompt(torch.tensor([1, 2], dtype=kind)).text.dtype == torch.int64
    assert Speech.pack([torch.tensor([3], dtype=torch.int16)]).tokens.dtype == torch.int64


def test_plain_takes_the_style_and_leaves_the_timbre():
    timbre = {"embedding": torch.ones(2), "feats": [torch.zeros(1), 7]}
    prompt = Prompt([1, 2], Style([3], [4]), timbre)
    assert prompt.plain().style is None and prompt.style is not None
    assert prompt.plain().timbre is timbre and prompt.plain().text is prompt.text


def test_to_moves_every_tensor():
    prompt = Prompt([1], Style([3], [4]), {"e": [torch.ones(2), "name"]}).to("meta")
    assert {prompt.text.device.type, prompt.style.tokens.device.type, prompt.style.text.device.type} == {"meta"}
    assert prompt.timbre["e"][0].device.type == "meta" and prompt.timbre["e"][1] == "name"
    assert Style([3]).to("meta").text is None
    speech = Speech.pack([[1, 2]]).to("meta")
    assert {v.device.type for v in (speech.tokens, speech.lengths, speech.ended, speech.prompt)} == {"meta"}


def test_defaults_of_speech():
    speech = Speech([[1, 2], [3, 4]], [2, 1])
    assert speech.ended.tolist() == [True, True] and speech.prompt.tolist() == [0, 1] and len(speech) == 2


def test_an_empty_batch():
    speech = Speech.pack([])
    assert len(speech) == 0 and speech.rows() == [] and speech.scored.shape == (0, 1)
    assert Speech.pack([[1], []]).lengths.tolist() == [1, 0]


ROWS = st.lists(st.lists(st.integers(0, 99), max_size=7), min_size=1, max_size=6)


@given(ROWS, st.data())
def test_pack_rows_and_scored_agree(rows, data):
    ended = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    speech = Speech.pack(rows, ended)
    assert [row.tolist() for row in speech.rows()] == rows
    assert speech.scored.shape == (len(rows), max(map(len, rows)) + 1)
    assert speech.scored.sum(-1).tolist() == [len(row) + e for row, e in zip(rows, ended, strict=True)]
    assert bool((speech.scored.int().diff(dim=1) <= 0).all()), "scored columns come first"


@given(ROWS, st.data())
def test_select_by_index_and_by_mask(rows, data):
    speech = Speech.pack(rows, prompt=[7 + i for i in range(len(rows))])
    index = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8))
    picked = speech.select(torch.tensor(index, dtype=torch.long))
    assert [row.tolist() for row in picked.rows()] == [rows[i] for i in index]
    assert picked.prompt.tolist() == [7 + i for i in index]
    assert picked.tokens.shape[1] == max((len(rows[i]) for i in index), default=0), "padding that nobody needs is gone"
    mask = torch.tensor([len(row) % 2 == 0 for row in rows])
    assert [row.tolist() for row in speech.select(mask).rows()] == [row for row in rows if len(row) % 2 == 0]


def test_codebooks_are_kept():
    speech = Speech.pack([torch.ones(3, 4, dtype=torch.long), torch.ones(1, 4, dtype=torch.long)])
    assert speech.tokens.shape == (2, 3, 4) and speech.scored.shape == (2, 4)
    assert speech.select([1]).tokens.shape == (1, 1, 4)


def test_completions_of_a_triplet():
    a, b, c = (torch.tensor([i]) for i in range(3))
    assert Triplet("t", Prompt([1]), a, b, c).completions() == (a, b, c)
