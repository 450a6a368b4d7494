"""A product by another kernel is the same product: values, kinds of numbers, and no gradient."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from seaalign.functional import likelihood, products
from seaalign.functional.products import product


@pytest.mark.parametrize("shape", [(5, 7), (1, 7), (0, 7), (2, 3, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
def test_it_is_f_linear(shape, dtype, biased):
    g = torch.Generator().manual_seed(0)
    x, weight = torch.randn(shape, generator=g).to(dtype), torch.randn(11, 7, generator=g).to(dtype)
    bias = torch.randn(11, generator=g).to(dtype) if biased else None
    made = product(x, weight, bias)
    assert made.dtype == dtype and made.shape == (*shape[:-1], 11)
    torch.testing.assert_close(made, F.linear(x, weight, bias), atol=1e-5, rtol=1e-5)


def test_of_columns_and_slices_too():
    x, weight = torch.randn(7, 5).t(), torch.randn(20, 7)[3:14]
    torch.testing.assert_close(product(x, weight), x @ weight.t())


@pytest.mark.parametrize("bias", [torch.randn(22)[::2], torch.randn(11, 3)[:, 1], torch.ones(1).expand(11)])
def test_a_bias_that_is_a_column_or_spread_out(bias):
    x, weight = torch.randn(5, 7), torch.randn(11, 7)
    torch.testing.assert_close(product(x, weight, bias), x @ weight.t() + bias)
    torch.testing.assert_close(products.multiply(x, weight, bias), x @ weight.t() + bias)


def test_what_only_the_usual_product_takes_goes_there():
    x, weight = torch.randn(5, 7), torch.randn(11, 7)
    torch.testing.assert_close(product(x, weight, torch.ones(1)), x @ weight.t() + 1)
    with pytest.raises(RuntimeError, match="5x7 and 8x11"):
        product(x, torch.randn(11, 8))


def test_it_has_no_gradient_and_says_so_by_its_type():
    weight = torch.nn.Parameter(torch.randn(3, 4))
    assert not product(torch.randn(2, 4), weight, torch.nn.Parameter(torch.randn(3))).requires_grad


@pytest.mark.skipif(not products.works(), reason="this PyTorch has not these kernels")
def test_the_head_is_multiplied_by_it_forwards_and_again_backwards(monkeypatch):
    calls = []
    monkeypatch.setattr(products, "multiply", lambda x, *rest: calls.append(len(x)) or F.linear(x, *rest))
    features, weight = torch.randn(10, 4, requires_grad=True), torch.randn(6, 4, requires_grad=True)
    likelihood.head_logp(features, weight, None, torch.arange(10) % 6, chunk=4).sum().backward()
    assert calls == [4, 4, 2] * 2


def test_where_pytorch_has_it_not_the_usual_one_is_taken(monkeypatch):
    def missing(*given):
        raise AttributeError("no such operator")

    monkeypatch.setattr(products, "multiply", missing)
    products.works.cache_clear()
    try:
        assert not products.works()
        assert torch.equal(product(torch.ones(2, 3), torch.ones(4, 3)), torch.full((2, 4), 3.0))
    finally:
        products.works.cache_clear()
