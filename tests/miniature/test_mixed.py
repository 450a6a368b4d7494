"""The miniature whose tokens mix voice and prosody: heard without a timbre, and refused by DGSA until it is wrapped."""

import pytest
import torch

from seaalign import DGSA, Prompt, Speech, Style, StylePrefix, Unsupported
from seaalign.functional import f0
from seaalign.miniature.analysis import analyse
from seaalign.miniature.codec_fit import fit
from seaalign.miniature.mixed import MixedCodec, mixed_lm, slots
from seaalign.miniature.voice import SPEAKERS, say
from seaalign.testing import check_backbone

pytestmark = pytest.mark.audio
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def world():
    g = torch.Generator().manual_seed(0)
    spoken = [say((i % 10, (i * 3 + 1) % 10), ("ada", "ben")[i % 2], i % 4 < 2, g) for i in range(40)]
    frames = analyse([s.waveform for s in spoken], f0=[s.f0 for s in spoken])
    codec = MixedCodec(codes=60, width=48)
    fit(codec, frames, torch.zeros(len(frames), 41), steps=120, batch=12)
    return codec, spoken, [codec.tokenize(frame, torch.zeros(41)) for frame in frames]


def register(waveforms):
    tracks = f0(waveforms, 8000)
    return torch.cat([track[track > 0] for track in tracks]).median()


def test_the_voice_is_in_the_tokens(world):
    codec, spoken, tokens = world
    assert (codec.vocabulary, codec.pause, codec.said) == (60 * 25 + 1, 60 * 25, 60 + 25 + 1)
    assert all(int((row == codec.pause).sum()) == 1 for row in tokens)
    for name in ("ada", "ben"):
        mine = [row for row, s in zip(tokens, spoken, strict=True) if s.speaker == name]
        heard = register(codec.decode(mine, torch.full((len(mine), 41), 7.0)))  # whoever is named
        assert abs(12 * torch.log2(heard / SPEAKERS[name].f0)) < 1.5
    bins = [torch.cat([codec.prosody(row) for row in tokens[i::2]]) for i in (0, 1)]
    used = [set(part[part > 0].tolist()) - {25} for part in bins]
    assert len(used[0] & used[1]) <= 1  # an octave apart: who speaks decides which pitches there are


def test_what_the_language_model_says_is_a_spectrum_and_a_pitch_in_turn(world):
    codec, _, tokens = world
    assert all(torch.equal(codec.frames(codec.flat(row)), row) for row in tokens)
    a, b = 7 * 25 + 3, 59 * 25 + 24
    said = codec.flat(torch.tensor([a, codec.pause, b]))
    assert said.tolist() == [7, 60 + 3, 85, 59, 60 + 24]
    assert codec.frames(torch.tensor([63, 8, 7, 63, 63, 85, 84, 59])).tolist() == [a, codec.pause]
    assert codec.frames(torch.zeros(0).long()).shape == (0,)


def test_its_llama_keeps_the_contract_and_needs_the_prefix(world):
    codec, spoken, tokens = world
    lm, tokens = mixed_lm(codec, dim=16, layers=1), [codec.flat(row) for row in tokens]
    prompts = [Prompt(slots(s.words)) for s in spoken[:3]]
    check_backbone(lm, prompts, Speech.pack(tokens[:3]))
    with pytest.raises(Unsupported, match="seaalign.StylePrefix adds both"):
        DGSA(lm, alpha=0.8)
    wrapped = StylePrefix(lm, (5, 5), 4, vectors=2, hidden=8)
    styled = [Prompt(p.text, Style([1, 24, i]), torch.full((4,), float(i))) for i, p in enumerate(prompts)]
    check_backbone(wrapped, styled, Speech.pack(tokens[:3]))
    DGSA(wrapped, alpha=0.8)
    assert wrapped.sample_rate == 8000
    heard = wrapped.decode(Speech.pack(tokens[:3]), [p.timbre for p in styled])
    assert all(torch.equal(*pair) for pair in zip(heard, codec.decode(world[2][:3]), strict=True))
    assert [len(wave) for wave in wrapped.decode(Speech.pack([[], [3]]), [None, None])] == [0, 0]  # half a frame


def test_what_was_written_is_read_again(world, tmp_path):
    codec, _, tokens = world
    codec.save(tmp_path / "codec.pt")
    again = MixedCodec.load(tmp_path / "codec.pt")
    assert all(torch.equal(*pair) for pair in zip(again.decode(tokens[:2]), codec.decode(tokens[:2]), strict=True))
