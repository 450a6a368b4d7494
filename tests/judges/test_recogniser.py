"""The recogniser from speech tokens to text ids, taught on a token language whose every sound is known."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seaalign import Prompt, Utterance
from seaalign.judges.lessons import disturb, error_of, fit, hold_out
from seaalign.judges.recogniser import WORST, TokenRecogniser, frames_needed

SYMBOLS = (5, 7, 40, 900)  # ids as a tokenizer of some language gives them: far apart
GAP = 12


def spoken(text, generator) -> list[int]:
    """Each text id is two sounds of its own, each held for 1 to 3 tokens; a gap token between ids."""
    row: list[int] = []
    for symbol in text:
        place = SYMBOLS.index(symbol)
        for sound in (3 * place, 3 * place + 1):
            row += [sound] * int(torch.randint(1, 4, (), generator=generator))
        row.append(GAP)
    return row


def corpus(count=120, seed=0, say=spoken, longest=4) -> list[Utterance]:
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(count):
        length = int(torch.randint(1, longest + 1, (), generator=generator))
        text = [SYMBOLS[j] for j in torch.randint(len(SYMBOLS), (length,), generator=generator).tolist()]
        rows.append(Utterance(f"u{i}", Prompt(text), say(text, generator)))
    return rows


@pytest.fixture(scope="module")
def taught() -> TokenRecogniser:
    recogniser = TokenRecogniser.of(corpus(), width=32)
    fit(recogniser, corpus(), steps=150)
    return recogniser


def test_it_hears_texts_that_it_was_not_taught(taught):
    others = corpus(count=50, seed=9, longest=8)
    assert taught.error == 0.0
    assert error_of(taught, others) < 0.05
    same_twice = Utterance("twice", Prompt([7, 7]), [3, 3, 4, GAP, 3, 4, 4, GAP])
    assert taught.recognise([same_twice.tokens]) == [(7, 7)]


def test_what_it_hears_does_not_depend_on_the_company(taught):
    rows = [u.tokens for u in corpus(count=20, seed=3)]
    texts = [u.prompt.text for u in corpus(count=20, seed=3)]
    assert taught.recognise(rows) == [taught.recognise([row])[0] for row in rows]
    together, alone = (
        taught.surprise(rows, texts),
        [taught.surprise([r], [t]) for r, t in zip(rows, texts, strict=True)],
    )
    assert torch.equal(together, torch.cat(alone))
    assert taught.recognise([row.tolist() for row in rows]) == taught.recognise(rows)


def test_padding_changes_nothing_in_a_batch(taught):
    rows = taught.rows([u.tokens for u in corpus(count=6, seed=4)])
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=taught.codes)
    logp, frames = taught(padded, lengths)
    assert torch.equal(frames, lengths)
    for row, together in zip(rows, logp, strict=True):
        alone = taught(row[None], torch.tensor([len(row)]))[0][0]
        assert torch.allclose(together[: len(row)], alone, atol=1e-4)
        assert torch.allclose(alone.exp().sum(-1), torch.ones(len(row)))


def test_no_speech_is_nothing_heard_and_the_worst_surprise(taught):
    assert taught.recognise([[], torch.zeros(0, dtype=torch.long)]) == [(), ()]
    assert taught.surprise([[]], [[5]]).tolist() == [WORST]


def test_a_text_that_its_frames_cannot_hold_is_the_worst_surprise(taught):
    # 7 7 needs a blank in between: three frames
    costs = taught.surprise([[3, 4], [3, 4], [3, 4, 3]], [[7, 7], [7, 5, 7], [7, 7]])
    assert costs[0] == costs[1] == WORST and 0 < costs[2] < WORST


def test_unknown_text_ids_cost_the_worst_and_unknown_tokens_are_masked(taught):
    row = spoken([7, 40], torch.Generator().manual_seed(1))
    known, half = taught.surprise([row, row], [[7, 40], [7, 40, 123456, 654321]]).tolist()
    assert half == pytest.approx((2 * known + 2 * WORST) / 4)
    assert taught.surprise([row], [[123456]]).tolist() == [WORST]
    # 2 lies inside the codebook and 10**6 outside, but it met neither
    assert taught.rows([[2, 3, 10**6]])[0].flatten().tolist() == [taught.codes, 3, taught.codes]


def every_path(logp: torch.Tensor, text: list[int], blank: int) -> float:
    """p(text) as the sum over all frame labellings that collapse to it, one by one."""
    total = 0.0
    for path in itertools.product(range(logp.shape[1]), repeat=len(logp)):
        merged = [symbol for symbol, _ in itertools.groupby(path) if symbol != blank]
        if merged == text:
            total += float(logp.double()[range(len(path)), list(path)].sum().detach().exp())
    return total


def test_the_surprise_is_the_sum_over_all_paths(taught):
    row = [3, 4, GAP, 6, 7]
    logp = taught(taught.rows([row])[0][None], torch.tensor([5]))[0][0]
    for text in ([7, 40], [7], [40, 7, 40], [7, 7]):
        slow = -torch.tensor(every_path(logp, [SYMBOLS.index(i) for i in text], 4)).log().item() / len(text)
        assert taught.surprise([row], [text]).item() == pytest.approx(min(slow, WORST), rel=1e-5)


def test_codebooks_side_by_side():
    def twin(text, generator):
        row = spoken(text, generator)
        noise = torch.randint(4, (len(row),), generator=generator).tolist()
        return [[a, b] for a, b in zip(noise, row, strict=True)]  # the second codebook is the one that tells

    recogniser = TokenRecogniser.of(corpus(say=twin), width=32)
    fit(recogniser, corpus(say=twin), steps=200)
    assert recogniser.codebooks == 2
    assert error_of(recogniser, corpus(count=30, seed=8, say=twin)) < 0.1
    assert recogniser.recognise([torch.zeros(0, 2, dtype=torch.long)]) == [()]
    with pytest.raises(ValueError, match=r"row 1 holds \(T, K\) = \(2, 1\).*reads K = 2.*without padding"):
        recogniser.rows([[[1, 2]], [1, 2]])


def test_texts_of_more_ids_than_tokens_get_several_frames_per_token():
    # characters of a slow codec: one token says two of them
    def syllables(text, generator):
        return [SYMBOLS.index(text[i]) * 4 + SYMBOLS.index(text[i + 1]) for i in range(0, len(text), 2)]

    rows = [Utterance(f"{a}{b}{c}", Prompt([*a, *b, *c]), syllables([*a, *b, *c], None))
            for a, b, c in itertools.product([(5, 7), (7, 40), (900, 900), (40, 5)], repeat=3)]  # fmt: skip
    recogniser = TokenRecogniser.of(rows, width=32)
    assert recogniser.steps == 4  # six times 900 needs 11 frames, and there are 3 tokens
    fit(recogniser, rows, steps=250)
    assert error_of(recogniser, rows) < 0.05


def test_utterances_with_too_few_tokens_for_their_text_are_counted_and_left_out():
    rows = [*corpus(40), Utterance("torn", Prompt([5, 5, 5]), [0, 1, 0, 1])]
    assert fit(TokenRecogniser(20, SYMBOLS, width=8), rows, steps=2).dropped == 1


def test_saved_and_loaded_it_is_the_same(taught, tmp_path):
    taught.save(tmp_path / "recogniser.pt")
    again = TokenRecogniser.load(tmp_path / "recogniser.pt")
    rows, texts = [u.tokens for u in corpus(20, 5)], [u.prompt.text for u in corpus(20, 5)]
    assert again.recognise(rows) == taught.recognise(rows) and again.error == taught.error
    assert torch.equal(again.surprise(rows, texts), taught.surprise(rows, texts))
    assert json.dumps(again.settings) == json.dumps(taught.settings)


def test_the_same_seed_teaches_the_same_and_leaves_the_global_random_state_alone():
    first, second, other = (TokenRecogniser.of(corpus(40), width=8) for _ in range(3))
    state = torch.get_rng_state()
    a, b, c = (fit(r, corpus(40), steps=10, seed=s) for r, s in ((first, 1), (second, 1), (other, 2)))
    assert torch.equal(torch.get_rng_state(), state)
    assert a == b and a.losses != c.losses
    assert all(torch.equal(x, second.state_dict()[name]) for name, x in first.state_dict().items())


def test_the_best_look_is_kept():
    recogniser = TokenRecogniser.of(corpus(), width=16)
    out = fit(recogniser, corpus(), steps=60)
    assert len(out.losses) == 60 and len(out.errors) == 10
    assert recogniser.error == pytest.approx(min(out.errors))
    kept = hold_out(corpus(), 0.1, torch.Generator().manual_seed(0))[1]
    assert error_of(recogniser, kept) == pytest.approx(min(out.errors))


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=3), min_size=1, max_size=30), st.floats(0.01, 0.99))
def test_no_text_is_both_taught_and_held_out(texts, share):
    rows = [Utterance(str(i), Prompt(text), [1]) for i, text in enumerate(texts)]
    different = {tuple(text) for text in texts}
    if len(different) < 2:
        with pytest.raises(ValueError, match="at least two different texts, got 1"):
            hold_out(rows, share, torch.Generator())
        return
    taught, kept = ({tuple(u.prompt.text.tolist()) for u in part} for part in hold_out(rows, share, torch.Generator()))
    assert taught and kept and not taught & kept and taught | kept == different
    assert len(kept) == min(max(1, round(share * len(different))), len(different) - 1)


def test_lessons_are_disturbed_as_often_as_they_say():
    tokens = torch.arange(20_000)[:, None]
    out = disturb(tokens, 99_999, torch.Generator().manual_seed(0))[:, 0]
    assert float((out == 99_999).float().mean()) == pytest.approx(0.15, abs=0.01)
    assert len(out) == pytest.approx(20_000, rel=0.01)
    left = set(range(20_000)) - set(out.tolist())  # masked, swapped or skipped
    # and those that were swapped in elsewhere are not left out of the whole
    assert len(left) / 20_000 == pytest.approx((1 - 0.8 * 0.95) * math.exp(-0.05), abs=0.01)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_frames_needed_is_what_ctc_needs(text):
    need = frames_needed(text)
    for frames, possible in ((need, True), (need - 1, False)):
        logp = torch.zeros(max(frames, 1), 1, 5).log_softmax(-1)
        if frames:
            sizes = torch.tensor([frames]), torch.tensor([len(text)])
            loss = torch.nn.functional.ctc_loss(logp, torch.tensor([text]), *sizes, 4, reduction="sum")
            assert bool(loss.isfinite()) == possible


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TokenRecogniser.of([]), "no utterances: give the synthetic ones"),
        (lambda: TokenRecogniser(4, []), "and 0 symbols"),
        (lambda: TokenRecogniser(4, [1, 1]), "2 symbols, 1 of them different"),
        (lambda: TokenRecogniser(0, [1]), "got codes 0"),
        (lambda: TokenRecogniser(4, [1]).rows([[1, 2], [3, -1]]), "row 1 holds .* with ids from -1 on"),
        (lambda: TokenRecogniser.of([Utterance("a", Prompt([1] * 20), [1])]), "more than 8 text ids per speech token"),
        (lambda: fit(TokenRecogniser(4, [1]), [Utterance("a", Prompt([1, 1]), [1, 2])]), "1 of 1 utterances have too"),
        (lambda: fit(TokenRecogniser(4, [1]), [Utterance("a", Prompt([1]), [1, 2])]), "two different texts, got 1"),
        (lambda: TokenRecogniser(4, [1]).surprise([[1]], []), "zip"),
    ],
)  # fmt: skip
def test_what_it_cannot_work_with(call, message):
    with pytest.raises(ValueError, match=message):
        call()
