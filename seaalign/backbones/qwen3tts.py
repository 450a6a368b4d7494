"""Qwen3-TTS: a talker for text and the first codebook, and a code predictor for the other fifteen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from seaalign.backbones import qwen3tts_parts as parts
from seaalign.backbones.decoder import DecoderOnly
from seaalign.backbones.drawing import Draw
from seaalign.backbones.lora import add_lora
from seaalign.backbones.lora_files import load_adapters, save_adapters
from seaalign.backbones.pretrained import checkpoint as checkpoint_activations
from seaalign.backbones.qwen3tts_prompt import ROLE, Channels, Reader
from seaalign.records import Prompt, Speech
from seaalign.storage.columns import whole_folder

_SPECIAL = 1024  # ids at the end of the talker's vocabulary that are no codes; upstream suppresses all but the end


class _Reading(NamedTuple):
    state: Any  # of the talker
    along: Tensor  # (B, S + 1, D): the text that goes along with the frames, and what follows it


class Qwen3TTS(DecoderOnly):
    """The real `Qwen3TTSForConditionalGeneration` of the package qwen-tts, as you have it.

    Speech tokens are codes (T, 16). Text and codes share positions: the two channels are added. Style on is upstream's
    in-context mode, the transcript of the style recording before the text and its codes before the speech; style off is
    `x_vector_only_mode`. The timbre is the speaker's x-vector, the same in both modes; the talker reads it, so scores
    depend on the voice. The codec gets no speaker: what is heard is in the codes (`with_converter` can fix it).

    A frame has log-prob log p(book 0 | talker) + sum over k of log p(book k | predictor, books 0..k-1); the end has the
    term of book 0 alone. Book 0 is a distribution over the codes and the end, as upstream draws it: the talker's other
    1023 special ids are left out. `sample` draws all books at one temperature and nucleus. Upstream's defaults (top-k
    50, temperature 0.9, repetition penalty 1.05, at least two frames) are another sampler.

    Trained are talker and code predictor; the speaker encoder is frozen, and the codec is no part of `parameters()`.

    Args:
        model: the model, or the `Qwen3TTSModel` around it, which adds `tokenize`; or the folder or hub name of one.
        checkpoint: weights to read first; see `load`.
        language: as upstream's: "auto", or one that the model knows. For another one "auto" is right.
        speaker: name of a speaker of a custom-voice model, for prompts without a timbre.
        text_first: is the text read before the first frame (upstream's `non_streaming_mode=True`), or along with the
            frames? Default: as upstream does by default, along with them for base models, first for others.
        score_books: "all", or "first" for the terms of book 0 alone (all are read and drawn). That is a smaller
            objective and no log-prob of the answer: the predictor gets a gradient through its embeddings only.
        role: text ids before everything; the default is that of every released model.
        lora: arguments of `add_lora`; {} for its defaults; None for none.
        gradient_checkpointing: recompute activations in the backward pass.
        dtype: of a model that is loaded here.

    Raises:
        ImportError: a name was given, and qwen-tts is not installed.
        TypeError: another class of model.
        ValueError: a language, a speaker or books that do not exist.

    Source: qwen-tts 0.1.1 (transformers 4.57.3), `generate` and `forward_sub_talker_finetune`.

    Example:
        >>> # backbone = Qwen3TTS(Qwen3TTSModel.from_pretrained("Qwen/Qwen3-TTS-12Hz-0.6B-Base"))
        >>> # prompt = Prompt(backbone.tokenize("Hello."), timbre=backbone.timbre(wave, rate))
    """

    def __init__(
        self,
        model: Any,
        checkpoint: str | None = None,
        language: str = "auto",
        speaker: str | None = None,
        text_first: bool | None = None,
        score_books: Literal["all", "first"] = "all",
        role: Sequence[int] = ROLE,
        lora: Mapping[str, Any] | None = None,
        gradient_checkpointing: bool = False,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        whole = parts.open_model(str(model), dtype) if isinstance(model, str | Path) else model
        self.processor, self.model = getattr(whole, "processor", None), getattr(whole, "model", whole)
        if not all(hasattr(self.model, name) for name in ("talker", "speaker_encoder", "generate_icl_prompt")):
            raise TypeError(f"Qwen3TTS holds a model of qwen-tts for generation, got {type(whole).__name__}")
        if score_books not in ("all", "first"):
            raise ValueError(f"score_books must be 'all' or 'first', got {score_books!r}")
        config, base = self.model.config.talker_config, self.model.config.tts_model_type == "base"
        self.codebooks, self.context = config.num_code_groups, config.max_position_embeddings
        self.vocab_size = self.eos = config.vocab_size - _SPECIAL  # here the end comes right after the codes
        self.score_books, first = score_books, not base if text_first is None else text_first
        self.reader = Reader(self.model, language, speaker, first, role)
        order = f"{'first' if first else 'along'} {score_books} role {list(role)}"
        self.layout = f"qwen3-tts {language.lower()} {speaker or ''} text {order}"
        offered = (("style", "timbre") if base else ()) + (("decode", "encode") if self.model.speech_tokenizer else ())
        self.features = frozenset(offered)
        self.chunk = max(1, 2048 // self.codebooks)  # each frame is K positions of the predictor
        if self.model.speaker_encoder is not None:
            self.model.speaker_encoder.requires_grad_(False)
        if checkpoint is not None:
            self.load(checkpoint)
        if gradient_checkpointing:
            checkpoint_activations(self.model.talker)
        if lora is not None:
            add_lora(self, **lora)
        # what is loaded comes in eval mode, in which nothing would be checkpointed
        self.train(self.model.training or gradient_checkpointing or lora is not None)

    @property
    def lora_host(self) -> nn.Module:
        """The talker with its code predictor; `peft.PeftModel.from_pretrained(model.talker, folder)` reads adapters."""
        return self.model.talker  # type: ignore[no-any-return]

    @property
    def body(self) -> Any:  # type: ignore[override]
        """The transformer of the talker."""
        return self.model.talker.model

    @property
    def sample_rate(self) -> int | None:
        """Of what `decode` returns, Hz."""
        codec = self.model.speech_tokenizer
        return None if codec is None else int(codec.get_output_sample_rate())

    # -- the sequence --------------------------------------------------------------------------------------------------

    def embed_prompt(self, prompt: Prompt) -> Tensor:
        return self._channels(prompt).head

    def embed_speech(self, tokens: Tensor, start: int) -> Tensor:
        return tokens  # `extend` has embedded them, with the text beside them

    def pieces(self, prompts: Sequence[Prompt], speech: Speech) -> tuple[list[Tensor], list[Tensor]]:
        laid = [self._channels(prompt) for prompt in prompts]
        rows = zip(speech.prompt.tolist(), speech.rows(), strict=True)
        return [channels.head for channels in laid], [self.reader.answer(laid[p], row) for p, row in rows]

    def prefill(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Any]:
        laid, pad = [self._channels(prompt) for prompt in prompts], self.reader.padding()
        feature, state = self.read([channels.head for channels in laid])
        size = max(len(channels.along) for channels in laid) + 1
        along = [torch.cat([text, pad.expand(size - len(text), -1)]) for _, text in laid]
        return feature, _Reading(state, torch.stack(along))

    def extend(self, state: Any, tokens: Tensor) -> tuple[Tensor, Any]:
        step = torch.arange(state.state.step, state.state.step + tokens.shape[1], device=tokens.device)
        beside = state.along[:, step.clamp_max(state.along.shape[1] - 1)]
        features, inner = super().extend(state.state, self.reader.frames(tokens) + beside)
        return features, _Reading(inner, state.along)

    def select(self, state: Any, rows: Tensor) -> Any:
        return _Reading(super().select(state.state, rows), state.along.index_select(0, rows))

    def room(self, state: Any) -> Tensor | None:
        return super().room(state.state)

    # -- the books -----------------------------------------------------------------------------------------------------

    def logits(self, features: Tensor) -> Tensor:
        """Scores (..., V + 1) of book 0: the codes and the end."""
        scores, end = self.model.talker.codec_head(features), self.model.config.talker_config.codec_eos_token_id
        return torch.cat([scores[..., : self.eos], scores[..., end, None]], dim=-1)

    def frame_score(self, features: Tensor, frames: Tensor) -> Tensor:
        score = self.logits(features).float().log_softmax(-1).gather(-1, frames[:, :1]).squeeze(-1)
        if self.score_books == "first":
            return score
        ended = frames[:, :1] == self.eos
        codes, predictor = frames.masked_fill(ended, 0), self.model.talker.code_predictor
        tables = [self.body.codec_embedding, *predictor.model.codec_embedding[:-1]]
        books = [table(codes[:, k]) for k, table in enumerate(tables)]
        x = predictor.small_to_mtp_projection(torch.stack([features, *books], dim=1))
        hidden = predictor.model(inputs_embeds=x, use_cache=False).last_hidden_state
        for book, head in enumerate(predictor.lm_head, start=1):
            term = head(hidden[:, book]).float().log_softmax(-1).gather(-1, codes[:, book, None])
            score = score + term.masked_fill(ended, 0.0).squeeze(-1)
        return score

    def frame_draw(self, features: Tensor, draw: Draw) -> Tensor:
        frame, predictor = [draw(self.logits(features))], self.model.talker.code_predictor
        first = self.body.codec_embedding(frame[0].masked_fill(frame[0] == self.eos, 0))
        x, cache = torch.stack([features, first], dim=1), None
        for book, (head, table) in enumerate(zip(predictor.lm_head, predictor.model.codec_embedding, strict=True), 1):
            x = predictor.small_to_mtp_projection(x)
            output = predictor.model(inputs_embeds=x, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            frame.append(draw(head(output.last_hidden_state[:, -1]), book=book))
            x = table(frame[-1])[:, None]
        return torch.stack(frame, dim=-1)

    # -- what surrounds them -------------------------------------------------------------------------------------------

    def _channels(self, prompt: Prompt) -> Channels:
        if prompt.style is not None:
            frames = prompt.style.tokens[None]
            every = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
            self._check(frames, every, "the style's frame {1}")
        return self.reader.channels(prompt)

    def _refuse_strange_ids(self, speech: Speech, real: Tensor) -> None:
        self._check(speech.tokens, real, "row {0}, frame {1}")

    def _check(self, tokens: Tensor, real: Tensor, place: str) -> None:
        others = [table.num_embeddings for table in self.model.talker.code_predictor.model.codec_embedding]
        parts.check_codes(tokens, real, [self.eos, *others], place)

    def tokenize(self, text: str) -> list[int]:
        """Text ids, as `Prompt.text` and `Style.text` want them."""
        return parts.text_ids(self.processor, text, self.reader.role)

    def timbre(self, waveform: Tensor, sample_rate: int) -> Tensor:
        """The x-vector (D,) of a recording (samples,), by the model's own speaker encoder; on the CPU."""
        return parts.x_vector(self.model, waveform, sample_rate)

    def decode(self, speech: Speech, timbres: Sequence[Any]) -> list[Tensor]:
        """Waveforms (samples,) by the codec. The voice is in the codes: timbres are not looked at."""
        codec = parts.codec_of(self.model, "decode()")
        return [parts.spoken(codec, row) for row in speech.rows()]

    def encode(self, waveforms: Sequence[Tensor], sample_rate: int) -> Speech:
        """Codes (B, T, K) of waveforms (samples,), 12.5 frames a second, by the codec."""
        codec = parts.codec_of(self.model, "encode()")
        return Speech.pack([parts.heard(codec, waveform, sample_rate) for waveform in waveforms])

    def save(self, path: str | Path, adapters_only: bool = False) -> None:
        """Write a folder that `Qwen3TTSModel.from_pretrained` reads, LoRA merged in; or the LoRA layers alone."""
        if adapters_only:
            return save_adapters(self.lora_host, path)
        with whole_folder(path) as draft:
            parts.write_folder(self.model, self.processor, draft)

    def load(self, path: str | Path, unsafe: bool = False) -> None:
        """Load a folder or file of weights, also of upstream's fine-tuning, or a folder of LoRA layers."""
        if (Path(path) / "adapter_config.json").is_file():
            return load_adapters(self, path, unsafe)
        parts.read_folder(self.model, path, unsafe)
