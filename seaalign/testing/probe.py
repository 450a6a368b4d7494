"""What the rules work on: a small ragged batch made of the user's own prompts and tokens."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seaalign.backbones import Backbone, StepBackbone
from seaalign.backbones.base import row_keys
from seaalign.records import Prompt, Speech

_ROWS, _FRAMES, _BATCH = 4, 24, 1024


@contextmanager
def private_randomness(seed: int) -> Iterator[None]:
    """Global generators (torch, numpy, random) start from `seed` inside and are put back afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        try:
            reseed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def reseed(seed: int) -> None:
    """Start the global CPU generators from `seed`."""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % (1 << 32))


@dataclass(frozen=True)
class Probe:
    """The batch under test: up to 3 prompts, and up to 4 rows of different length of which every second one was cut.

    Args:
        alphabet: frames seen in the user's speech, (A,) or (A, K); what tokens are exchanged for.
        atol, rtol: scores a, b agree where |a - b| <= atol + rtol |b|.
        enumerate_up_to: largest vocabulary of which every one-token answer is scored.
        draws: first tokens drawn to compare with the model's probabilities.
    """

    backbone: Backbone
    prompts: list[Prompt]
    speech: Speech
    alphabet: Tensor
    seed: int
    atol: float
    rtol: float
    enumerate_up_to: int
    draws: int

    @property
    def tiny(self) -> float:
        """A difference below this is no reaction at all."""
        return self.atol / 100

    @property
    def coarse(self) -> bool:
        """Are these scores of half precision?"""
        return self.atol > 1e-3

    def forward(self, speech: Speech, prompts: Sequence[Prompt] | None = None) -> Tensor:
        return self.backbone(self.prompts if prompts is None else list(prompts), speech)

    def score(self, speech: Speech, prompts: Sequence[Prompt] | None = None) -> Tensor:
        """Log-probs (B, T+1), no gradient."""
        with torch.no_grad():
            return self.forward(speech, prompts).float()

    def apart(self, got: Tensor, want: Tensor) -> Tensor:
        return (got - want).abs() > self.atol + self.rtol * want.abs()

    def worst(self, got: Tensor, want: Tensor) -> str:
        """The place of the largest difference, with both numbers."""
        row, column = divmod(int((got - want).abs().argmax()), want.shape[1])
        return f"row {row}, column {column}: {float(got[row, column]):.6g} against {float(want[row, column]):.6g}"

    def padded(self, extra: int, fill: int) -> Speech:
        """The probe with `extra` more columns, everything beyond the lengths holding alphabet frame `fill`."""
        speech = self.speech
        shape = (len(speech), speech.tokens.shape[1] + extra, *speech.tokens.shape[2:])
        tokens = self.alphabet[fill].expand(shape).clone()
        for row, (real, length) in enumerate(zip(speech.tokens, speech.lengths.tolist(), strict=True)):
            tokens[row, :length] = real[:length]
        return Speech(tokens, speech.lengths, speech.ended, speech.prompt)

    def alone(self, row: int) -> tuple[Speech, list[Prompt]]:
        """One row with its prompt and nothing else."""
        picked = self.speech.select([row])
        return Speech(picked.tokens, picked.lengths, picked.ended), [self.prompts[int(picked.prompt[0])]]

    def draw(self, prompts: Sequence[Prompt] | None = None, seed: int = 0, **settings: Any) -> Speech:
        generator = torch.Generator().manual_seed(self.seed + 1000 + seed)
        return self.backbone.sample(self.prompts if prompts is None else list(prompts), generator=generator, **settings)

    @cached_property
    def shortest(self) -> Prompt:
        return min(self.prompts, key=lambda p: len(p.text) + (len(p.style.tokens) if p.style else 0))

    @cached_property
    def first(self) -> tuple[Tensor | None, str]:
        """Log p of every first token of `shortest` (V,), the end token at `eos`; or None and the reason."""
        backbone = self.backbone
        if not isinstance(backbone, StepBackbone):
            return None, "the vocabulary of a plain Backbone cannot be listed"
        if backbone.codebooks is not None:
            return None, f"{backbone.codebooks} codebooks: too many frames to list"
        device = self.alphabet.device
        with torch.no_grad():
            feature = backbone.prefill([self.shortest])[0]
            size = backbone.logits(feature).shape[-1]
        if size > self.enumerate_up_to:
            return None, f"{size} ids are more than enumerate_up_to={self.enumerate_up_to}"
        scores = torch.empty(size, device=device)
        apart = {backbone.eos, *backbone.banned}
        ids = torch.tensor([i for i in range(size) if i not in apart], device=device)
        for i in backbone.banned:  # never speech, so only the head can tell its share
            with torch.no_grad():
                scores[i] = backbone.frame_score(feature, torch.tensor([i], device=device))
        try:
            for part in ids.split(_BATCH):
                ones, zeros = torch.ones_like(part), torch.zeros_like(part)
                scores[part] = self.score(Speech(part[:, None], ones, zeros, zeros), [self.shortest])[:, 0]
        except IndexError as error:
            return None, f"the head has {size} ids but not all of them can be read back as input ({error})"
        empty = Speech(ids.new_zeros(1, 1), ids.new_zeros(1))
        scores[backbone.eos] = self.score(empty, [self.shortest])[0, 0]
        return scores, ""


def make_probe(backbone: Backbone, prompts: Sequence[Prompt], speech: Speech, **settings: Any) -> Probe:
    """Cut the user's data down to a probe.

    Raises:
        ValueError: no prompts, a row that answers a prompt not in the list, or no row of at least 4 frames.
    """
    if not prompts:
        raise ValueError("prompts is empty: give at least one, better two or more of different length")
    if len(speech) and not 0 <= int(speech.prompt.min()) <= int(speech.prompt.max()) < len(prompts):
        raise ValueError(f"speech.prompt must lie in 0..{len(prompts) - 1}, got {speech.prompt.tolist()}")
    rows = sorted((row for row in speech.rows() if len(row)), key=len, reverse=True)
    if not rows or len(rows[0]) < 4:
        longest = len(rows[0]) if rows else 0
        raise ValueError(f"the longest row of speech has {longest} frames: give at least one of 4 or more")
    tensors = [*backbone.parameters(), *backbone.buffers()]
    device = tensors[0].device if tensors else speech.tokens.device
    alphabet = torch.cat(rows).unique(dim=0)[:256].to(device)
    chosen = _distinct([prompt.to(device) for prompt in prompts])
    rows = [row[:_FRAMES] for row in [*rows[:1], *rows[1:][1 - _ROWS :]]]
    while len(rows) <= len(chosen):  # some prompt is shared, so that prompts taken by row cannot go unnoticed
        rows.append(rows[0][: max(1, len(rows[0]) // len(rows))])
    if len({len(row) for row in rows}) == 1:  # padding must exist for the rules on it to mean anything
        rows = [row[: max(1, len(row) - 2 * i)] for i, row in enumerate(rows)]
    ended = [i % 2 == 0 for i in range(len(rows))]
    packed = Speech.pack(rows, ended, [i % len(chosen) for i in range(len(rows))]).to(device)
    return Probe(backbone, chosen, packed, alphabet, **settings)


def _distinct(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Up to 3 prompts that differ, two styled ones first, so that style and ragged lengths are both met."""
    ordered = sorted(prompts, key=lambda p: p.style is None)
    styled = sum(p.style is not None for p in prompts)
    ordered = ordered[:2] + ordered[styled:] + ordered[2:styled] if styled > 2 else ordered
    return list({int(row_keys([prompt], 1, 0)): prompt for prompt in ordered}.values())[: _ROWS - 1]
