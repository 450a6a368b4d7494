"""Log-probs of chosen ids, against the plain way that makes all of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from seaalign.functional.likelihood import chosen_logp, head_logp


def plain(features, weight, bias, ids):
    return F.linear(features, weight, bias).log_softmax(-1).gather(-1, ids[:, None]).squeeze(-1)


def case(n=7, d=5, v=11, dtype=torch.float64, bias=True, seed=0):
    g = torch.Generator().manual_seed(seed)
    made = [torch.randn(size, generator=g, dtype=torch.float64).to(dtype) for size in ((n, d), (v, d), (v,))]
    made = [x.requires_grad_() for x in made]
    return made[0], made[1], made[2] if bias else None, torch.randint(v, (n,), generator=g)


def test_golden():
    logits = torch.tensor([[0.0, 0.0], [0.0, torch.tensor(3.0).log()]])  # shares 1/2, 1/2 and 1/4, 3/4
    expected = torch.tensor([0.5, 0.25]).log()
    assert torch.allclose(chosen_logp(logits, torch.tensor([1, 0])), expected)
    weight = torch.tensor([[0.0, 0.0], [0.0, torch.tensor(3.0).log()]])  # the same logits, from a head
    features = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    assert torch.allclose(head_logp(features, weight, None, torch.tensor([1, 0]), chunk=1), expected)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 12), st.booleans(), st.integers(0, 1000))
def test_any_chunk_gives_the_plain_values_and_gradients(n, chunk, bias, seed):
    features, weight, b, ids = case(n=n, bias=bias, seed=seed)
    wanted = [x for x in (features, weight, b) if x is not None]
    pull = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    ours, theirs = head_logp(features, weight, b, ids, chunk), plain(features, weight, b, ids)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)
    ways = (torch.autograd.grad(logp @ pull, wanted) for logp in (ours, theirs))
    for one, other in zip(*ways, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)


def test_the_derivatives_are_those_of_finite_differences():
    features, weight, bias, ids = case()
    assert torch.autograd.gradcheck(lambda *x: head_logp(*x, ids, 3), (features, weight, bias))
    logits = F.linear(features, weight).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: chosen_logp(x, ids), (logits,))


@pytest.mark.parametrize("frozen", [("weight",), ("weight", "bias"), ("features",)])
def test_what_is_frozen_gets_no_gradient_and_the_rest_the_same(frozen):
    names = ("features", "weight", "bias")
    *leaves, ids = case(dtype=torch.float32)
    by_name = dict(zip(names, leaves, strict=True))
    for name in frozen:
        by_name[name].requires_grad_(False)
    head_logp(*leaves, ids, 2).sum().backward()
    ours = {name: leaf.grad for name, leaf in by_name.items()}
    for leaf in leaves:
        leaf.grad = None
    plain(*leaves, ids).sum().backward()
    for name, leaf in by_name.items():
        assert (ours[name] is None) == (name in frozen)
        assert name in frozen or torch.allclose(ours[name], leaf.grad, atol=1e-5)


def test_half_precision_is_summed_in_fp32():
    """300 parts of a gradient of one sign: in bfloat16 the sum would stop growing at a few hundred times its step."""
    features, weight, _, _ = case(n=600, v=4, bias=False)
    half = [x.detach().bfloat16().abs().requires_grad_() for x in (features, weight)]
    ids = torch.zeros(600, dtype=torch.long)
    logp = head_logp(*half, None, ids, 2)
    assert logp.dtype == torch.float32
    logp.sum().backward()
    exact = [x.detach().double().requires_grad_() for x in half]
    plain(*exact, None, ids).sum().backward()
    assert torch.nn.functional.cosine_similarity(half[1].grad.double().flatten(), exact[1].grad.flatten(), 0) > 0.9999
    assert abs(float(half[1].grad.double().norm() / exact[1].grad.norm()) - 1) < 0.01


def test_autocast_multiplies_in_its_type_and_gives_gradients_in_that_of_the_weights():
    features, weight, bias, ids = case(n=40, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        logp, theirs = head_logp(features, weight, bias, ids, 16), F.linear(features, weight, bias)
    assert logp.dtype == torch.float32
    assert torch.equal(logp, theirs.float().log_softmax(-1).gather(-1, ids[:, None]).squeeze(-1))  # the same products
    logp.sum().backward()  # outside of autocast, as a Trainer does it
    assert weight.grad.dtype == features.grad.dtype == bias.grad.dtype == torch.float32
    exact, _ = torch.autograd.grad(plain(features, weight, bias, ids).sum(), (weight, bias))
    assert F.cosine_similarity(weight.grad.flatten(), exact.flatten(), 0) > 0.999


def test_no_rows():
    features, weight, bias, _ = case(n=0)
    logp = head_logp(features, weight, bias, torch.zeros(0, dtype=torch.long))
    assert logp.shape == (0,)
    logp.sum().backward()
    assert not weight.grad.any()


def test_no_logits_are_kept():
    features, weight, bias, ids = case(n=64, v=500, dtype=torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        head_logp(features, weight, bias, ids, 8)
    assert max(kept) == weight.numel() < 64 * 500
