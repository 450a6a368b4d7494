"""Decoder-only language models: [prompt | speech] in one causal sequence (CosyVoice, Hugging Face causal LMs)."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from seaalign.backbones.base import evaluating
from seaalign.backbones.caches import cache_name, roomy, taken
from seaalign.backbones.context import require_room
from seaalign.backbones.fixed import Fixed, can_fix
from seaalign.backbones.packing import IMPLEMENTATION, Packing, forget, takes_packing, why_not_packed
from seaalign.backbones.pretrained import frequencies_kept
from seaalign.backbones.reading import State as _State
from seaalign.backbones.sharing import Sharing, can_share
from seaalign.backbones.step import StepBackbone
from seaalign.records import Prompt, Speech


class DecoderOnly(StepBackbone):
    """The contract for a decoder-only model, from four hooks and two names.

    Name `body` (the transformer without its head) and `eos`; write `embed_prompt`, `embed_speech` and `logits`.
    `body` is called the way Hugging Face models are: `body(inputs_embeds=(B, S, D), attention_mask=(B, S_past + S) or
    None, position_ids=(B, S), past_key_values=cache or None, use_cache=bool)` (`cache=` where it has that instead, as
    since transformers 5), and returns `(hidden (B, S, D),
    cache)` or an object with `last_hidden_state` and `past_key_values`; so a Hugging Face body is assigned as it is,
    and any other model gets a method of a few lines. Its attention must be causal. The cache is a Hugging Face cache
    or any nest of tensors with rows first.

    Scoring is one causal pass without mask or cache, so flash attention and gradient checkpointing both apply. Where
    the body can be told which positions belong together (Hugging Face models with "sdpa" attention; a body of yours
    that takes `packing` and calls `packing.attend`), it is one row without padding in which rows of speech that share
    a prompt share its positions too; otherwise the rows are padded on the right. Hugging Face models in fp32 also hold
    the prompt once for all rows that are drawn from it. Where `logits` is a linear layer, `linear_head` may say so.

    Attributes:
        context: most positions that the body can read, where there is a limit: longer input is refused, and sampling
            is cut there.
        windowed: does the body attend to a window of cache slots? Then prompts are put to the right of a batch, where
            slots and positions keep step.
        graphed: draw from buffers of fixed shape, so that a step is one CUDA graph on a GPU; off, as it is unmeasured.

    Example:
        See examples/your_own_model.py: a complete adapter in under 60 lines.
    """

    body: Callable[..., Any]
    context: int | None = None
    windowed: bool = False
    graphed: bool = False

    @abstractmethod
    def embed_prompt(self, prompt: Prompt) -> Tensor:
        """Everything before the speech, as input embeddings (L, D): text, special tokens, style prefix."""
        raise NotImplementedError

    @abstractmethod
    def embed_speech(self, tokens: Tensor, start: int) -> Tensor:
        """Input embeddings (B, t, D) of speech tokens (B, t[, K]); the first is frame `start` of the completion."""
        raise NotImplementedError

    def pieces(self, prompts: Sequence[Prompt], speech: Speech) -> tuple[list[Tensor], list[Tensor]]:
        """What is read: input embeddings (L_p, D) of each prompt, and (T_b, D) of each row of speech."""
        heads = [self.embed_prompt(prompt) for prompt in prompts]
        tails = [self.embed_speech(row[None], 0)[0] for row in speech.rows()]
        return heads, tails

    def hidden(self, prompts: Sequence[Prompt], speech: Speech) -> Tensor:
        """One row without padding, in which each prompt is read once; where the body cannot be packed, padded rows."""
        heads, tails = self.pieces(prompts, speech)
        tails = [tail.to(heads[0].dtype) for tail in tails]
        sizes, owners = [len(head) for head in heads], speech.prompt.tolist()
        whole = [sizes[p] + len(tail) for p, tail in zip(owners, tails, strict=True)]
        require_room(whole, self.context, type(self).__name__, "prompt and speech take")
        pack = bool(tails) and self._packs(heads[0])
        x, index = (self._packed if pack else self._padded)(heads, tails, owners)
        # column t is read where token t is predicted: at the last prompt position for t = 0
        width, last = speech.tokens.shape[1] + 1, x.shape[0] - 1
        column = torch.arange(width)
        place = torch.where(column > 0, index[:, 1:] + column - 1, index[:, :1]).clamp_max(last)
        return x.index_select(0, place.flatten().to(x.device)).unflatten(0, place.shape)

    def _padded(self, heads: list[Tensor], tails: list[Tensor], owners: list[int]) -> tuple[Tensor, Tensor]:
        """Right-padded rows, one causal pass: padding comes last, so no real position sees it."""
        x = pad_sequence([torch.cat([heads[p], tail]) for p, tail in zip(owners, tails, strict=True)], batch_first=True)
        positions = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
        output, _ = self._call_body(self._watched(x), None, positions, None, use_cache=False)
        ends = torch.tensor([len(heads[p]) for p in owners]) + torch.arange(len(x)) * x.shape[1]
        return output.flatten(0, 1), torch.stack([ends - 1, ends], dim=1)

    def _packed(self, heads: list[Tensor], tails: list[Tensor], owners: list[int]) -> tuple[Tensor, Tensor]:
        """All pieces in one row (S, D), and for each row of speech where its prompt ends and its own piece begins."""
        packing, order = Packing.of([len(head) for head in heads], [len(tail) for tail in tails], owners)
        pieces = [*heads, *tails]
        x = torch.cat([pieces[i] for i in order])[None]
        output, _ = self._call_body(
            self._watched(x), None, packing.positions(x.device), None, use_cache=False, packing=packing
        )
        starts = packing.starts
        begins = {i: starts[at] for at, i in enumerate(order)}
        ends = [(begins[p] + len(heads[p]) - 1, begins[len(heads) + row]) for row, p in enumerate(owners)]
        return output[0], torch.tensor(ends)

    def _watched(self, x: Tensor) -> Tensor:
        """Under frozen embeddings, as with LoRA, reentrant checkpointing would drop the gradient."""
        if torch.is_grad_enabled() and not x.requires_grad and any(p.requires_grad for p in self.parameters()):
            x.requires_grad_()
        return x

    def packs(self, prompts: Sequence[Prompt]) -> bool:
        with evaluating(self):
            return self._packs(self.pieces([prompts[0].to(self._device())], Speech.pack([]))[0][0])

    def _packs(self, like: Tensor) -> bool:
        """Can the body be packed?"""

        def why_not() -> str:
            reason = why_not_packed(self.body, self._call_body, like)
            if reason:
                slower = "(slower, not wrong; docs/speed.md)"
                warnings.warn(f"{type(self).__name__} scores row by row, padded: {reason} {slower}", stacklevel=5)
            return reason

        return not self._tried("packing", like, why_not)

    def _shares(self, like: Tensor) -> bool:
        """Can rows share the prompt that they answer, while they are drawn?"""
        return bool(self._tried("sharing", like, lambda: can_share(self.body, self._call_body, like)))

    def _fixes(self, like: Tensor) -> bool:
        """Can rows be drawn from buffers of fixed shape?"""
        return bool(self._tried("fixed", like, lambda: can_fix(self._call_body, like)))

    def _tried(self, what: str, like: Tensor, trial: Callable[[], Any]) -> Any:
        """What came of a trial; made once per body, its attention, and type of numbers."""
        body = getattr(self.body, "__func__", self.body)  # a method is another object each time
        kind = getattr(getattr(body, "config", None), "_attn_implementation", None)
        kind = "sdpa" if kind == IMPLEMENTATION else kind
        key = (what, id(body), kind, like.device.type, like.dtype, torch.is_autocast_enabled(like.device.type))
        known: dict[Any, Any] = self.__dict__.setdefault("_trials", {})
        if key not in known:
            with evaluating(self):
                known[key] = trial()
        return known[key]

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.__dict__.pop("_trials", None)
        forget(self.body)  # a process that unpickles it may not know our attention yet

    def prefill(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Any]:
        return self.read(self.pieces(prompts, Speech.pack([]))[0])

    def read(self, heads: Sequence[Tensor]) -> tuple[Tensor, _State]:
        """Read embedded prompts, each (L, D): what `prefill` returns."""
        x = pad_sequence(list(heads), batch_first=True, padding_side="left" if self.windowed else "right")
        require_room([len(head) for head in heads], self.context, type(self).__name__, "the prompt takes")
        length = torch.tensor([len(head) for head in heads], device=x.device)
        if self.windowed:
            places = torch.arange(x.shape[1], device=x.device) - (x.shape[1] - length)[:, None]
            output, cache = self._call_body(x, places >= 0, places.clamp_min(0), None, use_cache=True)
            return output[:, -1], _State(roomy(cache), places >= 0, length, 0)
        positions = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
        seen = positions < length[:, None]
        fixes = self.graphed and not torch.is_grad_enabled() and self._fixes(heads[0])
        shares = not fixes and not torch.is_grad_enabled() and self._shares(heads[0])
        output, cache = self._call_body(x, None, positions, None, use_cache=True)
        feature = output[torch.arange(len(x), device=x.device), length - 1]
        even = len({len(head) for head in heads}) == 1 and hasattr(self.body, "config")
        return feature, _State(roomy(cache), seen, length, 0, even, shares, fixes)

    def extend(self, state: _State, tokens: Tensor) -> tuple[Tensor, _State]:
        x = self.embed_speech(tokens, state.step)
        places = state.length[:, None] + torch.arange(x.shape[1], device=x.device)
        if self.context is not None:
            places = places.clamp_max(self.context - 1)  # a row that is done may run on until it is taken out
        if state.sharing is None:
            state = state._replace(seen=torch.cat([state.seen, state.seen.new_ones(x.shape[:2])], dim=1))
        mask = None if state.whole or state.sharing is not None else state.seen
        if isinstance(state.cache, Fixed):
            output, cache = state.cache.step(self._call_body, x, places), state.cache
        else:
            output, cache = self._call_body(x, mask, places, state.cache, use_cache=True, sharing=state.sharing)
            cache = cache if state.step else roomy(cache)
        return output, state._replace(cache=cache, length=state.length + x.shape[1], step=state.step + x.shape[1])

    def select(self, state: _State, rows: Tensor) -> _State:
        seen, length = (values.index_select(0, rows) for values in (state.seen, state.length))
        cache, sharing = state.cache, state.sharing
        if state.fixes and not state.step and (fixed := Fixed.of(cache, state.seen, rows)) is not None:
            return state._replace(cache=fixed, seen=seen, length=length, fixes=False)
        if state.shares and not state.step and len(rows) >= 2 * len(state.length):
            sharing = Sharing.of(cache, state.seen, rows)
            if sharing is not None:
                return state._replace(cache=type(cache)(), seen=seen, length=length, sharing=sharing, shares=False)
        if hasattr(cache, "batch_select_indices"):  # Hugging Face caches are objects and change in place
            cache.batch_select_indices(rows)
        else:
            cache = super().select(cache, rows)
        sharing = None if sharing is None else sharing.select(rows)
        return state._replace(cache=cache, seen=seen, length=length, sharing=sharing)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> DecoderOnly:
        with frequencies_kept(self):
            super()._apply(fn, recurse)
        return self

    def room(self, state: _State) -> Tensor | None:
        return None if self.context is None else self.context - state.length

    def _call_body(
        self,
        x: Tensor,
        mask: Tensor | None,
        positions: Tensor,
        cache: Any,
        use_cache: bool,
        packing: Packing | None = None,
        sharing: Sharing | None = None,
    ) -> tuple[Tensor, Any]:
        named = {cache_name(self.body): cache}
        named |= {name: how for name, how in (("packing", packing), ("sharing", sharing)) if how is not None}
        if len(named) > 1:
            # whoever has set the attention back since it was tried would have its rows see each other, without a word
            if reason := takes_packing(self.body):
                raise RuntimeError(f"{type(self).__name__} was tried with packed rows, and now {reason}")
            mask = x.new_zeros(1, 1, 1, 1)  # of four dimensions: left alone, so that none of S x S is made
        output = self.body(inputs_embeds=x, attention_mask=mask, position_ids=positions, use_cache=use_cache, **named)
        return taken(output, "cache" if "cache" in named else "past_key_values", use_cache)


def look_up(table: Callable[[Tensor], Tensor], ids: Sequence[Tensor]) -> list[Tensor]:
    """Embeddings (L_i, D) of rows of ids (L_i,), in one go: the gradient of each go is as large as the table."""
    return list(table(torch.cat(list(ids))).split([len(row) for row in ids]))
