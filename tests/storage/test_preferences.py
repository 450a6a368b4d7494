from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seaalign import Pair, Prompt, Style
from seaalign.storage import Refused
from seaalign.storage.preferences import read_preferences, write_preferences

OPEN, SAY, END = "<|text|>", "<|speech|>", "<|end|>"
MARKS = [OPEN, SAY, END, "<|bos|>", "<|user|>", "<|assistant|>", "<|close|>"]
FIRST, CODES = len(MARKS), 12


class Letters:
    """A tokenizer of marks, speech codes and letters, called as those of `transformers` are."""

    bos_token_id = MARKS.index("<|bos|>")

    def __init__(self, bos: bool = False):
        self.first = [self.bos_token_id] if bos else []

    def __call__(self, text):
        return {"input_ids": [*self.first, *map(self.number, re.findall(r"<\|[^|]+\|>|.", text, re.DOTALL))]}

    def number(self, piece):
        speech = re.fullmatch(r"<\|s_(\d+)\|>", piece)
        return MARKS.index(piece) if piece in MARKS else FIRST + int(speech[1]) if speech else 100 + ord(piece)

    def decode(self, ids, skip_special_tokens=True, clean_up_tokenization_spaces=True):
        assert not skip_special_tokens and not clean_up_tokenization_spaces
        spoken = [*MARKS, *(f"<|s_{i}|>" for i in range(CODES))]
        return "".join(spoken[i] if i < len(spoken) else chr(i - 100) for i in ids)

    def apply_chat_template(self, messages, tokenize, return_dict, add_generation_prompt):
        if any(message["role"] == "system" for message in messages):
            raise RuntimeError("no system here")
        text = "".join(f"<|{message['role']}|>{message['content']}<|close|>" for message in messages)
        return self(text + ("<|assistant|>" if add_generation_prompt else ""))


class Layout:
    """OPEN text SAY speech END, as a backbone lays it out; `lead` comes before all of it."""

    eos_id = MARKS.index(END)

    def __init__(self, lead=(OPEN,)):
        self.lead = [MARKS.index(mark) for mark in lead]

    def prompt_ids(self, prompt):
        style = [] if prompt.style is None else (prompt.style.tokens + FIRST).tolist()
        return torch.tensor([*self.lead, *prompt.text.tolist(), MARKS.index(SAY), *style])

    def speech_ids(self, tokens):
        return tokens + FIRST

    def read_prompt(self, ids):
        ids = list(ids)
        if ids[: len(self.lead)] != self.lead or ids[-1] != MARKS.index(SAY) or len(ids) < len(self.lead) + 2:
            raise ValueError(f"{ids} is no prompt")
        return Prompt(ids[len(self.lead) : -1])

    def read_speech(self, ids):
        ended = bool(ids) and ids[-1] == self.eos_id
        tokens = torch.tensor(ids[:-1] if ended else ids, dtype=torch.long) - FIRST
        if ((tokens < 0) | (tokens >= CODES)).any():
            raise ValueError(f"{tokens.tolist()} are no speech")
        return tokens, ended


def text(words: str) -> list[int]:
    return [100 + ord(letter) for letter in words]


def pair(key="a", chosen=(3, 1, 4), rejected=(1, 5), ended=(True, True), **prompt) -> Pair:
    return Pair(key, Prompt(text("hi"), **prompt), torch.tensor(chosen), torch.tensor(rejected), ended)


def same(a: Pair, b: Pair) -> bool:
    """Everything but the reference log-probs, timbres number by number."""

    def parts(p):
        style = p.prompt.style
        prefix = None if style is None else (style.tokens.tolist(), None if style.text is None else style.text.tolist())
        timbre = p.prompt.timbre
        voice = {k: v.tolist() for k, v in timbre.items()} if isinstance(timbre, dict) else timbre
        voice = voice.tolist() if isinstance(voice, torch.Tensor) else voice
        return p.id, p.ended, p.prompt.text.tolist(), p.chosen.tolist(), p.rejected.tolist(), prefix, voice

    return parts(a) == parts(b)


def lines(path):
    # not splitlines: it also cuts at characters that JSON leaves as they are inside of a text
    return [json.loads(line) for line in path.read_text(encoding="utf8").split("\n") if line]


