"""The weights that an engine gets: have they changed, and how they reach it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SHARD = 1 << 30  # bytes of weights held in memory while they are written
_WORDS = 1 << 20  # 8-byte words summed at once
_ODD = -7046029254386353131  # 2^64 over the golden ratio: its multiples are spread over all 64 bits


def weights_mark(module: nn.Module) -> str:
    """Fingerprint of all parameters and buffers by content, summed up where they are.

    0.7 s of one CPU core for 2 GB, where a cryptographic hash takes 2.3; on a GPU nothing but the sums leaves it.
    Version counters of tensors would cost nothing, but fused optimizers and edits of `.data` do not move them. Every
    8-byte word is multiplied by an odd number of its own, so a change within one word is always seen; of other changes
    one in about 2^32 could be missed.

    Returns:
        32 hex digits.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> before = weights_mark(layer)
        >>> _ = layer.weight.data[0, 0].add_(1.0)
        >>> weights_mark(layer) == before
        False
    """
    digest, odd = hashlib.blake2b(digest_size=16), dict[torch.device, Tensor]()
    for name, tensor in chain(module.named_parameters(), module.named_buffers()):
        words = _words(tensor)
        if words.device not in odd:
            odd[words.device] = (torch.arange(1, _WORDS + 1, device=words.device) * _ODD) | 1
        sums = torch.stack([(part * odd[part.device][: len(part)]).sum() for part in words.split(_WORDS)])
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|{sums.tolist()}\n".encode())
    for name, child in module.named_modules():
        if hasattr(child, "merged_adapters"):  # a layer of peft: what it adds depends on these too
            digest.update(f"{name}|{child.merged_adapters}|{child.active_adapters}|{child.scaling}\n".encode())
    return digest.hexdigest()


def _words(tensor: Tensor) -> Tensor:
    """The bytes of a tensor as int64 (N,), the last ones filled up with zeros."""
    raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    if raw.numel() % 8 or raw.storage_offset() % 8:
        raw = F.pad(raw, (0, -raw.numel() % 8)).clone()
    words = raw.view(torch.int64)
    return words ^ (words >> 32)  # spreads the high bits: alone, an even number of flipped signs would cancel out


def checkpoint_names(config: Any) -> frozenset[str]:
    """Names of the weights in the safetensors files that an engine was built from; empty where these are elsewhere.

    Args:
        config: `vllm.LLM.model_config`.
    """
    files = sorted(Path(str(config.model)).glob("*.safetensors"))
    if not files:
        return frozenset()
    from safetensors import safe_open

    names = set[str]()
    for file in files:
        with safe_open(file, "pt") as opened:
            names.update(opened.keys())
    tied = bool(getattr(config.hf_config, "tie_word_embeddings", False))
    # neither is read: a tied head, and the tables of frequencies that old checkpoints hold
    return frozenset(n for n in names if n.endswith((".weight", ".bias")) and not (tied and n == "lm_head.weight"))


def write_weights(weights: Iterable[tuple[str, Tensor]], folder: Path, dtype: torch.dtype) -> None:
    """Write safetensors files of about 1 GB each, so that the weights are never in memory a second time.

    Args:
        weights: (name, tensor).
        folder: an empty one.
        dtype: of floating-point tensors in the files.
    """
    from safetensors.torch import save_file

    shard: dict[str, Tensor] = {}
    count = size = 0
    for name, tensor in weights:
        # a copy each: safetensors refuses tensors that share memory, as tied ones do
        kind = dtype if tensor.is_floating_point() else tensor.dtype
        shard[name] = tensor.detach().to("cpu", kind, copy=True).contiguous()
        size += shard[name].nbytes
        if size >= _SHARD:
            save_file(shard, folder / f"model-{count:05}.safetensors")
            shard, count, size = {}, count + 1, 0
    if shard:
        save_file(shard, folder / f"model-{count:05}.safetensors")
