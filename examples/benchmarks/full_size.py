"""One DGSA step and twelve candidates on a model of the size of CosyVoice 2's: seconds and peak memory.

    python examples/benchmarks/full_size.py [--threads 2] [--frames 125] [--lora] [--device cuda]

The weights are random, of Qwen2.5-0.5B's shapes (24 layers, 896 wide, 14 heads, 2 key heads) with a vocabulary of text
and 6,561 speech codes: time and memory do not depend on what the numbers are. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from typing import Any

import torch

from seaalign import DGSA, Prompt, Style, Triplet
from seaalign.backbones import CausalLM, Layout
from seaalign.data.batches import TripletBatch
from seaalign.sampling import reference_logps

TEXT, CODES = 151_936, 6_561


def model(layers: int) -> torch.nn.Module:
    """Qwen2.5-0.5B with rows for speech, random."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=TEXT + CODES + 3,
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=layers,
            num_attention_heads=14,
            num_key_value_heads=2,
            max_position_embeddings=32_768,
            tie_word_embeddings=True,
        )
    )


def triplets(count: int, frames: int, text: int) -> list[Triplet]:
    """Real, expressive and stable speech of `frames` tokens for texts of `text` ids."""
    g = torch.Generator().manual_seed(0)

    def ids(high: int, size: int) -> torch.Tensor:
        return torch.randint(high, (size,), generator=g)

    return [
        Triplet(
            f"t{i}",
            Prompt(ids(TEXT, text), Style(ids(CODES, 50), ids(TEXT, 20)), ids(CODES, 32)),
            *(ids(CODES, frames) for _ in range(3)),
        )
        for i in range(count)
    ]


def measure(device: str, frames: int, lora: bool, layers: int, candidates: int) -> dict[str, Any]:
    """Seconds and gigabytes of each part."""
    torch.manual_seed(0)
    numbers: dict[str, Any] = {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
    layout = Layout(
        "half-billion",
        prompt=(TEXT + CODES + 1, ("{style.text}",), "{text}", TEXT + CODES + 2, "{timbre}", ("{style.speech}",)),
        speech=TEXT,
        codes=CODES,
        end=TEXT + CODES,
        timbre=TEXT,
        timbre_codes=CODES,
    )

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.monotonic()
        made = work()
        if device == "cuda":
            torch.cuda.synchronize()
        numbers[f"{name} s"], numbers[f"{name} peak GB"] = round(time.monotonic() - start, 2), peak(device)
        return made

    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    backbone = timed("build", lambda: CausalLM(model(layers).to(device, dtype), layout, lora={} if lora else None))
    numbers["parameters M"] = round(sum(p.numel() for p in backbone.parameters()) / 1e6, 1)
    group = triplets(1, frames, 30)
    prompts = [group[0].prompt.to(device)]
    drawn = timed(
        "sample",
        lambda: backbone.sample(
            prompts, candidates, 1.0, 0.9, max_len=frames, min_len=frames, generator=torch.Generator().manual_seed(0)
        ),
    )
    numbers["sampled tokens/s"] = round(int(drawn.lengths.sum()) / numbers["sample s"], 1)
    group = timed("reference", lambda: reference_logps(backbone, group, progress=False))
    module = DGSA(backbone, alpha=0.8, lr=1e-6)
    optimizer = module.configure_optimizers()["optimizer"]
    batch = TripletBatch.of(group).to(device)

    def step() -> float:
        loss, _ = module.loss(batch)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    numbers["loss"] = round(timed("DGSA step", step), 6)  # ln 2: policy and reference are the same before the step
    return numbers


def peak(device: str) -> float:
    """GB, of the process or of the GPU."""
    if device == "cuda":
        return round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=125, help="speech tokens of each completion (5 s at 25 Hz)")
    parser.add_argument("--candidates", type=int, default=12)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--lora", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(json.dumps(measure(given.device, given.frames, given.lora, given.layers, given.candidates), indent=1))


if __name__ == "__main__":
    main()
