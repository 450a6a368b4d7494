"""A small recogniser from speech tokens to text ids: who listens where no speech recogniser exists for the language.

It learns from the synthetic utterances that the model itself was taught with, so it needs no recordings, no audio and
no knowledge of the language. Teach it with `seaalign.judges.lessons.fit`.

Source: Graves et al., Connectionist Temporal Classification (2006).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seaalign.records import Utterance
from seaalign.records.speech import Ids, token_ids

WORST = 20.0
"""Surprise (nats per text id) of a text that cannot have been said, and the most that any text gets."""
_MOST_STEPS = 8


def frames_needed(text: Sequence[int]) -> int:
    """Frames that CTC needs for a text: one per symbol, and a blank between two equal neighbours.

    >>> frames_needed([4, 4, 4]), frames_needed([4, 5])
    (5, 2)
    """
    return len(text) + sum(a == b for a, b in zip(text, text[1:], strict=False))


class _Block(nn.Module):
    """Residual dilated convolution over time; what lies beyond the mask stays zero."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv1d(width, width, 5, padding=2 * dilation, dilation=dilation)
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        """h (B, T, width), mask (B, T, 1) -> (B, T, width)."""
        inner = self.conv((self.norm(h) * mask).transpose(1, 2)).transpose(1, 2)
        return (h + self.out(F.gelu(inner))) * mask


