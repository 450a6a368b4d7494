"""The text-speech language model of the miniature: a small causal transformer that knows which word it is saying.

A model of this size loses its place: trained on [text | speech] it skips and repeats words, and word errors measure
that instead of pronunciation. The tokenizer writes an explicit pause token between words, so the number of pauses so
far is the index of the word being said, known from the prefix of y alone. Each speech position therefore also gets
the embedding of its word, of the word after it, and of the frames since the word began: p(y_t | y_<t, x) stays an
ordinary autoregressive model, with the alignment built in.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from seaalign.backbones import StepBackbone
from seaalign.backbones.lora_files import merged_state, save_adapters
from seaalign.backbones.weights import load_into, read_weights
from seaalign.miniature.spoken import RATE
from seaalign.records import Prompt, Speech
from seaalign.storage.columns import whole_or_nothing


class _State(NamedTuple):
    keys: Tensor  # (B, layers, S, D)
    values: Tensor  # (B, layers, S, D)
    seen: Tensor  # (B, S) bool
    position: Tensor  # (B,) tokens read
    words: Tensor  # (B, L+2) the text, then end marks
    word: Tensor  # (B,) index of the word being said
    age: Tensor  # (B,) frames since it began
    paused: Tensor  # (B,) bool: was the last frame a pause


def _rotate(x: Tensor, position: Tensor) -> Tensor:
    """Rotary position embedding (Su et al., 2021) of x (B, H, t, d) at integer positions (B, t)."""
    half = x.shape[-1] // 2
    # in fp32 whatever the model's type: bfloat16 cannot tell positions beyond 256 apart
    rate = 10000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = position[:, None, :, None] * rate
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class _Layer(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(
        self, x: Tensor, position: Tensor, mask: Tensor, past: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, t, D), mask (B, 1, t, S+t), past keys and values (B, S, D) -> x, all keys and values (B, S+t, D)."""
        b, t, d = x.shape

        def split(y: Tensor) -> Tensor:
            return y.view(b, -1, self.heads, d // self.heads).transpose(1, 2)

        q, k, v = self.qkv(self.norm_attention(x)).chunk(3, dim=-1)
        k = _rotate(split(k), position).transpose(1, 2).reshape(b, t, d)
        k, v = torch.cat([past[0], k], dim=1), torch.cat([past[1], v], dim=1)
        attended = F.scaled_dot_product_attention(_rotate(split(q), position), split(k), split(v), attn_mask=mask)
        x = x + self.out(attended.transpose(1, 2).reshape(b, t, d))
        return x + self.mlp(self.norm_mlp(x)), k, v


class TextSpeechLM(StepBackbone):
    """[style tokens | text | start | speech] -> next speech token.

    Args:
        codes: size of the speech codebook, the pause included; the end token is id `codes`.
        pause: id of the pause token between words.
        factor: prosody classes per content class; token = content * factor + prosody. The two are embedded apart.
        words: size of the text vocabulary.
        dim: width.
        layers: depth.
        heads: attention heads.
        style_frames: how many frames of the style prefix are read, from its start.
        seed: of the initial weights.
        codec: decodes and encodes: a `seaalign.miniature.codec.Codec`, or the file it was saved to; frozen, so not a
            submodule of the policy.

    Example:
        >>> lm = TextSpeechLM(codes=13, pause=12, factor=6, dim=16, layers=1, heads=2)
        >>> lm([Prompt([3, 1])], Speech.pack([[0, 1, 12, 5]])).shape
        torch.Size([1, 5])
    """

    features = frozenset({"style", "timbre"})
    _AGES = 48

    def __init__(
        self,
        codes: int = 601,
        pause: int = 600,
        factor: int = 6,
        words: int = 10,
        dim: int = 96,
        layers: int = 2,
        heads: int = 4,
        style_frames: int = 30,
        seed: int = 0,
        codec: Any = None,
    ) -> None:
        super().__init__()
        self.eos, self.pause, self.factor, self.style_frames = codes, pause, factor, style_frames
        self.vocab_size, self.layout = codes, f"style_frames={style_frames}"
        self.end_word = words
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.content = nn.Embedding(codes // factor + 2, dim)
            self.prosody = nn.Embedding(factor, dim)
            self.word, self.next_word = nn.Embedding(words + 1, dim), nn.Embedding(words + 1, dim)
            self.age, self.place = nn.Embedding(self._AGES, dim), nn.Embedding(3, dim)  # place: style, text, start
            self.layers = nn.ModuleList(_Layer(dim, heads) for _ in range(layers))
            self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, codes + 1)
            for table in (self.content, self.prosody, self.word, self.next_word, self.age, self.place):
                nn.init.normal_(table.weight, std=0.3)
        if isinstance(codec, str | Path):
            from seaalign.miniature.codec import Codec

            codec = Codec.load(codec)
        self._codec = (codec,)
        if codec is not None:
            self.features = self.features | {"decode", "encode"}
            self.sample_rate = RATE

    def logits(self, features: Tensor) -> Tensor:
        return self.head(self.norm(features))

    def _tokens(self, tokens: Tensor) -> Tensor:
        return self.content(tokens.div(self.factor, rounding_mode="floor")) + self.prosody(tokens % self.factor)

    def _words(self, words: Tensor, index: Tensor, age: Tensor) -> Tensor:
        """What the model is told about its place in the text: words (B, L+2), index and age (B, t) -> (B, t, D)."""
        last = words.shape[1] - 2
        now, after = words.gather(1, index.clamp_max(last)), words.gather(1, (index + 1).clamp_max(last + 1))
        return self.word(now) + self.next_word(after) + self.age(age.clamp_max(self._AGES - 1))

    def _layers(self, x: Tensor, state: _State) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        past, t = state.keys.shape[2], x.shape[1]
        steps = torch.arange(t, device=x.device)
        seen = torch.cat([state.seen, state.seen.new_ones(len(x), t)], dim=1)
        causal = torch.arange(past + t, device=x.device) <= (past + steps)[:, None]
        mask = (seen[:, None] & causal)[:, None]
        position = state.position[:, None] + steps
        keys, values = [], []
        for i, layer in enumerate(self.layers):
            x, k, v = layer(x, position, mask, (state.keys[:, i], state.values[:, i]))
            keys.append(k)
            values.append(v)
        return x, torch.stack(keys, 1), torch.stack(values, 1), seen, state.position + t

    def _read(self, prompt: Prompt) -> Tensor:
        """Input embeddings (S, D) of everything before the speech."""
        if int(prompt.text.max()) >= self.end_word or int(prompt.text.min()) < 0:
            raise ValueError(f"text ids {prompt.text.tolist()} outside the vocabulary 0..{self.end_word - 1}")
        parts = [self.word(prompt.text) + self.place.weight[1]]
        if prompt.style is not None:
            parts.insert(0, self._tokens(prompt.style.tokens[: self.style_frames]) + self.place.weight[0])
        first = torch.zeros(1, 1, dtype=torch.long, device=prompt.text.device)
        start = self.place.weight[2] + self._words(self._text([prompt]), first, first)[0]
        return torch.cat([*parts, start])

    def _text(self, prompts: Sequence[Prompt]) -> Tensor:
        text = pad_sequence([prompt.text for prompt in prompts], batch_first=True, padding_value=self.end_word)
        return F.pad(text, (0, 2), value=self.end_word)

    def prefill(self, prompts: Sequence[Prompt]) -> tuple[Tensor, _State]:
        heads = [self._read(prompt) for prompt in prompts]
        x = pad_sequence(heads, batch_first=True)
        rows, device = len(x), x.device
        length = torch.tensor([len(head) for head in heads], device=device)
        zero = torch.zeros(rows, dtype=torch.long, device=device)
        empty = x.new_zeros(rows, len(self.layers), 0, x.shape[-1])
        none = torch.zeros(rows, 0, dtype=torch.bool, device=device)
        state = _State(empty, empty, none, zero, self._text(prompts), zero, zero, zero.bool())
        x, keys, values, seen, _ = self._layers(x, state)
        seen = torch.arange(x.shape[1], device=device) < length[:, None]
        state = state._replace(keys=keys, values=values, seen=seen, position=length)
        return x[torch.arange(rows, device=device), length - 1], state

    def extend(self, state: _State, tokens: Tensor) -> tuple[Tensor, _State]:
        pause = tokens == self.pause
        before = torch.cat([state.paused[:, None], pause[:, :-1]], dim=1)
        begun = pause & ~before
        word = state.word[:, None] + begun.cumsum(1)
        # frames since the last pause began, or since the state's own count
        step = torch.arange(1, tokens.shape[1] + 1, device=tokens.device).expand_as(tokens)
        last = torch.where(begun, step, 0).cummax(1).values
        age = torch.where(last > 0, step - last, state.age[:, None] + step)
        x = self._tokens(tokens) + self._words(state.words, word, age)
        x, keys, values, seen, position = self._layers(x, state)
        return x, _State(keys, values, seen, position, state.words, word[:, -1], age[:, -1], pause[:, -1])

    def decode(self, speech: Speech, timbres: Sequence[Any]) -> list[Tensor]:
        """Waveforms at 8 kHz of the rows, each in its timbre (41,); a row without tokens is an empty waveform."""
        codec = self._codec[0]
        if codec is None:
            return super().decode(speech, timbres)
        rows = speech.rows()
        full = [i for i, row in enumerate(rows) if len(row)]
        waves = [torch.zeros(0)] * len(rows)
        for i in range(0, len(full), 64):
            part = full[i : i + 64]
            made = codec.decode([rows[j] for j in part], torch.stack([torch.as_tensor(timbres[j]) for j in part]))
            for j, wave in zip(part, made, strict=True):
                waves[j] = wave
        return waves

    def encode(self, waveforms: Sequence[Tensor], sample_rate: int) -> Speech:
        """Speech tokens of waveforms, by the codec."""
        codec = self._codec[0]
        if codec is None:
            return super().encode(waveforms, sample_rate)
        return Speech.pack(codec.encode(waveforms, sample_rate))

    def save(self, path: str | Path, adapters_only: bool = False) -> None:
        """Weights by name, as `torch.load(path, weights_only=True)` reads them; or the LoRA layers, in a folder."""
        if adapters_only:
            return save_adapters(self, path)
        with whole_or_nothing(Path(path)) as file:
            torch.save(merged_state(self), file)

    def load(self, path: str | Path, unsafe: bool = False) -> None:
        """The same the other way."""
        load_into(self, read_weights(path, unsafe), path)
