"""A style control for backbones that have none: soft vectors before the prompt, from a prosody code and a timbre."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seaalign.backbones.base import Unsupported, evaluating
from seaalign.backbones.decoder import DecoderOnly
from seaalign.backbones.drawing import Draw
from seaalign.backbones.lora import lora_host
from seaalign.backbones.style_files import load_prefix, save_prefix
from seaalign.backbones.style_map import Embedded, ProsodyMap
from seaalign.backbones.style_prompt import code_of, part_of, voice_of
from seaalign.backbones.weights import is_adapter
from seaalign.records import Prompt, Speech
from seaalign.storage import layout_of

_OWN = ("forward", "sample", "hidden", "prefill", "read", "extend", "select", "room")
"""What a wrapped class may not have changed: it would not know of the prefix."""
_PASSED_ON = {"sample_rate", "tokenize", "tokenizer", "lora_defaults", "served_ids", "served_weights"}
_SAMPLE = 1024  # embeddings whose size is looked at


class StylePrefix(DecoderOnly):
    """Adds "style" and "timbre" to a decoder-only backbone in whose tokens prosody and voice ride together.

    The sequence is [timbre | K vectors of the prosody code, where the style is on | the backbone's prompt | speech]. A
    style is a row of ids from an FSQ bottleneck, `Style(tokens=ids)`, and a timbre a vector (timbre_size,), both as
    `Disentangler.restyle` makes them. Everything else is the backbone's own: its body, head, tokens, sound and files.

    Train it by `SFT(StylePrefix(...))` with `SpeechData(..., plain_fraction=0.5)`, which leaves the style off half of
    the prompts, so that both modes are learned; then `DGSA` takes it as it takes any. Where the language model is
    frozen, DGSA has nothing to move but the prefix: give it `frozen=False` or LoRA by then. `add_lora` on the wrapped
    backbone puts the layers into the model and freezes the prefix too, as `reference="disabled_adapter"` needs.

    A voice that the backbone itself wants to know of (to decode, or in its own prompt) goes beside: the timbre is then
    {"prefix": (timbre_size,), "inner": what the backbone wants}. With a vector alone the backbone is told of none:
    what it decodes has the voice that is in the tokens.

    Args:
        backbone: the adapter; its class may not change how a sequence is read or drawn.
        levels: of the bottleneck that made the ids (`Disentangler.levels`).
        timbre_size: numbers in a timbre (`Disentangler.timbre_size`).
        vectors: K.
        hidden: width of the small networks.
        frozen: train the prefix alone, and LoRA layers where there are any.
        seed: of the initial weights.

    Raises:
        TypeError: the backbone is no `DecoderOnly`, or has a prefix already.
        Unsupported: it reads or draws in a way of its own.
        ValueError: K vectors do not fit into what it can read.

    Source: Li and Liang 2021, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", here on the input layer
        alone (as Lester et al. 2021) and computed from what is to be said and by whom rather than learned per task.

    Example:
        >>> # backbone = StylePrefix(CausalLM("my-model", "orpheus"), disentangler.levels, disentangler.timbre_size)
        >>> # Trainer(max_steps=1000).fit(SFT(backbone), SpeechData("restyled.parquet", plain_fraction=0.5))
    """

    def __init__(
        self,
        backbone: DecoderOnly,
        levels: Sequence[int],
        timbre_size: int,
        vectors: int = 8,
        hidden: int = 128,
        frozen: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _require_wrappable(backbone)
        self.backbone, self.levels, self.timbre_size = backbone, tuple(int(level) for level in levels), timbre_size
        self.vectors, self.hidden_size = vectors, hidden
        for name in ("eos", "banned", "vocab_size", "context", "windowed", "codebooks", "chunk", "wave", "engine"):
            setattr(self, name, getattr(backbone, name))
        self.features = frozenset(backbone.features) | {"style", "timbre"}
        self.layout = f"levels={self.levels} timbre={timbre_size} vectors={vectors} on {layout_of(backbone)}"
        if vectors < 1 or (self.context is not None and vectors + 1 >= self.context):
            raise ValueError(
                f"{vectors} vectors do not fit: {type(backbone).__name__} can read {self.context} positions"
            )
        if frozen:
            for name, parameter in backbone.named_parameters():
                parameter.requires_grad_(parameter.requires_grad and is_adapter(name))
        width, scale = self._size()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = {"prosody": self.mapping(width, scale), "timbre": Embedded(timbre_size, hidden, width, scale)}
        self.prefix = nn.ModuleDict(made).to(self._device())

    def mapping(self, width: int, scale: float) -> nn.Module:
        """The network from codes to vectors: a list of P ids (M_p,) to (P, K, D). Override it for another.

        Args:
            width: D of the embeddings.
            scale: root mean square of a number in them.
        """
        return ProsodyMap(self.levels, self.vectors, width, scale, self.hidden_size)

    def _size(self) -> tuple[int, float]:
        """Width of the backbone's embeddings, and their root mean square."""
        count = min(self.vocab_size or self.eos, _SAMPLE)
        ids = torch.arange(count, device=self._device())[:, None]
        ids = ids if self.codebooks is None else ids[..., None].expand(-1, -1, self.codebooks)
        with evaluating(self.backbone):
            table = self.backbone.embed_speech(ids, 0).float()
        return table.shape[-1], float(table.square().mean().sqrt().clamp_min(1e-4))

    # -- the sequence --------------------------------------------------------------------------------------------------

    def embed_prompt(self, prompt: Prompt) -> Tensor:
        return self.pieces([prompt], Speech.pack([]))[0][0]

    def pieces(self, prompts: Sequence[Prompt], speech: Speech) -> tuple[list[Tensor], list[Tensor]]:
        own = [Prompt(prompt.text, timbre=part_of(prompt.timbre, "inner")) for prompt in prompts]
        heads, tails = self.backbone.pieces(own, speech)
        fronts = self.prefixes(prompts)
        return [torch.cat([front.to(head.dtype), head]) for front, head in zip(fronts, heads, strict=True)], tails

    def prefixes(self, prompts: Sequence[Prompt]) -> list[Tensor]:
        """What stands before each prompt: (1, D) where its style is off, (1 + K, D) where it is on."""
        like = next(self.prefix["timbre"].parameters())
        voices = torch.stack([voice_of(i, prompt, self.timbre_size).to(like) for i, prompt in enumerate(prompts)])
        fronts = list(self.prefix["timbre"](voices)[:, None])
        styled = [i for i, prompt in enumerate(prompts) if prompt.style is not None]
        if styled:
            codes = [code_of(i, prompts[i], self.levels).to(like.device) for i in styled]
            for i, vectors in zip(styled, self.prefix["prosody"](codes), strict=True):
                fronts[i] = torch.cat([fronts[i], vectors.to(fronts[i].dtype)])
        return fronts

    def embed_speech(self, tokens: Tensor, start: int) -> Tensor:
        return self.backbone.embed_speech(tokens, start)

    @property
    def body(self) -> Any:  # type: ignore[override]
        """The backbone's."""
        return self.backbone.body

    def logits(self, features: Tensor) -> Tensor:
        return self.backbone.logits(features)

    def linear_head(self) -> tuple[Tensor, Tensor | None] | None:
        return self.backbone.linear_head()

    def frame_score(self, features: Tensor, frames: Tensor) -> Tensor:
        return self.backbone.frame_score(features, frames)

    def frame_draw(self, features: Tensor, draw: Draw) -> Tensor:
        return self.backbone.frame_draw(features, draw)

    def _score(self, features: Tensor, frames: Tensor) -> Tensor:
        return self.backbone._score(features, frames)  # it knows which of its hooks is the last word on the head

    def _refuse_strange_ids(self, speech: Speech, real: Tensor) -> None:
        self.backbone._refuse_strange_ids(speech, real)

    # -- what else the backbone offers ---------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        if name in _PASSED_ON and "backbone" in self.__dict__.get("_modules", {}):
            return getattr(self.backbone, name)
        return super().__getattr__(name)

    @property
    def sampler(self) -> str:  # type: ignore[override]
        """Of the engine, or the built-in one."""
        return "nucleus" if self.engine is None else str(self.engine.sampler)

    @property
    def lora_host(self) -> nn.Module:
        """LoRA goes where the backbone would put it."""
        return lora_host(self.backbone)

    def decode(self, speech: Speech, timbres: Sequence[Any]) -> list[Tensor]:
        """By the backbone, which is told of its own part of each timbre, or None."""
        return self.backbone.decode(speech, [part_of(timbre, "inner") for timbre in timbres])

    def encode(self, waveforms: Sequence[Tensor], sample_rate: int) -> Speech:
        return self.backbone.encode(waveforms, sample_rate)

    def served_prompt(self, prompt: Prompt) -> dict[str, Tensor]:
        """The prompt for an engine: `prompt_embeds` (L, D), so the engine needs `enable_prompt_embeds=True`."""
        with torch.no_grad():
            return {"prompt_embeds": self.embed_prompt(prompt.to(self._device()))}

    def save(self, path: str | Path, adapters_only: bool = False) -> None:
        """Write the backbone where and as it writes itself, and beside it the prefix, as safetensors.

        In a folder that is `style_prefix.safetensors`; beside a file `llm.pt`, `llm.style_prefix.safetensors`.

        Args:
            path: what the backbone takes.
            adapters_only: the prefix and the LoRA layers, where there are any, alone: a folder.
        """
        save_prefix(self, Path(path), adapters_only)

    def load(self, path: str | Path, unsafe: bool = False) -> None:
        """Read what `save` wrote, all of it or nothing; weights of the backbone alone: `.backbone.load(path)`."""
        load_prefix(self, Path(path), unsafe)


def _require_wrappable(backbone: Any) -> None:
    kind = type(backbone).__name__
    if not isinstance(backbone, DecoderOnly):
        raise TypeError(
            f"StylePrefix puts vectors before the input embeddings of a DecoderOnly backbone, and {kind} is none: "
            "write an adapter on DecoderOnly (docs/your_own_model.md), or give the model a style control of its own"
        )
    if isinstance(backbone, StylePrefix):
        raise TypeError("this backbone has a StylePrefix already: train that one, or wrap its .backbone")
    changed = [name for name in _OWN if getattr(type(backbone), name) is not getattr(DecoderOnly, name)]
    if changed:
        raise Unsupported(
            f"{kind} has its own {', '.join(changed)}(), in which vectors before the prompt have no place"
        )
    if {"style", "timbre"} <= set(backbone.features):
        warnings.warn(
            f"{kind} keeps style and timbre apart by itself: DGSA takes it as it is, and a prefix hides that control",
            stacklevel=3,
        )
