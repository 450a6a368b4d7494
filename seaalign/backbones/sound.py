"""From rows of speech tokens to sound: what every listener, judge or callback, needs of a backbone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from seaalign.records import Prompt, Speech


def sound(backbone: Any, speech: Speech, prompts: Sequence[Prompt]) -> dict[int, Tensor]:
    """Waveforms (samples,), on the CPU, by row number, of the rows that hold speech; an empty answer has no sound."""
    rows = speech.lengths.nonzero().squeeze(-1)
    if not len(rows):
        return {}
    spoken = speech.select(rows)
    waveforms = backbone.decode(spoken, [prompts[p].timbre for p in spoken.prompt.tolist()])
    return {row: waveform.detach().float().cpu() for row, waveform in zip(rows.tolist(), waveforms, strict=True)}


def rate_of(backbone: Any, given: int | None) -> int:
    """Hz: what was given, or the backbone's own `sample_rate`."""
    rate = given or getattr(backbone, "sample_rate", None)
    if not rate:
        raise ValueError(
            f"the sample rate of {type(backbone).__name__} is unknown: give it an attribute sample_rate, or pass "
            "sample_rate=24000 (Hz)"
        )
    return int(rate)


@contextmanager
def steady(device: torch.device) -> Iterator[None]:
    """Inside, torch draws from seed 0; the generators of the CPU and of the device are put back."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(0)
        for used in devices:
            with torch.cuda.device(used):
                torch.cuda.manual_seed(0)
        yield
