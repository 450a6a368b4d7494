"""LoRA layers on disk: merged into plain weights, or alone in peft's own format."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from seaalign.backbones.lora import has_adapters, inject, layers, lora_host, peft
from seaalign.backbones.weights import is_adapter, plain_name, read_weights
from seaalign.storage.columns import whole_folder

_PREFIX = "base_model.model."  # what peft's own files call the model they belong to
_WRAPPERS = (".modules_to_save.", ".original_module.", ".token_adapter.")
_SETTINGS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora")


def merged_state(module: nn.Module) -> dict[str, Tensor]:
    """The state_dict under its plain names, with LoRA merged in; the module stays as it is.

    Each layer is merged in a copy of its own, so the extra memory is that of one layer at a time and of the result.

    Args:
        module: with or without LoRA layers.

    Returns:
        Tensors by name, detached, on the module's device.

    Raises:
        ValueError: layers of peft that have no plain form: tokens or modules that it trains whole, or LoRA on a tensor
            that is tied to another.
    """
    whole = module.state_dict()
    odd = [name for name in whole if any(part in f".{name}" for part in _WRAPPERS)]
    if odd:
        raise ValueError(
            f"{odd[0]} and {len(odd) - 1} more belong to layers that peft trains whole, which seaalign cannot write as "
            "plain weights: merge them first (PeftModel.merge_and_unload)"
        )
    state = {
        plain_name(name): value.detach()
        for name, value in whole.items()
        if isinstance(value, Tensor) and not is_adapter(name)
    }
    for name, layer in layers(module):
        if layer.merged:
            continue
        merged = copy.deepcopy(layer)
        merged.merge(safe_merge=True)  # refuses what is not finite
        for key, value in merged.get_base_layer().state_dict().items():
            full = f"{name}.{key}" if name else key
            twins = [other for other, tensor in state.items() if tensor.data_ptr() == state[full].data_ptr()]
            if len(twins) > 1 and value.numel():
                raise ValueError(f"{' and '.join(twins)} are tied, and LoRA parts them: it cannot be saved")
            state[full] = value.detach()
    return state


def save_adapters(host: nn.Module, folder: str | Path) -> None:
    """Write the LoRA layers alone, as peft does, whole or not at all: `peft.PeftModel.from_pretrained` reads them.

    Args:
        host: what the layers sit in; see `lora_host`.
        folder: an existing one of the same kind is replaced at the last moment.

    Raises:
        ValueError: there are none, or several sets of them are active.
    """
    from safetensors.torch import save_file

    if not has_adapters(host):
        raise ValueError(f"{type(host).__name__} has no LoRA layers to save: call add_lora first, or save all of it")
    if Path(folder).suffix in (".pt", ".bin", ".safetensors"):
        raise ValueError(f"LoRA layers are a folder of two files, and {folder} is named like one file: name a folder")
    state = {_PREFIX + name: value.detach().cpu().contiguous() for name, value in _state(host).items()}
    with whole_folder(folder) as draft:
        _config(host).save_pretrained(str(draft))
        save_file(state, draft / "adapter_model.safetensors", {"format": "pt"})


def load_adapters(backbone: nn.Module, folder: str | Path, unsafe: bool = False) -> None:
    """Read LoRA layers that `save_adapters` or peft wrote; where the backbone has none, they are put in first.

    Args:
        backbone: what gets them.
        folder: of peft: adapter_config.json, and adapter_model.safetensors or, as older releases wrote it, .bin.
        unsafe: unpickle whatever the .bin holds; see `read_weights`.

    Raises:
        ValueError: they do not fit; the message names a setting or a tensor, and nothing has changed.
    """
    host, config = lora_host(backbone), peft().LoraConfig.from_pretrained(str(folder))
    state = {name.removeprefix(_PREFIX): value for name, value in read_weights(folder, unsafe).items()}
    fresh = not has_adapters(host)
    if fresh:
        config.inference_mode = False
        asked = [(parameter, parameter.requires_grad) for parameter in backbone.parameters()]
        inject(backbone, config)
    else:
        _same_settings(config, _config(host), folder)
    apart = _differences(_state(host), state)
    if apart:
        if fresh:
            take_out(host)
            for parameter, wanted in asked:
                parameter.requires_grad_(wanted)
        raise ValueError(
            f"the LoRA layers in {folder} do not fit {type(host).__name__}: {apart[0]}, {len(apart)} in all. They "
            "belong to a model of another size, or have another rank or other targets"
        )
    peft().set_peft_model_state_dict(host, state, adapter_name=_active(host))


def _differences(here: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    apart = [
        f"{name} is {tuple(state[name].shape)} in the file and {tuple(here[name].shape)} here"
        for name in here
        if name in state and state[name].shape != here[name].shape
    ]
    return apart + [f"{name} is in one of the two alone" for name in sorted(here.keys() ^ state.keys())]


def _same_settings(there: Any, here: Any, folder: str | Path) -> None:
    """The same matrices add something else under another alpha."""
    for name in _SETTINGS:
        one, other = getattr(there, name, None), getattr(here, name, None)
        if one != other:
            raise ValueError(
                f"the LoRA layers in {folder} have {name}={one!r}, those of the model {name}={other!r}: with it they "
                "would add something else. Give the model the same settings, or none, to take those of the file"
            )


def take_out(host: nn.Module) -> None:
    """Put the layers below the LoRA layers back in their place."""
    for name, layer in list(layers(host)):
        parent, _, child = name.rpartition(".")
        setattr(host.get_submodule(parent), child, layer.get_base_layer())
    del host.peft_config


def _active(host: nn.Module) -> str:
    names = {name for _, layer in layers(host) for name in layer.active_adapters}
    if len(names) != 1:
        raise ValueError(f"{sorted(names)} are active at the same time: switch all but one of the adapters off")
    return str(names.pop())


def _state(host: nn.Module) -> dict[str, Tensor]:
    # "auto" would ask the hub whether the vocabulary has changed; everything below the layers is frozen
    get = peft().get_peft_model_state_dict
    return dict(get(host, adapter_name=_active(host), save_embedding_layers=False))


def _config(host: nn.Module) -> Any:
    return host.peft_config[_active(host)]  # type: ignore[union-attr, operator, index]
