"""A small recurrent backbone and made-up speech for the tests of data and modules."""

from __future__ import annotations

import lightning as L
import torch
from torch import Tensor, nn

from seaalign import LogitsBackbone, Prompt, StepBackbone, Style, Utterance

VOCAB = 10
EOS = 10


class Toy(StepBackbone):
    """A GRU over [style | text] and then the speech; every weight takes part in every score."""

    features = frozenset({"style", "timbre"})
    eos = EOS

    def __init__(self, seed: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.words = nn.Embedding(20, 12)
            self.codes = nn.Embedding(VOCAB, 12)
            self.body = nn.GRU(12, 16, batch_first=True)
            self.head = nn.Linear(16, VOCAB + 1)
        with torch.no_grad():
            self.head.bias[EOS] -= 2.0  # a sample that ends at once is rare: triplets with one are dropped
        self.dropout = dropout

    def prefill(self, prompts):
        states = []
        for prompt in prompts:
            parts = [self.words(prompt.text)]
            if prompt.style is not None:
                parts.insert(0, self.codes(prompt.style.tokens))
            states.append(self.body(torch.cat(parts)[None])[1][0])
        state = torch.cat(states)
        return state, state

    def extend(self, state, tokens):
        features, new = self.body(self.codes(tokens), state[None].contiguous())
        return features, new[0]

    def logits(self, features: Tensor) -> Tensor:
        return self.head(nn.functional.dropout(features, self.dropout, self.training))


class Table(LogitsBackbone):
    """Log-probs looked up by row of the batch's first token: hand-made numbers for golden tests."""

    features = frozenset({"style", "timbre"})
    eos = 3

    def __init__(self, logps: Tensor) -> None:
        super().__init__()
        self.logps = nn.Parameter(logps)  # (4,): log p of each id, at every position

    def forward_logits(self, prompts, tokens):
        return self.logps.expand(len(tokens), tokens.shape[1] + 1, 4)


def speech(count: int = 24, seed: int = 0, styled: bool = True) -> list[Utterance]:
    """Utterances whose tokens follow the text (the word mod VOCAB, two or three times) with some variation."""
    g = torch.Generator().manual_seed(seed)
    made = []
    for i in range(count):
        text = torch.randint(20, (int(torch.randint(2, 5, (), generator=g)),), generator=g)
        tokens = text.repeat_interleave(torch.randint(1, 4, (len(text),), generator=g)) % VOCAB
        style = Style(torch.randint(VOCAB, (3,), generator=g)) if styled else None
        made.append(Utterance(f"u{i}", Prompt(text, style, torch.tensor([float(i % 3)])), tokens))
    return made


def quiet(**kwargs) -> L.Trainer:
    """A Trainer on the CPU that writes nothing."""
    silent = ("enable_checkpointing", "enable_progress_bar", "enable_model_summary", "logger")
    return L.Trainer(**{"accelerator": "cpu", "devices": 1, **dict.fromkeys(silent, False), **kwargs})
