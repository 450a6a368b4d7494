"""LoRA by peft, inside the model that an adapter holds; the policy without it is the reference.

peft's layers are put into the held model in place: its class, its attributes and the code that uses it stay as they
are. With the layers switched off it is bit by bit the model it was, so no second model and no stored log-probs are
needed for a reference.
"""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import nn

_USUAL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_KEEP_THE_BASE = (True, False, "gaussian", "orthogonal")  # others (PiSSA, OLoRA, ...) write into the weights below
_OURS = {"lora_alpha": "alpha", "lora_dropout": "dropout", "target_modules": "targets", "rank": "r"}
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

    The layers are float32, whatever the type of the model: steps of a small learning rate would be lost in 16 bits.

    Args:
        backbone: an adapter. Its `lora_host`, or else the backbone itself, is what the layers go into and what files of
            them are relative to. Its `lora_defaults`, where it has any, stand in for arguments that are not given.
        r: rank.
        alpha: the update is scaled by alpha / r.
        dropout: on the input of the update. Above 0, layers that were trained before score at random in training, and
            `DGSA` refuses to start from them.
        targets: endings of the names of the linear layers; default: those that `lora_defaults` names, or else the
            projections of attention and feed-forward.
        **settings: of `peft.LoraConfig`.

    Returns:
        The backbone itself.

    Raises:
        ImportError: peft is not installed.
        ValueError: it has LoRA layers already, no layer of these names, or settings under which the model without the
            layers would not be the reference.

    Source: Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models".
    """
    host, own = lora_host(backbone), dict(getattr(backbone, "lora_defaults", {}))
    named = own.pop("targets", None)
    targets, settings = named if targets is None else targets, {**own, **settings}
    if has_adapters(host):
        raise ValueError(f"{type(host).__name__} has LoRA layers already: load or train these")
    linear = sorted({name.rpartition(".")[2] for name, m in host.named_modules() if isinstance(m, nn.Linear)})
    chosen = [name for name in _USUAL if name in linear] if targets is None else list(targets)
    if not chosen:
        raise ValueError(f"no layer is called {', '.join(_USUAL)}: pass targets=[...], of its linear layers {linear}")
    _refuse(host, chosen, settings)
    config = peft().LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=chosen, **settings)
    inject(backbone, config)
    return backbone


def inject(backbone: nn.Module, config: Any) -> None:
    """Put the layers of a `peft.LoraConfig` into the backbone's host, in float32, and freeze everything else."""
    from peft.tuners.tuners_utils import cast_adapter_dtype

    backbone.requires_grad_(False)
    host = lora_host(backbone)
    peft().inject_adapter_in_model(config, host)
    cast_adapter_dtype(host, "default")


def _refuse(host: nn.Module, targets: Sequence[str], settings: dict[str, Any]) -> None:
    """What would train weights that are no LoRA layer, or change what lies below."""
    known = set(inspect.signature(peft().LoraConfig).parameters) - _OURS.keys()
    strange = {name: _OURS.get(name) for name in settings if name not in known}
    if strange:
        meant = ", ".join(f"{name} (here {ours})" if ours else name for name, ours in strange.items())
        raise ValueError(f"lora takes r, alpha, dropout, targets, and other settings of peft.LoraConfig; not {meant}")
    for name in ("modules_to_save", "trainable_token_indices"):
        if settings.get(name):
            raise ValueError(f"{name}={settings[name]}: what is trained whole is part of no reference")
    start = settings.get("init_lora_weights", True)
    if start not in _KEEP_THE_BASE:
        raise ValueError(
            f"init_lora_weights={start!r} changes the weights below the layers, so that the model without them is no "
            f"longer the reference: use one of {_KEEP_THE_BASE}"
        )
    shared = Counter(value.data_ptr() for _, value in host.named_parameters(remove_duplicate=False))
    for name, module in host.named_modules():
        if not (name in targets or name.endswith(tuple(f".{target}" for target in targets))):
            continue
        if any(shared[value.data_ptr()] > 1 for value in module.parameters(recurse=False)):
            raise ValueError(f"{name} is tied to another layer, and LoRA would part them: leave it out of targets")
        if isinstance(host, nn.ModuleDict) and name in host:
            raise ValueError(f"{name} is used from outside of what LoRA is put into: leave it out of targets")


def lora_host(backbone: nn.Module) -> nn.Module:
    """The module that LoRA layers go into: the backbone's `lora_host`, or else the backbone itself."""
    return getattr(backbone, "lora_host", None) or backbone


def has_adapters(module: nn.Module) -> bool:
    """Are there LoRA layers (or others of peft) in the module?"""
    return any(True for _ in layers(module))


@contextmanager
def adapters_off(module: nn.Module) -> Iterator[None]:
    """Inside, the module is what it was before LoRA: the reference policy.

    Raises:
        ValueError: there is nothing to switch off.
    """
    found = [layer for _, layer in layers(module)]
    if not found:
        raise ValueError(f"{type(module).__name__} has no LoRA layers to switch off: call add_lora first")
    asked = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    on = [layer for layer in found if not layer.disable_adapters]
    try:
        for layer in on:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in on:
            layer.enable_adapters(True)
        for parameter, wanted in asked:  # switching on asks for gradients of all of them
            parameter.requires_grad_(wanted)


def layers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers of peft in the module, by name."""
    if "peft" not in sys.modules:  # nobody can have put any in
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, child in module.named_modules():
        if isinstance(child, BaseTunerLayer):
            yield name, child


def peft() -> Any:
    """The package, or an error that says how to get it."""
    try:
        import peft
    except ImportError as error:
        raise ImportError('LoRA needs peft: pip install "seaalign[hf]"') from error
    return peft
