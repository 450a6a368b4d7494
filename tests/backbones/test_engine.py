"""The engine against slow implementations that share nothing with it but the user's model."""

import pytest
import torch
from torch.utils import checkpoint

from seaalign import LogitsBackbone, Prompt, Speech, StepBackbone
from seaalign.backbones.base import evaluating, row_keys
from seaalign.functional.sampling import nucleus, uniforms
from seaalign.miniature.lm import TextSpeechLM
from tests.backbones.user_models import (
    CODES,
    EncoderDecoder,
    Recurrent,
    TwoBookLSTM,
    built,
    example,
    ragged_prompts,
    tokens,
)

EXAMPLE = example()
TIMBRE = ragged_prompts(timbre=True)


def decoder():
    return built(lambda: EXAMPLE.MyAdapter(EXAMPLE.MySpeechLM()))


def batch(books=None):
    return Speech.pack(tokens(9, 4, 6, 0, 9, books=books), [True, False, True, True, False], [0, 1, 2, 1, 0])


def slow_decoder(backbone, prompt, row, ended):
    """One row, full logits, no cache, no batch, no padding; the loop asks for one position at a time."""
    total, scores = list(row.tolist()) + [backbone.eos] * bool(ended), []
    for t, target in enumerate(total):
        x = torch.cat([backbone.embed_prompt(prompt), backbone.embed_speech(row[None, :t], 0)[0]])[None]
        hidden, _ = backbone.body(x, None, torch.arange(x.shape[1])[None], None, False)
        logits = backbone.logits(hidden)[0, -1].double()
        scores.append(logits[target] - logits.exp().sum().log())
    return torch.stack(scores) if scores else torch.zeros(0, dtype=torch.double)


def slow_lstm(backbone, prompt, row, ended):
    state = backbone.text(prompt.text[None])
    h, c = (part.tanh().expand(2, -1)[:, None].contiguous() for part in state.chunk(2, dim=-1))
    feature, scores = state[0, : backbone.width], []
    for t in range(len(row) + bool(ended)):
        first, second = (head(feature).double().softmax(-1).log() for head in backbone.heads)
        if t == len(row):
            scores.append(first[CODES])
            break
        scores.append(first[row[t, 0]] + second[row[t, 1]])
        x = backbone.books[0].weight[row[t, 0]] + backbone.books[1].weight[row[t, 1]]
        feature, (h, c) = backbone.lstm(x[None, None], (h, c))
        feature = feature[0, 0]
    return torch.stack(scores) if scores else torch.zeros(0, dtype=torch.double)


@pytest.mark.parametrize(
    ("make", "slow", "books"),
    [(decoder, slow_decoder, None), (lambda: built(TwoBookLSTM), slow_lstm, 2)],
    ids=["decoder", "two-book lstm"],
)
@pytest.mark.parametrize("chunk", [2048, 3])
def test_forward_agrees_with_a_loop_in_value_and_gradient(make, slow, books, chunk):
    backbone, speech = make(), batch(books)
    backbone.chunk = chunk
    weights = torch.linspace(-1, 2, speech.tokens.shape[1] + 1)
    scores = backbone(TIMBRE, speech)
    (scores * weights).sum().backward()
    got = {name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None}

    backbone.zero_grad()
    want = torch.zeros(scores.shape, dtype=torch.double)
    for b, row in enumerate(speech.rows()):
        line = slow(backbone, TIMBRE[int(speech.prompt[b])], row, bool(speech.ended[b]))
        want[b, : len(line)] = line
    (want * weights).sum().backward()
    torch.testing.assert_close(scores.double(), want, atol=1e-5, rtol=1e-5)
    assert got.keys() == {name for name, p in backbone.named_parameters() if p.grad is not None}
    for name, p in backbone.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(got[name], p.grad, atol=1e-4, rtol=1e-4)


