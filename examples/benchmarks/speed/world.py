"""What every variant is given: one set of weights, one set of ids, and the settings of the run, in a folder.

No seaalign here: the processes that run TRL import this file from environments of their own.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

MARK, FIRST_TEXT, CODES = 1, 2, 6_561  # id 0 is padding, 1 opens the speech; CosyVoice 2 has 6,561 codes
TEMPERATURES = (0.7, 1.0, 1.3)


@dataclass(frozen=True)
class Job:
    """The settings of a run.

    Ids are laid out as [0, text) text, [text, text + codes) speech, two spare ones, the end: as in a Hugging Face
    model that got speech tokens, where padding and end are ids among others.
    """

    hidden: int = 256
    intermediate: int = 1024
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    text: int = 1_000
    codes: int = CODES
    triplets: int = 4  # a step
    steps: int = 8  # that are measured: padding is a matter of luck, and over 2 steps it is 5 % off its mean
    warm: int = 1  # steps before
    texts: int = 4  # to say
    candidates: int = 12  # of each, a third at each temperature
    prompt: tuple[int, int] = (30, 150)
    frames: tuple[int, int] = (75, 375)
    utterances: int = 20_000
    device: str = "cpu"
    threads: int = 1
    seed: int = 0
    lr: float = 1e-4  # large, so that the second loss says whether the first gradient was right
    beta: float = 0.1

    @property
    def vocabulary(self) -> int:
        """Ids that the model has."""
        return self.text + self.codes + 3

    @property
    def end(self) -> int:
        """Id of the end token: the last one."""
        return self.vocabulary - 1

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Of the candidates of a text."""
        return tuple(heat for heat in TEMPERATURES for _ in range(self.candidates // len(TEMPERATURES)))


SIZES = {
    "minute": Job(
        hidden=32, intermediate=48, layers=2, text=40, codes=60, triplets=2, steps=1, texts=2,
        prompt=(3, 6), frames=(4, 9), utterances=50,
    ),
    "small": Job(),
    "half-billion": Job(
        hidden=896, intermediate=4864, layers=4, heads=14, kv_heads=2, text=156_940 - CODES - 3, triplets=1, steps=2,
        texts=1,
    ),
}  # fmt: skip
ON_GPU = {"layers": 24, "triplets": 8, "steps": 10, "warm": 3, "texts": 43}  # 516 rows to sample


def lengths(low_high: tuple[int, int], shape: tuple[int, ...], g: torch.Generator) -> torch.Tensor:
    """Random lengths, both ends included."""
    return torch.randint(low_high[0], low_high[1] + 1, shape, generator=g)


def make(job: Job, folder: Path) -> None:
    """Write weights/, job.json and data.json."""
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    g = torch.Generator().manual_seed(job.seed)

    def ids(low: int, high: int, size: int) -> list[int]:
        return torch.randint(low, high, (int(size),), generator=g).tolist()

    def texts(count: int) -> list[list[int]]:
        return [ids(FIRST_TEXT, job.text, size) for size in lengths(job.prompt, (count,), g)]

    count = job.triplets * (job.warm + job.steps)
    triplets = [
        {"text": text, "timbre": ids(0, job.codes, 1), "speech": [ids(0, job.codes, n) for n in sizes]}
        for text, sizes in zip(texts(count), lengths(job.frames, (count, 3), g).tolist(), strict=True)
    ]
    said = [{"text": text, "timbre": ids(0, job.codes, 1)} for text in texts(job.texts)]
    asked = lengths(job.frames, (job.texts, job.candidates), g).tolist()
    (folder / "data.json").write_text(json.dumps({"triplets": triplets, "texts": said, "lengths": asked}))
    (folder / "job.json").write_text(json.dumps(asdict(job)))
    torch.manual_seed(job.seed)
    config = Qwen2Config(
        vocab_size=job.vocabulary,
        hidden_size=job.hidden,
        intermediate_size=job.intermediate,
        num_hidden_layers=job.layers,
        num_attention_heads=job.heads,
        num_key_value_heads=job.kv_heads,
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=job.end,
        pad_token_id=0,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder / "weights")


def model_of(job: Job, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The model on its device."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "weights")
    for p in model.parameters():
        p.data = p.data.to(
            dtype, copy=True
        )  # out of the mapped file, whose pages would count as memory of the first step
    return model.to(job.device).train()


def data_of(folder: Path) -> dict[str, Any]:
    """Triplets, texts and lengths, as `make` wrote them."""
    return dict(json.loads((folder / "data.json").read_text()))


def prompt_ids(job: Job, row: dict[str, Any]) -> list[int]:
    """What stands before the speech, in ids of the model."""
    return [*row["text"], MARK, *(job.text + code for code in row["timbre"])]


def speech_ids(job: Job, codes: list[int]) -> list[int]:
    """Speech in ids of the model, without its end."""
    return [job.text + code for code in codes]


def pairs(job: Job, folder: Path) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """(prompt, chosen, rejected) in ids, without ends, of the two pair sets.

    For each step come (real, expressive) of all its triplets, then (real, stable): the mean over the pairs of a step is
    DGSA's loss with weights (0.5, 0.5).
    """
    rows = data_of(folder)["triplets"]
    for start in range(0, len(rows), job.triplets):
        for other in (1, 2):
            for row in rows[start : start + job.triplets]:
                said = [speech_ids(job, codes) for codes in row["speech"]]
                yield prompt_ids(job, row), said[0], said[other]


def gradient_sample(model: Any) -> torch.Tensor:
    """Up to a thousand entries of the gradient of every parameter."""
    parts = [p.grad.flatten()[:: max(1, p.numel() // 1000)][:1000] for _, p in sorted(model.named_parameters())]
    return torch.cat(parts).float().cpu()


def work(run: Callable[[Job, Path, str, Path], dict[str, Any]], packages: tuple[str, ...]) -> None:
    """The main of a process: `python FILE FOLDER VARIANT OUT` runs one variant and writes what it measured."""
    from importlib.metadata import version

    folder, variant, out = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    read = json.loads((folder / "job.json").read_text())
    job = replace(Job(), **{key: tuple(value) if isinstance(value, list) else value for key, value in read.items()})
    torch.set_num_threads(job.threads)
    found = run(job, folder, variant, out)
    found["versions"] = {name: version(name) for name in ("torch", "transformers", *packages)}
    out.write_text(json.dumps(found))
    os._exit(0)  # what was measured is on disk; some libraries take seconds to leave
