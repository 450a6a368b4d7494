"""Orpheus' flattening of SNAC, against the loop that its own decoder runs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seaalign.backbones.snac import snac_books, snac_tokens


@given(st.integers(0, 6), st.integers(0, 6), st.randoms())
def test_round_trip_and_slow_twin(frames, rest, random):
    flat = [4096 * place + random.randrange(4096) for _ in range(frames) for place in range(7)]
    cut = [4096 * place + 1 for place in range(rest)]
    books = snac_books(torch.tensor([*flat, *cut], dtype=torch.long))
    slow = [[], [], []]
    for j in range(frames):
        a, b, c, d, e, f, g = (flat[7 * j + i] - 4096 * i for i in range(7))
        slow[0] += [a]
        slow[1] += [b, e]
        slow[2] += [c, d, f, g]
    assert [book.tolist() for book in books] == slow
    assert snac_tokens(books).tolist() == flat


def test_a_lost_place_is_named():
    with pytest.raises(ValueError, match=r"token 8 is 3, and place 1 of a frame has 4096..8191"):
        snac_books(torch.tensor([4096 * i for i in range(7)] + [0, 3, 8192, 12288, 16384, 20480, 24576]))
    with pytest.raises(ValueError, match=r"got \[1, 2, 3\]"):
        snac_tokens([torch.zeros(1), torch.zeros(2), torch.zeros(3)])
