"""CosyVoice 2 and 3: the language models that the user's checkout builds, and around them flow, vocoder, frontend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seaalign.backbones.base import Engine, Unsupported
from seaalign.backbones.context import by_row
from seaalign.backbones.cosyvoice_parts import likely_cause, parts_of, served_weights, version_of, write_weights
from seaalign.backbones.cosyvoice_prompt import Unistream
from seaalign.backbones.cosyvoice_sound import check_timbre, open_folder
from seaalign.backbones.decoder import DecoderOnly, look_up
from seaalign.backbones.lora import add_lora
from seaalign.backbones.lora_files import load_adapters, save_adapters
from seaalign.backbones.pretrained import checkpoint as checkpoint_activations
from seaalign.backbones.weights import load_into, read_weights
from seaalign.records import Prompt, Speech


class CosyVoice(DecoderOnly):
    """CosyVoice 2 or 3, as your checkout builds it: nothing is converted or subclassed.

    The sequence is upstream's unistream layout [sos, text, task_id, speech], always: the 5:15 interleaving that its
    training draws at random would make policy and reference see different sequences. Style on puts the transcript of
    the style recording before the text and its speech tokens after task_id; style off has neither. The timbre is what
    flow and vocoder get, {"token": (Tp,), "feat": (2 Tp, 80), "embedding": (192,)}; it is the same in both modes and
    never enters the language model.

    CosyVoice 3 reads an instruction first, the ids up to and including `<|endofprompt|>`. It is taken from the text, or
    else from the transcript of the style, or else from `instruct`, and put in front, where it stood in training;
    without one there is an error. In CosyVoice 2 `instruct` merely stands before all text.

    `sampler` is plain nucleus sampling and the least length 0. Upstream's repetition-aware sampling forbids what was
    said among the last ten tokens, and its floor is two speech tokens per text token: what is measured on candidates
    (repetition, entropy, length) would be the sampler and not the model.

    Trained are the Qwen2 body with its text embedding, `speech_embedding`, `llm_decoder` and, in CosyVoice 2,
    `llm_embedding`. The text head takes no part and is never run; where it is not tied to the embedding, it is frozen.
    Flow and vocoder are no part of `parameters()` or `state_dict()`.

    Args:
        model: `cosyvoice.llm.llm.Qwen2LM` or `CosyVoice3LM`; or the whole `CosyVoice2` or `CosyVoice3` object, which
            adds `decode`, `encode`, `timbre` and `tokenize`; or the folder of a model (with cosyvoice2.yaml or
            cosyvoice3.yaml), built by the checkout on PYTHONPATH.
        checkpoint: weights to read first, for instance the `llm.pt` of a fine-tune; see `load`.
        instruct: text ids, or text where there is a tokenizer, put before every text; for CosyVoice 3 it ends with
            `<|endofprompt|>`, as in `"You are a helpful assistant.<|endofprompt|>"`.
        tokenizer: what `cosyvoice.tokenizer.tokenizer.get_qwen_tokenizer` gives; default: that of the whole object.
        text_frontend: `tokenize` normalises as upstream's inference does, which spells digits out in English outside
            Chinese; False: not at all, as in upstream's training.
        engine: samples in the place of the built-in loop, for instance `VLLM`.
        lora: arguments of `add_lora`; {} for its defaults; None for none.
        gradient_checkpointing: recompute activations in the backward pass.

    Raises:
        TypeError: none of the objects above.
        ValueError: model and tokenizer do not belong together, or the layers were given away to vLLM.

    Example:
        >>> # backbone = CosyVoice("pretrained_models/CosyVoice2-0.5B", checkpoint="exp/thai/llm.pt")
        >>> # backbone = CosyVoice(cosyvoice2)            # the object your inference code already has
    """

    def __init__(
        self,
        model: Any,
        checkpoint: str | None = None,
        instruct: Sequence[int] | str | None = None,
        tokenizer: Any = None,
        text_frontend: bool = True,
        engine: Engine | None = None,
        lora: Mapping[str, Any] | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        whole = open_folder(model) if isinstance(model, str | Path) else model
        self.lm, self.sound = parts_of(whole)
        self.engine, self.text_frontend = engine, text_frontend
        frontend = self.sound.frontend if self.sound else None
        size, head = int(self.lm.speech_token_size), self.lm.llm_decoder.out_features
        self.vocab_size, self.eos = size, int(getattr(self.lm, "eos_token", size))  # unnamed before CosyVoice 3
        self.banned = tuple(i for i in range(size, head) if i != self.eos)
        self.context = int(self.body.config.max_position_embeddings)
        self.unistream = Unistream(
            version_of(self.lm),
            rows=len(self.body.embed_tokens.weight),
            codes=size,
            context=self.context,
            tokenizer=getattr(frontend, "tokenizer", None) if tokenizer is None else tokenizer,
            instruct=instruct,
            allowed_special=getattr(frontend, "allowed_special", "all"),
        )
        self.layout = str(self.unistream)
        self.features = frozenset({"style", "timbre"} | (self.sound.features if self.sound else set()))
        if self.lm.llm.model.lm_head.weight is not self.body.embed_tokens.weight:
            self.lm.llm.model.lm_head.requires_grad_(False)
        if checkpoint is not None:
            self.load(checkpoint)
        self._ready(lora, gradient_checkpointing)

    def _ready(self, lora: Mapping[str, Any] | None, gradient_checkpointing: bool) -> None:
        if gradient_checkpointing:
            checkpoint_activations(self.body)
        if lora is not None:
            add_lora(self, **lora)
        # what upstream builds comes in eval mode, where neither checkpointing nor dropout is at work
        self.train(self.body.training or gradient_checkpointing or lora is not None)

    @property
    def body(self) -> Any:  # type: ignore[override]
        """The Qwen2 transformer, without the text head, which would cost more than the speech head."""
        return self.lm.llm.model.model

    @property
    def lora_host(self) -> nn.Module:
        """The Qwen2 language model: files of adapters get the names that peft and vLLM know for it."""
        return self.lm.llm.model

    @property
    def sampler(self) -> str:  # type: ignore[override]
        """Of the engine, or the built-in one."""
        return "nucleus" if self.engine is None else self.engine.sampler

    @property
    def sample_rate(self) -> int | None:
        """Of what `decode` returns, Hz."""
        return None if self.sound is None else self.sound.sample_rate

    def embed_prompt(self, prompt: Prompt) -> Tensor:
        return self.pieces([prompt], Speech.pack([]))[0][0]

    def embed_speech(self, tokens: Tensor, start: int) -> Tensor:
        return self.lm.speech_embedding(tokens)

    def pieces(self, prompts: Sequence[Prompt], speech: Speech) -> tuple[list[Tensor], list[Tensor]]:
        lm, laid = self.lm, by_row(self.unistream, prompts)
        marks = (lm.llm_embedding if self.unistream.version == 2 else lm.speech_embedding).weight
        sos, task = int(getattr(lm, "sos", 0)), int(lm.task_id)  # checkouts before CosyVoice 3 call the first sos_eos
        begin, turn = marks[[sos, task]].split(1)
        said = look_up(self.body.embed_tokens, [text for text, _ in laid])
        spoken = look_up(lm.speech_embedding, [*(style for _, style in laid), *speech.rows()])
        heads = [torch.cat([begin, text, turn, style]) for text, style in zip(said, spoken, strict=False)]
        return heads, spoken[len(heads) :]

    def logits(self, features: Tensor) -> Tensor:
        return self.lm.llm_decoder(features)

    def linear_head(self) -> tuple[Tensor, Tensor | None] | None:
        head = self.lm.llm_decoder
        # peft may have wrapped it, and whoever changes what it does must be heard
        changed = head._forward_hooks or head._forward_pre_hooks or "forward" in vars(head)
        return (head.weight, head.bias) if type(head) is nn.Linear and not changed else None

    def tokenize(self, text: str) -> list[int]:
        """Text ids, as upstream's inference makes them of one sentence (`text_frontend`).

        Raises:
            Unsupported: neither the whole object nor a tokenizer was given.
        """
        frontend = self.sound.frontend if self.sound else None
        if frontend is not None and self.text_frontend:
            text = frontend.text_normalize(text, split=False, text_frontend=True)
        return self.unistream.encode(text)

    def decode(self, speech: Speech, timbres: Sequence[Any]) -> list[Tensor]:
        """Waveforms (samples,) on the CPU or the device of flow and vocoder; a timbre is what `timbre` makes.

        One row at a time, as upstream asserts. What the flow is given does not depend on the style.

        Raises:
            Unsupported: the language model alone was given.
            ValueError: a timbre lacks a part, or its parts do not fit each other.
        """
        if self.sound is None:
            return super().decode(speech, timbres)
        real = torch.arange(speech.tokens.shape[1], device=speech.lengths.device) < speech.lengths[:, None]
        self._refuse_strange_ids(speech, real)
        known = [check_timbre(timbre, row) for row, timbre in enumerate(timbres)]
        return [self.sound.speak(row, timbre) for row, timbre in zip(speech.rows(), known, strict=True)]

    def encode(self, waveforms: Sequence[Tensor], sample_rate: int) -> Speech:
        """Speech tokens of waveforms (samples,), by upstream's speech tokenizer: 30 s at most, 16 kHz or more."""
        if self.sound is None:
            return super().encode(waveforms, sample_rate)
        return Speech.pack([self.sound.tokens(waveform, sample_rate) for waveform in waveforms])

    def timbre(self, waveform: Tensor, sample_rate: int) -> dict[str, Tensor]:
        """The timbre of a recording (samples,), by upstream's extractors; on the CPU.

        Returns:
            `token` (Tp,), `feat` (2 Tp, 80), `embedding` (192,). Token and mel carry its room and microphone as well.

        Raises:
            Unsupported: the language model alone was given.
        """
        if self.sound is None:
            raise Unsupported("timbre() needs CosyVoice's frontend: pass the whole CosyVoice2 or CosyVoice3 object")
        return self.sound.timbre(waveform, sample_rate)

    def served_prompt(self, prompt: Prompt) -> dict[str, Tensor]:
        """The prompt for an engine: `prompt_embeds` (L, D)."""
        with torch.no_grad():
            return {"prompt_embeds": self.embed_prompt(prompt.to(self._device()))}

    def served_ids(self) -> tuple[list[int], int]:
        """The engine's ids of the speech codes and of the end; the other ids of its vocabulary are never drawn."""
        return list(range(self.vocab_size or 0)), self.eos

    def served_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Weights under the names of the checkpoint that upstream exports for vLLM; LoRA merged in."""
        return served_weights(self.lm)

    def save(self, path: str | Path, adapters_only: bool = False) -> None:
        """Write upstream's `llm.pt`, whole or not at all: inference and training of the checkout load it as it is.

        Args:
            path: the file, or a folder for `llm.pt` in it; with `adapters_only` a folder.
            adapters_only: LoRA layers alone, as peft writes them, for `llm.model`; otherwise they are merged in.
        """
        if adapters_only:
            save_adapters(self.lora_host, path)
        else:
            write_weights(self.lm, Path(path))

    def load(self, path: str | Path, unsafe: bool = False) -> None:
        """Read an `llm.pt`, also one with the `epoch` and `step` of training, a model folder, or a folder of adapters.

        Raises:
            ValueError: it does not fit; the message names a tensor, both sizes and the likely cause.
        """
        path = Path(path)
        if (path / "adapter_config.json").is_file():
            return load_adapters(self, path, unsafe)
        path = path / "llm.pt" if (path / "llm.pt").is_file() else path
        state = read_weights(path, unsafe)
        load_into(self.lm, state, path, likely_cause(self.lm, state))
