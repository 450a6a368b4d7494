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
    codec = MixedCodec(codes=80, width=48)
    fit(codec, frames, torch.zeros(len(frames), 41), steps=120, batch=12)
    return codec, spoken, [codec.tokenize(frame, torch.zeros(41)) for frame in frames]


def register(waveforms):
    tracks = f0(waveforms, 8000)
    return torch.cat([track[track > 0] for track in tracks]).median()


def test_the_voice_is_in_the_tokens(world):
    codec, spoken, tokens = world
    assert codec.vocabulary == 81 and codec.pause == 80
    assert all(int((row == codec.pause).sum()) == 1 for row in tokens)
    for name in ("ada", "ben"):
        mine = [row for row, s in zip(tokens, spoken, strict=True) if s.speaker == name]
        heard = register(codec.decode(mine, torch.full((len(mine), 41), 7.0)))  # whoever is named
        assert abs(12 * torch.log2(heard / SPEAKERS[name].f0)) < 1.5
    used = [set(torch.cat(tokens[i::2]).tolist()) - {codec.pause} for i in (0, 1)]
    assert len(used[0] & used[1]) < 0.5 * len(used[0] | used[1])  # shared: what has no voice


def test_its_llama_keeps_the_contract_and_needs_the_prefix(world):
    codec, spoken, tokens = world
    lm = mixed_lm(codec, dim=16, layers=1)
    prompts = [Prompt(slots(s.words)) for s in spoken[:3]]
    check_backbone(lm, prompts, Speech.pack(tokens[:3]))
    with pytest.raises(Unsupported, match="seaalign.StylePrefix adds both"):
        DGSA(lm, alpha=0.8)
    wrapped = StylePrefix(lm, (5, 5), 4, vectors=2, hidden=8)
    styled = [Prompt(p.text, Style([1, 24, i]), torch.full((4,), float(i))) for i, p in enumerate(prompts)]
    check_backbone(wrapped, styled, Speech.pack(tokens[:3]))
    DGSA(wrapped, alpha=0.8)
    drawn = wrapped.sample(styled, max_len=20, min_len=2, generator=torch.Generator().manual_seed(0))
    assert wrapped.sample_rate == 8000 and all(len(wave) for wave in wrapped.decode(drawn, [p.timbre for p in styled]))
    assert wrapped.decode(Speech.pack([[], [3]]), [None, None])[0].shape == (0,)


def test_what_was_written_is_read_again(world, tmp_path):
    codec, _, tokens = world
    codec.save(tmp_path / "codec.pt")
    again = MixedCodec.load(tmp_path / "codec.pt")
    assert all(torch.equal(*pair) for pair in zip(again.decode(tokens[:2]), codec.decode(tokens[:2]), strict=True))
