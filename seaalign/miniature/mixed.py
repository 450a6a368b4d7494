"""The miniature without separation: tokens in which what is said, how, and by whom ride together.

A frame is two tokens, as Orpheus has seven: a code of the absolute mel spectrum, then a bin of the absolute F0. They
are decoded without any timbre, so the voice that comes out is the voice that is in them, and nobody who looks at one
token can tell a contour from a register. The language model is one of its kind, a Llama with one flat vocabulary. It
has no style control and no timbre, so DGSA refuses it; `StylePrefix` adds both.
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
_LOW, _STEP, _BINS = -14.0, 1.25, 24  # semitones from there: 66 to 373 Hz


class MixedCodec(Codec):
    """Absolute mel and absolute F0, without a timbre; `seaalign.miniature.codec_fit.fit` trains it.

    `tokenize` gives one number a frame as in `Codec`; `flat` makes of it what the language model says.

    Args:
        codes: Codes of the spectrum.
        frame_rate: Frames a second (25 or 50).
        width: Hidden channels of the decoder.
        temperature: As in `Codec`.
    """

    reach = 20.0
    classes = _BINS + 1

    def __init__(self, codes: int = 150, frame_rate: int = 25, width: int = 112, temperature: float = 0.3) -> None:
        super().__init__(codes, frame_rate, width, temperature)
        self.flow = Flow(codes + 1, self.classes + 1, N_MELS + 1, self.flow.channels, width)

    @property
    def pause(self) -> int:
        return self.codes * self.classes

    @property
    def vocabulary(self) -> int:
        return self.codes * self.classes + 1

    @property
    def said(self) -> int:
        """Number of ids that the language model says."""
        return self.codes + self.classes + 1

    def content(self, tokens: Tensor) -> Tensor:
        return tokens // self.classes

    def prosody(self, tokens: Tensor) -> Tensor:
        return torch.where(tokens == self.pause, self.classes, tokens % self.classes)

    def joined(self, content: Tensor, prosody: Tensor) -> Tensor:
        return content * self.classes + prosody

    def pitch_class(self, semitones: Tensor) -> Tensor:
        return ((semitones - _LOW) / _STEP).long().clamp(0, _BINS - 1) + 1

    def windows(self, frames: Frames, row: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return super().windows(frames, _NOBODY)

    def targets(self, frames: Frames, row: Tensor) -> tuple[Tensor, Tensor]:
        return super().targets(frames, _NOBODY)

    def condition(self, tokens: Sequence[Tensor], timbres: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return super().condition(tokens, _NOBODY.expand(len(tokens), -1))

    def decode(self, tokens: Sequence[Tensor], timbres: Any = None, steps: int = 2, seed: int = 0) -> list[Tensor]:
        """Waveforms at 8 kHz of frames, in the voices that are in them; see `Codec.decode`."""
        return super().decode(tokens, _NOBODY.expand(len(tokens), -1), steps, seed)

    def flat(self, tokens: Tensor) -> Tensor:
        """Frames (N,) as the language model says them: spectrum, pitch, spectrum, pitch, ...; a pause is one token."""
        pause = tokens == self.pause
        pairs = torch.stack([self.content(tokens), self.codes + tokens % self.classes], dim=1)
        pairs[pause] = torch.tensor([self.said - 1, -1])
        return pairs.flatten()[pairs.flatten() >= 0]

    def frames(self, said: Tensor) -> Tensor:
        """And back; of what is out of order, a pitch without a spectrum is left out, and the other way round."""
        last, pause = torch.cat([said.new_tensor([self.said]), said[:-1]]), said == self.said - 1
        pair = (said >= self.codes) & ~pause & (last < self.codes)
        return torch.where(pause, self.pause, last * self.classes + said - self.codes)[pair | pause]


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
    first, end = TEXT + 2, TEXT + 2 + codec.said
    spec = Layout("mixed", (TEXT, "{text}", TEXT + 1), speech=first, codes=codec.said, end=end)
    config = LlamaConfig(
        vocab_size=end + 1, hidden_size=dim, intermediate_size=3 * dim, num_hidden_layers=layers, num_attention_heads=4,
        max_position_embeddings=256, tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)

    def decode(speech: Speech, timbres: Sequence[Any]) -> list[Tensor]:
        rows = [codec.frames(row) for row in speech.rows()]
        full = [i for i, row in enumerate(rows) if len(row)]
        made = codec.decode([rows[i] for i in full]) if full else []
        found = dict(zip(full, made, strict=True))
        return [found.get(i, torch.zeros(0)) for i in range(len(rows))]

    def encode(waveforms: Sequence[Tensor], sample_rate: int) -> Speech:
        return Speech.pack([codec.flat(row) for row in codec.encode(waveforms, sample_rate)])

    return CausalLM(model, spec, decode=decode, encode=encode, sample_rate=RATE, **settings)


def slots(words: Sequence[int]) -> list[int]:
    """Text ids of one or two digits.

    >>> slots((3, 1))
    [3, 11]
    """
    return [10 * place + word for place, word in enumerate(words)]
