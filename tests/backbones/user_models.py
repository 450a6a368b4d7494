"""Backbones as users would write them, around small models of their own, and data to check them with."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from seaalign import Backbone, LogitsBackbone, Prompt, Speech, StepBackbone, Style

TEXT, CODES = 20, 12


def example() -> ModuleType:
    """examples/your_own_model.py: a transformer decoder with its own cache, style and timbre."""
    path = Path(__file__).resolve().parents[2] / "examples" / "your_own_model.py"
    spec = importlib.util.spec_from_file_location("your_own_model", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TwoBookLSTM(StepBackbone):
    """An LSTM with two parallel codebooks: a frame's log-prob sums both heads; book 0 holds the end token."""

    eos, codebooks = CODES, 2

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.text = nn.EmbeddingBag(TEXT, 2 * width)
        self.books = nn.ModuleList(nn.Embedding(CODES, width) for _ in range(2))
        self.lstm = nn.LSTM(width, width, num_layers=2, batch_first=True)
        self.heads = nn.ModuleList([nn.Linear(width, CODES + 1), nn.Linear(width, CODES)])
        self.width = width

    def prefill(self, prompts):
        summary = torch.stack([self.text(prompt.text[None])[0] for prompt in prompts])
        # (h, c), each (rows, layers, width): nn.LSTM wants layers first, the library wants rows first
        state = tuple(part.tanh()[:, None].expand(-1, 2, -1) for part in summary.chunk(2, dim=-1))
        return summary[:, : self.width], state

    def extend(self, state, tokens):
        x = self.books[0](tokens[..., 0]) + self.books[1](tokens[..., 1])
        features, after = self.lstm(x, tuple(part.transpose(0, 1).contiguous() for part in state))
        return features, tuple(part.transpose(0, 1) for part in after)

    def logits(self, features):
        return self.heads[0](features)

    def frame_score(self, features, frames):
        first = self.heads[0](features).float().log_softmax(-1).gather(-1, frames[:, :1]).squeeze(-1)
        stop = frames[:, 0] == self.eos
        second = self.heads[1](features).float().log_softmax(-1)
        second = second.gather(-1, frames[:, 1:].masked_fill(stop[:, None], 0)).squeeze(-1)
        return first + second.masked_fill(stop, 0.0)

    def frame_draw(self, features, draw):
        return torch.stack([draw(self.heads[0](features)), self._second(features, draw)], dim=-1)

    def _second(self, features, draw):
        # every book goes through the same draw, which bans and masks the end token in book 0 only
        return draw(self.heads[1](features), book=1)


class EncoderDecoder(LogitsBackbone):
    """torch.nn.Transformer by its one method: logits of all positions, no cache. Reads the style into the encoder."""

    eos, features = CODES, frozenset({"style"})

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.text, self.speech = nn.Embedding(TEXT, width), nn.Embedding(CODES + 1, width)  # row CODES: start
        self.positions = nn.Embedding(64, width)
        self.net = nn.Transformer(width, 2, 1, 1, 32, dropout=0.0, batch_first=True)
        self.net.encoder.use_nested_tensor = False
        self.head = nn.Linear(width, CODES + 1)

    def forward_logits(self, prompts, tokens):
        sources = []
        for prompt in prompts:
            style = [] if prompt.style is None else [self.speech(prompt.style.tokens)]
            sources.append(torch.cat([self.text(prompt.text), *style]))
        source = pad_sequence(sources, batch_first=True)
        holes = torch.arange(source.shape[1]) >= torch.tensor([len(s) for s in sources])[:, None]
        target = self.speech(nn.functional.pad(tokens, (1, 0), value=CODES))
        source, target = (x + self.positions.weight[: x.shape[1]] for x in (source, target))
        ahead = torch.ones(target.shape[1], target.shape[1]).triu(1).bool()
        output = self.net(source, target, tgt_mask=ahead, src_key_padding_mask=holes, memory_key_padding_mask=holes)
        return self.head(output)


