"""Steps that 16-bit weights would round away are warned of; those that they keep are not."""

import warnings

import pytest
import torch

from seaalign import SFT
from tests.toy import Toy


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