def test_ids_and_texts_are_those_of_trl(tmp_path):
    path = tmp_path / "p.jsonl"
    write_preferences(path, [pair(ended=(True, False))], Layout(), Letters())
    assert lines(path) == [
        {
            "id": "a",
            "prompt": "<|text|>hi<|speech|>",
            "chosen": "<|s_3|><|s_1|><|s_4|><|end|>",
            "rejected": "<|s_1|><|s_5|>",  # cut: no end
            "prompt_ids": [0, 204, 205, 1],
            "chosen_ids": [10, 8, 11, 2],
            "rejected_ids": [8, 12],
        }
    ]
    write_preferences(path, [pair()], Layout())
    assert lines(path)[0].keys() == {"id", "prompt_ids", "chosen_ids", "rejected_ids"}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("backbone", [None, Layout()])
def test_pairs_come_back_as_they_were(tmp_path, kind, backbone):
    voice = torch.randn(5)
    rows = [
        pair("a"),
        pair("b", ended=(True, False), style=Style([7, 8], [101])),
        pair("c", style=Style([9]), timbre={"embedding": voice, "token": torch.tensor([4, 4])}),
        pair("d", timbre={"other": voice}),
    ]
    write_preferences(tmp_path / f"p.{kind}", rows, backbone)
    back = read_preferences(tmp_path / f"p.{kind}", backbone)
    assert all(map(same, rows, back)) and len(back) == 4
    kinds = {name: part.dtype for name, part in back[2].prompt.timbre.items()}
    assert kinds == {"embedding": torch.float32, "token": torch.int64}
    bare = [replace(rows[0], prompt=Prompt([1], timbre=voice))]
    write_preferences(tmp_path / f"p.{kind}", bare, backbone)
    assert all(map(same, bare, read_preferences(tmp_path / f"p.{kind}", backbone)))


def test_cells_of_several_kinds_need_lines(tmp_path):
    rows = [pair("a", timbre=torch.ones(2)), pair("b", timbre={"x": torch.ones(2)})]
    with pytest.raises(ValueError, match=r"column 'timbre' has cells of several kinds .* write a .jsonl file"):
        write_preferences(tmp_path / "p.parquet", rows)
    write_preferences(tmp_path / "p.jsonl", rows)
    assert all(map(same, rows, read_preferences(tmp_path / "p.jsonl")))


code_rows = st.lists(st.integers(0, CODES - 1), min_size=1, max_size=8)
made_pairs = st.lists(
    st.tuples(st.text(st.characters(codec="utf-8"), min_size=1), code_rows, code_rows, st.booleans(), st.booleans()),
    min_size=1,
    max_size=4,
)


@given(made_pairs, st.sampled_from(["jsonl", "parquet"]), st.sampled_from(["own", "ids", "text", "implicit"]))
def test_any_pairs_survive(tmp_path_factory, made, kind, form):
    rows = [
        Pair(f"p{i}", Prompt(text(words)), torch.tensor(yes), torch.tensor(no), (a, b))
        for i, (words, yes, no, a, b) in enumerate(made)
        if (yes, a) != (no, b) and not set(words) & set("<|>")
    ]
    if not rows:
        return
    path = tmp_path_factory.mktemp("p") / f"p.{kind}"
    write_preferences(
        path, rows, None if form == "own" else Layout(), Letters() if form in ("text", "implicit") else None
    )
    source = path
    if form in ("text", "implicit"):
        table = lines(path) if kind == "jsonl" else pq.read_table(path).to_pylist()
        source = [{name: row[name] for name in ("id", "prompt", "chosen", "rejected")} for row in table]
    if form == "implicit":
        source = [{"id": r["id"], **{name: r["prompt"] + r[name] for name in ("chosen", "rejected")}} for r in source]
    back = read_preferences(source, Layout(), Letters())
    assert all(map(same, rows, back)) and len(back) == len(rows)


