"""The miniature without separation: tokens in which what is said, how, and by whom ride together.

One code for the absolute mel spectrum and the absolute F0 of a window, decoded without any timbre: the voice that comes
out is the voice that is in the tokens, as with Orpheus, Llasa or CSM. Their kind of language model stands on it: a
Llama with one flat vocabulary. It has no style control and no timbre, so DGSA refuses it; `StylePrefix` adds both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seaalign.backbones import CausalLM, Layout
from seaalign.miniature.analysis import Frames
from seaalign.miniature.codec import Codec
from seaalign.miniature.flow import Flow
from seaalign.miniature.spoken import RATE
from seaalign.miniature.vocoder import N_MELS
from seaalign.records import Speech

TEXT = 20
"""Text ids: digit d at place s of a text of one or two digits is 10 s + d, as a small model loses its place."""
_NOBODY = torch.cat([torch.full((N_MELS,), -5.0), torch.tensor([5.0])])  # mel and log F0 that all are relative to
_PITCH, _VOICING = 4.0, 6.0  # weights beside the mel bands: a semitone, and being voiced


class MixedCodec(Codec):
    """Joint k-means over absolute mel, absolute F0 and voicing; `seaalign.miniature.codec_fit.fit` trains it.

    Its timbre is nobody's, the same for all: whatever is given is not looked at.

    Args:
        codes: Joint codes.
        frame_rate: Tokens a second (25 or 50).
        width: Hidden channels of the decoder.
        temperature: As in `Codec`.
    """

    reach = 20.0

    def __init__(self, codes: int = 500, frame_rate: int = 25, width: int = 112, temperature: float = 0.3) -> None:
        super().__init__(codes, frame_rate, width, temperature)
        inputs, outputs = self.basis.shape
        self.register_buffer("mean", torch.zeros(inputs + 2))
        self.register_buffer("basis", torch.zeros(inputs + 2, outputs))
        self.flow = Flow(codes + 1, 1, N_MELS + 1, self.flow.channels, width)

    @property
    def pause(self) -> int:
        return self.codes

    @property
    def vocabulary(self) -> int:
        return self.codes + 1

    def content(self, tokens: Tensor) -> Tensor:
        return tokens

    def prosody(self, tokens: Tensor) -> Tensor:
        """Always 0: there is no such part of a token."""
        return torch.zeros_like(tokens)

    def joined(self, content: Tensor, prosody: Tensor) -> Tensor:
        return content

    def windows(self, frames: Frames, row: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mel, pitch, voiced, place = super().windows(frames, _NOBODY)
        sung = torch.stack([_PITCH * torch.where(voiced, pitch, 0.0), _VOICING * voiced], dim=1)
        return torch.cat([mel, sung], dim=1), pitch, voiced, place

    def targets(self, frames: Frames, row: Tensor) -> tuple[Tensor, Tensor]:
        return super().targets(frames, _NOBODY)

    def condition(self, tokens: Sequence[Tensor], timbres: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return super().condition(tokens, _NOBODY.expand(len(tokens), -1))

    def decode(self, tokens: Sequence[Tensor], timbres: Any = None, steps: int = 2, seed: int = 0) -> list[Tensor]:
        """Waveforms at 8 kHz of token strings, in the voices that are in them; see `Codec.decode`."""
        return super().decode(tokens, _NOBODY.expand(len(tokens), -1), steps, seed)


def mixed_lm(codec: MixedCodec, dim: int = 128, layers: int = 3, seed: int = 0, **settings: Any) -> CausalLM:
    """A Llama of random weights over the codec's tokens, [text | speech], as a backbone.

    Args:
        codec: Decodes and encodes.
        dim: Width.
        layers: Depth.
        seed: Of the weights.
        **settings: Of `CausalLM`, for instance `lora`.

    Raises:
        ImportError: transformers is not installed.
    """
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError as error:
        raise ImportError('the Llama of the miniature needs transformers: pip install "seaalign[hf]"') from error
    first, end = TEXT + 3, TEXT + 3 + codec.vocabulary
    spec = Layout("mixed", (TEXT, "{text}", TEXT + 1), speech=first, codes=codec.vocabulary, end=end)
    config = LlamaConfig(
        vocab_size=end + 1, hidden_size=dim, intermediate_size=3 * dim, num_hidden_layers=layers, num_attention_heads=4,
        max_position_embeddings=256, tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)

    def decode(speech: Speech, timbres: Sequence[Any]) -> list[Tensor]:
        rows = speech.rows()
        full = [i for i, row in enumerate(rows) if len(row)]
        made = codec.decode([rows[i] for i in full]) if full else []
        found = dict(zip(full, made, strict=True))
        return [found.get(i, torch.zeros(0)) for i in range(len(rows))]

    def encode(waveforms: Sequence[Tensor], sample_rate: int) -> Speech:
        return Speech.pack(codec.encode(waveforms, sample_rate))

    return CausalLM(model, spec, decode=decode, encode=encode, sample_rate=RATE, **settings)


def slots(words: Sequence[int]) -> list[int]:
    """Text ids of one or two digits.

    >>> slots((3, 1))
    [3, 11]
    """
    return [10 * place + word for place, word in enumerate(words)]
