"""The miniature's language model: a backbone like any user's, and a word counter that a slow loop agrees with."""

from __future__ import annotations

import pytest
import torch

from seaalign import Prompt, Speech, Style, Unsupported
from seaalign.miniature.lm import TextSpeechLM
from seaalign.testing import check_backbone

PAUSE = 12


def small(**changes):
    return TextSpeechLM(**{"codes": 13, "pause": PAUSE, "factor": 6, "dim": 16, "layers": 2, "heads": 2, **changes})


PROMPTS = [
    Prompt([3, 1], style=Style([1, 2, 3, PAUSE, 4], [7]), timbre=torch.zeros(41)),
    Prompt([2, 2, 4], timbre=torch.ones(41)),
    Prompt([9]),
]
SPEECH = Speech.pack([[0, 1, 12, 5, 5], [12, 12, 3], [4, 4, 4, 4], [1, 12, 2, 12, 3, 4]], [1, 0, 1, 1], [0, 1, 2, 1])


def test_it_obeys_the_contract():
    report = check_backbone(small(), PROMPTS, SPEECH)
    assert {outcome for _, outcome in report} == {"passed"}, report


def test_word_and_age_agree_with_a_slow_count():
    lm = small()
    seen = []
    lm._words = lambda words, index, age: seen.append((index, age)) or torch.zeros(*index.shape, 16)
    tokens = [0, 1, 12, 12, 5, 12, 3, 3, 12]
    _, state = lm.prefill([Prompt([1, 2, 3])])
    seen.clear()
    lm.extend(state, torch.tensor([tokens]))
    index, age = (part[0].tolist() for part in seen[0])
    words, ages, paused = 0, 0, False
    for t, token in enumerate(tokens):
        begins = token == PAUSE and not paused
        words, ages, paused = words + begins, 0 if begins else ages + 1, token == PAUSE
        assert (index[t], age[t]) == (words, ages), t


def test_the_count_is_the_same_frame_by_frame():
    lm, rows = small(), torch.tensor([[0, 1, 12, 12, 5, 12, 3, 3, 12]])
    feature, state = lm.prefill([Prompt([1, 2, 3])])
    whole, _ = lm.extend(state, rows)
    for t in range(rows.shape[1]):
        step, state = lm.extend(state, rows[:, t : t + 1])
        torch.testing.assert_close(step[:, 0], whole[:, t])


def test_seed_decides_the_weights_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    a, b, c = (small(seed=s).head.weight for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(before, torch.get_rng_state())


def test_unknown_words_and_a_missing_codec_are_named():
    with pytest.raises(ValueError, match=r"text ids \[3, 10\] outside the vocabulary 0..9"):
        small()([Prompt([3, 10])], Speech.pack([[1]]))
    with pytest.raises(Unsupported, match="has no decode"):
        small().decode(SPEECH, [None] * 4)


def test_what_is_saved_is_loaded_by_torch_alone_and_by_load(tmp_path):
    saved, plain, other = (small(seed=seed) for seed in (1, 2, 3))
    saved.save(tmp_path / "lm.pt")
    plain.load_state_dict(torch.load(tmp_path / "lm.pt", weights_only=True), strict=True)
    other.load(tmp_path / "lm.pt")
    for name, value in saved.state_dict().items():
        assert torch.equal(plain.state_dict()[name], value) and torch.equal(other.state_dict()[name], value)
    with pytest.raises(ValueError, match="lm.pt"):
        small(layers=1).load(tmp_path / "lm.pt")
