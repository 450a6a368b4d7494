"""Orpheus' seven tokens a frame as SNAC's three books, and back."""

from __future__ import annotations

import torch
from torch import Tensor

BOOK = 4096
# which of the seven places of a frame holds which book: the coarse book ticks once, the middle one twice, the fine one
# four times, in depth-first order
_BOOKS = ((0,), (1, 4), (2, 3, 5, 6))


def snac_books(tokens: Tensor) -> list[Tensor]:
    """Flat Orpheus codes as the three books of SNAC.

    Args:
        tokens: codes (T,) of the layout "orpheus", 0..28671; what is left of an unfinished frame is dropped.

    Returns:
        Codes 0..4095 of three books: (F,), (2F,), (4F,) for F = T // 7 frames.

    Raises:
        ValueError: a token stands where another book has its place.

    Source: github.com/canopyai/Orpheus-TTS, orpheus_tts/decoder.py.

    Example:
        >>> [book.tolist() for book in snac_books(torch.arange(7) * 4096 + torch.arange(7))]
        [[0], [1, 4], [2, 3, 5, 6]]
    """
    frames = tokens[: len(tokens) // 7 * 7].view(-1, 7)
    codes = frames - BOOK * torch.arange(7, device=tokens.device)
    wrong = (codes < 0) | (codes >= BOOK)
    if bool(wrong.any()):
        frame, place = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"token {7 * frame + place} is {int(frames[frame, place])}, and place {place} of a frame has "
            f"{BOOK * place}..{BOOK * (place + 1) - 1}: the model lost its place. Reject the candidate, or "
            "decode what is before"
        )
    return [codes[:, list(places)].flatten() for places in _BOOKS]


def snac_tokens(books: list[Tensor]) -> Tensor:
    """The three books of SNAC, (F,), (2F,), (4F,), as flat Orpheus codes (7F,): the inverse of `snac_books`.

    Example:
        >>> snac_tokens([torch.tensor([0]), torch.tensor([1, 4]), torch.tensor([2, 3, 5, 6])]).tolist()
        [0, 4097, 8194, 12291, 16388, 20485, 24582]
    """
    frames = len(books[0])
    sizes = [len(book) for book in books]
    if sizes != [frames, 2 * frames, 4 * frames]:
        raise ValueError(f"SNAC has 1, 2 and 4 codes a frame in its books, got {sizes}")
    codes = books[0].new_zeros(frames, 7)
    for book, places in zip(books, _BOOKS, strict=True):
        codes[:, list(places)] = book.view(frames, len(places))
    return (codes + BOOK * torch.arange(7, device=codes.device)).flatten()