class TokenRecogniser(nn.Module):
    """CTC recogniser from speech tokens to text ids: embeddings and a few dilated convolutions.

    It knows the text ids it was made for and the speech tokens it has met in training; any other token is to it a
    masked one. A text id it does not know it never hears.

    Args:
        codes: size of the speech codebook (of the largest one); ids are 0..codes-1.
        symbols: the text ids it can hear, all different.
        codebooks: K of tokens (T, K); 1 for tokens (T,).
        steps: CTC frames per speech token; more than 1 where texts have more ids than speech has tokens.
        width: hidden channels.
        dilations: of the convolutions, each 5 tokens wide. The default hears 33 tokens at once: much more, and it
            learns which ids follow which instead of what each sounds like.

    Raises:
        ValueError: no or repeated symbols, or a size below 1.

    Example:
        >>> recogniser = TokenRecogniser(codes=50, symbols=[7, 900])
        >>> logp, frames = recogniser(torch.tensor([[3, 4, 4, 9]]), torch.tensor([4]))
        >>> logp.shape                      # 7, 900 and the blank
        torch.Size([1, 4, 3])
    """

    seen: Tensor
    held_out: Tensor

    def __init__(
        self,
        codes: int,
        symbols: Sequence[int],
        codebooks: int = 1,
        steps: int = 1,
        width: int = 96,
        dilations: Sequence[int] = (1, 2, 4),
    ) -> None:
        super().__init__()
        if min(codes, codebooks, steps, width) < 1 or not symbols or len(set(symbols)) != len(symbols):
            raise ValueError(
                f"a recogniser needs sizes of at least 1 and different symbols, got codes {codes}, codebooks "
                f"{codebooks}, steps {steps}, width {width} and {len(symbols)} symbols, {len(set(symbols))} of them "
                "different"
            )
        self.settings = {
            "codes": codes, "symbols": list(symbols), "codebooks": codebooks, "steps": steps, "width": width,
            "dilations": list(dilations),
        }  # fmt: skip
        self.codes, self.codebooks, self.steps, self.symbols = codes, codebooks, steps, tuple(symbols)
        self.index = {symbol: i for i, symbol in enumerate(symbols)}
        self.embed = nn.Embedding(codebooks * (codes + 1), width)  # the last id of each codebook is the mask
        self.blocks = nn.ModuleList([_Block(width, dilation) for dilation in dilations])
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, steps * (len(symbols) + 1)))
        self.register_buffer("seen", torch.zeros(codebooks, codes + 1, dtype=torch.bool))
        self.register_buffer("held_out", torch.tensor(float("nan")))

    @classmethod
    def of(cls, utterances: Sequence[Utterance], width: int = 96) -> TokenRecogniser:
        """A recogniser of the right size for these utterances, yet untrained.

        Args:
            utterances: texts and speech tokens; CTC gets as many frames per token as 99 % of them need.
            width: hidden channels.

        Raises:
            ValueError: no utterances, or speech with far fewer tokens than its text has ids.
        """
        if not utterances:
            raise ValueError("no utterances: give the synthetic ones that the model was trained on")
        texts = [u.prompt.text.tolist() for u in utterances]
        need = torch.tensor([frames_needed(t) / len(u.tokens) for t, u in zip(texts, utterances, strict=True)])
        steps = max(1, int(torch.quantile(need.double(), 0.99).ceil()))
        if steps > _MOST_STEPS:
            raise ValueError(
                f"1 % of the utterances have more than {_MOST_STEPS} text ids per speech token (at most "
                f"{float(need.max()):.1f}): check that tokens and texts belong together"
            )
        codes = 1 + max(int(u.tokens.max()) for u in utterances)
        books = utterances[0].tokens.shape[1] if utterances[0].tokens.dim() == 2 else 1
        return cls(codes, sorted({symbol for text in texts for symbol in text}), books, steps, width)

    @property
    def blank(self) -> int:
        """Index of CTC's blank."""
        return len(self.symbols)

    @property
    def error(self) -> float:
        """Its own share of wrong text ids on utterances whose texts it was not taught; NaN before training."""
        return float(self.held_out)

    def rows(self, rows: Sequence[Ids]) -> list[Tensor]:
        """Speech tokens as it reads them: (T, K) each, tokens that it never met as masks.

        Raises:
            ValueError: a negative id, or another number of codebooks; the message says which row.
        """
        device = self.seen.device
        return [self._row(token_ids(row, f"row {i}", (1, 2)).to(device), i) for i, row in enumerate(rows)]

    def _row(self, tokens: Tensor, number: int) -> Tensor:
        if not len(tokens):
            return tokens.new_zeros(0, self.codebooks)
        tokens = tokens.view(len(tokens), -1)
        if tokens.shape[1] != self.codebooks or int(tokens.min()) < 0:
            raise ValueError(
                f"row {number} holds (T, K) = {tuple(tokens.shape)} with ids from {int(tokens.min())} on; this "
                f"recogniser reads K = {self.codebooks} and ids from 0 on: give the model's speech tokens, "
                "without padding"
            )
        known = self.seen.T.gather(0, tokens.clamp(max=self.codes))
        return torch.where(known, tokens, self.codes)

    def forward(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of symbols and blank, and how many frames count.

        Args:
            tokens: (B, T), or (B, T, K), `codes` for a masked one; what lies beyond `lengths` changes nothing.
            lengths: (B,) tokens of each row.

        Returns:
            (B, T * steps, symbols + 1) and (B,).
        """
        tokens = tokens.view(*tokens.shape[:2], self.codebooks)
        shift = torch.arange(self.codebooks, device=tokens.device) * (self.codes + 1)
        mask = (torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]).float()[..., None]
        h = self.embed(tokens + shift).sum(dim=2) * mask
        for block in self.blocks:
            h = block(h, mask)
        logits = self.head(h).view(len(tokens), -1, self.blank + 1)
        return logits.log_softmax(dim=-1), lengths * self.steps

    @torch.no_grad()
    def recognise(self, rows: Sequence[Ids]) -> list[tuple[int, ...]]:
        """Text ids heard in each row of speech tokens, the likeliest per frame; empty where none is heard.

        Args:
            rows: (T,) or (T, K) each; T may be 0.

        Returns:
            One tuple per row. Each row is read alone, so that its answer is the same, bit for bit, in any company.

        Raises:
            ValueError: see `rows`.
        """
        heard = []
        for row in self.rows(rows):
            best = torch.unique_consecutive(self._alone(row).argmax(dim=-1)).tolist() if len(row) else []
            heard.append(tuple(self.symbols[i] for i in best if i != self.blank))
        return heard

    @torch.no_grad()
    def surprise(self, rows: Sequence[Ids], texts: Sequence[Ids]) -> Tensor:
        """How unlikely each row makes its text: -log p(text | row) by CTC, nats per text id.

        A text id that the recogniser does not know costs `WORST`, and so does each id of a text that is too long for
        its row: nothing is infinite.

        Args:
            rows: speech tokens (T,) or (T, K) each.
            texts: text ids (L,) each, L >= 1.

        Returns:
            (B,) float64 between 0 and `WORST`.

        Raises:
            ValueError: see `rows`, or the numbers of rows and texts differ.
        """
        pairs = zip(self.rows(rows), texts, strict=True)
        costs = [self._cost(row, torch.as_tensor(text).tolist()) for row, text in pairs]
        return torch.tensor(costs, dtype=torch.float64)

    def _cost(self, row: Tensor, text: list[int]) -> float:
        known = [self.index[symbol] for symbol in text if symbol in self.index]
        cost = WORST * len(known)
        if known and frames_needed(known) <= len(row) * self.steps:
            logp = self._alone(row).double().cpu()[:, None]
            sizes = torch.tensor([len(logp)]), torch.tensor([len(known)])
            cost = min(cost, float(F.ctc_loss(logp, torch.tensor([known]), *sizes, self.blank, reduction="sum")))
        return (cost + WORST * (len(text) - len(known))) / len(text)

    def _alone(self, row: Tensor) -> Tensor:
        """Log-probabilities (T * steps, symbols + 1) of one row (T, K)."""
        return self(row[None], torch.tensor([len(row)], device=row.device))[0][0]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write settings and weights, tensors and numbers only; `TokenRecogniser.load` reads them back."""
        torch.save({"settings": self.settings, "state": self.state_dict()}, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TokenRecogniser:
        """Read what `save` wrote."""
        stored = torch.load(path, map_location="cpu", weights_only=True)
        recogniser = cls(**stored["settings"])
        recogniser.load_state_dict(stored["state"])
        return recogniser
