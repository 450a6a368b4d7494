"""What training left, into a backbone: a checkpoint of Lightning, or weights in the model's own format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seaalign.backbones.lora import has_adapters, lora_host
from seaalign.backbones.lora_files import take_out
from seaalign.backbones.weights import is_adapter, load_into, read_weights


def load_weights(backbone: Any, path: str, option: str = "--weights") -> None:
    """Weights of a training run, or of the model in its own format, into a backbone.

    Args:
        backbone: takes them.
        path: a checkpoint of `seaalign fit`, of which the weights alone are read, or weights as the backbone's own code
            saves them, such as CosyVoice's llm.pt or a Hugging Face folder.
        option: how messages call it.

    Raises:
        ValueError: they cannot be read, or do not fit.
    """
    native, prefix = Path(path).is_dir(), "backbone."
    try:
        state = {} if native else read_weights(path)
    except ValueError as error:
        raise ValueError(
            f"{option} {path} is no checkpoint that could be read: give a file that `seaalign fit` or torch.save "
            f"wrote, with tensors alone, or what your model is saved as. {error}"
        ) from error
    if any(map(is_adapter, state)) and not has_adapters(backbone):
        raise ValueError(
            f"{option} {path} was trained with LoRA, and the backbone of this file has none: take the file of that "
            "run, or give the backbone the same lora="
        )
    trained = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
    if trained:
        load_into(backbone, trained, f"{option} {path}", "Give the model the class and the sizes that it had.")
    else:
        backbone.load(path)  # as upstream code wrote it


@contextmanager
def lent(backbone: nn.Module) -> Iterator[None]:
    """Give a backbone back as it was, whatever weights or LoRA layers are loaded into it meanwhile.

    A file of adapters says nothing of the weights below them, nor plain weights of the adapters above: without this,
    what one file leaves would speak along with the next. Takes a copy of the weights on the CPU.
    """
    before = {k: v.detach().to("cpu", copy=True) for k, v in backbone.state_dict().items() if isinstance(v, Tensor)}
    adapted = has_adapters(backbone)
    try:
        yield
    finally:
        if has_adapters(backbone) and not adapted:
            take_out(lora_host(backbone))
        with torch.no_grad():
            for name, value in backbone.state_dict().items():
                if name in before:
                    value.copy_(before[name])


def step_of(path: str | Path) -> int | None:
    """The optimizer step of a checkpoint; None where it does not say.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "last.ckpt")
        >>> torch.save({"global_step": 700, "state_dict": {}}, path)
        >>> step_of(path)
        700
    """
    if Path(path).suffix not in (".ckpt", ".pt") or not Path(path).is_file():
        return None
    try:
        found = torch.load(path, map_location="meta", weights_only=True)
    except Exception:  # whatever is wrong with it, `load_weights` will say
        return None
    step = found.get("global_step", found.get("step")) if isinstance(found, dict) else None
    return step if isinstance(step, int) else None
