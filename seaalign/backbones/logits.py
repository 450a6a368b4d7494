"""The one-method on-ramp: a model that is only a function from tokens to logits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from seaalign.backbones.step import StepBackbone
from seaalign.records import Prompt, Speech


class LogitsBackbone(StepBackbone):
    """Write `forward_logits` and name `eos`; everything else follows.

    There is no cache: sampling T tokens costs O(T^2), so it is a start, not an end.

    Example:
        >>> class Unigram(LogitsBackbone):
        ...     eos = 3
        ...     def forward_logits(self, prompts, tokens):
        ...         return torch.zeros(len(tokens), tokens.shape[1] + 1, 4)
        >>> from seaalign import Prompt, Speech
        >>> Unigram()([Prompt([1])], Speech.pack([[0, 2]])).exp()
        tensor([[0.2500, 0.2500, 0.2500]])
    """

    @abstractmethod
    def forward_logits(self, prompts: Sequence[Prompt], tokens: Tensor) -> Tensor:
        """Logits (B, t+1, V) for tokens (B, t[, K]), one prompt per row.

        Position i predicts token i and must not see it.
        """
        raise NotImplementedError

    def logits(self, features: Tensor) -> Tensor:
        return features

    def hidden(self, prompts: Sequence[Prompt], speech: Speech) -> Tensor:
        return self.forward_logits([prompts[p] for p in speech.prompt.tolist()], speech.tokens)

    def prefill(self, prompts: Sequence[Prompt]) -> tuple[Tensor, tuple[list[Prompt], Tensor]]:
        books = () if self.codebooks is None else (self.codebooks,)
        tokens = torch.zeros((len(prompts), 0, *books), dtype=torch.long, device=self._device())
        return self.forward_logits(prompts, tokens)[:, 0], (list(prompts), tokens)

    def extend(self, state: tuple[list[Prompt], Tensor], tokens: Tensor) -> tuple[Tensor, tuple[list[Prompt], Tensor]]:
        prompts, past = state
        tokens_so_far = torch.cat([past, tokens], dim=1)
        return self.forward_logits(prompts, tokens_so_far)[:, -tokens.shape[1] :], (prompts, tokens_so_far)

    def select(self, state: tuple[list[Prompt], Tensor], rows: Tensor) -> tuple[list[Prompt], Tensor]:
        prompts, tokens = state
        return [prompts[row] for row in rows.tolist()], tokens.index_select(0, rows)
