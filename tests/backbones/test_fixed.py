"""Rows in buffers of fixed shape against rows whose cache grows."""

from __future__ import annotations

import pytest
import torch

from seaalign.backbones.fixed import Fixed, size_of
from tests.backbones.test_packing import adapter_of, causal, own, prompts_of
from tests.backbones.test_sharing import shares, stepwise


def world(name):
    if name in ("Llama", "Qwen2", "Qwen3", "Mistral"):
        from tests.backbones.tiny_hf import prompts_for

        backbone = causal(name)
        return backbone.eval(), prompts_for(backbone.spec)
    backbone, prompts, _ = adapter_of(name)
    return backbone.eval(), prompts


def test_sizes_hold_and_waste_at_most_a_third():
    for rows in range(4, 600):
        assert rows <= size_of(rows) < 1.5 * rows


@shares
@pytest.mark.audio
@pytest.mark.parametrize("name", ["Llama", "Qwen2", "Qwen3", "Mistral", "CosyVoice 2", "CosyVoice 3", "Chatterbox"])
def test_every_adapter_has_the_features_of_a_cache_that_grows(name):
    """Prompts of several lengths, rows that leave on the way, and more positions than the first buffers have."""
    backbone, prompts = world(name)
    owner = torch.arange(len(prompts)).repeat_interleave(3)
    steps = 40 if name == "Chatterbox" else 70  # its miniature has positions for so many
    tokens = torch.randint(backbone.vocab_size - 1, (len(owner), steps), generator=torch.Generator().manual_seed(1))
    leave = torch.tensor([4, 0, len(owner) - 1])
    grown, state = stepwise(backbone, prompts, owner, tokens, leave)
    assert not isinstance(state.cache, Fixed)
    backbone.graphed = True
    fixed, state = stepwise(backbone, prompts, owner, tokens, leave)
    assert isinstance(state.cache, Fixed) and len(state.cache.seen) == 4
    assert state.cache.seen.shape[-1] > 64 or steps == 40
    for one, other in zip(fixed, grown, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@shares
@pytest.mark.audio
def test_draws_are_the_same_in_any_company():
    backbone, prompts = world("Qwen2")

    def draw(seed, some=prompts):
        return backbone.sample(some, 5, 1.0, 0.9, 30, generator=torch.Generator().manual_seed(seed))

    grown = [draw(seed) for seed in range(10)]
    backbone.graphed = True
    for one, other in zip(map(draw, range(10)), grown, strict=True):
        assert torch.equal(one.tokens, other.tokens) and torch.equal(one.lengths, other.lengths)
    alone = draw(0, prompts[1:2])
    together = grown[0].select(torch.arange(5, 10))
    assert all(torch.equal(a, b) for a, b in zip(alone.rows(), together.rows(), strict=True))


@shares
@pytest.mark.audio
def test_contract_holds():
    from seaalign.testing import check_backbone

    backbone, prompts = world("Llama")
    backbone.graphed = True
    with torch.no_grad():
        speech = backbone.sample(prompts[:2], 2, max_len=8, min_len=5, generator=torch.Generator().manual_seed(0))
    check_backbone(backbone, prompts, speech)


@shares
@pytest.mark.audio
def test_a_body_that_does_not_heed_the_mask_is_found_out(monkeypatch):
    backbone, prompts = world("Llama")
    backbone.graphed = True
    step = Fixed._step

    def deaf(self, *given):
        self.seen.fill_(True)
        return step(self, *given)

    monkeypatch.setattr(Fixed, "_step", deaf)
    with torch.no_grad(), pytest.warns(UserWarning, match="features are .* off"):
        assert not backbone.prefill(prompts)[1].fixes


def test_a_body_that_is_no_hugging_face_model_has_a_cache_that_grows():
    backbone = own()
    backbone.graphed = True
    with torch.no_grad(), pytest.warns(UserWarning, match="cache that grows"):
        _, state = backbone.prefill(prompts_of([5, 3]))
        state = backbone.select(state, torch.tensor([0, 0, 0, 1]))
    assert not state.fixes and not isinstance(state.cache, Fixed)


@shares
@pytest.mark.gpu
@pytest.mark.audio
def test_a_step_is_one_graph(recwarn):
    backbone, prompts = world("Qwen2")
    backbone.cuda()

    def draw(seed):
        return backbone.sample(prompts, 5, 1.0, 0.9, 30, generator=torch.Generator().manual_seed(seed))

    grown = [draw(seed) for seed in range(5)]
    backbone.graphed = True
    for one, other in zip(map(draw, range(5)), grown, strict=True):
        assert torch.equal(one.tokens, other.tokens) and torch.equal(one.lengths, other.lengths)
    assert not [warning for warning in recwarn if "CUDA graph" in str(warning.message)]