def test_chunks_change_neither_value_nor_gradient(monkeypatch):
    calls = []
    original = checkpoint.checkpoint
    monkeypatch.setattr("seaalign.backbones.step.checkpoint", lambda *a, **k: calls.append(1) or original(*a, **k))
    results = []
    for chunk in (10_000, 7, 1):
        backbone = decoder()
        backbone.chunk = chunk
        scores = backbone(TIMBRE, batch())
        scores.sum().backward()
        results.append((scores.detach(), torch.cat([p.grad.flatten() for p in backbone.model.parameters()])))
        with torch.no_grad():
            torch.testing.assert_close(backbone(TIMBRE, batch()), scores)
    assert len(calls) == -(-int(batch().scored.sum()) // 7) + int(batch().scored.sum())
    for scores, grad in results[1:]:
        torch.testing.assert_close(scores, results[0][0])
        torch.testing.assert_close(grad, results[0][1])


def test_the_head_sees_real_positions_only():
    class Counting(EXAMPLE.MyAdapter):
        seen = 0

        def logits(self, features):
            self.seen += len(features)
            assert features.dim() == 2
            return super().logits(features)

    backbone = Counting(EXAMPLE.MySpeechLM())
    backbone(TIMBRE, batch())
    assert backbone.seen == int(batch().scored.sum())


def test_a_shared_prompt_is_read_once():
    class Counting(TwoBookLSTM):
        def prefill(self, prompts):
            self.read = len(prompts)
            return super().prefill(prompts)

    backbone = built(Counting)
    backbone(TIMBRE, batch(2))
    assert backbone.read == 3
    backbone.sample(TIMBRE, n=5, max_len=2)
    assert backbone.read == 3


@pytest.mark.parametrize("make", [decoder, lambda: built(TwoBookLSTM), lambda: built(EncoderDecoder)])
@pytest.mark.parametrize("padding", [0, -1, 10**6])
def test_padding_may_hold_anything(make, padding):
    backbone = make()
    speech = batch(backbone.codebooks)
    spoilt = speech.tokens.clone()
    for row, length in zip(spoilt, speech.lengths.tolist(), strict=True):
        row[length:] = padding
    got = backbone(TIMBRE, Speech(spoilt, speech.lengths, speech.ended, speech.prompt))
    assert torch.equal(got, backbone(TIMBRE, speech))


class Stopper(StepBackbone):
    """Ends with probability 1/2 at each step, so rows leave the batch all the time; the state sums up what was read."""

    eos = 5

    def prefill(self, prompts):
        self.sizes = []
        return torch.stack([prompt.text.float().sum()[None] for prompt in prompts]), torch.zeros(len(prompts), 1)

    def extend(self, state, tokens):
        self.sizes.append(len(tokens))
        states = []
        for column in tokens.T:
            state = state * 0.5 + column[:, None]
            states.append(state)
        return torch.stack(states, dim=1), state

    def logits(self, features):
        rest = torch.sin(features * torch.arange(1, 6)) * 2
        return torch.cat([rest, rest.logsumexp(-1, keepdim=True)], dim=-1)


def slow_sample(backbone, prompt, answer, seed, heat, top_p, most, least):
    """One row by the definition: step t of the row draws with uniform (key, t)."""
    key = row_keys([prompt], answer + 1, seed)[answer:]
    (feature, state), row = backbone.prefill([prompt]), []
    while len(row) < most:
        logits = backbone.logits(feature).clone()
        if len(row) < least:
            logits[0, backbone.eos] = -torch.inf
        token = nucleus(logits, torch.tensor([heat]), top_p, uniforms(key, len(row)))
        if int(token) == backbone.eos:
            return row, True
        row.append(int(token))
        features, state = backbone.extend(state, token[:, None])
        feature = features[:, 0]
    return row, False


def test_compaction_changes_no_draw():
    backbone, prompts, n = Stopper(), [Prompt([1]), Prompt([2, 2]), Prompt([3])], 20
    heat = torch.linspace(0.5, 1.5, 60)
    most = torch.arange(60) % 13
    least = most // 5
    drawn = backbone.sample(prompts, n, heat, 0.9, most, least, torch.Generator().manual_seed(3))
    sizes = backbone.sizes
    assert sizes[0] > 4 * sizes[-1] and len(set(sizes)) > 3, "rows should have left in waves"
    seed = int(torch.randint(1 << 62, (), generator=torch.Generator().manual_seed(3)))
    for b in range(60):
        limits = (float(heat[b]), 0.9, int(most[b]), int(least[b]))
        row, ended = slow_sample(backbone, prompts[b // n], b % n, seed, *limits)
        assert (drawn.rows()[b].tolist(), bool(drawn.ended[b])) == (row, ended)
    assert 0 < int(drawn.ended.sum()) < 60


def test_nothing_to_draw_and_nothing_to_score():
    backbone = Stopper()
    drawn = backbone.sample([Prompt([1])], n=3, max_len=0)
    assert drawn.tokens.shape == (3, 0) and not drawn.ended.any()
    assert backbone([Prompt([1])], drawn).tolist() == [[0.0]] * 3
    assert len(backbone.sample([Prompt([1])], n=0)) == 0
    empty = Speech(torch.zeros(2, 3, dtype=torch.long), [0, 0], prompt=[0, 0])
    scores = backbone([Prompt([1])], empty)
    assert scores.shape == (2, 4) and scores[:, 0].exp().tolist() == pytest.approx([0.5, 0.5])
    assert not scores[:, 1:].any()


def test_banned_ids_are_scored_but_not_drawn():
    class Uniform(LogitsBackbone):
        eos, banned = 3, (0, 2)

        def forward_logits(self, prompts, tokens):
            return torch.zeros(len(tokens), tokens.shape[1] + 1, 4)

    drawn = Uniform().sample([Prompt([1])], n=50, max_len=6, generator=torch.Generator().manual_seed(0))
    assert {token for row in drawn.rows() for token in row.tolist()} == {1}
    assert Uniform()([Prompt([1])], Speech.pack([[0, 2]])).exp().tolist() == [[0.25] * 3]


def test_equal_prompts_get_different_answers_and_the_first_keeps_its_own():
    backbone, prompt = built(EncoderDecoder), ragged_prompts()[0]
    other = Prompt(prompt.text.clone(), prompt.style)

    def draw(prompts, n):
        drawn = backbone.sample(prompts, n, generator=torch.Generator().manual_seed(0), max_len=9)
        return [row.tolist() for row in drawn.rows()]

    assert draw([prompt, other], 2) == draw([prompt], 4)


def test_the_generator_moves_by_one_number_per_call():
    backbone, generator, twin = Stopper(), torch.Generator().manual_seed(9), torch.Generator().manual_seed(9)
    backbone.sample([Prompt([1]), Prompt([2])], n=7, generator=generator)
    torch.randint(1 << 62, (), generator=twin)
    assert torch.equal(generator.get_state(), twin.get_state())


def test_evaluating_puts_back_every_module_s_own_mode():
    backbone = built(EncoderDecoder).train()
    backbone.net.encoder.eval()
    modes = [m.training for m in backbone.modules()]
    with pytest.raises(RuntimeError, match="stop"), evaluating(backbone):
        assert not any(m.training for m in backbone.modules()) and not torch.is_grad_enabled()
        raise RuntimeError("stop")
    assert [m.training for m in backbone.modules()] == modes and torch.is_grad_enabled()


def test_codebooks_without_frame_hooks_say_what_to_override():
    class Forgetful(TwoBookLSTM):
        frame_score, frame_draw = StepBackbone.frame_score, StepBackbone.frame_draw

    with pytest.raises(NotImplementedError, match="2 codebooks: override frame_score and frame_draw"):
        Forgetful()([Prompt([1])], Speech.pack([torch.ones(3, 2, dtype=torch.long)]))
    with pytest.raises(NotImplementedError, match="frame_draw"):
        Forgetful().sample([Prompt([1])], max_len=2)


@pytest.mark.parametrize(("call", "needs"), [("decode", "audio metrics"), ("encode", "speech tokens made by your own")])
def test_optional_abilities_say_what_needs_them(call, needs):
    with pytest.raises(NotImplementedError, match=needs):
        getattr(built(Recurrent), call)([], 16000)


def test_ids_that_are_no_speech_are_named():
    lm = TextSpeechLM(codes=13, pause=12, factor=6, dim=16, layers=1, heads=2)
    for bad in (13, 14, -1):
        with pytest.raises(ValueError, match=f"row 1, frame 2 holds id {bad}, which is no speech token"):
            lm([Prompt([1]), Prompt([2])], Speech.pack([[1, 2], [3, 4, bad]]))
    lm([Prompt([1])], Speech(torch.tensor([[1, 99]]), [1]))  # padding may hold anything


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": float("nan")}, "temperature must be finite"),
        ({"temperature": -1.0}, "temperature must be finite"),
        ({"max_len": -3}, "need 0 <= max_len"),
        ({"max_len": 3, "min_len": 4}, "min_len <= max_len"),
    ],
)
def test_limits_that_make_no_sense_are_refused(changes, message):
    lm = TextSpeechLM(codes=13, pause=12, factor=6, dim=16, layers=1, heads=2)
    with pytest.raises(ValueError, match=message):
        lm.sample([Prompt([1])], **changes)


def test_the_miniature_runs_in_bfloat16():
    lm = TextSpeechLM(codes=13, pause=12, factor=6, dim=16, layers=1, heads=2)
    prompts, speech = [Prompt([1, 2])], Speech.pack([[3, 4, 12, 5]])
    full = lm(prompts, speech)
    half = lm.bfloat16()(prompts, speech)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, atol=0.1, rtol=0.05)


