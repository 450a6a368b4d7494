"""What a prompt of CosyVoice is to its language model: text ids and style tokens, in their order, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seaalign.backbones.base import Unsupported
from seaalign.backbones.context import TooLong
from seaalign.records import Prompt

_MARK = "<|endofprompt|>"
_MARK_ID = 151646  # of the tokenizers that upstream ships; its inference asks for this number


class Unistream:
    """The unistream layout [sos, text, task_id, style tokens]: which text ids and style tokens stand in it.

    Args:
        version: of CosyVoice, 2 or 3.
        rows: of the text embedding.
        codes: number of speech-token ids.
        context: positions that the model reads.
        tokenizer: with `encode(text, allowed_special)`, or None.
        instruct: ids or text put before every text, or None.
        allowed_special: of the frontend.

    Raises:
        ValueError: the tokenizer is not one of CosyVoice 3, or the instruction does not end as it has to there.
    """

    def __init__(
        self,
        version: int,
        rows: int,
        codes: int,
        context: int,
        tokenizer: Any = None,
        instruct: Sequence[int] | str | None = None,
        allowed_special: Any = "all",
    ) -> None:
        self.version, self.rows, self.codes, self.context = version, rows, codes, context
        self.tokenizer, self.allowed_special = tokenizer, allowed_special
        self.mark = self._mark()
        self.instruct = torch.tensor(
            self.encode(instruct) if isinstance(instruct, str) else list(instruct or ())
        ).long()
        last = int(self.instruct[-1]) if len(self.instruct) else self.mark
        if version == 3 and last != self.mark:
            raise ValueError(f"instruct ends with id {last}: for CosyVoice 3 it has to end with {_MARK} ({self.mark})")

    def __str__(self) -> str:
        return f"cosyvoice{self.version} unistream" + "".join(f" {i}" for i in self.instruct.tolist())

    def __call__(self, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """Text ids (L,) and style tokens (Ts,) of a prompt.

        Raises:
            ValueError: the model cannot read them; the message names what and why.
        """
        text, style = self._text(prompt), self._style(prompt)
        length = 2 + len(text) + len(style)
        if length > self.context:
            raise TooLong(
                f"a prompt with {len(text)} text ids and {len(style)} style tokens takes {length} positions, and the "
                f"model reads {self.context} (max_position_embeddings): shorten it, or drop the row"
            )
        return text, style

    def encode(self, text: str) -> list[int]:
        """Text ids of a text, as it is."""
        if self.tokenizer is None:
            raise Unsupported("text needs a tokenizer: pass tokenizer=get_qwen_tokenizer(...), or the whole object")
        return [int(i) for i in self.tokenizer.encode(text, allowed_special=self.allowed_special)]

    def _mark(self) -> int:
        if self.version == 2 or self.tokenizer is None:
            return _MARK_ID
        ids = self.encode(_MARK)
        if len(ids) != 1:
            raise ValueError(
                f"the tokenizer cuts {_MARK} into {len(ids)} ids {ids}, and for CosyVoice 3 it is one: use "
                'get_qwen_tokenizer(token_path=..., skip_special_tokens=True, version="cosyvoice3") of the checkout'
            )
        return ids[0]

    def _text(self, prompt: Prompt) -> Tensor:
        texts = [prompt.text]
        if prompt.style is not None:
            if prompt.style.text is None:
                raise ValueError(
                    "Style.text is None: a style of CosyVoice is the speech tokens of a recording and its transcript. "
                    "Give Style(tokens, text=backbone.tokenize(transcript)), or use the prompt without style (plain())"
                )
            texts.insert(0, prompt.style.text)
        instruct = self.instruct.to(prompt.text.device)
        text = instruction_first(texts, self.mark, instruct) if self.version == 3 else torch.cat([instruct, *texts])
        low, high = int(text.min()), int(text.max())
        if low < 0 or high >= self.rows:
            raise ValueError(
                f"the prompt holds text id {low if low < 0 else high}, and the text embedding has {self.rows} rows: a "
                "tokenizer that does not match; use the one of this model (backbone.tokenize)"
            )
        return text

    def _style(self, prompt: Prompt) -> Tensor:
        tokens = prompt.text[:0] if prompt.style is None else prompt.style.tokens
        low, high = (int(tokens.min()), int(tokens.max())) if tokens.numel() else (0, 0)
        if tokens.dim() != 1 or low < 0 or high >= self.codes:
            raise ValueError(
                f"Style.tokens of shape {tuple(tokens.shape)} hold ids {low}..{high}: speech tokens of CosyVoice are "
                f"(Ts,), in 0..{self.codes - 1}; make them with backbone.encode"
            )
        return tokens


def instruction_first(texts: Sequence[Tensor], mark: int, given: Tensor) -> Tensor:
    """Text ids of CosyVoice 3: the instruction up to its mark, then the texts without theirs.

    Args:
        texts: transcript of the style, if there is one, and the text.
        mark: id of <|endofprompt|>.
        given: the instruction where none of the texts holds one; may be empty.

    Raises:
        ValueError: there is no instruction, or nothing to say after it.

    Example:
        >>> texts = [torch.tensor([7, 9, 1, 2]), torch.tensor([3, 4])]  # 9 is the mark
        >>> instruction_first(texts, 9, torch.tensor([5, 9])).tolist()
        [7, 9, 1, 2, 3, 4]
    """
    found = [(text == mark).nonzero().flatten().tolist() for text in texts]
    cuts = [place[0] + 1 if place else 0 for place in found]
    own = [text[:cut] for text, cut in zip(texts, cuts, strict=True) if cut]
    if not own and not len(given):
        raise ValueError(
            f"the text holds no {_MARK} (id {mark}), which CosyVoice 3 asks for: an instruction goes before the text. "
            f'Pass instruct="You are a helpful assistant.{_MARK}" (or its ids) to the backbone, or begin the text so'
        )
    if cuts[-1] == len(texts[-1]):
        raise ValueError(f"the text ends with {_MARK} (id {mark}): an instruction, and nothing to say after it")
    return torch.cat([own[-1] if own else given, *(text[cut:] for text, cut in zip(texts, cuts, strict=True))])
