"""Rules on `sample`. Each returns None (passed) or why it could not be tested; a broken rule raises."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from seaalign.backbones import StepBackbone
from seaalign.records import Speech
from seaalign.testing.faults import fault
from seaalign.testing.probe import Probe, reseed


def limits(probe: Probe) -> None:
    """P*n rows in prompt order; min_len and max_len hold, per row too; `ended` is False exactly where a row was cut."""
    n, prompts = 8, len(probe.prompts)
    rows = prompts * n
    owner = [p for p in range(prompts) for _ in range(n)]
    most = torch.tensor([4, 6, 1, 8]).repeat(rows)[:rows]
    for high, low in ((6, 0), (7, 7), (most, most // 2)):
        try:
            speech = probe.draw(n=n, max_len=high, min_len=low)
        except Exception as error:
            numbers = f"{type(error).__name__}: {error}, for {prompts} prompts, n={n}, max_len={high}, min_len={low}"
            raise fault("sample fails", numbers) from error
        if speech.prompt.tolist() != owner:
            raise fault("sample returns other rows", f"prompt is {speech.prompt.tolist()}, not {owner}, for n={n}")
        lengths, ended = speech.lengths.cpu(), speech.ended.cpu()
        shown = f"lengths {lengths.tolist()} for max_len {high} and min_len {low}"
        if (lengths > high).any() or (lengths < low).any():
            raise fault("length limits are not kept", shown)
        if (ended != (lengths < high)).any():
            raise fault("ended is wrong", f"ended {ended.tolist()}, {shown}")
        if isinstance(probe.backbone, StepBackbone):
            eos = probe.backbone.eos
            held = [i for i, row in enumerate(speech.rows()) if eos in (row if row.dim() == 1 else row[:, 0])]
            if held:
                raise fault("end token stored", f"rows {held} hold the end token {eos}")


def repeats(probe: Probe) -> None:
    """The same seed gives the same rows, whatever the global generators hold; the generator moves on."""
    reseed(probe.seed)
    first = probe.draw(n=2, max_len=8)
    reseed(probe.seed + 1)
    second = probe.draw(n=2, max_len=8)
    _equal(first.rows(), second.rows(), "sampling does not repeat", "the same seed gave")
    generator = torch.Generator().manual_seed(probe.seed)
    before = generator.get_state()
    probe.backbone.sample(probe.prompts, n=1, max_len=2, generator=generator)
    if torch.equal(before, generator.get_state()):
        raise fault("sampling ignores the generator", "its state is the same after a call")


def traces(probe: Probe) -> None:
    """Sampling leaves training mode and global random state as they were."""
    probe.backbone.train()
    reseed(probe.seed + 2)
    modes, before = [module.training for module in probe.backbone.modules()], _global_state()
    probe.draw(n=1, max_len=4)
    after = _global_state()
    if modes != [module.training for module in probe.backbone.modules()]:
        raise fault("sampling changes the training mode", "some module's .training differs after sample()")
    moved = [name for name in before if before[name] != after[name]]
    if moved:
        raise fault("sampling moves the global generator", f"the state of {moved} differs after sample(generator=...)")


def _global_state() -> dict[str, object]:
    return {
        "torch": torch.get_rng_state().tolist(),
        "random": random.getstate(),
        "numpy": [np.asarray(part).tolist() for part in np.random.get_state()],
    }


def composition(probe: Probe) -> str | None:
    """A prompt draws the same answers alone, in another order, as the first of more, beside rows that stop early."""
    name, prompts, heat = "sampling depends on batch composition", probe.prompts, 1.2
    n = 16 if probe.coarse else 2
    company = probe.draw(n=n, temperature=heat, max_len=8).rows()
    for p, prompt in enumerate(prompts):
        rows = probe.draw([prompt], n=n, temperature=heat, max_len=8).rows()
        _equal(company[n * p : n * p + n], rows, name, f"prompt {p} in company and alone gave", probe)
    swapped = probe.draw(prompts[::-1], n=n, temperature=heat, max_len=8).rows()
    last = len(prompts) - 1
    again = [swapped[n * (last - p) + i] for p in range(len(prompts)) for i in range(n)]
    _equal(company, again, name, "prompts in order and reversed gave", probe)
    more = probe.draw(n=n + 3, temperature=heat, max_len=8).rows()
    firsts = [more[(n + 3) * p + i] for p in range(len(prompts)) for i in range(n)]
    _equal(company, firsts, name, f"n={n} and the first of n={n + 3} gave", probe)
    short = torch.tensor([8, 1, 1]).repeat(len(company))[: len(company)]
    beside = probe.draw(n=n, temperature=heat, max_len=short).rows()
    cut = [row[:most] for row, most in zip(company, short.tolist(), strict=True)]
    _equal(cut, beside, name, "without and with rows that stop early gave", probe)
    return None if len(prompts) > 1 else "one prompt only: order and company not tested"


def temperature(probe: Probe) -> str | None:
    """Temperature 0 is greedy, whatever the seed, for all rows and for single rows of a batch."""
    if probe.backbone.sampler.split(" ")[0] != "nucleus":  # "nucleus (vLLM)" too
        return f"the sampler is {probe.backbone.sampler!r}, which may leave the model on purpose"
    name, n, rows = "temperature is ignored", 3, 3 * len(probe.prompts)
    greedy = probe.draw(n=n, temperature=0.0, max_len=8).rows()
    same = [greedy[n * (i // n)] for i in range(rows)]
    _equal(greedy, same, name, "answers of one prompt at temperature 0:", probe)
    other = probe.draw(n=n, seed=7, temperature=0.0, max_len=8).rows()
    _equal(greedy, other, name, "two seeds at temperature 0:", probe)
    mixed = torch.tensor([0.0, 1.5, 0.7]).repeat(rows)[:rows]
    drawn = probe.draw(n=n, temperature=mixed, max_len=8).rows()
    where = (mixed == 0).nonzero().flatten().tolist()
    _equal(
        [greedy[i] for i in where], [drawn[i] for i in where], name, "0 for all rows and for these rows only:", probe
    )
    top = probe.draw([probe.shortest], n=1, temperature=0.0, max_len=1)
    seen = probe.draw([probe.shortest], n=32, max_len=1)
    ended, owner = torch.cat([top.ended, seen.ended]), torch.zeros(33)
    scores = probe.score(Speech.pack([*top.rows(), *seen.rows()], ended, owner), [probe.shortest]).sum(-1)
    if scores[1:].max() > scores[0] + probe.atol + probe.rtol * scores[0].abs() and top.tokens.dim() == 2:
        numbers = (
            f"the answer at temperature 0 has log-prob {float(scores[0]):.4f}, another one {float(scores.max()):.4f}"
        )
        raise fault(name, numbers)
    return None


def _equal(want: Sequence[Tensor], got: Sequence[Tensor], name: str, numbers: str, probe: Probe | None = None) -> None:
    """All rows equal; in half precision most of their first frames.

    Rounding then depends on the size of the batch: each draw differs with a few per cent, a row with many times that.
    """
    coarse = probe is not None and probe.coarse
    pairs = [(a[:1], b[:1]) if coarse else (a, b) for a, b in zip(want, got, strict=True)]
    differ = [i for i, (a, b) in enumerate(pairs) if not torch.equal(a, b)]
    allowed = len(want) // 2 if coarse else 0
    if len(differ) > allowed:
        first = f"{want[differ[0]].tolist()} and {got[differ[0]].tolist()}"
        raise fault(name, f"{numbers} {first} ({len(differ)} of {len(want)} rows differ)")
