"""DGSA steps by seaalign, and by hand as one would write them first.

    python training.py FOLDER VARIANT OUT

Variants: "speech", softmax over speech codes and ends, as `CausalLM` has it by itself; "checkpoint", the same with
gradient checkpointing; "compiled", the same with `compile_blocks(memory=0.5)`; "whole", over the whole vocabulary, as
TRL has it; "hand", whole vocabulary, four padded rows a triplet, a live reference.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import world
from meter import Meter
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.nn.utils.rnn import pad_sequence
from world import Job


def autocast(job: Job) -> AbstractContextManager[Any]:
    """float32 weights, and on a GPU bfloat16 where autocast has it: `bf16-mixed`, in all variants."""
    return torch.autocast("cuda", torch.bfloat16) if job.device == "cuda" else nullcontext()


def backbone_of(job: Job, model: Any, whole: bool = False, checkpoint: bool = False) -> Any:
    """The model behind the contract of seaalign.

    Args:
        job: the settings.
        model: a Hugging Face causal LM.
        whole: every id but the last is a code, so that the softmax runs over the whole head.
        checkpoint: keep what goes into a layer, and compute the rest again in the backward pass.
    """
    from seaalign.backbones import CausalLM, Layout

    prompt = ("{text}", world.MARK, "{timbre}", ("{style.speech}",))
    some = {"speech": job.text, "codes": job.codes, "also": (job.end - 2, job.end - 1)}
    span = {"speech": 0, "codes": job.end} if whole else some
    # the timbre is one of 6,561 codes in both, and stands in the prompt by its id
    layout = Layout("speed", prompt, end=job.end, timbre=job.text, timbre_codes=job.codes, **span)
    return CausalLM(model, layout, gradient_checkpointing=checkpoint)


def groups(job: Job, folder: Path, backbone: Any, shift: int) -> list[list[Any]]:
    """The triplets of each step, with the log-probs of the reference."""
    from seaalign import Prompt, Triplet
    from seaalign.sampling import reference_logps

    rows = [
        Triplet(
            f"t{i}",
            Prompt(row["text"], timbre=torch.tensor(row["timbre"])),
            *(torch.tensor(codes) + shift for codes in row["speech"]),
        )
        for i, row in enumerate(world.data_of(folder)["triplets"])
    ]
    with autocast(job):
        rows = reference_logps(backbone, rows, progress=False)
    return [rows[i : i + job.triplets] for i in range(0, len(rows), job.triplets)]


def seaalign(job: Job, folder: Path, model: Any, variant: str) -> tuple[Sequence[Any], Callable[[Any], Tensor], Any]:
    """Batches, their loss, and an optimizer."""
    from seaalign import DGSA
    from seaalign.backbones import compile_blocks
    from seaalign.data.batches import TripletBatch

    whole = variant == "whole"
    backbone = backbone_of(job, model, whole, variant == "checkpoint")
    if variant == "compiled":
        compile_blocks(backbone, memory=0.5)
    module = DGSA(backbone, alpha=0.8, weights=(0.5, 0.5), beta=job.beta, lr=job.lr, weight_decay=0.0)
    batches = groups(job, folder, backbone, job.text if whole else 0)
    return (
        batches,
        lambda group: module.loss(TripletBatch.of(group).to(job.device))[0],
        module.configure_optimizers()["optimizer"],
    )


def by_hand(job: Job, folder: Path, policy: Any) -> tuple[Sequence[Any], Callable[[Any], Tensor], Any]:
    """The same; a step is 2 x triplets pairs, so four rows a triplet."""
    reference = copy.deepcopy(policy).eval().requires_grad_(False)
    every = list(world.pairs(job, folder))
    size = 2 * job.triplets

    def logp(model: Any, ids: Tensor, real: Tensor, said: Tensor) -> Tensor:
        logits = model(input_ids=ids, attention_mask=real, use_cache=False).logits[:, :-1].float()
        per_token = logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
        return (per_token * said[:, 1:]).sum(-1)

    def loss(group: list[tuple[list[int], list[int], list[int]]]) -> Tensor:
        rows = [(x, y) for x, y, _ in group] + [(x, y) for x, _, y in group]
        ids = pad_sequence([torch.tensor([*x, *y, job.end]) for x, y in rows], batch_first=True).to(job.device)
        place = torch.arange(ids.shape[1], device=job.device)
        start, stop = (
            torch.tensor(n, device=job.device)[:, None]
            for n in ([len(x) for x, _ in rows], [len(x) + len(y) + 1 for x, y in rows])
        )
        masks = (place < stop).long(), ((place >= start) & (place < stop)).long()
        with torch.no_grad():
            before = logp(reference, ids, *masks)
        ratio = logp(policy, ids, *masks) - before
        return -logsigmoid(job.beta * (ratio[:size] - ratio[size:])).mean()

    optimizer = torch.optim.AdamW(policy.parameters(), lr=job.lr, weight_decay=0.0)
    return [every[i : i + size] for i in range(0, len(every), size)], loss, optimizer


def run(job: Job, folder: Path, variant: str, out: Path) -> dict[str, Any]:
    """Steps to warm up, then those that are measured; gradients are clipped at 1, as TRL does by default."""
    import_module("seaalign.modules")  # before the mark: what a library weighs is no memory of a step
    meter, model = Meter(job.device), world.model_of(job, folder)
    meter.mark()
    made = by_hand(job, folder, model) if variant == "hand" else seaalign(job, folder, model, variant)
    batches, loss_of, optimizer = made
    losses, norms = [], []
    for i, batch in enumerate(batches):
        if i == job.warm:
            meter.start()
        with autocast(job):
            loss = loss_of(batch)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        if i == 0:
            torch.save(world.gradient_sample(model), out.with_suffix(".grad"))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    found: dict[str, Any] = meter.stop()
    return found | {"losses": [float(loss) for loss in losses], "gradient_norms": [float(norm) for norm in norms]}


if __name__ == "__main__":
    world.work(run, ("seaalign",))
