"""Hugging Face causal language models whose vocabulary holds speech tokens, by a layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seaalign.backbones import pretrained
from seaalign.backbones.base import Engine, Unsupported
from seaalign.backbones.context import text_settings, windowed
from seaalign.backbones.decoder import DecoderOnly, look_up
from seaalign.backbones.layouts import Layout
from seaalign.backbones.lora import add_lora
from seaalign.backbones.placement import Placement
from seaalign.records import Prompt, Speech

Decode = Callable[[Speech, Sequence[Any]], list[Tensor]]
Encode = Callable[[Sequence[Tensor], int], Speech]


class CausalLM(DecoderOnly):
    """Any Hugging Face causal LM that speaks in tokens of its vocabulary: Orpheus, Llasa, NeuTTS, Spark-TTS, yours.

    The policy is the distribution over the speech codes and the end token: only these rows of the head are computed.
    In `Speech` a code is its number 0..V-1, whatever its id in the vocabulary.

    Args:
        model: a `transformers` causal LM as you have it, also with peft's layers, or the folder or hub name of one.
        layout: what stands where: a `Layout`, or the name of one of `layouts.LAYOUTS`.
        tokenizer: a `transformers` tokenizer, or the folder or hub name of one. Default: the model's own, where that is
            given by folder or name.
        decode: `(speech, timbres) -> list of waveforms`, by the model's codec; see `with_converter`.
        encode: `(waveforms, sample_rate) -> Speech`.
        sample_rate: of what `decode` returns, Hz.
        engine: samples in the place of the built-in loop, for instance `VLLM`.
        voice: name that stands before each text, for models that have named voices (Orpheus).
        lora: arguments of `add_lora`, {} for its defaults, None for none.
        gradient_checkpointing: recompute activations in the backward pass.
        dtype: of a model that is loaded here. Full fine-tuning wants "float32" (with Trainer(precision="bf16-mixed")):
            steps of 1e-6 are lost in bfloat16 weights. With LoRA "bfloat16" is right.

    Raises:
        ValueError: model, tokenizer and layout do not belong together; the message names ids and sizes.

    Example:
        >>> mine = Layout("mine", prompt=(7, "{text}", 8), speech=10, codes=6, end=9)
        >>> # backbone = CausalLM(AutoModelForCausalLM.from_pretrained("my-model"), mine)
    """

    def __init__(
        self,
        model: nn.Module | str,
        layout: Layout | str,
        tokenizer: Any = None,
        decode: Decode | None = None,
        encode: Encode | None = None,
        sample_rate: int | None = None,
        engine: Engine | None = None,
        voice: str | None = None,
        lora: Mapping[str, Any] | None = None,
        gradient_checkpointing: bool = False,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        spec = Layout.named(layout) if isinstance(layout, str) else layout
        self.spec = spec if voice is None else replace(spec, voice=voice)
        self.model, self.tokenizer = pretrained.load(model, tokenizer, dtype)
        self.place = Placement(self.spec, self.tokenizer)
        head = pretrained.head_of(self.model)
        self.place.require_room(len(self._embedding.weight), len(head.weight), type(self.model).__name__)
        self.codec, self.tokens_of, self.sample_rate, self.engine = decode, encode, sample_rate, engine
        self.vocab_size = self.eos = self.spec.codes
        self.banned = tuple(range(self.eos + 1, self.eos + 1 + len(self.spec.also)))
        self.context = getattr(text_settings(self.model.config), "max_position_embeddings", None)
        self.windowed = windowed(self.model.config)
        self.layout = f"{self.spec.name}:{self.place.digest}"
        offered = {"style": self.spec.styled, "timbre": self.spec.timbre_codes, "decode": decode, "encode": encode}
        self.features = frozenset(name for name, there in offered.items() if there)
        if gradient_checkpointing:
            pretrained.checkpoint(self.model)
        if lora is not None:
            add_lora(self, **lora)
        # what is loaded comes in eval mode, where neither checkpointing nor dropout is at work
        self.train(self.model.training or gradient_checkpointing or lora is not None)

    @property
    def _embedding(self) -> nn.Embedding:
        return self.model.get_input_embeddings()  # type: ignore[no-any-return, operator]

    @property
    def body(self) -> Any:  # type: ignore[override]
        """The transformer without its head."""
        return self.model.base_model

    @property
    def lora_host(self) -> nn.Module:
        """LoRA goes into the model itself, so that files of it are peft's."""
        return self.model

    @property
    def sampler(self) -> str:  # type: ignore[override]
        """Of the engine, or of the built-in loop."""
        return "nucleus" if self.engine is None else str(self.engine.sampler)

    def embed_prompt(self, prompt: Prompt) -> Tensor:
        return self.pieces([prompt], Speech.pack([]))[0][0]

    def embed_speech(self, tokens: Tensor, start: int) -> Tensor:
        return self._embedding(self.place.codes[tokens])  # type: ignore[no-any-return]

    def pieces(self, prompts: Sequence[Prompt], speech: Speech) -> tuple[list[Tensor], list[Tensor]]:
        heads = [self.prompt_ids(prompt) for prompt in prompts]
        ids, rows = torch.cat(heads), len(self._embedding.weight)
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= rows:
            raise ValueError(
                f"the prompt holds text id {low if low < 0 else high}, and {type(self.model).__name__} has ids "
                f"0..{rows - 1}: it was made by another tokenizer"
            )
        found = look_up(self._embedding, [*heads, *(self.place.codes[row] for row in speech.rows())])
        return found[: len(heads)], found[len(heads) :]

    def logits(self, features: Tensor) -> Tensor:
        head = pretrained.head_of(self.model)
        return self.place.head(features, head.weight, head.bias)

    def linear_head(self) -> tuple[Tensor, Tensor | None]:
        head = pretrained.head_of(self.model)
        return self.place.head_rows(head.weight, head.bias, tied=head.weight is self._embedding.weight)

    def decode(self, speech: Speech, timbres: Sequence[Any]) -> list[Tensor]:
        return (self.codec or super().decode)(speech, timbres)

    def encode(self, waveforms: Sequence[Tensor], sample_rate: int) -> Speech:
        return (self.tokens_of or super().encode)(waveforms, sample_rate)

    def tokenize(self, text: str) -> list[int]:
        """Text ids, as `Prompt.text` and `Style.text` want them.

        Raises:
            Unsupported: there is no tokenizer.
        """
        if self.tokenizer is None:
            raise Unsupported(f"{type(self).__name__} has no tokenizer: pass tokenizer=")
        return list(self.tokenizer(self.spec.spoken(text), add_special_tokens=self.spec.special)["input_ids"])

    # what other tools call the same things: see Placement

    def prompt_ids(self, prompt: Prompt) -> Tensor:
        """Everything before the speech as ids of the model (L,); see `Placement.prompt_ids`."""
        return self.place.prompt_ids(prompt)

    def speech_ids(self, tokens: Tensor) -> Tensor:
        """Speech codes as ids of the model (T,), without the end."""
        return self.place.speech_ids(tokens)

    @property
    def eos_id(self) -> int:
        """Id of the end token in the model's vocabulary."""
        return self.place.eos_id

    def read_prompt(self, ids: Sequence[int] | Tensor) -> Prompt:
        """See `Placement.read_prompt`."""
        return self.place.read_prompt(ids)

    def read_speech(self, ids: Sequence[int] | Tensor) -> tuple[Tensor, bool]:
        """See `Placement.read_speech`."""
        return self.place.read_speech(ids)

    def served_prompt(self, prompt: Prompt) -> dict[str, Any]:
        """The prompt for an engine: its ids."""
        return {"prompt_token_ids": self.prompt_ids(prompt).tolist()}

    def served_ids(self) -> tuple[list[int], int]:
        """For an engine: the ids of the speech codes, and of the end."""
        return self.place.codes.tolist(), self.eos_id

    def served_weights(self) -> Iterator[tuple[str, Tensor]]:
        """For an engine: all weights under their own names, LoRA merged in."""
        return iter(pretrained.state(self.model).items())

    def save(self, path: str | Path, adapters_only: bool = False) -> None:
        """Write a folder that `AutoModelForCausalLM.from_pretrained` loads, with the tokenizer; LoRA is merged in.

        Args:
            path: the folder; an existing one is replaced at the last moment.
            adapters_only: write the LoRA layers alone, for `peft.PeftModel.from_pretrained`.
        """
        pretrained.save(self.model, path, self.tokenizer, adapters_only)

    def load(self, path: str | Path, unsafe: bool = False) -> None:
        """Load weights of the same model: a folder, a file (see `read_weights`), or a folder of LoRA layers."""
        pretrained.restore(self, self.model, path, unsafe)
