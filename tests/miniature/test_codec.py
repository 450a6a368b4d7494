"""Tokens: what they say is what was said, and they can be heard again."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seaalign.miniature.analysis import analyse, timbre, word_spans
from seaalign.miniature.codec import CLASSES, Codec, span_windows
from seaalign.miniature.codec_fit import fit, kmeans
from seaalign.miniature.flow import Flow
from seaalign.miniature.spoken import f0_std
from seaalign.miniature.voice import say

pytestmark = pytest.mark.audio


@pytest.fixture(scope="module")
def speech():
    g = torch.Generator().manual_seed(0)
    names = ("ada", "ben")
    spoken = [say((i % 10, (i * 3 + 1) % 10), names[i % 2], i % 4 < 2, g) for i in range(32)]
    frames = analyse([s.waveform for s in spoken], f0=[s.f0 for s in spoken])
    voices = {n: timbre([f for s, f in zip(spoken, frames, strict=True) if s.speaker == n]) for n in names}
    return spoken, frames, torch.stack([voices[s.speaker] for s in spoken])


def trained(speech, seed=0, steps=60):
    codec = Codec(codes=40, width=48)
    return codec, fit(codec, speech[1], speech[2], steps=steps, batch=12, seed=seed)


@pytest.fixture(scope="module")
def codec(speech):
    return trained(speech)[0]


def test_tokens_factor_into_content_prosody_and_pauses(codec, speech):
    spoken, _, timbres = speech
    tokens = codec.encode([s.waveform for s in spoken], timbres=timbres, f0=[s.f0 for s in spoken])
    assert codec.vocabulary == 241 and codec.pause == 240
    for row, one in zip(tokens, spoken, strict=True):
        assert int((row == codec.pause).sum()) == len(one.words) - 1 and codec.words(row) == len(one.words)
        assert row[0] != codec.pause and row[-1] != codec.pause
        speaking = row[row != codec.pause]
        again = codec.content(speaking) * CLASSES + codec.prosody(speaking)
        assert torch.equal(again, speaking)
    assert codec.content(torch.tensor([240])).item() == 40 and codec.prosody(torch.tensor([240])).item() == 6


def test_flat_speech_has_one_pitch_class_and_expressive_speech_many(codec, speech):
    spoken, _, timbres = speech
    tokens = codec.encode([s.waveform for s in spoken], timbres=timbres, f0=[s.f0 for s in spoken])

    def classes(source):
        rows = torch.cat([codec.prosody(t) for t, s in zip(tokens, spoken, strict=True) if s.source == source])
        voiced = rows[(rows > 0) & (rows < 6)]
        return torch.bincount(voiced, minlength=6)[1:] / len(voiced)

    assert classes("flat").max() > 0.9
    assert classes("expressive").max() < 0.5 and classes("expressive").min() > 0.05


def test_training_lowers_the_loss_and_repeats_exactly(speech):
    (a, losses), (b, again), (c, _) = trained(speech), trained(speech), trained(speech, seed=1)
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert losses == again
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert not torch.equal(a.flow.noisy.weight, c.flow.noisy.weight)


def test_training_leaves_global_randomness_alone(speech):
    state = torch.get_rng_state()
    codec = Codec(codes=10, width=16)
    torch.set_rng_state(state)  # building layers draws; fitting must not
    fit(codec, speech[1], speech[2], steps=2, batch=2)
    assert torch.equal(torch.get_rng_state(), state)


def test_decoding_is_deterministic_independent_of_the_batch_and_keeps_pauses(codec, speech):
    spoken, _, timbres = speech
    tokens = codec.encode([s.waveform for s in spoken[:4]], timbres=timbres[:4], f0=[s.f0 for s in spoken[:4]])
    together = codec.decode(tokens, timbres[:4])
    for i in range(4):
        alone = codec.decode(tokens[i : i + 1], timbres[i : i + 1])[0]
        assert alone.shape == together[i].shape
        torch.testing.assert_close(alone, together[i], atol=2e-3, rtol=0)
        # 20 ms a token, 200 ms a pause, 30 ms of silence at each end, one frame for the fence post
        n = len(tokens[i]) - 1
        assert len(alone) == (2 * n + 20 + 6 - 1) * 80
        assert len(word_spans(alone)) == 2
    assert torch.equal(codec.decode(tokens, timbres[:4])[0], together[0])


def test_the_decoded_pitch_follows_the_timbre_and_the_prosody(codec, speech):
    spoken, _, timbres = speech
    flat = next(i for i, s in enumerate(spoken) if s.source == "flat" and s.speaker == "ben")
    tokens = codec.encode([spoken[flat].waveform], timbres=timbres[flat : flat + 1], f0=[spoken[flat].f0])[0]
    high, low = codec.decode([tokens, tokens], torch.stack([timbres[0], timbres[1]]))  # ada 215 Hz, ben 105 Hz
    medians = [f.f0[f.f0 > 0].median() for f in analyse([high, low])]
    assert 190 < medians[0] < 240 and 95 < medians[1] < 116
    assert f0_std(analyse([low])[0].f0) < 0.6


def test_saved_and_loaded_codecs_agree(codec, speech, tmp_path):
    codec.save(tmp_path / "codec.pt")
    other = Codec.load(tmp_path / "codec.pt")
    spoken, _, timbres = speech
    a, b = (c.encode([spoken[0].waveform], timbres=timbres[:1]) for c in (codec, other))
    assert torch.equal(a[0], b[0])
    assert torch.equal(codec.decode(a, timbres[:1])[0], other.decode(b, timbres[:1])[0])


def test_what_cannot_be_tokenized_or_decoded_is_refused(codec, speech):
    timbres = speech[2]
    with pytest.raises(ValueError, match="not been fitted"):
        Codec().encode([speech[0][0].waveform])
    with pytest.raises(ValueError, match="silent"):
        codec.encode([torch.zeros(4000)])
    with pytest.raises(ValueError, match="waveform 0 holds 4000 NaN"):
        codec.encode([torch.full((4000,), float("nan"))])
    for row in (torch.tensor([], dtype=torch.long), torch.tensor([241]), torch.tensor([-1])):
        with pytest.raises(ValueError, match=r"leaves 0\.\.240"):
            codec.decode([row], timbres[:1])
    with pytest.raises(ValueError, match="does not divide"):
        Codec(frame_rate=30)


@given(st.integers(0, 50), st.integers(1, 60), st.sampled_from([1, 2, 4]))
def test_windows_cover_a_span_once_in_order(start, length, stack):
    flat = span_windows(start, start + length, stack).flatten().tolist()
    assert flat[:length] == list(range(start, start + length))
    assert all(i == start + length - 1 for i in flat[length:]) and len(flat) - length < stack


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_kmeans_is_a_fixed_point_of_its_own_assignment(seed):
    g = torch.Generator().manual_seed(seed)
    points = torch.cat([torch.randn(30, 2, generator=g) * 0.1 + centre for centre in (-5.0, 0.0, 5.0)])
    found = kmeans(points, 3, g, rounds=30)
    nearest = torch.cdist(points, found).argmin(dim=1)
    for i in range(3):
        if (nearest == i).any():
            torch.testing.assert_close(found[i], points[nearest == i].mean(dim=0), atol=1e-3, rtol=0)


def test_one_euler_step_is_the_regressor_and_padding_changes_nothing():
    torch.manual_seed(0)
    flow = Flow(5, 3, 4, 6, width=16)
    content, prosody, row = torch.tensor([[1, 2, 3]]), torch.tensor([[0, 1, 2]]), torch.randn(1, 4)
    noise, mask = torch.randn(1, 3, 6), torch.ones(1, 3)
    with torch.no_grad():
        plain = flow(noise, torch.zeros(1), content, prosody, row, mask)
        torch.testing.assert_close(flow.integrate(noise, 1, content, prosody, row, mask), plain)
        wide = [torch.nn.functional.pad(x, (0, 2)) for x in (content, prosody)]
        longer = torch.nn.functional.pad(noise, (0, 0, 0, 2), value=9.0)
        padded = flow.integrate(longer, 3, *wide, row, torch.nn.functional.pad(mask, (0, 2)))
        # What lies beyond the end is a nine here, and still does not reach the three tokens.
        torch.testing.assert_close(padded[:, :3], flow.integrate(noise, 3, content, prosody, row, mask))
