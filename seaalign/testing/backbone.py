"""`check_backbone`: the rules of the backbone contract, in the order in which a fault is best understood."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from seaalign.backbones import Backbone
from seaalign.records import Prompt, Speech
from seaalign.testing import dependence, drawing, frequencies, scoring
from seaalign.testing.probe import Probe, make_probe, private_randomness
from seaalign.testing.running import require_backbone

_Rule = Callable[[Probe], "str | None"]
_RULES: tuple[tuple[str, _Rule], ...] = (
    ("shape (B, T+1), fp32, finite", scoring.shape),
    ("same input, same bits, in train mode too", scoring.same_bits),
    ("column algebra of lengths and ended", scoring.columns),
    ("padding changes nothing", scoring.padding),
    ("column t scores token t from tokens before t", dependence.alignment),
    ("batch == single", scoring.alone),
    ("one-token answers sum to 1", scoring.one_token),
    ("stepwise == teacher forced", scoring.stepwise),
    ("shared prompt == separate prompts, value and gradient", dependence.shared),
    ("gradient flows, through real tokens only", dependence.gradient),
    ("style changes the score", dependence.style),
    ("policy == reference: margin 0, loss ln 2", dependence.policy_is_reference),
    ("sample: rows, limits, ended", drawing.limits),
    ("sample: the same seed repeats", drawing.repeats),
    ("sample: leaves no trace", drawing.traces),
    ("sample: independent of batch composition", drawing.composition),
    ("sample: temperature", drawing.temperature),
    ("sample: frequencies follow the model", frequencies.frequencies),
)
# (atol, rtol) by the coarsest dtype among the parameters
_TOLERANCE = {torch.bfloat16: (5e-2, 5e-2), torch.float16: (1e-2, 1e-2)}


@dataclass(frozen=True)
class Report:
    """What `check_backbone` found: pairs (rule, "passed" or "skipped: reason"), readable when printed."""

    results: tuple[tuple[str, str], ...]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __str__(self) -> str:
        width = max(len(rule) for rule, _ in self.results)
        return "\n".join(f"{rule:<{width}}  {outcome}" for rule, outcome in self.results)


def check_backbone(
    backbone: Backbone,
    prompts: Sequence[Prompt],
    speech: Speech,
    seed: int = 0,
    *,
    atol: float | None = None,
    rtol: float | None = None,
    enumerate_up_to: int = 8192,
    draws: int = 1500,
) -> Report:
    """Check that an adapter obeys every rule of the backbone contract; call it in your own tests.

    The backbone is looked at from outside, through `forward` and `sample` (and the hooks of a `StepBackbone`), on at
    most three prompts and four rows of up to 24 frames, on the device where it is. Its modes, buffers and gradients and
    the global random state are put back afterwards.

    Args:
        backbone: the adapter.
        prompts: P >= 1 prompts; better several of different length, one of them with a style if that is offered.
        speech: B rows that answer them, the longest of 4 frames or more; better ragged and with varied tokens.
        seed: of everything drawn here.
        atol: scores agree within `atol + rtol |score|`. Default 1e-4; 1e-2 for fp16 and 5e-2 for bf16 parameters.
        rtol: see atol.
        enumerate_up_to: largest vocabulary of which every one-token answer is scored (V rows of one token).
        draws: first tokens drawn per setting for the chi-square test.

    Returns:
        Report: (rule, "passed" or "skipped: reason") for every rule.

    Raises:
        BackboneError: a rule is broken; the message names the fault, with numbers, a likely cause and a next step.
        ValueError: prompts or speech do not suffice for a check.

    Example:
        >>> import torch
        >>> from seaalign import LogitsBackbone, Prompt, Speech
        >>> class Bigram(LogitsBackbone):
        ...     eos = 3
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.table = torch.nn.Parameter(torch.randn(5, 4, generator=torch.Generator().manual_seed(0)))
        ...     def forward_logits(self, prompts, tokens):
        ...         return self.table[torch.nn.functional.pad(tokens, (1, 0), value=4)]  # row 4: nothing said yet
        >>> report = check_backbone(Bigram(), [Prompt([1, 2]), Prompt([1])], Speech.pack([[0, 1, 2, 1], [2, 0]]))
        >>> len(report), dict(report)["stepwise == teacher forced"]
        (18, 'passed')
    """
    require_backbone(backbone)
    dtypes = [_TOLERANCE[p.dtype] for p in backbone.parameters() if p.dtype in _TOLERANCE]
    loose = max(dtypes, default=(1e-4, 1e-4))
    with private_randomness(seed), _as_it_was(backbone):
        backbone.train()  # training is where dropout and random layouts hide
        probe = make_probe(
            backbone,
            prompts,
            speech,
            seed=seed,
            atol=loose[0] if atol is None else atol,
            rtol=loose[1] if rtol is None else rtol,
            enumerate_up_to=enumerate_up_to,
            draws=draws,
        )
        outcomes = [(name, rule(probe)) for name, rule in _RULES]
    return Report(tuple((name, f"skipped: {reason}" if reason else "passed") for name, reason in outcomes))


@contextmanager
def _as_it_was(module: nn.Module) -> Iterator[None]:
    """Puts back every submodule's mode and the buffers' values."""
    modes = {child: child.training for child in module.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for child, mode in modes.items():
            child.training = mode
        with torch.no_grad():
            for buffer, value in buffers:
                if buffer.shape == value.shape:
                    buffer.copy_(value)
