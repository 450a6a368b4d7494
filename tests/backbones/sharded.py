"""Scores a batch on two processes whose weights are split between them (FSDP2), or copied (DDP); run by a test."""

from __future__ import annotations

import os
import sys
import warnings

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from seaalign import Speech
from seaalign.backbones import CausalLM, compile_blocks
from seaalign.functional import products
from tests.backbones.tiny_hf import model_for, prompts_for, rows


def backbone(checkpointing: bool, tied: bool) -> CausalLM:
    return CausalLM(*model_for("spark", "Qwen2", tie_word_embeddings=tied), gradient_checkpointing=checkpointing)


def compare(how: str, checkpointing: bool, tied: bool, compiled: bool = False) -> None:
    """Values and gradients beside those of one process that scores both batches."""
    split, alone, rank = backbone(checkpointing, tied), backbone(checkpointing, tied), dist.get_rank()
    prompts, batches = prompts_for(alone.spec), [rows(9, 4, 7), rows(5, 12, 3)]
    speech = [Speech.pack(batch, prompt=[2, 0, 2]) for batch in batches]
    if compiled:
        compile_blocks(split, backend="aot_eager")
    if how == "fsdp2":
        for layer in split.model.model.layers:
            fully_shard(layer, mesh=init_device_mesh("cpu", (2,)))
        module = fully_shard(split, mesh=init_device_mesh("cpu", (2,)))
    else:
        module = DistributedDataParallel(split)
    scores = module(prompts, speech[rank])
    assert list(split._trials.values()) == [""], split._trials
    scores.sum().backward()
    wanted = [alone(prompts, each) for each in speech]
    (sum(each.sum() for each in wanted) / 2).backward()
    torch.testing.assert_close(scores, wanted[rank], atol=1e-5, rtol=1e-5)
    for (name, p), other in zip(split.named_parameters(), alone.parameters(), strict=True):
        grad = p.grad.full_tensor() if how == "fsdp2" else p.grad
        torch.testing.assert_close(
            grad, other.grad, atol=1e-5, rtol=1e-4, msg=lambda said, name=name: f"{name}: {said}"
        )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    products._GAINS = 1  # small products by oneDNN too, where PyTorch has it
    dist.init_process_group("gloo", init_method=sys.argv[1], rank=int(sys.argv[2]), world_size=2)
    for how in ("ddp", "fsdp2"):
        for checkpointing, tied in ((False, False), (True, False), (False, True)):
            compare(how, checkpointing, tied)
        compare(how, checkpointing=False, tied=False, compiled=True)
    dist.barrier()
    sys.stderr.flush()
    os._exit(0)  # gloo's threads may abort a process that ends by itself
