"""Token counts, entropy of tokens and repetition."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seaalign.functional import repetition_rate, repetition_span, token_counts, token_entropy, tokens_per_unit
from seaalign.functional.repetition import repetition_hits

CORPUS = st.lists(st.lists(st.integers(0, 2), max_size=12), max_size=6)


def as_list(corpus: list[list[int]]) -> list[torch.Tensor]:
    return [torch.tensor(row, dtype=torch.int64) for row in corpus]


def as_padded(corpus: list[list[int]], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    width = max((len(row) for row in corpus), default=0) + 2
    rows = torch.full((len(corpus), width), padding)
    for row, tokens in zip(rows, corpus, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    return rows, torch.tensor([len(row) for row in corpus], dtype=torch.int64)


def slow_repetition(corpus: list[list[int]], k: int) -> list[tuple[int, int]]:
    counts = []
    for y in corpus:
        starts = range(max(0, len(y) - k))
        counts.append((sum(all(y[i] == y[i + j] for j in range(1, k + 1)) for i in starts), len(starts)))
    return counts


@given(corpus=CORPUS)
def test_counts_agree_with_slow_implementation_in_every_form(corpus):
    slow = Counter(token for row in corpus for token in row)
    expected = [slow[v] for v in range(5)]
    assert token_counts(as_list(corpus), vocab_size=5).tolist() == expected
    # the padding is a valid code: were it counted, the numbers would differ
    assert token_counts(*as_padded(corpus, padding=1), vocab_size=5).tolist() == expected


@given(tokens=st.lists(st.integers(0, 9), min_size=1, max_size=50), seed=st.integers(0, 99))
def test_entropy_of_tokens(tokens, seed):
    y = torch.tensor(tokens)
    value = token_entropy(y, vocab_size=10).item()
    slow = -sum(n / len(tokens) * math.log2(n / len(tokens)) for n in Counter(tokens).values())
    assert value == pytest.approx(slow, abs=1e-12)
    shuffled = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))]
    relabelled = torch.randperm(10, generator=torch.Generator().manual_seed(seed))[y]
    assert token_entropy(shuffled, vocab_size=10).item() == value
    assert token_entropy(relabelled, vocab_size=10).item() == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64, torch.uint8])
def test_integer_types(dtype):
    assert token_counts(torch.tensor([[0, 2], [2, 1]], dtype=dtype), vocab_size=3).tolist() == [1, 1, 2]
    assert repetition_rate(torch.tensor([5, 5, 5], dtype=dtype), k=1).rate.item() == 1.0


def test_repetition_golden():
    # k = 4, N = 9: positions 1..5. 7 7 7 7 7 7 1 1 1: runs of five begin at 1 and 2 -> 2 of 5.
    # The second utterance continues with 1 1, which must not join the run: N = 6, 1 1 2 2 2 2 -> 0 of 2.
    # The third, N = 4, has no position.
    corpus = [[7, 7, 7, 7, 7, 7, 1, 1, 1], [1, 1, 2, 2, 2, 2], [3, 3, 3, 3]]
    for form in ((as_list(corpus), None), as_padded(corpus, padding=3)):
        result = repetition_rate(*form)
        assert result.per_utterance.tolist() == pytest.approx([0.4, 0.0, 0.0])
        assert result.defined.tolist() == [True, True, False]
        assert result.rate.item() == pytest.approx(0.2)  # (2/5 + 0/2) / 2
        assert result.pooled.item() == pytest.approx(2 / 7)  # (2 + 0) / (5 + 2)


@given(corpus=CORPUS, k=st.integers(1, 7))
def test_repetition_agrees_with_slow_implementation(corpus, k):
    slow = slow_repetition(corpus, k)
    for form in ((as_list(corpus), None), as_padded(corpus, padding=0)):
        hits, positions = repetition_hits(*form, k=k)
        assert list(zip(hits.tolist(), positions.tolist(), strict=True)) == slow
        result = repetition_rate(*form, k=k)
        rates = [h / n for h, n in slow if n]
        assert result.rate.item() == pytest.approx(sum(rates) / len(rates) if rates else 0.0)
        assert result.defined.tolist() == [n > 0 for _, n in slow]
        assert not torch.isnan(torch.stack([result.rate, result.pooled])).any()


@given(n=st.integers(1, 30), k=st.integers(1, 12))
def test_repetition_extremes(n, k):
    constant, alternating = torch.full((n,), 3), torch.arange(n) % 2
    assert repetition_rate(constant, k=k).rate.item() == (1.0 if n > k else 0.0)
    assert repetition_rate(alternating, k=k).rate.item() == 0.0
    assert repetition_rate(constant, k=k).defined.tolist() == [n > k]


@given(corpus=CORPUS, k=st.integers(1, 6))
def test_longer_runs_are_rarer(corpus, k):
    shorter, _ = repetition_hits(as_list(corpus), k=k)
    longer, _ = repetition_hits(as_list(corpus), k=k + 1)
    assert (longer <= shorter).all()


def test_repetition_span_golden():
    # k + 1 tokens last (k + 1) / rate: 5 / 25 Hz = 10 / 50 Hz = 200 ms; 2.5 tokens at 12.5 Hz round up to 3.
    assert [repetition_span(200, rate) for rate in (25, 50, 12.5, 75)] == [4, 9, 2, 14]
    assert repetition_span(80, 25) == 1
    with pytest.raises(ValueError, match="ask for more than 40.0 ms"):
        repetition_span(40, 25)
    for milliseconds, rate in ((200, 0), (200, -25), (math.nan, 25), (math.inf, 25)):
        with pytest.raises(ValueError, match="frame rate > 0"):
            repetition_span(milliseconds, rate)


@given(milliseconds=st.floats(100, 2000), rate=st.floats(21, 100))
def test_repetition_span_is_the_shortest_run_that_lasts(milliseconds, rate):
    k = repetition_span(milliseconds, rate)
    assert (k + 1) / rate * 1000 >= milliseconds - 1e-6
    assert k / rate * 1000 < milliseconds + 1e-6


def test_tokens_per_unit():
    assert tokens_per_unit(torch.tensor([10, 50]), torch.tensor([1, 2])).item() == 20.0  # 60 / 3, not (10 + 25) / 2
    with pytest.raises(ValueError, match="no text unit"):
        tokens_per_unit(torch.tensor([10]), torch.tensor([0]))
    with pytest.raises(ValueError, match="one shape"):
        tokens_per_unit(torch.tensor([10]), torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="negative"):
        tokens_per_unit(torch.tensor([10, -1]), torch.tensor([1, 2]))


@pytest.mark.parametrize(
    ("tokens", "lengths", "message"),
    [
        (torch.tensor([0, 10]), None, r"token 10 is outside the codebook \[0, 10\)"),
        (torch.tensor([0, -1]), None, "token -1 is outside"),
        (torch.zeros(2, 3, 4, dtype=torch.int64), None, "choose one codebook"),
        ([torch.zeros(3, 4, dtype=torch.int64)], None, "choose one codebook"),
        (torch.tensor([0.5]), None, "must be integers, got torch.float32"),
        (torch.tensor([True]), None, "must be integers, got torch.bool"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.tensor([3, 4]), r"lengths \[4\] are outside \[0, 3\]"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.tensor([3, -1]), r"lengths \[-1\] are outside"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.tensor([3]), r"lengths must be \(2,\) integers"),
        ([torch.tensor([1])], torch.tensor([1]), "has its own lengths"),
    ],
)
def test_bad_tokens_are_refused(tokens, lengths, message):
    with pytest.raises(ValueError, match=message):
        token_counts(tokens, lengths, vocab_size=10)


def test_nothing_at_all():
    assert token_counts([], vocab_size=3).tolist() == [0, 0, 0]
    none = torch.zeros(0, 4, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    assert token_counts(*none, vocab_size=3).tolist() == [0, 0, 0]
    assert repetition_rate([]).rate.item() == repetition_rate(*none).rate.item() == 0.0
    with pytest.raises(ValueError, match="no tokens counted"):
        token_entropy([], vocab_size=3)
    with pytest.raises(ValueError, match="k must be >= 1"):
        repetition_rate(torch.tensor([1, 1]), k=0)


def test_statistics_do_not_depend_on_where_a_corpus_is_cut(monkeypatch):
    """Corpora are counted in parts of whole utterances."""
    g = torch.Generator().manual_seed(0)
    rows = [torch.randint(3, (int(size),), generator=g) for size in torch.randint(0, 40, (60,), generator=g)]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    results = []
    for block in (1 << 18, 64, 1):
        monkeypatch.setattr("seaalign.functional.tokens._BLOCK", block)
        for form in ((rows,), (padded, lengths)):
            counts, repeated = token_counts(*form, vocab_size=3), repetition_rate(*form)
            results.append(
                torch.cat([counts.float(), repeated.per_utterance, repeated.rate[None], repeated.pooled[None]])
            )
    assert all(torch.equal(result, results[0]) for result in results)
    assert results[0][:3].sum() == lengths.sum()
