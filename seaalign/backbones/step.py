"""Scoring and sampling, written once in terms of features: the engine under every base class.

Hooks return features rather than logits, so the head runs on real positions only and in chunks, and no (B, T, V)
tensor exists.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree
from torch.utils.checkpoint import checkpoint

from seaalign.backbones.base import Backbone, Unsupported, evaluating, row_keys, row_limits, seed_of
from seaalign.backbones.drawing import Draw, Rows, draw_rows, in_waves, on_device
from seaalign.backbones.linears import quicken
from seaalign.backbones.reordered import reordered
from seaalign.functional.likelihood import chosen_logp, head_logp
from seaalign.functional.products import even
from seaalign.records import Prompt, Speech

_LOGITS = {"cpu": 1 << 21, "cuda": 1 << 24}  # at once: as many as a cache holds, or as keep a GPU busy
_LEAST = {"cpu": 256, "cuda": 512}  # positions: each part costs a pass over the gradient of the head
_HEADS = ("linear_head", "logits", "frame_score")


class StepBackbone(Backbone):
    """Scoring and sampling from three hooks, `prefill`, `extend` and `logits`, and where needed `select`.

    Fits recurrent models, encoder-decoders, state-space models, and transformers that keep their own cache.

    Attributes:
        eos: id of the end token in the logits (for K codebooks: in the first one).
        codebooks: None for tokens (B, T), K for tokens (B, T, K): then override `frame_score` and `frame_draw`.
        banned: ids that are scored but never drawn.
        chunk: positions that go through the head at once; None: as many as make 8 MB of logits, or 256, and on a GPU 64
            MB, or 512.
        wave: rows that are drawn at once.
        engine: samples in the place of the loop here where it is not None; see `VLLM`.
    """

    eos: int
    codebooks: int | None = None
    banned: tuple[int, ...] = ()
    chunk: int | None = None
    engine: Any = None
    wave: int = 512

    @abstractmethod
    def prefill(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Any]:
        """Read the prompts.

        Returns:
            The feature that predicts the first token (P, D), and a state with one entry per prompt.
        """
        raise NotImplementedError

    @abstractmethod
    def extend(self, state: Any, tokens: Tensor) -> tuple[Tensor, Any]:
        """Read tokens (B, t[, K]) after the state; t is 1 when sampling and the whole completion when scoring.

        Returns:
            Features (B, t, D), feature i predicting what follows token i, and the new state. The old state is not used
            again, so it may be changed in place.
        """
        raise NotImplementedError

    @abstractmethod
    def logits(self, features: Tensor) -> Tensor:
        """Unnormalised scores (..., V) of features (..., D)."""
        raise NotImplementedError

    def linear_head(self) -> tuple[Tensor, Tensor | None] | None:
        """Weight (V, D) and bias (V,) of `logits`, where that is a linear layer and no more; else None.

        Scoring is faster by it, and the same.
        """
        return None

    def select(self, state: Any, rows: Tensor) -> Any:
        """The state of some rows, repeated where a row is named twice.

        By default every tensor of the state is indexed along its first dimension; where rows come second, as in the
        state of `nn.LSTM`, transpose it in `prefill` and `extend`, or override this.
        """
        return _pytree.tree_map(lambda leaf: leaf.index_select(0, rows) if isinstance(leaf, Tensor) else leaf, state)

    def room(self, state: Any) -> Tensor | None:
        """How many more frames each row can take (P,), where there is a limit: sampling is cut there."""
        return None

    def frame_score(self, features: Tensor, frames: Tensor) -> Tensor:
        """Log-prob (N,) of frames (N[, K]) given features (N, D). An end frame holds `eos` (in every codebook)."""
        if self.codebooks is not None:
            raise Unsupported(
                f"{type(self).__name__} has {self.codebooks} codebooks: override frame_score and frame_draw"
            )
        return chosen_logp(self.logits(features), frames)

    def frame_draw(self, features: Tensor, draw: Draw) -> Tensor:
        """Draw frames (N[, K]) from features (N, D) with `draw(logits (N, V), book=0) -> ids (N,)`.

        An end frame has `eos` in book 0; `banned` and the least length act on that book alone.
        """
        if self.codebooks is not None:
            raise Unsupported(
                f"{type(self).__name__} has {self.codebooks} codebooks: override frame_score and frame_draw"
            )
        return draw(self.logits(features))

    def hidden(self, prompts: Sequence[Prompt], speech: Speech) -> Tensor:
        """Features (B, T+1, D): column t predicts token t, column lengths[b] the end token.

        A prompt that rows share is read once.
        """
        feature, state = self.prefill(prompts)
        first = feature.index_select(0, speech.prompt)[:, None]
        if not speech.tokens.shape[1]:
            return first
        rest, _ = self.extend(self.select(state, speech.prompt), speech.tokens)
        return torch.cat([first, rest], dim=1)

    def forward(self, prompts: Sequence[Prompt], speech: Speech) -> Tensor:
        """See `Backbone.forward`.

        The head is applied to real positions only, `chunk` at a time, and recomputed in the backward pass.
        """
        quicken(self)
        speech = speech.to(self._device())
        mask = speech.scored
        frames = torch.full((*mask.shape, *speech.tokens.shape[2:]), self.eos, dtype=torch.long, device=mask.device)
        body = torch.arange(mask.shape[1], device=mask.device) < speech.lengths[:, None]
        real = body[:, : speech.tokens.shape[1]]
        self._refuse_strange_ids(speech, real)
        frames[body] = speech.tokens[real]
        # padding may hold anything: the hooks only ever see real ids
        tokens = speech.tokens * (real if speech.tokens.dim() == 2 else real[..., None])
        speech = Speech(tokens, speech.lengths, speech.ended, speech.prompt)
        features = self.hidden([prompt.to(mask.device) for prompt in prompts], speech)[mask]
        scores = self._score(features, frames[mask])
        self._refuse_overflow(scores, features, mask)
        return torch.zeros(mask.shape, dtype=scores.dtype, device=mask.device).masked_scatter(mask, scores)

    def _refuse_strange_ids(self, speech: Speech, real: Tensor) -> None:
        first = speech.tokens if speech.tokens.dim() == 2 else speech.tokens[..., 0]
        most = self.vocab_size if self.vocab_size is not None else torch.iinfo(torch.long).max
        strange = real & ((first < 0) | (first >= most) | (first == self.eos))
        if bool(strange.any()):
            row, column = strange.nonzero()[0].tolist()
            raise ValueError(
                f"row {row}, frame {column} holds id {int(first[row, column])}, which is no speech token: ids lie in "
                f"0..{'' if self.vocab_size is None else self.vocab_size - 1}, and the end token {self.eos} is never "
                "stored (Speech.ended says whether a row ended); strip it, or check the tokenizer"
            )

    def _refuse_overflow(self, scores: Tensor, features: Tensor, mask: Tensor) -> None:
        """NaN of half-precision weights, by its name; under autocast the Trainer's gradient scaler looks after it."""
        if features.dtype != torch.float16 or torch.is_autocast_enabled(features.device.type):
            return
        lost = ~scores.detach().isfinite()
        if bool(lost.any()):
            row, column = mask.nonzero()[lost][0].tolist()
            odd = "the logits" if bool(features.detach()[lost][0].isfinite().all()) else "the features"
            raise ValueError(
                f"{int(lost.sum())} of {len(lost)} log-probs are not finite; {odd} at row {row}, column {column} are "
                f"neither: float16 ends at {torch.finfo(torch.float16).max:.0f} and overflowed; use bfloat16 or float32"
            )

    def _score(self, features: Tensor, frames: Tensor) -> Tensor:
        most, least = on_device(_LOGITS, features), on_device(_LEAST, features)
        # a part of an uneven size would be filled up, which copies its logits
        chunk = self.chunk or even(max(least, most // (self.vocab_size or 8192)))
        if self._scores_by("linear_head") and (head := self.linear_head()) is not None:
            return head_logp(features, *head, frames, chunk).float()
        if len(features) <= chunk:
            return self.frame_score(features, frames).float()
        parts = zip(features.split(chunk), frames.split(chunk), strict=True)
        if not torch.is_grad_enabled():
            return torch.cat([self.frame_score(*part).float() for part in parts])
        return torch.cat([checkpoint(self.frame_score, *part, use_reentrant=False).float() for part in parts])

    def _scores_by(self, hook: str) -> bool:
        """Is it the last word on the head, or has a subclass, or this object, `logits` or `frame_score` of its own?"""
        last = {name: next(i for i, kind in enumerate(type(self).__mro__) if name in vars(kind)) for name in _HEADS}
        own = vars(self).keys() & {"logits", "frame_score"}
        return not own and last[hook] < last["frame_score"] and last[hook] <= last["logits"]

    def _device(self) -> torch.device:
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    def sample(
        self,
        prompts: Sequence[Prompt],
        n: int = 1,
        temperature: float | Tensor = 1.0,
        top_p: float = 1.0,
        max_len: int | Tensor = 1024,
        min_len: int | Tensor = 0,
        generator: torch.Generator | None = None,
    ) -> Speech:
        """See `Backbone.sample`. Each prompt is read once; finished rows leave the batch.

        More than `wave` rows are drawn one wave after the other, and in smaller waves where memory runs out: what a row
        draws does not depend on which others are drawn beside it.
        """
        if self.engine is not None:
            drawn: Speech = self.engine.sample(self, prompts, n, temperature, top_p, max_len, min_len, generator)
            return drawn
        seed, device = seed_of(generator), self._device()
        rows = Rows(
            torch.arange(len(prompts), device=device).repeat_interleave(n),
            row_keys(prompts, n, seed).to(device),
            *row_limits(temperature, max_len, min_len, len(prompts) * n, device),
        )

        def draw(first: int, last: int) -> Speech:
            asked = range(first // n, (last - 1) // n + 1)
            part = Rows(*(values[first:last] for values in rows))
            feature, state = self.prefill([prompts[i].to(device) for i in asked])
            owner = part.prompt - asked.start
            if (room := self.room(state)) is not None:
                part = part._replace(most=torch.minimum(part.most, room[owner]))
            return draw_rows(self, feature.index_select(0, owner), self.select(state, owner), part, top_p)

        with evaluating(self), reordered(self, self.linear_head if self._scores_by("linear_head") else None):
            return in_waves(draw, len(rows.key), self.wave)
