"""Other people's things: a spoken language model small enough for a unit test, their LightningModule, their logger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from seaalign import Prompt, Speech, StepBackbone, Style

RATE = 8000
VOCAB = 12


class TinyBackbone(StepBackbone):
    """A GRU over [style | text | speech] with dropout, so that a forgotten eval mode shows."""

    eos = VOCAB
    features = frozenset({"style", "timbre", "decode"})
    sample_rate = RATE

    def __init__(self, seed: int = 0, dim: int = 8) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.text, self.speech = nn.Embedding(10, dim), nn.Embedding(VOCAB + 1, dim)
            self.rnn, self.drop, self.head = (
                nn.GRU(dim, dim, batch_first=True),
                nn.Dropout(0.3),
                nn.Linear(dim, VOCAB + 1),
            )

    def prefill(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        ends = []
        for prompt in prompts:
            x = self.text(prompt.text)
            if prompt.style is not None:
                x = torch.cat([self.speech(prompt.style.tokens), x])
            ends.append(self.rnn(x[None])[1][0, 0])
        state = torch.stack(ends)
        return self.drop(state), state

    def extend(self, state: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        out, last = self.rnn(self.speech(tokens), state[None].contiguous())
        return self.drop(out), last[0]

    def logits(self, features: Tensor) -> Tensor:
        return self.head(features)

    def decode(self, speech: Speech, timbres: Sequence[Any]) -> list[Tensor]:
        """40 ms of a tone per token, its pitch from the token and the timbre."""
        time = torch.arange(RATE // 25) / RATE
        waveforms = []
        for row, timbre in zip(speech.rows(), timbres, strict=True):
            pitches = float(timbre) + 10.0 * row[:, None]
            waveforms.append(0.5 * torch.sin(2 * torch.pi * pitches * time).flatten())
        return waveforms


class Stranger(LightningModule):
    """Somebody's module: its own names, its own loss, and random numbers from the global generator in every step."""

    def __init__(self, backbone: nn.Module | None = None, validate: bool = True) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"policy": backbone if backbone is not None else TinyBackbone()})
        self.validate = validate

    def step(self, batch: Tensor) -> Tensor:
        noise = torch.randint(0, VOCAB, (len(batch), 5))
        prompts = [Prompt(row) for row in batch]
        return -self.inner["policy"](prompts, Speech(noise, [5] * len(batch))).sum(-1).mean()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.step(batch)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val/loss", self.step(batch), batch_size=len(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(torch.arange(24).view(8, 3) % 10, batch_size=2, shuffle=True)

    def val_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(torch.arange(6).view(2, 3) % 10, batch_size=2) if self.validate else []


class ListLogger(Logger):
    """Keeps what it is told."""

    def __init__(self, experiment: Any = None) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []
        self._experiment = experiment

    @property
    def name(self) -> str:
        return "list"

    @property
    def version(self) -> int:
        return 0

    @property
    def experiment(self) -> Any:
        return self._experiment

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step or 0, dict(metrics)))

    def curve(self, key: str) -> dict[int, float]:
        return {step: row[key] for step, row in self.rows if key in row}


def prompts(styled: bool = True) -> list[Prompt]:
    style = Style([1, 2, 3]) if styled else None
    return [Prompt([1, 2], style, torch.tensor(120.0)), Prompt([3, 4, 5], style, torch.tensor(200.0))]


def policy_of(module: LightningModule) -> Any:
    return module.inner["policy"]  # type: ignore[index,union-attr]
