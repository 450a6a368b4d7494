"""CSM (Sesame): K Mimi codebooks a frame; models of several codebooks differ in `frame_score` and `frame_draw`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from seaalign.audio import check, resample
from seaalign.backbones import pretrained
from seaalign.backbones.base import Unsupported, evaluating
from seaalign.backbones.decoder import DecoderOnly
from seaalign.backbones.drawing import Draw
from seaalign.backbones.lora import add_lora
from seaalign.backbones.lora_files import load_adapters, save_adapters
from seaalign.backbones.weights import load_into, read_weights
from seaalign.records import Prompt, Speech


class CSMWithoutCodec(nn.ModuleDict):
    """What learns, under the names that it has in the model."""

    peft_config: Any


class CSM(DecoderOnly):
    """The real `transformers.CsmForConditionalGeneration`, as you have it.

    Speech tokens are Mimi's codes (T, K). A prompt is laid out as in CSM's own chat template, where context comes
    first: [style.text] [style.tokens] [end frame] [text], then the speech. Both texts are ids of
    "<begin of text>[speaker]words<end of text>", as `tokenize` makes them. The style prefix brings the speaker along,
    and Mimi's codes carry the voice: there is no timbre to hold fixed, so DGSA refuses this model and TDSC is the way.

    A frame has log-prob log p(book 0 | backbone) + sum over k of log p(book k | backbone, books 0..k-1). The end is a
    frame too: `codebook_eos_token_id` (0, which is also a code of Mimi) in EVERY book, so the end token's log-prob is
    that of the whole frame, the sum over its K books, as in the loss of `transformers`. A frame that has 0 in book 0
    and something else behind is speech. In the contract the end has an id of its own, one past the codes.

    `sample` never draws ids past Mimi's codes (3 of 2051, which count in every softmax), nor, before `min_len`, a
    frame that begins with the end's id.

    Args:
        model: the model, also with peft's layers, or the folder or hub name of one. Its codec is frozen.
        tokenizer: its tokenizer or processor, or the folder or hub name of one; only `tokenize` needs it.
        score_books: "all", or "first" for the terms of book 0 alone, while all are read and drawn. Then the sum is no
            log-prob of the answer, the end counts by its id in book 0, and the depth decoder gets no gradient.
        lora: arguments of `add_lora`; {} for its defaults; None for none. The codec never gets any.
        gradient_checkpointing: recompute activations in the backward pass.
        dtype: of a model that is loaded here; its codec stays float32, as codes of half precision differ.

    Raises:
        ImportError: a name was given, and transformers (4.52 or later) is not installed.
        TypeError: another class of model.
        ValueError: `score_books` is neither, or an end id that is no code.

    Source: class `CsmForConditionalGeneration` and `generate` of transformers 5.24; the chat template of the converted
    checkpoint; the end rule "all K codes are 0" of Sesame's own generator. (`generate` stops at zeros in books 0..K-2
    whatever the last one holds; its loss and its cut of the audio look at all K, as here.)
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        score_books: Literal["all", "first"] = "all",
        lora: Mapping[str, Any] | None = None,
        gradient_checkpointing: bool = False,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        self.model, self.tokenizer = _loaded(model, tokenizer, dtype)
        config = self.model.config
        self.codebooks, self.context = config.num_codebooks, config.max_position_embeddings
        self.vocab_size = self.eos = min(config.vocab_size, config.codec_config.codebook_size)
        self.end = config.codebook_eos_token_id
        if score_books not in ("all", "first"):
            raise ValueError(f"score_books must be 'all' or 'first', got {score_books!r}")
        if not isinstance(self.end, int) or not 0 <= self.end < self.eos:
            raise ValueError(f"codebook_eos_token_id is {self.end!r}, and the end must be a code 0..{self.eos - 1}")
        self.score_books, self.layout = score_books, f"csm:{score_books}"
        self.sample_rate = config.codec_config.sampling_rate
        self.features = frozenset({"style", "decode", "encode"})
        self.chunk = max(1, 2048 // self.codebooks)  # each frame is K positions of the depth decoder
        self.model.codec_model.requires_grad_(False)
        if gradient_checkpointing:
            pretrained.checkpoint(self.model)
        children = {name: child for name, child in self.model.named_children() if name != "codec_model"}
        self._host = (CSMWithoutCodec(children),)  # in a tuple: these modules are registered already
        if hasattr(self.model, "peft_config"):  # peft has put layers in before
            self._host[0].peft_config = self.model.peft_config
        self.lora_defaults = {"exclude_modules": r"codec_model\..*"}  # for peft, which reads the whole model
        if lora is not None:
            add_lora(self, **lora)
        self.train(self.model.training or gradient_checkpointing or lora is not None)  # it comes in eval mode
        self.model.codec_model.eval()

    @property
    def lora_host(self) -> nn.Module:
        """What LoRA layers go into, and weights."""
        return self._host[0]

    def tokenize(self, text: str, speaker: int = 0) -> list[int]:
        """Text ids, as `Prompt.text` and `Style.text` want them."""
        if self.tokenizer is None:
            raise Unsupported("CSM has no tokenizer: pass CSM(model, tokenizer=...), or text ids of your own")
        own = getattr(self.tokenizer, "tokenizer", self.tokenizer)  # a processor holds one
        words = own(f"[{speaker}]{text}", add_special_tokens=False)["input_ids"]
        return [own.bos_token_id, *words, own.eos_token_id]

    def embed_prompt(self, prompt: Prompt) -> Tensor:
        parts, style = [], prompt.style
        if style is not None:
            if style.text is None:
                raise ValueError("Style.text is None: give the transcript of the recording, which CSM reads before it")
            self._refuse(style.tokens, "Style.tokens")
            frames = nn.functional.pad(style.tokens, (0, 0, 0, 1), value=self.end)
            parts = [self._words(style.text), self.embed_speech(frames[None], 0)[0]]
        return torch.cat([*parts, self._words(prompt.text)])

    def _words(self, ids: Tensor) -> Tensor:
        config, table = self.model.config, self.model.embed_text_tokens
        places = config.audio_token_id, config.audio_eos_token_id
        strange = (ids < 0) | (ids >= table.num_embeddings) | (ids == places[0]) | (ids == places[1])
        if bool(strange.any()):
            raise ValueError(
                f"the prompt holds text id {int(ids[strange][0])}: text ids lie in 0..{table.num_embeddings - 1}, and "
                f"{places[0]} and {places[1]} keep places for audio, which comes as Style.tokens. Check the tokenizer"
            )
        return table(ids)

    def embed_speech(self, tokens: Tensor, start: int) -> Tensor:
        return self.model.backbone_model.embed_tokens(tokens)  # the sum over the books, each with a table of its own

    @property
    def body(self) -> nn.Module:  # type: ignore[override]
        """The Llama backbone."""
        return self.model.backbone_model  # type: ignore[no-any-return]

    def logits(self, features: Tensor) -> Tensor:
        """Scores (..., V) of book 0."""
        return self.model.lm_head(features)

    def frame_score(self, features: Tensor, frames: Tensor) -> Tensor:
        frames = frames.masked_fill(frames == self.eos, self.end)
        score = self.logits(features).float().log_softmax(-1).gather(-1, frames[:, :1]).squeeze(-1)
        if self.score_books == "first":
            return score
        depth = self.model.depth_decoder
        x = torch.cat([features[:, None], self._books(frames[:, :-1])], dim=1)
        # without a mask, transformers 5 fails where there happen to be as many frames as codebooks
        hidden = depth.model(inputs_embeds=x, attention_mask=torch.ones_like(frames), use_cache=False)[0][:, 1:]
        logits = torch.einsum("nkd,kdv->nkv", hidden, depth.codebooks_head.weight)
        return score + logits.float().log_softmax(-1).gather(-1, frames[:, 1:, None]).sum((-1, -2))

    def frame_draw(self, features: Tensor, draw: Draw) -> Tensor:
        logits = self.logits(features)[:, : self.eos]
        # the end's column, which draw() shuts before min_len, is that of the id which begins the end frame
        end = logits[:, self.end, None]
        codes = logits.masked_fill(torch.arange(self.eos, device=logits.device) == self.end, -torch.inf)
        first = draw(torch.cat([codes, end], dim=-1))
        frame = first.masked_fill(first == self.eos, self.end)[:, None]
        depth, x, cache = self.model.depth_decoder, features[:, None], None
        with evaluating(depth):  # checkpointing in train mode would silently drop the cache
            for book in range(1, self.model.config.num_codebooks):
                x = torch.cat([x, self._books(frame)[:, -1:]], dim=1)
                # by position: transformers 5 has another name for the cache
                hidden, cache = depth.model(None, None, None, None, cache, inputs_embeds=x, use_cache=True)[:2]
                logits = hidden[:, -1] @ depth.codebooks_head.weight[book - 1, :, : self.eos]
                frame = torch.cat([frame, draw(logits, book=book)[:, None]], dim=1)
                x = x[:, :0]
        return frame.masked_fill((frame == self.end).all(-1, keepdim=True), self.eos)

    def _books(self, frames: Tensor) -> Tensor:
        """Input embeddings (N, k, D) of the depth decoder for books 0..k-1 (N, k)."""
        first = torch.arange(frames.shape[1], device=frames.device) * self.model.config.vocab_size
        return self.model.depth_decoder.model.embed_tokens(frames + first)

    def _refuse_strange_ids(self, speech: Speech, real: Tensor) -> None:
        for i, row in enumerate(speech.rows()):
            self._refuse(row, f"row {i}")

    def _refuse(self, frames: Tensor, name: str) -> None:
        if frames.dim() != 2 or frames.shape[1] != self.codebooks:
            raise ValueError(f"{name} has shape {tuple(frames.shape)}, not (frames, {self.codebooks}): see encode()")
        outside = (frames < 0) | (frames >= self.eos)
        strange = outside.any(-1) | (frames == self.end).all(-1)
        if not bool(strange.any()):
            return
        at = int(strange.nonzero()[0])
        what = f"the end ({self.end} in every codebook), which is never stored: strip it, Speech.ended says it"
        if bool(outside[at].any()):
            book = int(outside[at].nonzero()[0])
            what = f"id {int(frames[at, book])} in codebook {book}; codes lie in 0..{self.eos - 1}: strip padding"
        raise ValueError(f"{name}, frame {at} holds {what}")

    def decode(self, speech: Speech, timbres: Sequence[Any]) -> list[Tensor]:
        """Waveforms (samples,) at `sample_rate` by Mimi. The voice is in the codes: timbres are not looked at."""
        codec, waves = self.model.codec_model, []
        with evaluating(codec):
            for i, row in enumerate(speech.to(self._device()).rows()):
                self._refuse(row, f"row {i}")
                waves.append(codec.decode(row.T[None]).audio_values[0, 0].float() if len(row) else torch.zeros(0))
        return waves

    def encode(self, waveforms: Sequence[Tensor], sample_rate: int) -> Speech:
        """Mimi's codes (B, T, K) of waveforms (samples,)."""
        codec, rows = self.model.codec_model, []
        with evaluating(codec):
            for i, waveform in enumerate(waveforms):
                check(waveform, f"waveform {i}")
                wave = resample(waveform.float(), sample_rate, self.sample_rate).to(next(codec.parameters()))
                rows.append(codec.encode(wave[None, None], num_quantizers=self.codebooks).audio_codes[0].T)
        return Speech.pack(rows)

    def save(self, path: str | Path, adapters_only: bool = False) -> None:
        """Write a folder that `CsmForConditionalGeneration.from_pretrained` reads, LoRA merged in; or LoRA alone."""
        if adapters_only:
            return save_adapters(self.lora_host, path)
        pretrained.save(self.model, path, self.tokenizer, adapters_only=False)

    def load(self, path: str | Path, unsafe: bool = False) -> None:
        """Load what `save` or `save_pretrained` wrote. The codec stays as it is: the codes are made by this one."""
        if (Path(path) / "adapter_config.json").is_file():
            return load_adapters(self, path, unsafe)
        state = read_weights(path, unsafe)
        load_into(self.lora_host, {name: state[name] for name in state if not name.startswith("codec_model.")}, path)


def _loaded(model: Any, tokenizer: Any, dtype: str) -> tuple[Any, Any]:
    model, tokenizer = (str(one) if isinstance(one, Path) else one for one in (model, tokenizer))
    if isinstance(model, str) or isinstance(tokenizer, str):
        try:
            from transformers import AutoTokenizer, CsmForConditionalGeneration
        except ImportError as error:
            raise ImportError('CSM by name needs transformers 4.52 or later: pip install "seaalign[hf]"') from error
        if isinstance(model, str):
            model, report = pretrained.opened(CsmForConditionalGeneration, model)
            pretrained.refuse_gaps(model, report)
            with pretrained.frequencies_kept(model):
                for name, child in model.named_children():
                    child.to(torch.float32 if name == "codec_model" else getattr(torch, dtype))
        if isinstance(tokenizer, str):
            tokenizer = AutoTokenizer.from_pretrained(tokenizer)
    model = model.get_base_model() if hasattr(model, "get_base_model") else model  # out of peft's wrapper
    if not all(hasattr(model, name) for name in ("backbone_model", "depth_decoder", "codec_model", "lm_head")):
        raise TypeError(f"CSM holds a CsmForConditionalGeneration of transformers, got {type(model).__name__}")
    return model, tokenizer
