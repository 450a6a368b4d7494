"""A voice converter behind a decoder: every answer is heard in the voice of its prompt."""

import copy
import math

import pytest
import torch

from seaalign import LogitsBackbone, Prompt, Speech, Unsupported
from seaalign.backbones.converter import with_converter
from seaalign.backbones.sound import rate_of, sound
from seaalign.sampling import require_separation

RATE = 8_000


def codec(speech, timbres):
    """Voice and content are mixed in the tokens: token t is 80 samples of pitch 100 (t % 4 + 1) Hz and level t // 4."""
    del timbres
    time = torch.arange(80) / RATE
    return [
        torch.cat([(1 + t // 4) * torch.sin(2 * math.pi * 100 * (t % 4 + 1) * time) for t in row.tolist()])
        for row in speech.rows()
    ]


def level(waveform, timbre):
    """A converter: the voice is the loudest sample."""
    return waveform * (timbre / waveform.abs().max())


def test_golden():
    """By hand: sin at 0, 1/4 and 1/2 of a turn is 0, 1, 0; voice 3 makes the peak 3, whatever the tokens' own level."""

    def quarter_turns(speech, timbres):
        return [torch.tensor([0.0, 1.0, 0.0, -1.0]) * int(row[0]) for row in speech.rows()]

    decode = with_converter(quarter_turns, level)
    speech = Speech.pack([[1], [5, 6], [2]], prompt=[0, 0, 1])
    heard = decode(speech, [torch.tensor(3.0), torch.tensor(3.0), torch.tensor(0.5)])
    assert [wave.tolist() for wave in heard] == [[0.0, 3.0, 0.0, -3.0], [0.0, 3.0, 0.0, -3.0], [0.0, 0.5, 0.0, -0.5]]


def test_candidates_of_a_prompt_come_out_in_one_voice():
    speech = Speech.pack([[0, 1, 2], [4, 9], [13]], prompt=[0, 0, 1])
    timbres = [torch.tensor(0.25), torch.tensor(0.25), torch.tensor(0.75)]
    plain, heard = codec(speech, timbres), with_converter(codec, level)(speech, timbres)
    assert len({round(float(wave.abs().max()), 3) for wave in plain}) == 3
    assert [round(float(wave.abs().max()), 4) for wave in heard] == [0.25, 0.25, 0.75]
    for before, after in zip(plain, heard, strict=True):  # and what was said is still there
        assert float(torch.nn.functional.cosine_similarity(before, after, dim=0)) > 0.9999


def test_a_converter_may_change_the_rate():
    decode = with_converter(codec, lambda waveform, timbre: waveform[::2], sample_rate=RATE // 2)
    (wave,) = decode(Speech.pack([[1, 2, 3]]), [0])
    assert decode.sample_rate == 4_000 and len(wave) == 120
    assert with_converter(codec, level).sample_rate is None
    assert with_converter(decode, level).sample_rate == 4_000


class Mixed(LogitsBackbone):
    """A backbone whose `decode` ignores the timbre, as Orpheus' codec does."""

    eos, features, sample_rate = 16, frozenset({"style", "decode"}), RATE

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.zeros(17, 17))

    def forward_logits(self, prompts, tokens):
        return self.table[torch.nn.functional.pad(tokens, (1, 0), value=16)]

    def decode(self, speech, timbres):
        return codec(speech, timbres)


def test_a_backbone_in_the_place_of_decode():
    backbone = Mixed()
    backbone.decode = with_converter(backbone, level)
    assert backbone.decode.sample_rate == RATE == rate_of(backbone, None)
    prompts = [Prompt([1], timbre=torch.tensor(0.5)), Prompt([2], timbre=torch.tensor(0.1))]
    heard = sound(copy.deepcopy(backbone), Speech.pack([[1, 2], [], [7]], prompt=[0, 1, 1]), prompts)
    assert {row: round(float(wave.abs().max()), 4) for row, wave in heard.items()} == {0: 0.5, 2: 0.1}


def test_timbre_is_no_feature_for_it_and_dgsa_refuses():
    backbone = Mixed()
    backbone.decode = with_converter(backbone, level)
    assert "timbre" not in backbone.features
    with pytest.raises(Unsupported, match=r"DGSA .* declare \['timbre'\]"):
        require_separation(backbone, "DGSA")


def test_rows_without_speech_pass():
    seen = []

    def watched(speech, timbres):
        seen.append((speech.lengths.tolist(), timbres))
        return codec(speech, timbres)

    decode = with_converter(watched, level)
    heard = decode(Speech.pack([[], [1], []]), [None, torch.tensor(2.0), None])
    assert [len(wave) for wave in heard] == [0, 80, 0] and seen == [([1], [torch.tensor(2.0)])]
    assert decode(Speech.pack([[], []]), [None, None])[1].shape == (0,) and len(seen) == 1
    assert decode(Speech.pack([]), []) == []


def failing(waveform, timbre):
    raise KeyError("speaker")


@pytest.mark.parametrize(
    ("converter", "timbres", "error", "message"),
    [
        (level, [1.0, None], ValueError, "row 1 has no timbre, so there is no voice"),
        (level, [1.0], ValueError, "1 timbres for 2 rows"),
        (failing, [1.0, 1.0], RuntimeError, r"row 0: the converter failed on 80 samples \(KeyError: 'speaker'\)"),
        (lambda w, t: w[None], [1.0, 1.0], ValueError, r"row 0: the converter returned torch.float32 \(1, 80\)"),
        (lambda w, t: w.numpy(), [1.0, 1.0], ValueError, "row 0: the converter returned ndarray"),
        (lambda w, t: w / t, [1.0, 0.0], ValueError, "row 1: the converter returned samples that are NaN"),
        (lambda w, t: w[:0], [1.0, 1.0], ValueError, "row 0: the converter made nothing of 80 samples"),
    ],
)
def test_errors_name_the_row(converter, timbres, error, message):
    with pytest.raises(error, match=message):
        with_converter(codec, converter)(Speech.pack([[1], [2]]), timbres)


@pytest.mark.parametrize(
    ("decode", "message"),
    [
        (lambda speech, timbres: [torch.zeros(3)], r"decode\(\) returned 1 waveforms for 2 rows"),
        (lambda speech, timbres: [torch.zeros(3), torch.zeros(1, 3)], r"row 1: decode\(\) returned torch.float32"),
    ],
)
def test_decoders_that_return_something_else(decode, message):
    with pytest.raises(ValueError, match=message):
        with_converter(decode, lambda waveform, timbre: waveform)(Speech.pack([[1], [2]]), [0, 0])
