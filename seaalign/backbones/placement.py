"""A layout in the ids of one tokenizer: prompts and speech to model ids, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seaalign.backbones.layouts import Layout, walk
from seaalign.records import Prompt


def _consecutive(ids: Tensor) -> slice | None:
    return slice(int(ids[0]), int(ids[-1]) + 1) if bool((ids.diff() == 1).all()) else None


def _plain(piece: Any) -> Any:
    """Ids as numbers: how a tensor prints depends on settings."""
    if isinstance(piece, list):
        return [_plain(one) for one in piece]
    return piece.tolist() if isinstance(piece, Tensor) else piece


class Placement(nn.Module):
    """What a `Layout` means where a tokenizer has given every token its id. Holds ids, no weights.

    Args:
        layout: the table row.
        tokenizer: a `transformers` tokenizer, where the layout names tokens by their text.

    Raises:
        ValueError: the tokenizer does not know a token, or two codes share an id.

    Example:
        >>> mine = Placement(Layout("mine", prompt=(7, "{text}", 8), speech=10, codes=6, end=9))
        >>> mine.prompt_ids(Prompt([1, 2])).tolist(), mine.speech_ids(torch.tensor([0, 5])).tolist()
        ([7, 1, 2, 8], [10, 15])
        >>> mine.read_prompt([7, 1, 2, 8]).text.tolist(), mine.read_speech([10, 15, 9])
        ([1, 2], (tensor([0, 5]), True))
    """

    codes: Tensor
    ends: Tensor
    timbres: Tensor

    def __init__(self, layout: Layout, tokenizer: Any = None) -> None:
        super().__init__()
        self.layout = layout
        self.prompt = layout.place(tokenizer)
        ends = torch.tensor(layout.known([layout.end, *layout.also], tokenizer))
        codes, timbres = layout.ids(layout.speech, layout.codes, tokenizer), torch.zeros(0, dtype=torch.long)
        if layout.timbre is not None:
            timbres = layout.ids(layout.timbre, layout.timbre_codes, tokenizer)
        for name, ids in (("codes", codes), ("ends", ends), ("timbres", timbres)):
            self.register_buffer(name, ids, persistent=False)
        if len(torch.cat([codes, ends]).unique()) < len(codes) + len(ends):
            raise ValueError(f"layout {layout.name!r}: two speech codes, or a code and an end token, share an id")
        # consecutive rows of a head can be looked at without copying them
        self.span, self.whole = (_consecutive(rows) for rows in (codes, torch.cat([codes, ends])))
        text = repr((_plain(self.prompt), codes.tolist(), ends.tolist(), timbres.tolist()))
        self.digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    @property
    def eos_id(self) -> int:
        """The id of the end token."""
        return int(self.ends[0])

    def require_room(self, rows: int, head_rows: int, model: str) -> None:
        """Refuse a model whose vocabulary is too small for these ids.

        Raises:
            ValueError: with the id and the size.
        """
        literal = [piece for piece in walk(self.prompt, True) if isinstance(piece, Tensor)]
        for what, ids, size in (
            ("input embedding", torch.cat([self.codes, self.timbres, *literal]), rows),
            ("head", torch.cat([self.codes, self.ends]), head_rows),
        ):
            if int(ids.max()) >= size:
                raise ValueError(
                    f"layout {self.layout.name!r} uses id {int(ids.max())}, and the {what} of {model} has {size} rows: "
                    "another vocabulary. Take the layout of this model, or the checkpoint that has the speech tokens"
                )

    def prompt_ids(self, prompt: Prompt) -> Tensor:
        """Everything before the speech (L,).

        Raises:
            ValueError: style or timbre lack what the layout needs.
        """
        if prompt.style is not None and not self.layout.styled:
            raise ValueError(
                f"layout {self.layout.name!r} has no place for a style prefix: pass prompt.plain(), or prepare the "
                "data without references"
            )
        pieces = walk(self.prompt, prompt.style is not None)
        parts = [piece if isinstance(piece, Tensor) else self._slot(piece, prompt) for piece in pieces]
        return torch.cat([part.to(self.codes.device) for part in parts])

    def _slot(self, name: str, prompt: Prompt) -> Tensor:
        if name == "{text}":
            return prompt.text
        if name == "{timbre}":
            return self._pick("Prompt.timbre", prompt.timbre, self.timbres)
        style = prompt.style
        assert style is not None  # slots of the style are walked only where there is one
        if name == "{style.speech}":
            return self._pick("Style.tokens", style.tokens, self.codes)
        if style.text is None:
            raise ValueError(
                f"layout {self.layout.name!r} puts the transcript of the style recording before the text, and "
                "Style.text is None: give the text ids of what is said in it"
            )
        return style.text

    def _pick(self, name: str, numbers: Any, table: Tensor) -> Tensor:
        if not isinstance(numbers, Tensor) or numbers.is_floating_point() or numbers.dim() != 1:
            shape = f"{numbers.dtype} {tuple(numbers.shape)}" if isinstance(numbers, Tensor) else type(numbers).__name__
            raise ValueError(
                f"layout {self.layout.name!r} needs {name} as codes (N,) of 0..{len(table) - 1}, got {shape}"
            )
        if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(table):
            raise ValueError(
                f"{name} holds codes {int(numbers.min())}..{int(numbers.max())}, layout {self.layout.name!r} has "
                f"0..{len(table) - 1}: they are of another codec"
            )
        return table[numbers.to(table.device)]

    def speech_ids(self, tokens: Tensor) -> Tensor:
        """Speech codes as ids (T,), without the end."""
        return self._pick("speech", tokens, self.codes)

    def head(self, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The head on its speech rows alone (..., V + ends): codes, the end, and what shares its probability.

        For sampling; scoring takes `head_rows` once, as each look at rows has a gradient as large as the whole head.

        Args:
            features: (..., D).
            weight: of the whole head (vocabulary, D).
            bias: of the whole head, or None.
        """
        if self.span is None or self.whole is not None:
            return F.linear(features, *self.head_rows(weight, bias))
        parts = (
            F.linear(features, weight[rows], None if bias is None else bias[rows]) for rows in (self.span, self.ends)
        )  # sampling asks at every token: the rows of the codes are a view, and all of them together would be a copy
        return torch.cat(list(parts), dim=-1)

    def head_rows(self, weight: Tensor, bias: Tensor | None, tied: bool = False) -> tuple[Tensor, Tensor | None]:
        """The speech rows of the head, (V + ends, D) and (V + ends,), taken in one go.

        The gradient of each go is as large as the whole head. Where that is `tied` to the embeddings, theirs is as
        large already: here it is sparse then, and autograd adds it to theirs in place.
        """
        if tied or self.whole is None:
            rows = torch.cat([self.codes, self.ends])
            taken = F.embedding(rows, weight, sparse=True) if tied else weight[rows]
            return taken, None if bias is None else bias[rows]
        return weight[self.whole], None if bias is None else bias[self.whole]

    def read_prompt(self, ids: Sequence[int] | Tensor) -> Prompt:
        """The prompt, style off, that `prompt_ids` lays out as these ids.

        Raises:
            ValueError: they do not follow the layout without style.
        """
        row, pieces = torch.as_tensor(ids).long().cpu(), list(walk(self.prompt, False))
        at, timbre = pieces.index("{text}"), None
        for piece in pieces[:at]:
            row, timbre = self._strip(row, piece, timbre)
        row = row.flip(0)
        for piece in reversed(pieces[at + 1 :]):
            flipped = piece.flip(0) if isinstance(piece, Tensor) else piece
            row, found = self._strip(row, flipped, timbre)
            timbre = found if timbre is not None or found is None else found.flip(0)
        return Prompt(row.flip(0), timbre=timbre)

    def _strip(self, row: Tensor, piece: Tensor | str, timbre: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Take a piece off the start of a row."""
        if isinstance(piece, str):  # the timbre: as many ids as are codes of one
            inside = torch.isin(row, self.timbres.cpu())
            size = len(row) if bool(inside.all()) else int((~inside).int().argmax())
            return row[size:], self._place(row[:size], self.timbres)
        if not torch.equal(row[: len(piece)], piece):
            raise ValueError(
                f"ids {row[:8].tolist()} ... stand where layout {self.layout.name!r} has {piece.tolist()}: this is no "
                "prompt of it without style"
            )
        return row[len(piece) :], timbre

    def read_speech(self, ids: Sequence[int] | Tensor) -> tuple[Tensor, bool]:
        """Speech codes (T,), and whether they ended.

        Raises:
            ValueError: an id is neither speech nor the end.
        """
        row = torch.as_tensor(ids).long().cpu()
        ended = bool(len(row)) and int(row[-1]) == self.eos_id
        return self._place(row[:-1] if ended else row, self.codes), ended

    def _place(self, row: Tensor, table: Tensor) -> Tensor:
        """Ids as places in a table of ids."""
        ranked, order = table.cpu().sort()
        place = torch.searchsorted(ranked, row).clamp_max(len(ranked) - 1)
        strange = ranked[place] != row
        if bool(strange.any()):
            raise ValueError(f"id {int(row[strange][0])} is no code of layout {self.layout.name!r}")
        return order[place]
