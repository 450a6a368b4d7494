from __future__ import annotations

import json

import pytest

from seaalign.data import PairData
from seaalign.listening import Answer, count_votes, write_votes
from seaalign.modules.dpo import DPO
from seaalign.records import Prompt
from seaalign.storage import read_pairs, read_preferences
from tests.toy import Toy, quiet

TOKENS = {0: [1, 2, 3], 1: [1, 1, 1], 2: [2, 3], 3: [3, 3, 3, 3]}
CLIPS = [
    {
        "system": "ab"[i % 2],
        "text_id": "tu"[i // 2],
        "text": "hello",
        "audio": f"{i}.wav",
        "tokens": TOKENS[i],
        "ended": i != 3,
    }
    for i in range(4)
]
PROMPTS = {"t": Prompt([5, 6]), "u": Prompt([5, 4, 5])}


def votes(*values, clips=(0, 1), role="test"):
    return [Answer(str(i), "ab", role, clips, value, 1.0, 2) for i, value in enumerate(values)]


def test_the_majority_decides_whatever_the_side():
    found = count_votes([*votes("left", "left", "same"), *votes("right", clips=(1, 0)), *votes("right", role="again")])
    assert found.wins == [(0, 1, 3, 0)]
    assert found.funnel == {"comparisons": 1, "too_few_votes": 0, "ties": 0, "pairs": 1}


def test_ties_and_few_votes_are_dropped_and_counted():
    given = [*votes("left", "right", "left", "right"), *votes("left", "left", "same", clips=(2, 3))]
    assert count_votes(given).funnel == {"comparisons": 2, "too_few_votes": 1, "ties": 1, "pairs": 0}
    assert count_votes(given, least=2).wins == [(2, 3, 2, 0)]
    with pytest.raises(ValueError, match="no pair to write.*'ties': 1"):
        write_votes("pairs.parquet", count_votes(given), CLIPS)


def decided():
    return count_votes([*votes("left", "left", "right"), *votes("right", "right", "right", clips=(2, 3))])


@pytest.mark.parametrize("name", ["pairs.parquet", "pairs.jsonl"])
def test_pairs_come_back_and_train(tmp_path, name):
    said = write_votes(tmp_path / name, decided(), CLIPS, PROMPTS)
    assert said.startswith("2 pairs for `PairData`")
    pairs = (read_pairs if name.endswith("parquet") else read_preferences)(tmp_path / name)
    assert [p.chosen.tolist() for p in pairs] == [TOKENS[0], TOKENS[3]]
    assert [p.rejected.tolist() for p in pairs] == [TOKENS[1], TOKENS[2]]
    assert [p.ended for p in pairs] == [(True, True), (False, True)]
    assert pairs[1].prompt.text.tolist() == [5, 4, 5]

    backbone = Toy()
    before = [p.detach().clone() for p in backbone.parameters()]
    data = PairData(tmp_path / name, scored=tmp_path / "scored.parquet", val_fraction=0.0)
    trainer = quiet(max_steps=1)
    trainer.fit(DPO(backbone, lr=0.1), data)
    assert trainer.global_step == 1
    assert any(not a.equal(b) for a, b in zip(before, backbone.parameters(), strict=True))


def test_without_tokens_or_prompts_texts_and_audio_are_written_and_said(tmp_path):
    mute = [{**clip, "tokens": None} for clip in CLIPS]
    assert "not yet for training: 4 clips have no tokens" in write_votes(tmp_path / "a.jsonl", decided(), mute, PROMPTS)
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert rows[0] == {
        "id": "t-0-1",
        "text": "hello",
        "votes": [2, 1],
        "chosen_audio": "0.wav",
        "rejected_audio": "1.wav",
    }
    assert "1 texts have no prompt (as 'u')" in write_votes(tmp_path / "b.jsonl", decided(), CLIPS, {"t": PROMPTS["t"]})
    with pytest.raises(ValueError, match=r"4 clips have no tokens.*a name in \.jsonl"):
        write_votes(tmp_path / "c.parquet", decided(), mute, PROMPTS)
    with pytest.raises(ValueError, match=r"ends in \.parquet or \.jsonl"):
        write_votes(tmp_path / "c.csv", decided(), CLIPS, PROMPTS)
    assert not (tmp_path / "c.parquet").exists()
