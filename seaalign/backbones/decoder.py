"""Decoder-only language models: [prompt | speech] in one causal sequence (CosyVoice, Hugging Face causal LMs)."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from seaalign.backbones.step import StepBackbone
from seaalign.records import Prompt, Speech


class _State(NamedTuple):
    cache: Any
    seen: Tensor  # (B, S) bool: which cache slots hold something; short prompts leave holes
    length: Tensor  # (B,) tokens read so far = next position
    step: int  # speech frames read so far


class DecoderOnly(StepBackbone):
    """The contract for a decoder-only model, from four hooks and two names.

    Name `body` (the transformer without its head) and `eos`; write `embed_prompt`, `embed_speech` and `logits`.
    `body` is called the way Hugging Face models are: `body(inputs_embeds=(B, S, D), attention_mask=(B, S_past + S) or
    None, position_ids=(B, S), past_key_values=cache or None, use_cache=bool)` (`cache=` where it has that instead, as
    since transformers 5), and returns `(hidden (B, S, D),
    cache)` or an object with `last_hidden_state` and `past_key_values`; so a Hugging Face body is assigned as it is,
    and any other model gets a method of a few lines. Its attention must be causal. The cache is a Hugging Face cache
    or any nest of tensors with rows first.

    Scoring is one right-padded causal pass without mask or cache: flash attention and gradient checkpointing both
    apply.

    Attributes:
        context: most positions that the body can read, where there is a limit: longer input is refused, and sampling
            is cut there.
        windowed: does the body attend to a window of cache slots? Then prompts are put to the right of a batch, where
            slots and positions keep step.

    Example:
        See examples/your_own_model.py: a complete adapter in under 60 lines.
    """

    body: Callable[..., Any]
    context: int | None = None
    windowed: bool = False

    @abstractmethod
    def embed_prompt(self, prompt: Prompt) -> Tensor:
        """Everything before the speech, as input embeddings (L, D): text, special tokens, style prefix."""
        raise NotImplementedError

    @abstractmethod
    def embed_speech(self, tokens: Tensor, start: int) -> Tensor:
        """Input embeddings (B, t, D) of speech tokens (B, t[, K]); the first is frame `start` of the completion."""
        raise NotImplementedError

    def sequences(self, prompts: Sequence[Prompt], speech: Speech) -> tuple[list[Tensor], list[int]]:
        """What is read for each row of speech: input embeddings (L + T_b, D) of prompt and speech, and L."""
        heads = [self.embed_prompt(prompt) for prompt in prompts]
        tails = [self.embed_speech(row[None], 0)[0] for row in speech.rows()]
        owners = speech.prompt.tolist()
        rows = [torch.cat([heads[p], tail.to(heads[p].dtype)]) for p, tail in zip(owners, tails, strict=True)]
        return rows, [len(heads[p]) for p in owners]

    def hidden(self, prompts: Sequence[Prompt], speech: Speech) -> Tensor:
        """One right-padded pass: padding comes last, so a causal model never lets a real position see it."""
        rows, starts = self.sequences(prompts, speech)
        x = pad_sequence(rows, batch_first=True)
        self._require_room(x.shape[1], "prompt and speech take")
        if torch.is_grad_enabled() and not x.requires_grad and any(p.requires_grad for p in self.parameters()):
            x.requires_grad_()  # under frozen embeddings, as with LoRA, reentrant checkpointing drops the gradient
        positions = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
        output, _ = self._call_body(x, None, positions, None, use_cache=False)
        # column t is read where token t is predicted: at the last prompt position for t = 0
        start = torch.tensor(starts, device=x.device) - 1
        column = torch.arange(speech.tokens.shape[1] + 1, device=x.device)
        index = (start[:, None] + column).clamp_max(x.shape[1] - 1)
        return output.gather(1, index[..., None].expand(-1, -1, output.shape[-1]))

    def prefill(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Any]:
        return self.read([self.embed_prompt(prompt) for prompt in prompts])

    def read(self, heads: Sequence[Tensor]) -> tuple[Tensor, _State]:
        """Read embedded prompts, each (L, D): what `prefill` returns."""
        x = pad_sequence(list(heads), batch_first=True, padding_side="left" if self.windowed else "right")
        self._require_room(x.shape[1], "the prompt takes")
        length = torch.tensor([len(head) for head in heads], device=x.device)
        if self.windowed:
            places = torch.arange(x.shape[1], device=x.device) - (x.shape[1] - length)[:, None]
            output, cache = self._call_body(x, places >= 0, places.clamp_min(0), None, use_cache=True)
            return output[:, -1], _State(cache, places >= 0, length, 0)
        positions = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
        seen = positions < length[:, None]
        output, cache = self._call_body(x, None, positions, None, use_cache=True)
        feature = output[torch.arange(len(x), device=x.device), length - 1]
        return feature, _State(cache, seen, length, 0)

    def extend(self, state: _State, tokens: Tensor) -> tuple[Tensor, _State]:
        cache, seen, length, step = state
        x = self.embed_speech(tokens, step)
        new = torch.arange(x.shape[1], device=x.device)
        seen = torch.cat([seen, seen.new_ones(x.shape[:2])], dim=1)
        output, cache = self._call_body(x, seen, length[:, None] + new, cache, use_cache=True)
        return output, _State(cache, seen, length + x.shape[1], step + x.shape[1])

    def select(self, state: _State, rows: Tensor) -> _State:
        cache, seen, length, step = state
        if hasattr(cache, "batch_select_indices"):  # Hugging Face caches are objects and change in place
            cache.batch_select_indices(rows)
        else:
            cache = super().select(cache, rows)
        return _State(cache, seen.index_select(0, rows), length.index_select(0, rows), step)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> DecoderOnly:
        with frequencies_kept(self):
            super()._apply(fn, recurse)
        return self

    def room(self, state: _State) -> Tensor | None:
        return None if self.context is None else self.context - state.length

    def _require_room(self, size: int, what: str) -> None:
        if self.context is not None and size > self.context:
            raise ValueError(
                f"{what} {size} positions, {type(self).__name__} can read {self.context}: shorten the style "
                "recording or the text, or leave the row out"
            )

    def _call_body(
        self, x: Tensor, mask: Tensor | None, positions: Tensor, cache: Any, use_cache: bool
    ) -> tuple[Tensor, Any]:
        named = {_cache_name(self.body): cache}
        output = self.body(inputs_embeds=x, attention_mask=mask, position_ids=positions, use_cache=use_cache, **named)
        if isinstance(output, tuple):
            return output[0], output[1]
        new = getattr(output, "cache", None) if "cache" in named else output.past_key_values
        return output.last_hidden_state, new


@contextmanager
def frequencies_kept(module: nn.Module) -> Iterator[None]:
    """Inside, types of weights may change; those of rotary frequencies do not.

    In 16 bits far positions would be other ones, which no other code that runs the model does.
    """
    kept = [
        (child, name, value)
        for child in module.modules()
        for name, value in child._buffers.items()
        if name.endswith("inv_freq") and value is not None and value.dtype == torch.float32
    ]
    yield
    for child, name, value in kept:
        moved = child._buffers[name]
        if moved is not None and moved.dtype != value.dtype:
            child._buffers[name] = value.to(moved.device)


def _cache_name(body: Callable[..., Any]) -> str:
    """Hugging Face called it `past_key_values` until transformers 5, and `cache` since."""
    call = getattr(type(body), "forward", None) if isinstance(body, nn.Module) else body
    taken = _parameters(getattr(call, "__func__", call))
    return "cache" if "cache" in taken and "past_key_values" not in taken else "past_key_values"


@lru_cache(maxsize=64)
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)
