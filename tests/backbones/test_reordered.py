"""Linear layers that multiply from a copy of their weights while rows are drawn, against layers as they are."""

from __future__ import annotations

import contextlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import seaalign.backbones.step as step
from seaalign.backbones.reordered import Product, reordered
from seaalign.functional.products import works
from tests.backbones.test_packing import causal

fast = pytest.mark.skipif(not works(), reason="this PyTorch has not these kernels: layers stay as they are")


@given(st.integers(1, 9), st.integers(1, 70), st.integers(1, 70), st.booleans(), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_products_are_those_of_the_layer(rows, wide, out, biased, steps):
    g = torch.Generator().manual_seed(rows + 10 * wide + 1000 * out)
    weight, x = torch.randn(out, wide, generator=g), torch.randn(rows, steps, wide, generator=g)
    bias = torch.randn(out, generator=g) if biased else None
    with torch.no_grad():
        torch.testing.assert_close(Product(weight, bias)(x), F.linear(x, weight, bias), rtol=1e-5, atol=1e-5)


@fast
def test_layers_are_as_they_were_afterwards_and_read_new_weights():
    layer = nn.Linear(3, 2)
    x = torch.randn(4, 3)
    with pytest.raises(KeyError), torch.no_grad(), reordered(layer):
        assert isinstance(layer.forward, Product) and not isinstance(nn.Linear(3, 2).forward, Product)
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
        assert layer.forward.copy is not None
        raise KeyError
    assert "forward" not in vars(layer)
    with torch.no_grad():
        layer.weight += 1
        with reordered(layer):
            torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))


@fast
def test_what_is_no_plain_layer_is_left_alone():
    class Mine(nn.Linear):
        pass

    hooked, own = nn.Linear(3, 2), nn.Linear(3, 2)
    hooked.register_forward_pre_hook(lambda module, given: None)
    vars(own)["forward"] = lambda x: x
    parts = nn.ModuleList([Mine(3, 2), nn.Linear(3, 2).double(), hooked, own, nn.Linear(3, 2)])
    with reordered(parts):
        assert [isinstance(vars(part).get("forward"), Product) for part in parts] == [False] * 4 + [True]
    assert "forward" in vars(own)


@fast
@pytest.mark.parametrize("rows", [64, 65, 512, 700])
def test_many_rows_go_in_blocks_by_the_same_copy(rows):
    weight, bias, x = torch.randn(11, 7), torch.randn(11), torch.randn(rows, 7)
    product = Product(weight, bias)
    with torch.no_grad():
        torch.testing.assert_close(product(x), x @ weight.t() + bias, atol=1e-5, rtol=1e-5)
    assert product.copy is not None


@fast
def test_a_gradient_is_not_lost_on_the_way():
    """Another thread may train or score with a layer that is borrowed here."""
    layer, x = nn.Linear(3, 2), torch.randn(4, 3)
    with reordered(layer):
        layer(x).sum().backward()
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            assert layer(x).dtype == torch.bfloat16
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(2, -1))


@fast
@pytest.mark.audio
def test_draws_are_the_same_and_the_head_is_among_them(monkeypatch):
    from tests.backbones.tiny_hf import prompts_for

    backbone = causal("Qwen2")
    prompts, seen = prompts_for(backbone.spec), []
    multiply = Product.__call__
    monkeypatch.setattr(Product, "__call__", lambda self, x: seen.append(self.weight.shape) or multiply(self, x))

    def draw(seed):
        return backbone.sample(prompts, 4, 1.0, 0.9, 12, generator=torch.Generator().manual_seed(seed))

    made = [draw(seed) for seed in range(4)]
    assert backbone.linear_head()[0].shape in seen and "logits" not in vars(backbone)
    monkeypatch.setattr(step, "reordered", lambda *given: contextlib.nullcontext())
    seen.clear()
    for one, other in zip(made, map(draw, range(4)), strict=True):
        assert torch.equal(one.tokens, other.tokens) and torch.equal(one.lengths, other.lengths)
    assert not seen
