"""Rows that share the prompt that they answer, while they are drawn, against rows that hold a copy of it each."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seaalign.backbones.sharing import Sharing
from tests.backbones.test_packing import adapter_of, causal, own, prompts_of


def _has_layers() -> bool:
    try:
        from transformers import DynamicCache
    except ImportError:
        return False
    return hasattr(DynamicCache(), "layers")


shares = pytest.mark.skipif(not _has_layers(), reason="caches of this transformers have no layers: rows hold copies")


def slow(query, keys, values, scale):
    """Of one row, by the definition: keys (H', S, D) of all that it may see; its last positions ask."""
    heads, steps, _ = query.shape
    total = keys.shape[1]
    out = torch.zeros_like(query)
    for h in range(heads):
        for t in range(steps):
            seen = total - steps + t + 1
            k, v = (x[h * len(keys) // heads, :seen] for x in (keys, values))
            out[h, t] = torch.softmax(k @ query[h, t] * scale, 0) @ v
    return out


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.lists(st.integers(0, 2), min_size=1, max_size=6),
    st.integers(1, 3),
    st.integers(0, 2),
    st.sampled_from([(2, 2), (4, 2), (4, 1)]),
)
@settings(max_examples=60, deadline=None)
def test_attention_agrees_with_its_definition(lengths, owners, steps, before, heads):
    """Prompts of any lengths, any rows in any order, one or more positions at once."""
    owner = torch.tensor([o % len(lengths) for o in owners])
    g = torch.Generator().manual_seed(0)
    size, said = max(lengths), before + steps

    def made(*shape):
        return torch.randn(*shape, 8, generator=g, dtype=torch.double)

    keys, values = made(len(lengths), heads[1], size), made(len(lengths), heads[1], size)
    query, key, value = (made(len(owner), h, t) for h, t in ((heads[0], steps), (heads[1], said), (heads[1], said)))

    class DynamicLayer:
        pass

    layer = DynamicLayer()
    layer.keys, layer.values = keys, values
    cache = type("Cache", (), {"layers": [layer]})()
    seen = torch.arange(size) < torch.tensor(lengths)[:, None]
    sharing = Sharing.of(cache, seen, owner)
    keep = torch.arange(len(owner)).flip(0)[: max(1, len(owner) - 1)]  # fewer, and in another order
    for rows, shared in ((torch.arange(len(owner)), sharing), (keep, sharing.select(keep))):
        got = shared.attend(query[rows], key[rows], value[rows], 0, 0.3)
        for row, at in enumerate(rows.tolist()):
            p = int(owner[at])
            both = [torch.cat([x[p, :, : lengths[p]], y[at]], 1) for x, y in ((keys, key), (values, value))]
            torch.testing.assert_close(got[row], slow(query[at], *both, 0.3), rtol=1e-6, atol=1e-6)  # softmax in fp32


def stepwise(backbone, prompts, owner, tokens, leave):
    """Features of rows read token by token; after two tokens only the rows of `leave` go on."""
    with torch.no_grad():
        feature, state = backbone.prefill(prompts)
        state, features = backbone.select(state, owner), [feature[owner]]
        for t in range(tokens.shape[1]):
            if t == 2:
                state, tokens, owner = backbone.select(state, leave), tokens[leave], owner[leave]
            new, state = backbone.extend(state, tokens[:, t : t + 1])
            features.append(new[:, 0])
    return features, state


@shares
@pytest.mark.audio
@pytest.mark.parametrize("name", ["Llama", "Qwen2", "Qwen3", "Mistral", "CosyVoice 2", "CosyVoice 3", "Chatterbox"])
def test_every_adapter_has_the_features_of_copied_prompts(name, monkeypatch):
    """Token by token, with prompts of several lengths, and rows that leave on the way."""
    if name in ("Llama", "Qwen2", "Qwen3", "Mistral"):
        from tests.backbones.tiny_hf import prompts_for

        backbone = causal(name)
        prompts = prompts_for(backbone.spec)
    else:
        backbone, prompts, _ = adapter_of(name)
    backbone.eval()
    owner = torch.arange(len(prompts)).repeat_interleave(3)
    tokens = torch.randint(backbone.vocab_size - 1, (len(owner), 5), generator=torch.Generator().manual_seed(1))
    leave = torch.tensor([0, 4, 5, len(owner) - 1])
    shared, state = stepwise(backbone, prompts, owner, tokens, leave)
    assert state.sharing is not None and int(state.cache.get_seq_length()) == 5
    monkeypatch.setattr(type(backbone), "_shares", lambda self, like: False)
    copied, state = stepwise(backbone, prompts, owner, tokens, leave)
    assert state.sharing is None
    for one, other in zip(shared, copied, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.audio
def test_draws_are_the_same(monkeypatch):
    backbone = causal("Llama")
    from tests.backbones.tiny_hf import prompts_for

    prompts = prompts_for(backbone.spec)

    def draw():
        return backbone.sample(prompts, 4, 1.0, 0.9, 20, generator=torch.Generator().manual_seed(3))

    shared = draw()
    monkeypatch.setattr(type(backbone), "_shares", lambda self, like: False)
    copied = draw()
    assert torch.equal(shared.tokens, copied.tokens) and torch.equal(shared.lengths, copied.lengths)


@shares
@pytest.mark.audio
def test_16_bits_hold_copies():
    """Products of 16 bits would round the scores before the softmax."""
    backbone = causal("Llama", dtype="float32")
    from tests.backbones.tiny_hf import prompts_for

    prompts = prompts_for(backbone.spec)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert not backbone.prefill(prompts)[1].shares
    with torch.no_grad():
        assert backbone.prefill(prompts)[1].shares
        assert not backbone.to(torch.bfloat16).prefill(prompts)[1].shares


def test_prompts_that_nobody_answers_any_more_go():
    keys = [torch.randn(5, 1, 3, 2)]
    sharing = Sharing(keys, keys, None, torch.arange(5).repeat_interleave(2), 2, None)
    assert len(sharing.select(torch.tensor([0, 3, 9])).keys[0]) == 5  # three of five are asked
    few = sharing.select(torch.tensor([2, 8, 9]))
    assert len(few.keys[0]) == 2 and few.owner.tolist() == [0, 1, 1]
    x = torch.randn(3, 1, 1, 2)
    said = torch.randn(3, 1, 1, 2)
    torch.testing.assert_close(
        few.attend(x, said, said, 0), sharing.select(torch.tensor([2, 8, 9, 0, 4])).attend(
            torch.cat([x, x[:2]]), torch.cat([said, said[:2]]), torch.cat([said, said[:2]]), 0
        )[:3],
    )  # fmt: skip


@shares
@pytest.mark.audio
def test_one_answer_a_prompt_shares_nothing():
    backbone = causal("Llama")
    from tests.backbones.tiny_hf import prompts_for

    with torch.no_grad():
        _, state = backbone.prefill(prompts_for(backbone.spec))
        assert state.shares
        state = backbone.select(state, torch.arange(len(state.length)))
    assert state.sharing is None and int(state.cache.get_seq_length()) > 0


@pytest.mark.audio
def test_a_model_whose_attention_does_not_heed_it_is_found_out(monkeypatch):
    """Here the shared prompt goes unheard; the trial sees other features, and each row gets a copy."""
    backbone = causal("Llama")
    from tests.backbones.tiny_hf import prompts_for

    attend = Sharing.attend
    monkeypatch.setattr(Sharing, "attend", lambda self, q, k, v, layer, scale: attend(self, q, k, v, 0, scale))
    with torch.no_grad():
        _, state = backbone.prefill(prompts_for(backbone.spec))
    assert not state.shares


def test_a_body_that_is_no_hugging_face_model_holds_copies():
    backbone = own()
    with torch.no_grad():
        _, state = backbone.prefill(prompts_of([5, 3]))
        state = backbone.select(state, torch.tensor([0, 0, 0, 1]))
    assert not state.shares and state.sharing is None
