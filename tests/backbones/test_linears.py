"""Layers that multiply by another kernel while a model is scored and trained, against layers as they are."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from seaalign.backbones.linears import Linear, quicken
from seaalign.backbones.reordered import Product, reordered
from seaalign.functional import products
from tests.backbones.test_compiled import batch, fresh, gradients, lm, same  # noqa: F401

pytestmark = pytest.mark.skipif(
    not products.works(), reason="this PyTorch has not these kernels: layers stay as they are"
)


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Small products by oneDNN too."""
    monkeypatch.setattr(products, "_GAINS", 1)


@pytest.fixture
def calls(monkeypatch):
    found, once = [], products.multiply_once
    monkeypatch.setattr(products, "multiply_once", lambda *given: found.append(given[1].shape) or once(*given))
    return found


def plain(monkeypatch, backbone, *asked):
    with monkeypatch.context() as patch:
        patch.setattr(products, "_GAINS", 1 << 60)
        return gradients(copy.deepcopy(backbone), *asked)


def test_what_is_scored_is_multiplied_by_it_and_is_the_same(monkeypatch, calls):
    backbone, names = lm(), list(lm().state_dict())
    found = gradients(backbone, *batch(0))
    layers = [child for child in backbone.modules() if isinstance(child, nn.Linear)]
    assert {type(layer) for layer in layers} == {Linear} and list(backbone.state_dict()) == names
    assert {layer.weight.shape for layer in layers} <= set(calls)
    same(found, plain(monkeypatch, backbone, *batch(0)))


def test_a_copy_and_a_pickle_are_plain_layers():
    layer = nn.Linear(3, 2)
    quicken(layer)
    assert type(layer) is Linear and repr(layer) == "Linear(in_features=3, out_features=2, bias=True)"
    for other in (copy.deepcopy(layer), copy.copy(layer), *(pickle.loads(pickle.dumps(layer, n)) for n in range(6))):
        assert type(other) is nn.Linear and torch.equal(other.weight, layer.weight)
    assert b"seaalign" not in pickle.dumps(layer)


def test_layers_of_somebodys_own_are_left_alone():
    class Mine(nn.Linear):
        pass

    own = nn.Linear(3, 2)
    vars(own)["forward"] = lambda x: x
    parts = nn.ModuleList([Mine(3, 2), own, nn.Linear(3, 2, device="meta"), nn.Linear(3, 2)])
    quicken(parts)
    assert [type(part) is Linear for part in parts] == [False, False, False, True]


def test_hooks_and_new_weights_are_heard():
    layer, seen = nn.Linear(3, 2), []
    quicken(layer)
    layer.register_forward_hook(lambda module, given, made: seen.append(made.shape))
    layer.weight = nn.Parameter(torch.ones(2, 3))
    torch.testing.assert_close(layer(torch.ones(4, 3)), 3 + layer.bias.expand(4, 2))
    assert seen == [(4, 2)]


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_layer_is_the_same_when_it_is_computed_again(calls, reentrant):
    """Checkpointing refuses a second pass that keeps other tensors than the first."""
    found = []
    for quick in (True, False):
        torch.manual_seed(0)
        block = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 5))
        if quick:
            quicken(block)
        x = torch.randn(2, 3, 5, requires_grad=True)
        checkpoint(block, x, use_reentrant=reentrant).square().sum().backward()
        found.append([x.grad, *(p.grad for p in block.parameters())])
        assert len(calls) == 2 * 2 + 2 * 2  # twice there, and back to inputs and weights
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_compiled_it_is_one_operator_without_a_break(calls):
    layer, x = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3)), torch.randn(4, 5)
    quicken(layer)
    wanted = layer(x)
    made = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    calls.clear()
    torch.testing.assert_close(made(x), wanted)
    assert calls == [(7, 5), (3, 7)]


def test_rows_are_drawn_from_weights_that_are_laid_out_and_the_layer_is_as_it_was():
    layer, x = nn.Linear(3, 2), torch.randn(4, 3)
    quicken(layer)
    with reordered(layer), torch.no_grad():
        assert isinstance(layer.forward, Product)
        drawn = layer(x)
    assert type(layer) is Linear and "forward" not in vars(layer)
    torch.testing.assert_close(layer(x), drawn)


@pytest.mark.audio
@pytest.mark.parametrize("how", ["plain", "checkpointing", "lora"])
def test_hugging_face_models_have_the_gradients_that_they_had(monkeypatch, calls, how):
    pytest.importorskip("transformers")
    if how == "lora":
        pytest.importorskip("peft")
    from seaalign import Speech
    from seaalign.backbones import CausalLM
    from tests.backbones.tiny_hf import model_for, prompts_for, rows

    torch.manual_seed(0)
    backbone = CausalLM(
        *model_for("spark", "Qwen2"), gradient_checkpointing=how == "checkpointing", lora={} if how == "lora" else None
    ).train()
    asked = prompts_for(backbone.spec), Speech.pack(rows(9, 4, 7), prompt=[2, 0, 2])
    other = plain(monkeypatch, backbone, *asked)
    calls.clear()
    same(gradients(backbone, *asked), other)
    assert len(calls) > 10