def test_a_table_of_people_who_listened(tmp_path):
    path = tmp_path / "ab.jsonl"
    rows = [
        {"id": "s1", "text": [5, 6], "chosen": [1, 2], "rejected": [1, 1], "rejected_ended": False, "votes": 3},
        {"text": [5], "chosen": [[1, 2], [3, 4]], "rejected": [[1, 1]], "style_tokens": [[2, 2]], "style_text": [9]},
        {"id": 7, "text": [5], "chosen": [1], "rejected": [2], "timbre": [0.5]},
    ]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(map(json.dumps, rows)).encode())
    first, second, third = read_preferences(path)
    assert (first.id, first.ended, first.prompt.text.tolist()) == ("s1", (True, False), [5, 6])
    assert second.id == "line-3" and second.chosen.shape == (2, 2) and second.prompt.style.text.tolist() == [9]
    assert third.id == "7" and third.prompt.timbre.tolist() == [0.5]


def test_the_names_of_older_releases_are_read():
    row = {"prompt_input_ids": [0, 204, 1], "chosen_input_ids": [8, 9, 2], "rejected_input_ids": [9]}
    (made,) = read_preferences([row], Layout())
    assert (made.id, made.chosen.tolist(), made.rejected.tolist(), made.ended) == ("row-0", [1, 2], [2], (True, False))


def test_ids_of_seaalign_count_before_those_of_the_model_and_these_before_texts():
    row = {
        "prompt": "x",
        "chosen": "x",
        "rejected": "x",
        "prompt_ids": [0, 204, 1],
        "chosen_ids": [8],
        "rejected_ids": [9],
    }
    assert read_preferences([row], Layout())[0].prompt.text.tolist() == [204]
    (made,) = read_preferences([{**row, "text": [7], "style_tokens": [3], "timbre": None}], Layout())
    assert made.prompt.text.tolist() == [7] and made.prompt.style.tokens.tolist() == [3] and made.chosen.tolist() == [1]


def test_a_prompt_that_is_not_given_is_the_shortest_one():
    """TRL would take the speech that both answers begin with for a part of the prompt."""
    row = {name: f"<|text|>hi<|speech|><|s_1|><|s_1{n}|><|end|>" for n, name in enumerate(("chosen", "rejected"))}
    (made,) = read_preferences([row], Layout(), Letters())
    assert made.prompt.text.tolist() == text("hi")
    assert (made.chosen.tolist(), made.rejected.tolist()) == ([1, 10], [1, 11])


def conversation(answer, open_speech=SAY):
    return [{"role": "assistant", "content": f"{open_speech}{answer}<|end|>"}]


ASKED = [{"role": "user", "content": "hi"}]


class Chat(Layout):
    """The prompt of `Letters`' chat template: <user> text <close> <assistant> SAY."""

    def read_prompt(self, ids):
        *head, close, opens, say = list(ids)
        if [close, opens, say] != [MARKS.index(m) for m in ("<|close|>", "<|assistant|>", SAY)]:
            raise ValueError("no prompt of the chat")
        return super().read_prompt([*head, say])


@pytest.mark.parametrize("implicit", [False, True])
def test_conversations(implicit):
    answers = {"chosen": conversation("<|s_1|><|s_2|>"), "rejected": conversation("<|s_1|>")}
    if implicit:
        row = {name: ASKED + answer for name, answer in answers.items()}
    else:
        row = {"prompt": ASKED, **answers}
    (made,) = read_preferences([row], Chat(("<|user|>",)), Letters())
    # what the template opens before the speech is prompt, and what it closes after the end is left out
    assert made.prompt.text.tolist() == text("hi") and made.ended == (True, True)
    assert (made.chosen.tolist(), made.rejected.tolist()) == ([1, 2], [1])


