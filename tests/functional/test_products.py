"""A product by another kernel is the same product: values, kinds of numbers, and no gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from seaalign.functional import likelihood, products
from seaalign.functional.products import add_product, linear, product

fast = pytest.mark.skipif(not products.works(), reason="this PyTorch has not these kernels")


@pytest.fixture
def always(monkeypatch):
    """Small products by oneDNN too."""
    monkeypatch.setattr(products, "_GAINS", 1)


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


@fast
def test_the_head_is_multiplied_by_it_forwards_and_again_backwards(monkeypatch):
    calls = []
    monkeypatch.setattr(products, "multiply_once", lambda x, w, b, *rest: calls.append(len(x)) or F.linear(x, w, b))
    features, weight = torch.randn(10, 4, requires_grad=True), torch.randn(6, 4, requires_grad=True)
    likelihood.head_logp(features, weight, None, torch.arange(10) % 6, chunk=4).sum().backward()
    assert calls[:3] == [4, 4, 2]
    assert calls[3:] == [rows for part in (4, 4, 2) for rows in (part, part, 4)]  # again, to features, to the head


def test_where_pytorch_has_it_not_the_usual_one_is_taken(monkeypatch):
    def missing(*given):
        raise AttributeError("no such operator")

    monkeypatch.setattr(products, "multiply_once", missing)
    products.works.cache_clear()
    try:
        assert not products.works()
        assert torch.equal(product(torch.ones(2, 3), torch.ones(4, 3)), torch.full((2, 4), 3.0))
    finally:
        products.works.cache_clear()


@fast
@pytest.mark.parametrize("where", ["autocast", "float64", "float16", "meta"])
def test_what_is_in_force_at_the_first_question_does_not_answer_it(where):
    """The answer is kept for the whole process."""
    kept = torch.get_default_dtype()
    products.works.cache_clear()
    try:
        with torch.autocast("cpu", torch.bfloat16, enabled=where == "autocast"):
            if where.startswith("float"):
                torch.set_default_dtype(getattr(torch, where))
            with torch.device("meta" if where == "meta" else "cpu"):
                assert products.works()
    finally:
        torch.set_default_dtype(kept)
        products.works.cache_clear()


def gradients(function, x, weight, bias, pull):
    leaves = [part.detach().requires_grad_() for part in (x, weight, bias) if part is not None]
    made = function(*leaves, *([None] if bias is None else []))
    first = torch.autograd.grad(made, leaves, pull.expand_as(made), create_graph=True)
    second = torch.autograd.grad(sum(part.square().sum() for part in first), leaves, allow_unused=True)
    return made, *first, *(torch.zeros(()) if part is None else part for part in second)


@fast
@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.integers(1, 6), max_size=2),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    biased=st.booleans(),
    turned=st.booleans(),
    even=st.booleans(),
)
def test_linear_has_the_values_and_gradients_of_f_linear(rows, sizes, biased, turned, even):
    g = torch.Generator().manual_seed(sum(rows) + 10 * sizes[0] + 100 * sizes[1])
    wide, out = sizes
    x = torch.randn(*rows, 2, wide, generator=g)
    weight = torch.randn(wide, out, generator=g).t() if turned else torch.randn(out, wide, generator=g)
    x = x.transpose(0, -2) if turned else x
    bias = torch.randn(out, generator=g) if biased else None
    pull = torch.ones(()) if even else torch.randn(*x.shape[:-1], out, generator=g)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "_GAINS", 1)
        found = gradients(linear, x, weight, bias, pull)
        assert "seaalign_linear" in found[0].grad_fn.name()
    for one, other in zip(found, gradients(F.linear, x, weight, bias, pull), strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("biased", [False, True])
def test_linear_of_one_vector(always, biased):
    x, weight, bias = torch.randn(7), torch.randn(11, 7), torch.randn(11) if biased else None
    pull = torch.randn(11)
    found, wanted = (gradients(function, x, weight, bias, pull) for function in (linear, F.linear))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-4)


def test_linear_by_hand(always):
    """y = 3 * 1 + 4 * 2 + 5; dy/dx is the weight, dy/dweight is x."""
    x, weight = torch.tensor([[1.0, 2.0]], requires_grad=True), torch.tensor([[3.0, 4.0]], requires_grad=True)
    bias = torch.tensor([5.0], requires_grad=True)
    made = linear(x, weight, bias)
    made.backward()
    assert made.item() == 16
    assert (x.grad.tolist(), weight.grad.tolist(), bias.grad.tolist()) == ([[3, 4]], [[1, 2]], [1])


@fast
@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 7)])
@pytest.mark.parametrize("biased", [False, True])
def test_the_operator_is_what_compilers_are_told(shape, biased):
    leaves = [torch.randn(*shape), torch.randn(11, 7), torch.randn(11) if biased else None]
    given = tuple(None if leaf is None else leaf.requires_grad_() for leaf in leaves)
    torch.library.opcheck(torch.ops.seaalign.linear, given)


@fast
@pytest.mark.parametrize("rows", [1, 8, 9, 33, 100, 512, 513, 1200])
def test_rows_go_in_blocks_that_are_filled_up(rows):
    x, weight, bias, pull = torch.randn(rows, 7), torch.randn(11, 7), torch.randn(11), torch.randn(rows, 11)
    made = products.multiply(x, weight, bias)
    assert made.shape == (rows, 11) and made.is_contiguous()
    torch.testing.assert_close(made, x @ weight.t() + bias, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(products.multiply_over_rows(pull, x), pull.t() @ x, atol=1e-4, rtol=1e-4)


@given(size=st.integers(1, 10**6))
def test_even_numbers_are_few_and_near(size):
    found = products.even(size)
    assert size <= found <= size * 5 / 4 and products.even(found) == found
    zeros = max(0, found.bit_length() - 3)
    assert found >> zeros << zeros == found


@fast
def test_batches_of_a_hundred_lengths_are_products_of_a_few_sizes(always, monkeypatch):
    """oneDNN keeps 0.6 MB for each size; by themselves, 100 lengths are 300 for a layer, and 300 for a head."""
    sizes, once = set(), products.multiply_once

    def seen(x, weight, bias):
        sizes.add((x.shape, weight.shape))
        return once(x, weight, bias)

    monkeypatch.setattr(products, "multiply_once", seen)
    weight = torch.randn(6, 4, requires_grad=True)
    for rows in range(700, 800):  # 512, and 188 to 287 more
        x = torch.randn(rows, 4, requires_grad=True)
        linear(x, weight).sum().backward()
        likelihood.head_logp(x, weight, None, torch.zeros(rows).long()).sum().backward()
    assert {x[0] for x, w in sizes if w in ((6, 4), (4, 6))} == {192, 224, 256, 320, 512}
    assert len(sizes) == 3 * 5  # forth, back to x, and to the weight


@fast
def test_what_is_frozen_costs_no_product(always, monkeypatch):
    calls, once = [], products.multiply_once
    monkeypatch.setattr(products, "multiply_once", lambda *given: calls.append(1) or once(*given))
    for wanted in ((True, False), (False, True)):
        x, weight = torch.randn(5, 7).requires_grad_(wanted[0]), torch.randn(3, 7).requires_grad_(wanted[1])
        calls.clear()
        linear(x, weight).sum().backward()
        assert len(calls) == 2 and (x.grad is not None, weight.grad is not None) == wanted


@fast
@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
def test_what_is_kept_for_the_backward_pass_is_what_it_needs(always, wanted):
    """Under LoRA most weights are frozen, and a layer of such a weight has no need of what went in."""

    def kept(function):
        found = []
        x, weight, bias = (
            torch.randn(size, requires_grad=want) for size, want in zip(((5, 7), (3, 7), (3,)), wanted, strict=True)
        )
        with torch.autograd.graph.saved_tensors_hooks(lambda t: found.append(t.numel()) or t, lambda t: t):
            function(x, weight, bias).sum().backward()
        return sum(found)

    assert kept(linear) == kept(F.linear) == (21, 35, 0)[wanted.index(True)]


def test_torch_func_has_its_rules(always):
    """An operator of one's own has none for jvp and vmap, and a tangent of zeros would not be noticed."""
    x, weight, bias, way = torch.randn(4, 5, 7), torch.randn(3, 7), torch.randn(3), torch.randn(4, 5, 7)
    for what in (
        lambda f: torch.func.jvp(lambda x: f(x, weight, bias), (x,), (way,))[1],
        lambda f: torch.func.vmap(lambda x: f(x, weight, bias))(x),
        lambda f: torch.func.vmap(lambda w: f(x[0], w))(torch.stack([weight, 2 * weight])),
        lambda f: torch.func.grad(lambda w: f(x, w, bias).square().sum())(weight),
    ):
        found, right = what(linear), what(F.linear)
        assert right.abs().max() > 0
        torch.testing.assert_close(found, right)