def test_waves_draw_what_one_batch_draws():
    backbone, prompts = decoder(), [*TIMBRE]
    settings = {"n": 5, "temperature": torch.linspace(0.5, 1.5, 5 * len(prompts)), "max_len": 9}
    whole = backbone.sample(prompts, generator=torch.Generator().manual_seed(1), **settings)
    for wave in (4, 1, 7):
        backbone.wave = wave
        parts = backbone.sample(prompts, generator=torch.Generator().manual_seed(1), **settings)
        for name in ("tokens", "lengths", "ended", "prompt"):
            assert torch.equal(getattr(parts, name), getattr(whole, name)), (wave, name)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("no"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_where_memory_runs_out_smaller_waves_go_on(error):
    backbone, prompts, sizes = decoder(), [*TIMBRE], []
    want = backbone.sample(prompts, n=5, max_len=9, generator=torch.Generator().manual_seed(1))
    original = backbone.extend

    def small(state, tokens):
        sizes.append(len(tokens))
        if len(tokens) > 3:
            raise error
        return original(state, tokens)

    backbone.extend = small
    with pytest.warns(UserWarning, match=rf"memory ran out over {5 * len(prompts)} rows: going on with"):
        got = backbone.sample(prompts, n=5, max_len=9, generator=torch.Generator().manual_seed(1))
    assert torch.equal(got.tokens, want.tokens) and torch.equal(got.ended, want.ended)
    assert sum(size > 3 for size in sizes) < 4  # it goes on with what fits, and does not try again


def test_memory_that_one_row_does_not_have_is_the_error_that_it_is():
    backbone = decoder()

    def never(state, tokens):
        raise torch.OutOfMemoryError("no memory at all")

    backbone.extend = never
    with (
        pytest.raises(torch.OutOfMemoryError, match="no memory at all"),
        pytest.warns(UserWarning, match="memory ran out"),
    ):
        backbone.sample(TIMBRE[:1], n=2, max_len=9, min_len=9)
