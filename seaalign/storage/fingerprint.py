"""Fingerprints of weights, sequence layout and data: stored log-probs are only good for the three that made them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from seaalign.records import Pair, Prompt, Triplet, Utterance

_FACTORS = {"lora_A": "lora_B", "lora_embedding_A": "lora_embedding_B"}
_FACTORS |= {other: one for one, other in _FACTORS.items()}
"""What peft calls the two matrices of a LoRA layer, each with its partner; an embedding starts with A at 0."""


def _update(digest: hashlib.blake2b, name: str, value: Tensor | None) -> None:
    if value is None:
        digest.update(f"{name}|-".encode())
        return
    tensor = value.detach().cpu().contiguous()
    digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
    # bytes rather than numbers: numpy knows no bfloat16
    digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)


def weights_hash(backbone: nn.Module) -> str:
    """Fingerprint of all weights and saved buffers: names, types, shapes and bytes; the same in every process.

    LoRA layers that add nothing yet, as right after `add_lora`, are left out: the model computes what it computed
    without them, so what was stored before they were put in is still good.

    Args:
        backbone: any module; its state_dict is read.

    Returns:
        32 hex digits.

    Example:
        >>> a, b = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
        >>> _ = b.load_state_dict(a.state_dict())
        >>> weights_hash(a) == weights_hash(b), weights_hash(a) == weights_hash(b.bfloat16())
        (True, False)
    """
    digest, whole = hashlib.blake2b(digest_size=16), backbone.state_dict()
    state = _without_idle_lora(whole)
    if state is whole:  # what the layers of peft add also depends on a number beside their matrices
        for name, layer in backbone.named_modules():
            if hasattr(layer, "merged_adapters") and hasattr(layer, "scaling"):
                digest.update(f"{name}|{layer.scaling}".encode())
    for name, value in sorted(state.items()):
        if isinstance(value, Tensor):
            _update(digest, name, value)
        else:  # extra state of some modules; its repr is the best that is stable
            digest.update(f"{name}|{value!r}".encode())
    return digest.hexdigest()


def _without_idle_lora(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state under the names that it had before LoRA, where no LoRA layer adds anything; otherwise as it is."""
    layers = defaultdict[str, dict[str, Any]](dict)
    for name, value in state.items():
        layer, found, rest = name.partition(".lora_")
        if found:
            layers[layer][f"lora_{rest}"] = value
    if not all(_idle(tensors) for tensors in layers.values()):
        return state
    plain = {}
    for name, value in state.items():
        layer, below, rest = name.partition(".base_layer.")
        if ".lora_" not in name:
            plain[f"{layer}.{rest}" if below and layer in layers else name] = value
    return plain


def _idle(tensors: Mapping[str, Any]) -> bool:
    """Is one factor of every product zero, and is there nothing but products?"""
    moved = {name for name, value in tensors.items() if not isinstance(value, Tensor) or bool(value.count_nonzero())}
    for name in moved:
        kind, _, rest = name.partition(".")
        partner = f"{_FACTORS.get(kind)}.{rest}"
        if partner not in tensors or partner in moved:
            return False
    return True


def layout_of(backbone: nn.Module) -> str:
    """How the backbone lays out its sequence: its class, and its own `layout` attribute where it has one.

    `layout` is an optional string on the backbone. Set it where one class can lay out the same prompt in several ways
    (the order of style and text, special tokens, a template), and change it whenever that changes: triplets that were
    stored under another layout are then refused rather than compared with log-probs of another sequence.

    Args:
        backbone: any module.

    Returns:
        "module.Class", or "module.Class:layout".

    Example:
        >>> layout_of(torch.nn.Identity())
        'torch.nn.modules.linear.Identity'
    """
    kind = f"{type(backbone).__module__}.{type(backbone).__qualname__}"
    layout = getattr(backbone, "layout", None)
    return f"{kind}:{layout}" if layout else kind


def data_hash(utterances: Iterable[Utterance]) -> str:
    """Fingerprint of what the utterances say and hold (ids, text, tokens, styles, timbres), in any order.

    Of a timbre, its tensors count, because the draws are seeded by them and the model may be conditioned on them.

    Returns:
        32 hex digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    for utterance in sorted(utterances, key=lambda item: item.id):
        digest.update(f"{utterance.id}\n".encode())
        _update(digest, "text", utterance.prompt.text)
        _update(digest, "tokens", utterance.tokens)
        _update_voice(digest, utterance.prompt)
    return digest.hexdigest()


def _update_voice(digest: hashlib.blake2b, prompt: Prompt) -> None:
    _update(digest, "style", None if prompt.style is None else prompt.style.tokens)
    _update(digest, "style_text", None if prompt.style is None else prompt.style.text)
    for leaf in _pytree.tree_leaves(prompt.timbre):
        if isinstance(leaf, Tensor):
            _update(digest, "timbre", leaf)


def samples_hash(triplets: Iterable[Triplet]) -> str:
    """Fingerprint of the completions of triplets, in any order.

    Returns:
        32 hex digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    for triplet in sorted(triplets, key=lambda item: item.id):
        digest.update(f"{triplet.id}|{triplet.ended}\n".encode())
        for tokens in triplet.completions():
            _update(digest, "tokens", tokens)
    return digest.hexdigest()


def pairs_hash(pairs: Iterable[Pair]) -> str:
    """Fingerprint of what pairs say and hold (ids, prompts, answers, log-probs where they carry some), in any order.

    Returns:
        32 hex digits.

    Example:
        >>> one, other = Pair("a", Prompt([1]), torch.tensor([2]), torch.tensor([3])), Prompt([1])
        >>> pairs_hash([one]) == pairs_hash([Pair("a", other, one.rejected, one.chosen)])
        False
    """
    digest = hashlib.blake2b(digest_size=16)
    for pair in sorted(pairs, key=lambda item: item.id):
        digest.update(f"{pair.id}|{pair.ended}\n".encode())
        _update(digest, "text", pair.prompt.text)
        _update_voice(digest, pair.prompt)
        for tokens in pair.completions():
            _update(digest, "tokens", tokens)
        for logps in pair.reference or ():
            _update(digest, "reference", logps)
    return digest.hexdigest()
