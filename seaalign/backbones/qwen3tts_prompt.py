"""How Qwen3-TTS reads: a text channel and a codec channel, added position by position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seaalign.records import Prompt

ROLE = (151644, 77091, 198)
"""<|im_start|>assistant and a line break in the tokenizers of Qwen 2 to 3, which upstream puts before every text."""


class Channels(NamedTuple):
    """The prompt as input embeddings (L, D), and the text (S, D) that goes along with the first S frames."""

    head: Tensor
    along: Tensor


class Reader:
    """Puts the two channels of the real model together, from its own tables.

    Args:
        model: `Qwen3TTSForConditionalGeneration`.
        language: a key of `talker_config.codec_language_id`, or "auto".
        speaker: a key of `talker_config.spk_id`, for prompts without a timbre.
        text_first: is all of the text read before the first frame?
        role: text ids that stand before everything.

    Raises:
        ValueError: a language or speaker that the model does not have, or ids of another tokenizer.

    Source: qwen-tts 0.1.1, `Qwen3TTSForConditionalGeneration.generate` and `generate_icl_prompt`.
    """

    def __init__(
        self, model: Any, language: str, speaker: str | None, text_first: bool, role: Sequence[int] = ROLE
    ) -> None:
        self.talker, self.config, self.text_first, self.role = model.talker, model.config, text_first, list(role)
        self.named = speaker is not None
        codec = self.config.talker_config
        self.tags = [codec.codec_nothink_id, codec.codec_think_bos_id, codec.codec_think_eos_id]
        if language.lower() != "auto":
            code = _known("language", language, codec.codec_language_id)
            self.tags = [codec.codec_think_id, codec.codec_think_bos_id, code, codec.codec_think_eos_id]
        self.speaker = None if speaker is None else _known("speaker", speaker, codec.spk_id)
        rows = self.talker.model.text_embedding.num_embeddings
        strange = [i for i in (*self.role, self.config.tts_eos_token_id) if not 0 <= i < rows]
        if strange:
            raise ValueError(
                f"the model has text ids 0..{rows - 1}, and {strange[0]} is to stand in every prompt: pass role="
            )

    def words(self, ids: Tensor) -> Tensor:
        """Text ids (L,) in the text channel (L, D)."""
        rows = self.talker.model.text_embedding.num_embeddings
        strange = (ids < 0) | (ids >= rows)
        if bool(strange.any()):
            raise ValueError(
                f"the prompt holds text id {int(ids[strange][0])}, and the model has 0..{rows - 1}: another tokenizer"
            )
        return self.talker.text_projection(self.talker.model.text_embedding(ids))  # type: ignore[no-any-return]

    def frames(self, codes: Tensor) -> Tensor:
        """Codes (..., K) in the codec channel (..., D): the sum over the books."""
        first, others = self.talker.model.codec_embedding, self.talker.code_predictor.model.codec_embedding
        x = first(codes[..., 0])
        for book, table in enumerate(others, start=1):
            x = x + table(codes[..., book])
        return x  # type: ignore[no-any-return]

    def answer(self, channels: Channels, row: Tensor) -> Tensor:
        """The frames (T, K) that answer a prompt, with the text beside them (T, D)."""
        rest = self.padding().expand(max(0, len(row) - len(channels.along)), -1)
        return self.frames(row) + torch.cat([channels.along[: len(row)], rest])

    def padding(self) -> Tensor:
        """What the text channel holds where there is no text (D,)."""
        return self.words(torch.tensor([self.config.tts_pad_token_id], device=self._device()))[0]

    def channels(self, prompt: Prompt) -> Channels:
        """Lay a prompt out.

        Raises:
            ValueError: a style without its transcript, text ids or a timbre that do not fit.
        """
        pad, config = self.padding(), self.config.talker_config
        bos, eos = self.words(
            torch.tensor([self.config.tts_bos_token_id, self.config.tts_eos_token_id], device=pad.device)
        )
        speaker = self._speaker(prompt.timbre, pad)
        tags = [
            self._codes(self.tags),
            *([] if speaker is None else [speaker[None]]),
            self._codes([config.codec_pad_id]),
        ]
        tag = torch.cat(tags)
        lead = torch.cat([pad.expand(len(tag) - 1, -1), bos[None]]) + tag
        role = self.words(torch.tensor(self.role, device=pad.device))
        said, style, spoken = prompt.text, prompt.style, self._codes([config.codec_bos_id])
        if style is not None:
            if style.text is None:
                raise ValueError(
                    "Style.text is None, and Qwen3-TTS reads a recording along with its transcript: give the ids of "
                    "what is said in it (tokenize), or leave the style off"
                )
            said, spoken = torch.cat([style.text, said]), torch.cat([spoken, self.frames(style.tokens)])
        text = torch.cat([self.words(said), eos[None]])
        if self.text_first:
            spread = text + self._codes([config.codec_pad_id])
            return Channels(torch.cat([role, lead, spread, spoken + pad]), text[:0])
        beside = torch.cat([text[: len(spoken)], pad.expand(max(0, len(spoken) - len(text)), -1)])
        return Channels(torch.cat([role, lead, beside + spoken]), text[len(spoken) :])

    def _codes(self, ids: list[int]) -> Tensor:
        return self.talker.model.codec_embedding(torch.tensor(ids, device=self._device()))  # type: ignore[no-any-return]

    def _speaker(self, timbre: Any, like: Tensor) -> Tensor | None:
        if timbre is None:
            if self.speaker is None and self.config.tts_model_type == "base":
                raise ValueError(
                    f"a base model needs the speaker's x-vector: Prompt.timbre is a tensor ({len(like)},), got None; "
                    "backbone.timbre(waveform, sample_rate) makes one"
                )
            return None if self.speaker is None else self._codes([self.speaker])[0]
        vector = torch.as_tensor(timbre).to(like) if not isinstance(timbre, dict) else like.new_zeros(0)
        if vector.shape != like.shape:
            found = f"shape {tuple(vector.shape)}" if not isinstance(timbre, dict) else "a dict"
            raise ValueError(
                f"Prompt.timbre is the speaker's x-vector ({len(like)},), got {found}; "
                "backbone.timbre(waveform, sample_rate) makes one"
            )
        return vector

    def _device(self) -> torch.device:
        return self.talker.model.codec_embedding.weight.device  # type: ignore[no-any-return]


def _known(what: str, name: str, table: dict[str, int] | None) -> int:
    found = {key.lower(): value for key, value in (table or {}).items()}
    if name.lower() not in found:
        raise ValueError(f"the model has no {what} {name!r}; it has {', '.join(sorted(found)) or 'none'}")
    return int(found[name.lower()])
