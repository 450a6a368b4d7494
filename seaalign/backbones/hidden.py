"""Hidden states of a layer, one vector for each frame of speech: a model's own latent space as features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from seaalign.backbones.base import evaluating
from seaalign.backbones.decoder import DecoderOnly
from seaalign.records import Speech, Utterance


def hidden_states(
    backbone: DecoderOnly, utterances: Sequence[Utterance], layer: str, plain: bool = True
) -> list[Tensor]:
    """What a layer holds where it has read each frame of speech.

    Args:
        backbone: read one utterance at a time, in eval mode, without a gradient.
        utterances: with their speech tokens.
        layer: name of a module inside the backbone, as in `backbone.named_modules()`, whose output is (1, S, D), or a
            tuple that begins with it: a block of the transformer.
        plain: without the style prefix of the prompts.

    Returns:
        Features (T, D) each, float32, on the CPU; T is that of the tokens.

    Raises:
        ValueError: there is no such layer, or its output is of another shape.
    """
    modules = dict(backbone.named_modules())
    if layer not in modules:
        raise ValueError(f"no layer {layer!r}; some there are: {[name for name in modules if name][-8:]}")
    seen: list[Any] = []
    handle = modules[layer].register_forward_hook(lambda module, given, out: seen.append(out))
    found = []
    try:
        with evaluating(backbone):
            device = next(backbone.parameters()).device
            for utterance in utterances:
                seen.clear()
                prompt = utterance.prompt.plain() if plain else utterance.prompt
                backbone.hidden([prompt.to(device)], Speech.pack([utterance.tokens]).to(device))
                found.append(_frames(seen, len(utterance.tokens), layer))
    finally:
        handle.remove()
    return found


def _frames(seen: list[Any], count: int, layer: str) -> Tensor:
    """The last `count` positions: speech comes last."""
    out = seen[-1] if seen else None
    out = out[0] if isinstance(out, tuple) else out
    if not isinstance(out, Tensor) or out.dim() != 3 or len(out) != 1 or out.shape[1] < count:
        what = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(f"layer {layer!r} gave {what}, expected (1, S, D) with S of {count} or more: name a block")
    return out[0, -count:].float().cpu()