class Recurrent(Backbone):
    """A plain Backbone from nothing but the contract: a GRU, one row and one token at a time. Slow on purpose.

    Every row has a generator of its own, seeded by (one number of the caller's generator, prompt, answer).
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.text, self.speech = nn.Embedding(TEXT, width), nn.Embedding(CODES, width)
        self.cell, self.head = nn.GRUCell(width, width), nn.Linear(width, CODES + 1)

    def steps(self, prompt: Prompt, tokens: list[int]) -> Tensor:
        state = self.text(prompt.text).mean(0)
        rows = [self.head(state)]
        for token in tokens:
            state = self.cell(self.speech.weight[token], state)
            rows.append(self.head(state))
        return torch.stack(rows).log_softmax(-1)

    def forward(self, prompts, speech):
        scores = torch.zeros(len(speech), speech.tokens.shape[1] + 1)
        for b, row in enumerate(speech.rows()):
            logp = self.steps(prompts[int(speech.prompt[b])], row.tolist())
            targets = [*row.tolist(), *([CODES] if speech.ended[b] else [])]
            for t, target in enumerate(targets):
                scores[b, t] = logp[t, target]
        return scores

    def sample(self, prompts, n=1, temperature=1.0, top_p=1.0, max_len=1024, min_len=0, generator=None):
        seed = int(torch.randint(1 << 31, (), generator=generator))
        total = len(prompts) * n
        heat, most, least = (torch.as_tensor(v).expand(total).tolist() for v in (temperature, max_len, min_len))
        rows, ended = [], []
        with torch.no_grad():
            for b in range(total):
                prompt = prompts[b // n]
                own = torch.Generator().manual_seed(seed + 1009 * hash(tuple(prompt.text.tolist())) % 10**9 + b % n)
                row = []
                while len(row) < most[b]:
                    token = self.pick(self.steps(prompt, row)[-1], heat[b], top_p, len(row) < least[b], own)
                    if token == CODES:
                        break
                    row.append(token)
                rows.append(torch.tensor(row, dtype=torch.long))
                ended.append(len(row) < most[b])
        return Speech.pack(rows, ended, torch.arange(len(prompts)).repeat_interleave(n))

    def pick(self, logp: Tensor, heat: float, top_p: float, stay: bool, generator: torch.Generator) -> int:
        logp = logp.clone()
        if stay:
            logp[CODES] = -torch.inf
        if heat == 0:
            return int(logp.argmax())
        share, order = (logp / heat).softmax(-1).sort(descending=True)
        share = share.where(share.cumsum(0) - share < top_p, 0.0)
        return int(order[torch.multinomial(share, 1, generator=generator)])


class Around(Backbone):
    """A good backbone with one thing changed: what the broken ones derive from."""

    def __init__(self, inner: Backbone) -> None:
        super().__init__()
        self.inner = inner
        self.features = inner.features

    def forward(self, prompts, speech):
        return self.inner(prompts, speech)

    def sample(self, prompts, *args, **kwargs):
        return self.inner.sample(prompts, *args, **kwargs)


def tokens(*sizes: int, high: int = CODES, books: int | None = None, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(high, (n,) if books is None else (n, books), generator=generator) for n in sizes]


def ragged_prompts(timbre: bool = False, text: int = TEXT, codes: int = CODES) -> list[Prompt]:
    """Three prompts of different length, the first with a style."""
    ids, (style,) = tokens(7, 3, 5, high=text), tokens(6, high=codes, seed=1)
    voices = torch.randn(3, 8, generator=torch.Generator().manual_seed(2))
    return [
        Prompt(ids[i], Style(style, ids[1]) if i == 0 else None, voices[i] if timbre else None) for i in range(len(ids))
    ]


def built(make: Callable[[], Backbone], seed: int = 0) -> Backbone:
    """With weights that do not depend on what other tests drew."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()
