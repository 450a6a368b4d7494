"""Chatterbox (Resemble AI): T3, a Llama or GPT-2 over text and S3 tokens, and S3Gen, which speaks them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seaalign.backbones.chatterbox_sound import ChatterboxSound, check_timbres, open_folder, sound_of
from seaalign.backbones.chatterbox_t3 import (
    conditioning,
    file_name,
    read_t3,
    speech_embeddings,
    text_embeddings,
    train_without_dropout,
    warn_of_hooks,
    write_t3,
)
from seaalign.backbones.decoder import DecoderOnly
from seaalign.backbones.drawing import Draw
from seaalign.backbones.lora import add_lora
from seaalign.backbones.lora_files import load_adapters, save_adapters
from seaalign.backbones.pretrained import checkpoint as checkpoint_activations
from seaalign.records import Prompt, Speech, Style


class Chatterbox(DecoderOnly):
    """Chatterbox, English or multilingual (Llama) or Turbo (GPT-2), as you have it: nothing is converted or subclassed.

    The sequence is upstream's: [speaker, style latents, emotion] [start, text, stop] [start of speech] speech, with the
    learned positions of text and speech. `Prompt.text` and `Speech` hold neither starts nor stops.

    Style on gives T3 the speech tokens of the style recording, the first `hp.speech_cond_prompt_len` as upstream does;
    style off gives it none. A transcript is not read. The timbre, {"speaker_emb": (256,), "token": (Tp,), "feat":
    (2 Tp, 80), "embedding": (192,)}, is the same in both modes: T3 reads `speaker_emb`, so scores depend on the voice,
    and S3Gen reads the rest. Upstream's own synthesis always has the style on.

    The policy is T3's distribution over its whole head; ids that are neither speech nor the stop are never drawn.
    Upstream's `generate` draws from another one: guidance 0.5, a repetition penalty, min_p.

    No dropout is ever active but LoRA's: the perceiver's (0.2) and GPT-2's would make policy and reference differ.
    Trained are T3 without its text head; S3Gen and the rest are no part of `parameters()` or `state_dict()`.

    Args:
        model: `ChatterboxTTS`, `ChatterboxMultilingualTTS` or `ChatterboxTurboTTS`; or its `t3` alone, without
            `decode`, `encode`, `timbre`, `style` and `tokenize`; or the folder that one of them is loaded from.
        checkpoint: weights to read first; see `load`.
        exaggeration: upstream's emotion scalar, the same in both modes; Turbo reads none.
        language: tag that the multilingual tokenizer puts before a text, as "fr".
        starts: how many start-of-speech marks come before the speech. Default: as upstream's inference, which feeds two
            (Turbo: one). A fine-tune on T3's `forward` has seen one.
        guidance: classifier-free guidance while sampling, upstream's `cfg_weight`: logits + guidance * (logits - logits
            of the text zeroed). Never in scores; 0 draws from the policy itself.
        lora: arguments of `add_lora`; {} for its defaults; None for none.
        gradient_checkpointing: recompute activations in the backward pass.

    Raises:
        TypeError: none of the objects above.

    Source: chatterbox-tts 0.1.7, `T3.prepare_input_embeds`, `T3.inference`, `T3.inference_turbo`, `S3Token2Wav`.

    Example:
        >>> # backbone = Chatterbox(ChatterboxMultilingualTTS.from_pretrained("cpu"), language="fr")
        >>> # prompt = Prompt(backbone.tokenize("Bonjour."), backbone.style(wave, rate), backbone.timbre(wave, rate))
    """

    def __init__(
        self,
        model: Any,
        checkpoint: str | os.PathLike[str] | None = None,
        exaggeration: float = 0.5,
        language: str | None = None,
        starts: int | None = None,
        guidance: float = 0.0,
        lora: Mapping[str, Any] | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        whole = open_folder(model, language is not None) if isinstance(model, str | os.PathLike) else model
        t3: Any = getattr(whole, "t3", whole)
        if not all(hasattr(t3, name) for name in ("tfmr", "cond_enc", "speech_emb", "speech_head", "hp")):
            raise TypeError(f"Chatterbox holds a ChatterboxTTS object or its t3, got {type(whole).__name__}")
        warn_of_hooks(t3)
        self.t3, self.sound = t3, None if whole is t3 else ChatterboxSound(whole, language)
        self.vocab_size, self.eos = int(t3.hp.start_speech_token), int(t3.hp.stop_speech_token)
        self.banned = tuple(i for i in range(self.vocab_size, t3.speech_head.out_features) if i != self.eos)
        self.context = int(t3.cfg.max_position_embeddings)
        self.exaggeration, self.guidance = float(exaggeration), float(guidance)
        self.starts = (1 if t3.is_gpt else 2) if starts is None else int(starts)
        self.layout = f"chatterbox emotion={self.exaggeration:g} starts={self.starts}"
        self.features = frozenset({"style", "timbre"} | ({"decode", "encode"} if self.sound else set()))
        t3.text_head.requires_grad_(False)
        own_table = getattr(t3.tfmr, "wte" if t3.is_gpt else "embed_tokens", None)
        if own_table is not None:
            own_table.requires_grad_(False)  # T3 has tables of its own
        if checkpoint is not None:
            self.load(Path(checkpoint))
        if gradient_checkpointing:
            checkpoint_activations(t3.tfmr)
        if lora is not None:
            add_lora(self, **lora)
        # what is loaded comes in eval mode, in which nothing would be checkpointed
        self.train(t3.training or gradient_checkpointing or lora is not None)

    @property
    def body(self) -> Any:  # type: ignore[override]
        """The transformer."""
        return self.t3.tfmr

    @property
    def lora_host(self) -> nn.Module:
        """The transformer; `peft.PeftModel.from_pretrained(t3.tfmr, folder)` reads files of adapters."""
        return self.t3.tfmr  # type: ignore[no-any-return]

    @property
    def lora_defaults(self) -> dict[str, Any]:
        """GPT-2 has other names for its layers, and keeps their weights transposed."""
        return {"targets": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True} if self.t3.is_gpt else {}

    @property
    def sampler(self) -> str:  # type: ignore[override]
        """The built-in one, and the guidance where there is any."""
        return f"nucleus, guidance {self.guidance:g}" if self.guidance else "nucleus"

    @property
    def sample_rate(self) -> int | None:
        """Of what `decode` returns, Hz."""
        return None if self.sound is None else self.sound.sample_rate

    def train(self, mode: bool = True) -> Chatterbox:
        super().train(mode)
        train_without_dropout(self.t3, mode)
        return self

    # -- the sequence --------------------------------------------------------------------------------------------------

    def embed_prompt(self, prompt: Prompt) -> Tensor:
        return self._head(prompt, 1.0)

    def _head(self, prompt: Prompt, weight: float) -> Tensor:
        """The prompt (L, D); weight 0 is what guidance compares it with: its words zeroed, their positions kept."""
        mark = torch.full((1, 1), self.t3.hp.start_speech_token, device=prompt.text.device)
        start = speech_embeddings(self.t3, mark, 0)[0]
        text = text_embeddings(self.t3, prompt.text, weight)
        return torch.cat([conditioning(self.t3, prompt, self.exaggeration), text, *[start] * self.starts])

    def embed_speech(self, tokens: Tensor, start: int) -> Tensor:
        return speech_embeddings(self.t3, tokens, start + 1)

    def logits(self, features: Tensor) -> Tensor:
        return self.t3.speech_head(features[..., : self.t3.dim])  # type: ignore[no-any-return]

    # -- sampling: under guidance states and features come in pairs, with the words and without ------------------------

    def prefill(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Any]:
        feature, state = super().prefill(prompts)
        if not self.guidance:
            return feature, state
        other, wordless = self.read([self._head(prompt, 0.0) for prompt in prompts])
        return torch.cat([feature, other], dim=-1), (state, wordless)

    def extend(self, state: Any, tokens: Tensor) -> tuple[Tensor, Any]:
        if not self.guidance:
            return super().extend(state, tokens)
        features, said = super().extend(state[0], tokens)
        others, wordless = super().extend(state[1], tokens)
        return torch.cat([features, others], dim=-1), (said, wordless)

    def select(self, state: Any, rows: Tensor) -> Any:
        if not self.guidance:
            return super().select(state, rows)
        return super().select(state[0], rows), super().select(state[1], rows)

    def room(self, state: Any) -> Tensor | None:
        state = state[0] if self.guidance else state
        left, table = super().room(state), self.t3.speech_pos_emb
        return left if left is None or table is None else left.clamp_max(table.emb.num_embeddings - 1 - state.step)

    def frame_draw(self, features: Tensor, draw: Draw) -> Tensor:
        logits = self.logits(features).float()
        if self.guidance:
            logits = logits + self.guidance * (logits - self.logits(features[..., self.t3.dim :]).float())
        return draw(logits)

    # -- sound ---------------------------------------------------------------------------------------------------------

    def tokenize(self, text: str) -> list[int]:
        """Text ids as upstream's `generate` makes them, without start and stop."""
        return sound_of(self.sound, "tokenize()").words(text)

    def style(self, waveform: Tensor, sample_rate: int) -> Style:
        """The style prefix of a recording (samples,): the tokens of its first seconds, as many as T3 reads."""
        most = self.t3.hp.speech_cond_prompt_len
        return Style(sound_of(self.sound, "style()").style(waveform, sample_rate, most))

    def timbre(self, waveform: Tensor, sample_rate: int) -> dict[str, Tensor]:
        """The timbre of a recording (samples,), by upstream's extractors; on the CPU."""
        return sound_of(self.sound, "timbre()").timbre(waveform, sample_rate)

    def decode(self, speech: Speech, timbres: Sequence[Any]) -> list[Tensor]:
        """Waveforms (samples,) by S3Gen, one row at a time, without upstream's watermark.

        Raises:
            Unsupported: T3 alone was given.
            ValueError: a timbre lacks a part, or its parts do not fit each other.
        """
        sound, known = sound_of(self.sound, "decode()"), check_timbres(timbres)
        return [sound.speak(row, timbre) for row, timbre in zip(speech.rows(), known, strict=True)]

    def encode(self, waveforms: Sequence[Tensor], sample_rate: int) -> Speech:
        """Speech tokens of waveforms (samples,), 25 a second, by upstream's S3 tokenizer."""
        sound = sound_of(self.sound, "encode()")
        return Speech.pack([sound.tokens(waveform, sample_rate) for waveform in waveforms])

    def save(self, path: str | Path, adapters_only: bool = False) -> None:
        """Write T3 as upstream's `from_local` loads it, LoRA merged in, whole or not at all.

        Args:
            path: a .safetensors file, or a folder for one of upstream's name; with `adapters_only` a folder.
            adapters_only: LoRA layers alone, as peft writes them, for `t3.tfmr`.
        """
        path = Path(path)
        if adapters_only:
            return save_adapters(self.lora_host, path)
        write_t3(self.t3, path if path.suffix == ".safetensors" else path / file_name(self.t3))

    def load(self, path: str | Path, unsafe: bool = False) -> None:
        """Read a file of T3, a folder that holds one of upstream's name, or a folder of adapters."""
        path = Path(path)
        if (path / "adapter_config.json").is_file():
            return load_adapters(self, path, unsafe)
        named = path / file_name(self.t3)
        read_t3(self.t3, named if named.is_file() else path, unsafe)
