"""What a backbone is called with: prompts in, speech tokens out."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils import _pytree

Ids: TypeAlias = Tensor | Sequence[Any]
"""Integer ids: a tensor, or what `torch.as_tensor` makes one of."""


def set_fields(record: Any, **values: Any) -> None:
    """Fill a record while it is being built."""
    for name, value in values.items():
        object.__setattr__(record, name, value)  # the records are frozen once they are built


def token_ids(value: Any, name: str, dims: tuple[int, ...]) -> Tensor:
    """Integer ids as int64, or an error that names what is wrong."""
    tensor = value if isinstance(value, Tensor) else _tensor(value, name)
    if tensor.numel() == 0:
        tensor = tensor.long()
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{name} must hold integer ids, got {tensor.dtype}; run the tokenizer first")
    if tensor.dim() == 0:
        raise ValueError(f"{name} must be a list of ids, got the single number {tensor}: give [{tensor}]")
    if tensor.dim() not in dims:
        raise ValueError(
            f"{name} must have {' or '.join(map(str, dims))} dimension(s), got shape {tuple(tensor.shape)}"
        )
    return tensor.long()


def _tensor(value: Any, name: str) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        needs = "text ids: tokenise first (backbone.tokenize)" if name.endswith(".text") else "integer ids"
        raise TypeError(f"{name} needs {needs}, got {reprlib.repr(value)}: {error}") from error


@dataclass(frozen=True, eq=False, init=False)
class Style:
    """The style prefix z_style: speech tokens of a reference recording and, where known, its transcript.

    Args:
        tokens: prompt speech tokens (Ts,), or (Ts, K) with K codebooks.
        text: text ids of the reference recording (Ls,), or None.

    Example:
        >>> Style(tokens=[4, 4, 9], text=[1, 2]).tokens.shape
        torch.Size([3])
    """

    tokens: Tensor
    text: Tensor | None = None

    def __init__(self, tokens: Ids, text: Ids | None = None) -> None:
        words = None if text is None else token_ids(text, "Style.text", (1,))
        set_fields(self, tokens=token_ids(tokens, "Style.tokens", (1, 2)), text=words)

    def to(self, device: Any) -> Style:
        return Style(self.tokens.to(device), None if self.text is None else self.text.to(device))


@dataclass(frozen=True, eq=False, init=False)
class Prompt:
    """What the model is asked to say, in which style and with whose voice.

    Args:
        text: text ids (L,); must not be empty.
        style: the style prefix for the language model (prosody), or None = style off.
        timbre: what the decoder needs to know of the speaker: a tensor, or any nest of dicts and lists of tensors.

    Raises:
        TypeError: the text is no integer ids, or the style no `Style`.
        ValueError: the text is empty or not one-dimensional.

    Example:
        >>> prompt = Prompt([5, 6], style=Style([1, 2, 3]), timbre=torch.zeros(4))
        >>> prompt.plain().style is None, prompt.plain().timbre is prompt.timbre
        (True, True)
    """

    text: Tensor
    style: Style | None = None
    timbre: Any = None

    def __init__(self, text: Ids, style: Style | None = None, timbre: Any = None) -> None:
        if style is not None and not isinstance(style, Style):
            raise TypeError(f"Prompt.style must be a Style or None, got {type(style).__name__}: give Style(tokens)")
        set_fields(self, text=token_ids(text, "Prompt.text", (1,)), style=style, timbre=timbre)
        if not len(self.text):
            raise ValueError("Prompt.text is empty: there is nothing to say; drop the row, or check the tokenizer")

    def plain(self) -> Prompt:
        """The same prompt with the style prefix off and the timbre kept (eq. 7)."""
        return replace(self, style=None)

    def to(self, device: Any) -> Prompt:
        timbre = _pytree.tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, self.timbre)
        return Prompt(self.text.to(device), self.style and self.style.to(device), timbre)


@dataclass(frozen=True, eq=False, init=False)
class Speech:
    """A batch of speech-token rows; the end token is never stored.

    Args:
        tokens: (B, T), or (B, T, K) with K codebooks; what lies beyond `lengths` is padding and never looked at.
        lengths: number of real frames per row (B,).
        ended: (B,) bool, False where sampling was cut at `max_len`: then no end-token term is scored. Default: all
            True.
        prompt: (B,) which prompt of the list the row answers; several rows may share one. Default: row b answers
            prompt b.

    Raises:
        ValueError: shapes disagree or a length is outside 0..T.

    Example:
        >>> speech = Speech.pack([[7, 8, 9], [7]], ended=[True, False])
        >>> speech.scored.int().tolist()     # three tokens + end; one token, cut
        [[1, 1, 1, 1], [1, 0, 0, 0]]
    """

    tokens: Tensor
    lengths: Tensor
    ended: Tensor
    prompt: Tensor

    def __init__(self, tokens: Ids, lengths: Ids, ended: Any = None, prompt: Any = None) -> None:
        tokens = token_ids(tokens, "Speech.tokens", (2, 3))
        rows, device = len(tokens), tokens.device
        lengths = torch.as_tensor(lengths, device=device).long()
        ended = torch.ones(rows) if ended is None else torch.as_tensor(ended)
        prompt = torch.arange(rows) if prompt is None else torch.as_tensor(prompt)
        for name, value in (("lengths", lengths), ("ended", ended), ("prompt", prompt)):
            if value.shape != (rows,):
                raise ValueError(f"Speech.{name} must have shape ({rows},) like the rows, got {tuple(value.shape)}")
        if rows and (int(lengths.min()) < 0 or int(lengths.max()) > tokens.shape[1]):
            raise ValueError(f"Speech.lengths must lie in 0..{tokens.shape[1]} (T), got {lengths.tolist()}")
        if rows and int(prompt.min()) < 0:  # a list would silently count from its end
            raise ValueError(f"Speech.prompt must hold indices >= 0 into the list of prompts, got {prompt.tolist()}")
        set_fields(
            self, tokens=tokens, lengths=lengths, ended=ended.to(device, torch.bool), prompt=prompt.to(device).long()
        )

    @classmethod
    def pack(cls, rows: Sequence[Any], ended: Any = None, prompt: Any = None) -> Speech:
        """Pad a list of token rows, each (T_b,) or (T_b, K), into one batch."""
        tensors = [token_ids(row, f"row {i}", (1, 2)) for i, row in enumerate(rows)]
        if not tensors:
            return cls(torch.zeros(0, 0, dtype=torch.long), torch.zeros(0, dtype=torch.long), ended, prompt)
        lengths = torch.tensor([len(row) for row in tensors], device=tensors[0].device)
        return cls(pad_sequence(tensors, batch_first=True), lengths, ended, prompt)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def scored(self) -> Tensor:
        """(B, T+1) bool: the columns that carry a log-prob: the real tokens, and the end token where the row ended."""
        column = torch.arange(self.tokens.shape[1] + 1, device=self.lengths.device)
        return column < (self.lengths + self.ended.long())[:, None]

    def rows(self) -> list[Tensor]:
        """The token rows without padding: B tensors (T_b,) or (T_b, K)."""
        return [row[:length] for row, length in zip(self.tokens, self.lengths.tolist(), strict=True)]

    def select(self, index: Any) -> Speech:
        """Some rows, by index or mask, with the padding that they still need."""
        index = torch.as_tensor(index, device=self.tokens.device)
        lengths = self.lengths[index]
        longest = int(lengths.max()) if len(lengths) else 0
        return Speech(self.tokens[index, :longest], lengths, self.ended[index], self.prompt[index])

    def to(self, device: Any) -> Speech:
        moved = object.__new__(Speech)  # checked when it was built; checking again would wait for the device
        names = ("tokens", "lengths", "ended", "prompt")
        set_fields(moved, **{name: getattr(self, name).to(device) for name in names})
        return moved
