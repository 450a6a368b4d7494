"""LoRA by peft, inside the model that an adapter holds; the policy without it is the reference.

peft's layers are put into the held model in place: its class, its attributes and the code that uses it stay as they
are. With the layers switched off it is bit by bit the model it was, so no second model and no stored log-probs are
needed for a reference.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from seaalign.backbones.weights import is_adapter, plain_name, read_weights
from seaalign.storage.columns import whole_folder

_USUAL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_PREFIX = "base_model.model."  # what peft's own files call the model they belong to
_Backbone = TypeVar("_Backbone", bound=nn.Module)


def add_lora(
    backbone: _Backbone,
    r: int = 16,
    alpha: float = 32,
    dropout: float = 0.0,
    targets: Sequence[str] | None = None,
    **settings: Any,
) -> _Backbone:
    """Put LoRA layers into the held model, in place, and freeze everything else.

    Args:
        backbone: an adapter. Its `lora_host`, or else the backbone itself, is what the layers go into and what files of
            them are relative to.
        r: rank.
        alpha: the update is scaled by alpha / r.
        dropout: on the input of the update. Above 0, layers that were trained before score at random in training, and
            `DGSA` refuses to start from them.
        targets: endings of the names of the linear layers; default: the projections of attention and feed-forward.
        **settings: of `peft.LoraConfig`.

    Returns:
        The backbone itself.

    Raises:
        ImportError: peft is not installed.
        ValueError: it has LoRA layers already, or no layer of these names.

    Source: Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models".
    """
    peft = _peft()
    host = lora_host(backbone)
    if has_adapters(host):
        raise ValueError(f"{type(host).__name__} has LoRA layers already: load or train these")
    if settings.get("modules_to_save"):
        raise ValueError(
            f"modules_to_save={settings['modules_to_save']}: layers trained whole are part of no reference"
        )
    linear = sorted({name.rpartition(".")[2] for name, m in host.named_modules() if isinstance(m, nn.Linear)})
    chosen = [name for name in _USUAL if name in linear] if targets is None else list(targets)
    if not chosen:
        raise ValueError(f"no layer is called {', '.join(_USUAL)}: pass targets=[...], of its linear layers {linear}")
    backbone.requires_grad_(False)
    config = peft.LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=chosen, **settings)
    peft.inject_adapter_in_model(config, host)
    return backbone


def lora_host(backbone: nn.Module) -> nn.Module:
    """The module that LoRA layers go into: the backbone's `lora_host`, or else the backbone itself."""
    return getattr(backbone, "lora_host", None) or backbone


def has_adapters(module: nn.Module) -> bool:
    """Are there LoRA layers (or others of peft) in the module?"""
    return any(True for _ in _layers(module))


@contextmanager
def adapters_off(module: nn.Module) -> Iterator[None]:
    """Inside, the module is what it was before LoRA: the reference policy.

    Raises:
        ValueError: there is nothing to switch off.
    """
    layers = [layer for _, layer in _layers(module)]
    if not layers:
        raise ValueError(f"{type(module).__name__} has no LoRA layers to switch off: call add_lora first")
    asked = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    on = [layer for layer in layers if not layer.disable_adapters]
    try:
        for layer in on:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in on:
            layer.enable_adapters(True)
        for parameter, wanted in asked:  # switching on asks for gradients of all of them
            parameter.requires_grad_(wanted)


def merged_state(module: nn.Module) -> dict[str, Tensor]:
    """The state_dict under its plain names, with LoRA merged in; the module stays as it is.

    Each layer is merged in a copy of its own, so the extra memory is that of one layer at a time and of the result.

    Args:
        module: with or without LoRA layers.

    Returns:
        Tensors by name, detached, on the module's device.
    """
    state = {
        plain_name(name): value.detach()
        for name, value in module.state_dict().items()
        if isinstance(value, Tensor) and not is_adapter(name)
    }
    for name, layer in _layers(module):
        if layer.merged:
            continue
        merged = copy.deepcopy(layer)
        merged.merge(safe_merge=True)  # refuses what is not finite
        for key, value in merged.get_base_layer().state_dict().items():
            state[f"{name}.{key}" if name else key] = value.detach()
    return state


def save_adapters(host: nn.Module, folder: str | Path) -> None:
    """Write the LoRA layers alone, as peft does, whole or not at all: `peft.PeftModel.from_pretrained` reads them.

    Args:
        host: what the layers sit in; see `lora_host`.
        folder: an existing one is replaced at the last moment.

    Raises:
        ValueError: there are none.
    """
    from safetensors.torch import save_file

    if not has_adapters(host):
        raise ValueError(f"{type(host).__name__} has no LoRA layers to save: call add_lora first, or save all of it")
    state = {_PREFIX + name: value.detach().cpu().contiguous() for name, value in _adapter_state(host).items()}
    with whole_folder(folder) as draft:
        _config(host).save_pretrained(str(draft))
        save_file(state, draft / "adapter_model.safetensors", {"format": "pt"})


def load_adapters(backbone: nn.Module, folder: str | Path) -> None:
    """Read LoRA layers that `save_adapters` or peft wrote; where the backbone has none, they are put in first.

    Raises:
        ValueError: they do not fit; the message names a tensor.
    """
    peft = _peft()
    host = lora_host(backbone)
    if not has_adapters(host):
        config = peft.LoraConfig.from_pretrained(str(folder))
        config.inference_mode = False
        backbone.requires_grad_(False)
        peft.inject_adapter_in_model(config, host)
    state = {name.removeprefix(_PREFIX): value for name, value in read_weights(folder).items()}
    here = _adapter_state(host)
    apart = [
        f"{name} is {tuple(state[name].shape)} in the file and {tuple(here[name].shape)} here"
        for name in here
        if name in state and state[name].shape != here[name].shape
    ]
    apart += [f"{name} is in one of the two alone" for name in sorted(here.keys() ^ state.keys())]
    if apart:
        raise ValueError(
            f"the LoRA layers in {folder} do not fit {type(host).__name__}: {apart[0]}, {len(apart)} in all. They "
            "belong to a model of another size, or have another rank or other targets"
        )
    peft.set_peft_model_state_dict(host, state)


def _adapter_state(host: nn.Module) -> dict[str, Tensor]:
    # "auto" would ask the hub whether the vocabulary has changed; everything below the layers is frozen
    return dict(_peft().get_peft_model_state_dict(host, save_embedding_layers=False))


def _config(host: nn.Module) -> Any:
    return next(iter(host.peft_config.values()))  # type: ignore[union-attr, operator]


def _layers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    if "peft" not in sys.modules:  # nobody can have put any in
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, child in module.named_modules():
        if isinstance(child, BaseTunerLayer):
            yield name, child


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ImportError('LoRA needs peft: pip install "seaalign[hf]"') from error
    return peft
