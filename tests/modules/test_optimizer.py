"""The steps are AdamW's; those that 16-bit weights would round away are warned of."""

import warnings

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from seaalign import SFT, SpeechData
from tests.toy import Toy, quiet, speech


@pytest.mark.parametrize(
    ("dtype", "lr", "lost"), [(torch.bfloat16, 1e-6, True), (torch.bfloat16, 1e-2, False), (torch.float32, 1e-6, False)]
)
def test_lost_steps(dtype, lr, lost):
    module = SFT(Toy().to(dtype), lr=lr)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer = module.configure_optimizers()["optimizer"]
    assert any("are rounded away, and lr is" in str(w.message) for w in caught) == lost
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    for _, p in module.named_parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    moved = torch.cat([(p.detach() != before[name]).flatten() for name, p in module.named_parameters()]).float().mean()
    assert bool(moved < 0.5) == lost  # the warning says what happens


def by_hand(weight, grads, lr, betas, decay, eps=1e-8):
    """Loshchilov and Hutter 2019, algorithm 2, with decay times lr as PyTorch has it."""
    mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
    for t, grad in enumerate(grads, 1):
        mean, square = betas[0] * mean + (1 - betas[0]) * grad, betas[1] * square + (1 - betas[1]) * grad**2
        step = (mean / (1 - betas[0] ** t)) / ((square / (1 - betas[1] ** t)).sqrt() + eps)
        weight = weight - lr * decay * weight - lr * step
    return weight


class Odd(Toy):
    """With a weight of another kind beside those of a toy."""

    def __init__(self, odd):
        super().__init__()
        self.odd = torch.nn.Parameter(odd)


@pytest.mark.parametrize(
    ("kind", "one_kernel"), [("plain", True), ("number", True), ("transposed", False), ("slice", False)]
)
def test_steps_are_those_of_the_paper(kind, one_kernel):
    """One kernel takes them where it may: of a slice PyTorch's would write beside the weight, without a word."""
    whole = torch.randn(16, 8, generator=torch.Generator().manual_seed(3))
    beside = whole.clone()
    odd = {"plain": whole[:8], "transposed": whole[:8].t(), "slice": whole[:8, :4], "number": whole[0, 0]}[kind]
    module = SFT(Odd(odd), lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    optimizer = module.configure_optimizers()["optimizer"]
    assert bool(optimizer.param_groups[0]["fused"]) == one_kernel
    before = {name: p.detach().clone().double() for name, p in module.named_parameters()}
    grads = {name: [torch.randn(p.shape).double() for _ in range(3)] for name, p in module.named_parameters()}
    for i in range(3):
        for name, p in module.named_parameters():
            p.grad = grads[name][i].to(p)
        optimizer.step()
    for name, p in module.named_parameters():
        wanted = by_hand(before[name], grads[name], 0.01, (0.9, 0.95), 0.1)
        torch.testing.assert_close(p.detach().double(), wanted, atol=1e-6, rtol=1e-5, msg=name)
    if kind == "slice":  # the other half of each row is not the optimizer's
        assert torch.equal(whole[:, 4:], beside[:, 4:]) and torch.equal(whole[8:], beside[8:])
        assert not torch.equal(whole, beside)


def test_clipping_under_fp16():
    """Lightning refuses to clip for optimizers that unscale by themselves; ours leaves that to the scaler."""
    moved = []
    for plugin in (None, MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))):
        torch.manual_seed(0)
        module = SFT(Toy(), lr=1e-2)
        before = torch.cat([p.detach().flatten().clone() for p in module.parameters()])
        trainer = quiet(max_steps=4, gradient_clip_val=0.1, plugins=plugin and [plugin])
        trainer.fit(module, SpeechData(speech(24)))
        moved.append(torch.cat([p.detach().flatten() for p in module.parameters()]) - before)
    assert moved[0].abs().max() > 1e-3
    torch.testing.assert_close(moved[1], moved[0], atol=2e-3, rtol=0)