@fast
def test_compiled_it_asks_nothing_of_the_size(monkeypatch):
    """Batches below and above what oneDNN is worth calling for run in one graph."""
    monkeypatch.setattr(products, "_GAINS", 100)
    torch._dynamo.reset()
    counter, weight = CompileCounterWithBackend("aot_eager"), torch.randn(3, 5)
    made = torch.compile(lambda x: linear(x, weight), backend=counter, dynamic=True)
    for rows in (2, 3, 6, 7, 8, 40):
        x = torch.randn(rows, 5)
        torch.testing.assert_close(made(x), x @ weight.t())
    assert counter.frame_count == 1
    torch._dynamo.reset()


@fast
def test_its_cost_is_counted_as_that_of_the_usual_one(always):
    def cost(function):
        x, weight = torch.randn(2, 3, 7, requires_grad=True), torch.randn(11, 7, requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            function(x, weight).sum().backward()
        return counter.get_total_flops()

    assert cost(linear) == cost(F.linear) == 3 * 2 * 6 * 7 * 11


def test_small_products_and_other_kinds_of_numbers_are_the_usual_ones():
    x, weight = torch.randn(64, 64, requires_grad=True), torch.randn(64, 64)
    assert "seaalign" not in linear(x, weight).grad_fn.name()
    x, weight = torch.randn(64, 256, requires_grad=True), torch.randn(256, 256)
    assert ("seaalign" in linear(x, weight).grad_fn.name()) == products.works()
    assert "seaalign" not in linear(x.double(), weight.double()).grad_fn.name()
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_product_on_top_of_a_sum(dtype):
    g = torch.Generator().manual_seed(0)
    one, other, wide = (
        torch.randn(7, 5, generator=g),
        torch.randn(5, 3, generator=g),
        torch.promote_types(dtype, torch.float),
    )
    total = torch.ones(7, 3, dtype=wide)
    add_product(total, one.to(dtype), other.to(dtype))
    assert total.dtype == wide
    torch.testing.assert_close(total, 1 + (one.to(dtype) @ other.to(dtype)).to(wide), atol=1e-5, rtol=1e-5)
