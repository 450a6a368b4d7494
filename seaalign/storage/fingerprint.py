"""Fingerprints of weights, sequence layout and data: stored log-probs are only good for the three that made them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from seaalign.records import Triplet, Utterance


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
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(backbone.state_dict().items()):
        if isinstance(value, Tensor):
            _update(digest, name, value)
        else:  # extra state of some modules; its repr is the best that is stable
            digest.update(f"{name}|{value!r}".encode())
    return digest.hexdigest()


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
        style = utterance.prompt.style
        digest.update(f"{utterance.id}\n".encode())
        _update(digest, "text", utterance.prompt.text)
        _update(digest, "tokens", utterance.tokens)
        _update(digest, "style", None if style is None else style.tokens)
        _update(digest, "style_text", None if style is None else style.text)
        for leaf in _pytree.tree_leaves(utterance.prompt.timbre):
            if isinstance(leaf, Tensor):
                _update(digest, "timbre", leaf)
    return digest.hexdigest()


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
