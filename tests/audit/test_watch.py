"""The small audit before DGSA trains: it warns where it should, is silent where it cannot know, and changes nothing."""

from __future__ import annotations

import time
import warnings

import pytest
import torch

from seaalign import DGSA, Prompt, Style, TripletData, Utterance
from seaalign.audit import SeparationWarning, quick_audit
from seaalign.records import Triplet
from tests.toy import VOCAB, Toy, quiet


def telling(count=60, told=True, voices=3) -> list[Utterance]:
    """Style tokens that tell the speaker, or not; equal timbres are one speaker."""
    g = torch.Generator().manual_seed(0)
    made = []
    for i in range(count):
        style = torch.randint(VOCAB // 3, (5,), generator=g) * 3 + (i % 3 if told else 0)
        text = torch.randint(20, (3,), generator=g)
        made.append(Utterance(f"u{i}", Prompt(text, Style(style), torch.tensor([float(i % voices)])), text % VOCAB))
    return made


def trained(tmp_path, utterances, **kwargs):
    """The warnings of a short run, and its weights."""
    module, data = DGSA(Toy(), 0.8, lr=1e-3), TripletData(utterances, tmp_path / "t.parquet", val_fraction=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = quiet(max_steps=2)
        trainer.fit(module, data, **kwargs)
    found = [str(w.message) for w in caught if issubclass(w.category, SeparationWarning)]
    return found, torch.cat([p.detach().flatten() for p in module.parameters()]), trainer


def test_dgsa_warns_where_style_tokens_identify_the_speaker(tmp_path):
    found, _, trainer = trained(tmp_path, telling())
    assert len(found) == 1 and found[0].startswith(
        "this backbone's style tokens identify the speaker with 100% (chance"
    )
    assert "wrap it with StylePrefix" in found[0] and "SeparationAudit listen" in found[0]
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again, _, _ = trained(tmp_path, telling(), ckpt_path=tmp_path / "a.ckpt")
    assert again == []  # a resumed run was warned already


@pytest.mark.parametrize("case", ["nothing told", "all timbres differ", "one speaker", "few"])
def test_dgsa_is_silent_where_there_is_nothing_to_say(tmp_path, case):
    utterances = {
        "nothing told": lambda: telling(told=False),
        "all timbres differ": lambda: telling(voices=60),
        "one speaker": lambda: telling(voices=1),
        "few": lambda: telling(3),
    }[case]()
    assert trained(tmp_path, utterances)[0] == []


def test_the_look_changes_no_weight_and_no_random_state(tmp_path, monkeypatch):
    _, looked, _ = trained(tmp_path, telling())
    state = torch.random.get_rng_state()
    quick_audit([triplet(u) for u in telling()], "Toy")
    assert torch.equal(state, torch.random.get_rng_state())
    monkeypatch.setattr("seaalign.modules.dgsa.warn_before_training", lambda *_: None)
    assert torch.equal(looked, trained(tmp_path, telling())[1])


def triplet(u: Utterance, length: int = 0) -> Triplet:
    tokens = torch.arange(length) % VOCAB if length else u.tokens
    return Triplet(u.id, u.prompt, tokens, tokens, tokens)


def test_a_thousand_triplets_take_less_than_two_seconds():
    g = torch.Generator().manual_seed(0)
    rows = []
    for i in range(3000):  # CosyVoice's vocabulary, three seconds of style at 25 Hz
        prompt = Prompt(
            torch.randint(50, (8,), generator=g),
            Style(torch.randint(6561, (75,), generator=g)),
            torch.tensor([i % 20.0]),
        )
        rows.append(triplet(Utterance(f"u{i}", prompt, prompt.style.tokens)))
    start = time.process_time()
    found = quick_audit(rows, "Toy")
    assert time.process_time() - start < 2.0
    assert found.findings[0].counts["rows"] == 1000 and found.status == "separated"
