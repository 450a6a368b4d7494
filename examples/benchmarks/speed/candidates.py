"""Candidates of every text, a third at each of three temperatures: by seaalign, and three ways by `generate`.

    python candidates.py FOLDER VARIANT OUT

Variants: "seaalign", one call; "each", a call of `generate` per text and temperature; "batched", a call per temperature
with all texts; "rows", one call with all rows, and a temperature per row by a logits processor.

Every row has a length of its own, the same in all variants: the end is not drawn before, and the row stops there.
`generate` draws from the whole head, seaalign from the rows of it that are speech; both from a nucleus of 0.9.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import world
from meter import Meter
from torch import Tensor
from training import backbone_of
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from world import TEMPERATURES, Job

TOP_P = 0.9


class NoEnd(LogitsProcessor):
    """Neither the end nor padding is drawn."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = list(ids)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, self.ids] = -torch.inf
        return scores


class Heat(LogitsProcessor):
    """A temperature per row."""

    def __init__(self, temperature: Tensor) -> None:
        self.temperature = temperature[:, None]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores / self.temperature


class AtLength(StoppingCriteria):
    """A row is done at its length, and is padded from there on."""

    def __init__(self, prompt: int, sizes: Tensor) -> None:
        self.last = prompt + sizes

    def __call__(self, input_ids: Tensor, scores: Tensor, **rest: Any) -> Tensor:
        return input_ids.shape[1] >= self.last


def generated(
    job: Job, model: Any, prompts: list[list[int]], sizes: Tensor, temperature: float = 1.0, heat: Tensor | None = None
) -> Tensor:
    """Lengths (P, n) that one call of `generate` gives.

    Args:
        job: the settings.
        model: a Hugging Face causal LM.
        prompts: P lists of ids.
        sizes: of the rows (P, n).
        temperature: of all rows.
        heat: one per row instead (P * n,).
    """
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in prompts], device=job.device)
    seen = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=job.device)
    steps = [NoEnd([0, job.end])] + ([Heat(heat.to(job.device))] if heat is not None else [])
    rows = model.generate(
        input_ids=ids,
        attention_mask=seen,
        do_sample=True,
        num_return_sequences=sizes.shape[1],
        temperature=temperature,
        top_k=0,  # 50 by default
        top_p=TOP_P,
        max_new_tokens=int(sizes.max()),
        pad_token_id=0,
        eos_token_id=job.end,
        logits_processor=LogitsProcessorList(steps),
        stopping_criteria=StoppingCriteriaList([AtLength(width, sizes.flatten().to(job.device))]),
    )
    return (rows[:, width:] != 0).sum(-1).view(sizes.shape)


def by_generate(job: Job, model: Any, prompts: list[list[int]], variant: str) -> Callable[[Tensor], Tensor]:
    """What says all texts at lengths (P, candidates), and returns the lengths that came of it."""
    third = job.candidates // len(TEMPERATURES)

    def at_once(sizes: Tensor) -> Tensor:
        heat = torch.tensor(job.temperatures * len(prompts))
        return generated(job, model, prompts, sizes, heat=heat)

    def by_temperature(some: list[list[int]], sizes: Tensor) -> Tensor:
        cuts = zip(TEMPERATURES, sizes.split(third, dim=1), strict=True)
        return torch.cat([generated(job, model, some, cut, heat) for heat, cut in cuts], dim=1)

    def each(sizes: Tensor) -> Tensor:
        return torch.cat([by_temperature([prompt], sizes[[i]]) for i, prompt in enumerate(prompts)])

    return {"each": each, "batched": lambda sizes: by_temperature(prompts, sizes), "rows": at_once}[variant]


def by_seaalign(job: Job, model: Any, texts: list[dict[str, Any]]) -> Callable[[Tensor], Tensor]:
    """The same in one call."""
    from seaalign import Prompt

    backbone = backbone_of(job, model)
    prompts = [Prompt(text["text"], timbre=torch.tensor(text["timbre"])) for text in texts]
    heat = torch.tensor(job.temperatures * len(prompts))

    def call(sizes: Tensor) -> Tensor:
        limits = {"max_len": sizes.flatten(), "min_len": sizes.flatten()}
        g = torch.Generator().manual_seed(job.seed)
        speech = backbone.sample(prompts, job.candidates, heat, TOP_P, generator=g, **limits)
        return speech.lengths.view(sizes.shape)

    return call


def run(job: Job, folder: Path, variant: str, out: Path) -> dict[str, Any]:
    """Three tokens each to warm up, then all of them."""
    meter, data = Meter(job.device), world.data_of(folder)
    dtype = torch.bfloat16 if job.device == "cuda" else torch.float32
    model = world.model_of(job, folder, dtype).eval()
    sizes = torch.tensor(data["lengths"])
    prompts = [world.prompt_ids(job, text) for text in data["texts"]]
    torch.manual_seed(job.seed)
    call = (
        by_seaalign(job, model, data["texts"]) if variant == "seaalign" else by_generate(job, model, prompts, variant)
    )
    meter.mark()
    call(sizes.clamp_max(3))
    meter.start()
    made = call(sizes)
    return {**meter.stop(), "tokens": int(sizes.sum()), "lengths_as_asked": torch.equal(made.cpu(), sizes)}


if __name__ == "__main__":
    world.work(run, ("seaalign",))