GOOD = {"text": [5], "chosen": [1], "rejected": [2]}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": [5], "chosen": [1]}, "keys are missing: a row needs chosen and rejected"),
        ({**GOOD, "text": "hello"}, "the text ids are missing: 'text' must be ids, got 'hello'"),
        ({**GOOD, "chosen": [2]}, "the answers are the same"),
        ({**GOOD, "chosen": []}, "chosen is empty"),
        ({**GOOD, "chosen": [1.5]}, "chosen is no list of ids: [1.5]"),
        ({**GOOD, "chosen": [[1], [2, 3]]}, "chosen is no list of ids"),
        ({**GOOD, "rejected": [CODES]}, f"rejected hold id {CODES} at frame 0"),
        ({**GOOD, "style_tokens": [-1]}, "style tokens hold id -1"),
        ({**GOOD, "text": []}, "Prompt.text is empty"),
        ({**GOOD, "timbre": "low"}, "the timbre holds no numbers: low"),
        ({**GOOD, "timbre": [float("nan")]}, "the timbre is not finite"),
        ({**GOOD, "chosen_ended": "yes"}, "chosen_ended must be true or false: got 'yes'"),
        ({"prompt_ids": [0, 204, 1], "chosen_ids": [99], "rejected_ids": [8]}, "[92] are no speech"),
        ({"prompt_ids": [204, 1], "chosen_ids": [7], "rejected_ids": [8]}, "is no prompt"),
        ({"prompt_ids": [0, 204, 1], "chosen_ids": [2], "rejected_ids": [8]}, "chosen is empty"),
        ({"prompt_ids": [0, 204, 1], "chosen_ids": [7.5], "rejected_ids": [8]}, "chosen_ids is no list of ids"),
        ({"chosen": "<|text|>hi<|s_1|>", "rejected": "<|text|>hi<|s_2|>"}, "no prompt is found"),
        (
            {"prompt": "hi", "chosen": conversation(""), "rejected": conversation("")},
            "texts and conversations are mixed",
        ),
        ({"prompt": ASKED, "chosen": "x", "rejected": conversation("")}, "texts and conversations are mixed"),
        (
            {
                "prompt": [{"role": "system", "content": "x"}],
                "chosen": conversation("a"),
                "rejected": conversation("b"),
            },
            "the chat template refuses the conversation: RuntimeError: no system here",
        ),
        (7, "a row must be a dictionary of columns: got int"),
    ],
)
def test_bad_rows_are_refused(row, reason):
    refused: list[Refused] = []
    with pytest.warns(UserWarning, match="1 of 2 rows refused"):
        kept = read_preferences([GOOD, row], Layout(), Letters(), vocab_size=CODES, refused=refused)
    assert [p.id for p in kept] == ["row-0"] and len(refused) == 1
    assert reason in refused[0].reason, refused[0].reason


def test_a_tokenizer_that_joins_prompt_and_answer_is_refused():
    class Greedy(Letters):
        def __call__(self, words):
            return super().__call__(words.replace("<|speech|><|s_1|>", "§"))

    row = {"prompt": "<|text|>hi<|speech|>", "chosen": "<|s_1|>", "rejected": "<|s_2|>"}
    with pytest.raises(
        ValueError, match="reads the prompt before an answer otherwise: 4 ids are 4 .* differ from place 3"
    ):
        read_preferences([row], Layout(), Greedy())


def test_what_is_missing_is_named(tmp_path):
    row = {"prompt": "<|text|>hi<|speech|>", "chosen": "<|s_1|>", "rejected": "<|s_2|>"}
    with pytest.raises(ValueError, match="pass backbone="):
        read_preferences([row])
    with pytest.raises(ValueError, match="pass tokenizer="):
        read_preferences([row], Layout())
    with pytest.raises(TypeError, match=r"got splits \['train'\]"):
        read_preferences({"train": [row]})
    with pytest.raises(FileNotFoundError, match="preference table"):
        read_preferences(tmp_path / "no.jsonl")
    with pytest.raises(ValueError, match="no rows"):
        read_preferences([])
    (tmp_path / "p.csv").write_text("a,b")
    with pytest.raises(ValueError, match=r"neither .jsonl nor a readable Parquet file"):
        read_preferences(tmp_path / "p.csv")
    with pytest.raises(ValueError, match="ends in .jsonl or .parquet"):
        write_preferences(tmp_path / "p.csv", [pair()])
    with pytest.raises(ValueError, match="pass the backbone too"):
        write_preferences(tmp_path / "p.jsonl", [pair()], tokenizer=Letters())
    with pytest.raises(ValueError, match="no rows"):
        write_preferences(tmp_path / "p.jsonl", [])


