"""Compiled blocks: the same scores and gradients, compiled once for batches of any size, and never while sampling."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.data import DataLoader

from seaalign import DPO, CompileBlocks, Pair, Prompt, Speech
from seaalign.backbones import compile_blocks
from seaalign.backbones.compiled import _blocks
from seaalign.data.batches import PairBatch
from seaalign.miniature.lm import TextSpeechLM
from seaalign.sampling import pair_logps


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def lm():
    torch.manual_seed(0)
    return TextSpeechLM(codes=13, pause=12, factor=6, dim=32, layers=3, heads=2)


def batch(seed):
    g = torch.Generator().manual_seed(seed)
    sizes = torch.randint(2, 20, (7,), generator=g).tolist()
    prompts = [Prompt(torch.randint(1, 9, (n,), generator=g).tolist(), timbre=torch.zeros(41)) for n in sizes[:2]]
    said = [torch.randint(0, 12, (n,), generator=g) for n in sizes[2:]]
    return prompts, Speech.pack(said, torch.ones(5, dtype=torch.bool), torch.tensor([0, 0, 0, 1, 1]))


def gradients(backbone, prompts, speech):
    backbone.zero_grad()
    scores = backbone(prompts, speech)
    scores.square().sum().backward()
    return scores.detach(), [p.grad.clone() for p in backbone.parameters() if p.grad is not None]


def same(one, other):
    torch.testing.assert_close(one[0], other[0], atol=1e-5, rtol=1e-5)
    assert len(one[1]) == len(other[1])
    for mine, theirs in zip(one[1], other[1], strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4 * float(theirs.abs().max().clamp_min(1e-3)), rtol=1e-4)


def test_batches_of_all_sizes_run_in_what_the_first_has_compiled():
    backbone, counter = lm(), CompileCounterWithBackend("aot_eager")
    plain = copy.deepcopy(backbone)
    names = list(backbone.state_dict())
    compile_blocks(backbone, backend=counter)
    assert counter.frame_count == 0 and list(backbone.state_dict()) == names
    after = []
    for seed in range(5):
        same(gradients(backbone, *batch(seed)), gradients(plain, *batch(seed)))
        after.append(counter.frame_count)
    assert after[0] > 0 and len(set(after)) == 1


def test_sampling_compiles_nothing_and_draws_the_same():
    backbone, counter = lm(), CompileCounterWithBackend("aot_eager")
    plain = copy.deepcopy(backbone)
    blocks = compile_blocks(backbone, backend=counter)
    prompts, speech = batch(0)
    drawn = [
        some.sample(prompts, 3, max_len=9, generator=torch.Generator().manual_seed(1)) for some in (backbone, plain)
    ]
    assert torch.equal(drawn[0].tokens, drawn[1].tokens) and counter.frame_count == 0
    assert all(block._compiled_call_impl is not None for block in blocks)
    backbone(prompts, speech)
    assert counter.frame_count > 0
    assert all(child._compiled_call_impl is None for child in copy.deepcopy(backbone).modules())


def test_a_trainer_compiles_before_it_trains_and_learns_the_same(tmp_path):
    prompt = Prompt([1, 2, 3], timbre=torch.zeros(41))
    rows = [torch.tensor([3, 1, 4, 1, 5]), torch.tensor([2, 7, 1]), torch.tensor([6, 6, 6, 6])]
    pairs = [Pair(f"p{i}", prompt, a, b) for i, (a, b) in enumerate(zip(rows, rows[1:] + rows[:1], strict=True))]
    scored, ends = pair_logps(lm(), pairs, progress=False), []
    counter = CompileCounterWithBackend("aot_eager")
    for callbacks in ([], [CompileBlocks(settings={"backend": counter})]):
        module = DPO(lm(), lr=1e-2)
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "max_epochs": 2}
        trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, callbacks=callbacks, **quiet)
        trainer.fit(module, DataLoader(scored, 3, collate_fn=PairBatch.of))
        ends.append([p.detach().clone() for p in module.parameters()])
    assert counter.frame_count > 0
    assert any(not torch.equal(one, start) for one, start in zip(ends[0], DPO(lm()).parameters(), strict=True))
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_by_its_own_compiler_with_less_memory():
    backbone = lm()
    plain = copy.deepcopy(backbone)
    with torch._functorch.config.patch(activation_memory_budget=1.0):
        compile_blocks(backbone, memory=0.5)
        assert torch._functorch.config.activation_memory_budget == 0.5
        same(gradients(backbone, *batch(0)), gradients(plain, *batch(0)))


def test_blocks_are_what_repeats_at_the_outside():
    block = lambda: nn.Sequential(nn.Linear(2, 2), nn.ModuleList([nn.Sequential(nn.ReLU()), nn.Sequential(nn.ReLU())]))  # noqa: E731
    body = nn.Module()
    body.tables = nn.ModuleList([nn.Embedding(3, 2), nn.Embedding(3, 2)])
    body.inner = nn.Module()
    body.inner.layers = nn.ModuleList([block(), block(), block()])
    assert _blocks(body) == list(body.inner.layers)


def test_what_cannot_be_compiled_is_refused():
    class Flat(nn.Module):
        pass

    with pytest.raises(ValueError, match="Flat has no nn.ModuleList of two or more blocks"):
        compile_blocks(Flat())
    checkpointed = lm()
    blocks = _blocks(checkpointed)
    blocks[0].gradient_checkpointing = True
    with pytest.raises(ValueError, match="TextSpeechLM is under gradient checkpointing"):
        compile_blocks(checkpointed)
    with pytest.raises(ValueError, match=r"in \(0, 1\]; got 0"):
        compile_blocks(lm(), memory=0)
