"""The embedded voice does what its labels say."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seaalign.functional.pitch import f0 as measure
from seaalign.miniature.analysis import word_spans
from seaalign.miniature.spoken import f0_std
from seaalign.miniature.vocoder import bridge, pulses, steady_noise, vocode
from seaalign.miniature.voice import JUDGE_SPEAKERS, SPEAKERS, say

pytestmark = pytest.mark.audio


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_same_seed_says_the_same_thing_and_global_state_is_untouched():
    state = torch.get_rng_state()
    a, b = (say((1, 2), "ben", True, generator(3)) for _ in range(2))
    c = say((1, 2), "ben", True, generator(4))
    assert torch.equal(a.waveform, b.waveform) and not torch.equal(a.f0, c.f0[: len(a.f0)])
    assert torch.equal(torch.get_rng_state(), state)


def test_expressive_moves_and_flat_does_not():
    g = generator()
    moving = [f0_std(say((5, 9, 0), s, True, g).f0) for s in SPEAKERS for _ in range(4)]
    still = [f0_std(say((5, 9, 0), s, False, g).f0) for s in SPEAKERS for _ in range(4)]
    assert 1.3 < sum(moving) / len(moving) < 2.5
    assert max(still) < 0.2


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.sampled_from([*SPEAKERS, "j0", "j7"]), st.booleans())
def test_every_word_lies_in_its_boundaries_and_between_two_pauses(words, speaker, expressive):
    one = say(tuple(words), speaker, expressive, generator(len(words)))
    assert one.waveform.abs().max() <= 1 and torch.isfinite(one.waveform).all()
    assert one.boundaries.shape == (len(words), 2)
    assert (one.boundaries[:, 0] < one.boundaries[:, 1]).all()
    assert (one.boundaries[1:, 0] - one.boundaries[:-1, 1] >= 0.19 * one.rate).all()
    spans = word_spans(one.waveform) * 80
    assert len(spans) == len(words)
    assert (spans[:, 0] < one.boundaries[:, 1]).all() and (spans[:, 1] > one.boundaries[:, 0]).all()


def test_the_contour_it_reports_is_the_one_it_sings():
    for speaker in ("ada", "dov"):
        one = say((1, 9), speaker, True, generator(1))
        heard = measure(torch.nn.functional.pad(one.waveform, (40, 80)), one.rate)[: len(one.f0)]
        both = (heard > 0) & (one.f0[: len(heard)] > 0)
        error = 12 * torch.log2(heard[both] / one.f0[: len(heard)][both]).abs()
        assert both.sum() > 30 and (error < 0.5).float().mean() > 0.95


def test_judges_hear_other_people():
    assert not set(SPEAKERS) & set(JUDGE_SPEAKERS)
    assert len(set(JUDGE_SPEAKERS.values()) | set(SPEAKERS.values())) == len(SPEAKERS) + len(JUDGE_SPEAKERS)


@pytest.mark.parametrize(
    ("words", "speaker", "message"),
    [((), "ada", "empty text"), ((3, 12), "ada", r"\[12\]"), ((1,), "zed", "unknown speaker 'zed'")],
)
def test_what_cannot_be_said_is_refused(words, speaker, message):
    with pytest.raises(ValueError, match=message):
        say(words, speaker, True, generator())


def test_pulses_agree_with_the_sum_of_their_harmonics():
    f0, count = 100.0, int(0.475 * 8000 / 100)
    phase = torch.cumsum(torch.full((800,), f0 / 8000, dtype=torch.float64), 0)
    slow = sum(2 * torch.cos(2 * math.pi * k * phase) for k in range(1, count + 1)) / math.sqrt(2 * count)
    fast = pulses(torch.full((1, 11), f0))[0]
    torch.testing.assert_close(fast.double(), slow, atol=2e-3, rtol=0)
    assert float(fast.square().mean()) == pytest.approx(1, abs=1e-3)  # unit power over whole periods


def test_bridge_by_hand():
    assert bridge(torch.zeros(1, 3)).tolist() == [[120.0] * 3]
    assert bridge(torch.tensor([[0, 100.0, 0, 0, 130.0, 0]])).tolist() == [[100, 100, 110, 120, 130, 130]]


def test_the_vocoder_gives_back_spectrum_and_pitch():
    from seaalign.audio import log_mel

    one = say((0, 5), "fin", True, generator(2))
    mel = log_mel(one.waveform, one.rate)
    wave = vocode(mel[None], one.f0[None])[0]
    loud = mel > mel.amax(dim=1, keepdim=True) - 4
    loud &= (mel.mean(dim=1) > -8)[:, None]
    assert (log_mel(wave, 8000) - mel)[loud].abs().mean() < 0.8  # 3.5 dB
    heard = measure(torch.nn.functional.pad(wave, (40, 80)), 8000)[: len(one.f0)]
    both = (heard > 0) & (one.f0[: len(heard)] > 0)
    assert (12 * torch.log2(heard[both] / one.f0[: len(heard)][both]).abs() < 0.5).float().mean() > 0.95


def test_padding_a_batch_changes_no_sound():
    one = say((4,), "eve", True, generator(2))
    from seaalign.audio import log_mel

    mel = log_mel(one.waveform, one.rate)
    alone = vocode(mel[None], one.f0[None])[0]
    longer = vocode(
        torch.cat([mel, torch.full((9, 40), math.log(1e-5))])[None], torch.cat([one.f0, torch.zeros(9)])[None]
    )[0]
    torch.testing.assert_close(longer[: len(alone) - 256], alone[:-256], atol=1e-5, rtol=0)
    assert torch.equal(steady_noise(5000, 1)[:4000], steady_noise(4000, 1))