def test_a_tokenizer_that_adds_a_first_token(tmp_path):
    """It must stand in the layout, and then not in the text, as TRL lets the tokenizer add it."""
    path = tmp_path / "p.jsonl"
    write_preferences(path, [pair()], Layout(("<|bos|>", OPEN)), Letters(bos=True))
    assert (
        lines(path)[0]["prompt"] == "<|text|>hi<|speech|>" and lines(path)[0]["prompt_ids"][0] == Letters.bos_token_id
    )
    with pytest.raises(ValueError, match=r"reads the prompt otherwise: 4 ids are 5 .* place 0 .*add_bos_token"):
        write_preferences(path, [pair()], Layout(), Letters(bos=True))


def test_pairs_that_no_text_spells_are_left_out(tmp_path):
    refused: list[Refused] = []
    odd = replace(pair("b"), prompt=Prompt([100 + ord(letter) for letter in "<|end|>"]))
    with pytest.warns(UserWarning, match="2 of 3 rows refused"):
        write_preferences(tmp_path / "p.jsonl", [pair(), odd, pair()], Layout(), Letters(), refused=refused)
    assert [row["id"] for row in lines(tmp_path / "p.jsonl")] == ["a"]
    assert "reads the prompt otherwise: 9 ids are 3" in refused[0].reason and "duplicate" in refused[1].reason
    with pytest.raises(ValueError, match="pair 1"):
        write_preferences(tmp_path / "p.jsonl", [pair(), odd], Layout(), Letters(), on_bad="raise")


@pytest.mark.parametrize("timbre", [[torch.ones(2)], {"a": [1.0]}, torch.tensor([float("inf")])])
def test_timbres_that_a_table_cannot_hold(tmp_path, timbre):
    with pytest.raises(ValueError, match="the timbre is no"):
        write_preferences(tmp_path / "p.jsonl", [pair(timbre=timbre)])


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, kind):
    path = tmp_path / f"p.{kind}"
    write_preferences(path, [pair("old")])

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="old file is untouched"):
        write_preferences(path, [pair("new")])
    monkeypatch.undo()
    assert [p.id for p in read_preferences(path)] == ["old"] and os.listdir(tmp_path) == [path.name]


def test_a_damaged_table(tmp_path):
    path = tmp_path / "p.parquet"
    write_preferences(path, [pair()])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="readable Parquet file"):
        read_preferences(path)


def test_tables_of_the_datasets_package(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [pair("a"), pair("b", style=Style([7, 8]))]
    write_preferences(tmp_path / "p.parquet", rows, Layout(), Letters())
    table = datasets.Dataset(pa.table(pq.read_table(tmp_path / "p.parquet")))
    assert all(map(same, rows, read_preferences(table, Layout())))


@pytest.mark.audio  # transformers imports torchaudio where it finds it installed
def test_a_real_tokenizer_and_layout(tmp_path):
    """As TRL calls it: the prompt, and prompt and answer together, with whatever special tokens the tokenizer adds."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    from seaalign.backbones.layouts import Layout as Row
    from seaalign.backbones.placement import Placement

    raw = tokenizers.Tokenizer(tokenizers.models.BPE())
    raw.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    raw.train_from_iterator(["sabaidee hello the cat"] * 9, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=END)
    tokenizer.add_tokens([OPEN, SAY, *(f"<|s_{i}|>" for i in range(CODES))], special_tokens=True)
    place = Placement(Row("mine", (OPEN, "{text}", SAY), "<|s_{}|>", CODES, END), tokenizer)
    said = ["hello the cat", "ສະບາຍດີ, ໂລກ!", "  two  blanks "]
    rows = [replace(pair(f"p{i}"), prompt=Prompt(tokenizer(words)["input_ids"])) for i, words in enumerate(said)]
    write_preferences(tmp_path / "p.jsonl", rows, place, tokenizer)
    for row in lines(tmp_path / "p.jsonl"):
        assert tokenizer(row["prompt"])["input_ids"] == row["prompt_ids"]
        assert tokenizer(row["prompt"] + row["chosen"])["input_ids"] == row["prompt_ids"] + row["chosen_ids"]
    assert lines(tmp_path / "p.jsonl")[1]["prompt"] == f"{OPEN}{said[1]}{SAY}"
    texts = [{k: row[k] for k in ("id", "prompt", "chosen", "rejected")} for row in lines(tmp_path / "p.jsonl")]
    assert all(map(same, rows, read_preferences(texts, place, tokenizer)))
    assert all(map(same, rows, read_preferences(tmp_path / "p.jsonl", place)))
