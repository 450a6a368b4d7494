"""Speech ids and nothing else, as a logits processor of vLLM, for vocabularies that its own list is too short for.

vLLM loads the class by its name, also in processes of its own: `LLM(..., logits_processors=[speech_only.NAME])`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

NAME = "seaalign.backbones.speech_only:SpeechOnly"
KEY = "seaalign_speech_only"  # in SamplingParams.extra_args: the spans of ids that may be drawn


def spans(ids: Iterable[int]) -> list[list[int]]:
    """Runs of consecutive ids as [first, last + 1]: thousands of speech ids are a handful of numbers.

    Example:
        >>> spans([7, 3, 4, 5, 9, 8])
        [[3, 6], [7, 10]]
    """
    runs: list[list[int]] = []
    for i in sorted(ids):
        if runs and runs[-1][1] == i:
            runs[-1][1] = i + 1
        else:
            runs.append([i, i + 1])
    return runs


def __getattr__(name: str) -> Any:
    if name == "SpeechOnly":  # its base classes are vLLM's: not before somebody asks
        return _speech_only()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _speech_only() -> type:
    old = importlib.import_module("vllm.v1.sample.logits_processor").LogitsProcessor
    try:
        new = importlib.import_module("vllm.v1.worker.gpu.sample.logits_processor").LogitsProcessor
    except ImportError:  # older versions have one interface
        return type("SpeechOnly", (_SpeechOnly, old), {"__module__": __name__})
    return type("SpeechOnly", (_SpeechOnly, new, old), {"__module__": __name__})


class _SpeechOnly:
    """What both of vLLM's interfaces ask for. The older runner has a list of any length, so there it does nothing."""

    def __init__(self, config: Any, states: Any, *older: Any) -> None:
        self.rules: dict[tuple[tuple[int, int], ...], int] = {}
        self.banned: list[Tensor] = []  # (vocabulary,) bool, one for each rule
        if not older:
            self.size, self.device = states.vocab_size, states.device
            self.asked = torch.full((states.max_num_reqs,), -1)  # which rule holds in each slot; -1: none
            self.which = self.asked.to(self.device, copy=True)

    def is_argmax_invariant(self) -> bool:
        return True

    def update_state(self, batch_update: Any) -> None:
        return None

    def add_request(self, slot: int, params: Any) -> bool:
        wanted = (params.extra_args or {}).get(KEY)
        self.asked[slot] = -1 if wanted is None else self._rule(wanted)
        return wanted is not None

    def apply_staged_writes(self) -> None:
        self.which.copy_(self.asked)

    def apply(self, logits: Tensor, context: Any = None) -> Tensor:
        if context is None:
            return logits
        here = self.which[context.expanded_idx_mapping]
        for rule, banned in enumerate(self.banned):
            logits.masked_fill_((here == rule)[:, None] & banned[: logits.shape[-1]], -torch.inf)
        return logits

    def _rule(self, wanted: Sequence[Sequence[int]]) -> int:
        key = tuple((first, end) for first, end in wanted)
        if key not in self.rules:
            banned = torch.ones(self.size, dtype=torch.bool)
            for first, end in key:
                banned[first:end] = False
            self.rules[key] = len(self.banned)
            self.banned.append(banned.to(self.device))
        return self.rules[key]
