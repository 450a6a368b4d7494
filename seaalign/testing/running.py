"""Before any rule: is it a backbone, has it an end token, and where forward fails, what is the likeliest cause?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from operator import index
from typing import Any

import torch

from seaalign.backbones import Backbone, DecoderOnly, StepBackbone
from seaalign.backbones.base import evaluating
from seaalign.testing.faults import BackboneError, fault
from seaalign.testing.probe import Probe


def require_backbone(given: Any) -> None:
    """Refuse what is no `Backbone`, and a `StepBackbone` whose `eos` is no id."""
    if not isinstance(given, Backbone):
        name = given.__name__ if isinstance(given, type) else type(given).__name__
        if isinstance(given, type) and issubclass(given, Backbone):
            raise fault("no backbone", f"{name} is a class: give an object of it, {name}(...)")
        raise fault("no backbone", f"{name} is no Backbone: wrap it in an adapter, docs/your_own_model.md")
    if isinstance(given, StepBackbone):
        eos: Any = getattr(given, "eos", None)
        try:
            index(eos)  # numpy integers and tensors of one number are ids too
        except TypeError:
            name = type(given).__name__
            said = f"{name}.eos is {eos!r}, not an int" if hasattr(given, "eos") else f"{name} has no `eos`"
            raise fault("no end token", said) from None


def require_end(probe: Probe) -> None:
    """Refuse an end token beyond the head's outputs: on a GPU, forward would end in a bare device assert."""
    try:
        size = _outputs(probe)
    except Exception:  # forward meets it too, and is asked for more
        return
    eos: Any = getattr(probe.backbone, "eos", 0)
    if size and not 0 <= index(eos) < size:
        raise fault("no end token", f"eos={eos}, but the head has {size} outputs, ids 0..{size - 1}")


def require_prefill(probe: Probe) -> None:
    """Refuse a backbone that scores in one pass and cannot read a prompt step by step."""
    with steps(probe):
        _outputs(probe)


@contextmanager
def steps(probe: Probe) -> Iterator[None]:
    """What `prefill`, `extend` and `select` raise inside is a fault of theirs."""
    try:
        yield
    except Exception as error:
        raise fault("stepwise fails", _shown(error, f"{len(probe.prompts)} prompts")) from error


def _outputs(probe: Probe) -> int:
    """How many ids the head has; 0 where that cannot be told."""
    backbone = probe.backbone
    if not isinstance(backbone, StepBackbone):
        return 0
    with evaluating(backbone):
        feature = backbone.prefill([probe.shortest])[0]
        return 0 if backbone.codebooks is not None else backbone.logits(feature).shape[-1]


def _shown(error: Exception, given: str) -> str:
    return f"{type(error).__name__}: {str(error).rstrip('.')}, for {given}"


def failed(probe: Probe, error: Exception) -> BackboneError:
    """What to say of an error that forward raised: a cause is guessed only where the error hints at one."""
    speech = probe.speech
    given = f"{len(probe.prompts)} prompts and tokens {tuple(speech.tokens.shape)}, prompt {speech.prompt.tolist()}"
    shown = _shown(error, given)
    if isinstance(error, IndexError) and "out of range in self" in str(error):  # what nn.Embedding says
        text = max((int(prompt.text.max()) for prompt in probe.prompts if len(prompt.text)), default=None)
        ids = f"text ids go up to {text}, speech ids up to {int(probe.alphabet.max())}"
        return fault("forward meets an unknown id", f"{shown}; {ids}")
    if isinstance(error, RuntimeError | IndexError) and not isinstance(error, NotImplementedError):
        return fault("forward fails", shown, _wrong_prompt(probe))
    return fault("forward raises", shown)


def _wrong_prompt(probe: Probe) -> str:
    """The shape of what `embed_prompt` returns, where that is not (L, D)."""
    if not isinstance(probe.backbone, DecoderOnly):
        return ""
    try:
        with torch.no_grad():
            got = tuple(probe.backbone.embed_prompt(probe.shortest).shape)
    except Exception:  # then it is the error that is shown already
        return ""
    batch = ": take the batch axis out, x[0]" if len(got) == 3 and got[0] == 1 else ""
    return f"embed_prompt returned {got}, not (L, D){batch}" if len(got) != 2 else ""
