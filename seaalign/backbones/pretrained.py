"""Hugging Face models as they come and go: loading, the head, checkpointing, saving what the user's own code loads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seaalign.backbones.base import Unsupported
from seaalign.backbones.context import text_settings
from seaalign.backbones.lora_files import load_adapters, merged_state, save_adapters
from seaalign.backbones.weights import load_into, misfit, read_weights
from seaalign.storage.columns import whole_folder

# settings of a few families that change logits after the head; computing rows of the head alone would leave them out
_AFTER_THE_HEAD = ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier")


def load(model: nn.Module | str | Path, tokenizer: Any, dtype: str) -> tuple[nn.Module, Any]:
    """The model and the tokenizer, loaded where they are names.

    Args:
        model: a causal LM, one that peft has wrapped, or the folder or hub name of one.
        tokenizer: a tokenizer, the folder or hub name of one, or None: the model's own, where that is a name.
        dtype: of a model that is loaded here, a name of torch's.

    Raises:
        ImportError: transformers is not installed.
        ValueError: a type that torch does not have, or a model whose logits are not head times feature.
    """
    if isinstance(model, str | Path):
        if (Path(model) / "adapter_config.json").is_file():
            raise ValueError(
                f"{model} holds LoRA layers alone: give the model below as model=, then load({str(model)!r})"
            )
        model = str(model)
        wanted = getattr(torch, dtype, None)
        if not isinstance(wanted, torch.dtype):
            raise ValueError(f"dtype must name a type of torch, as 'float32' or 'bfloat16', got {dtype!r}")
        classes = _transformers()
        tokenizer = tokenizer if tokenizer is not None else _own_tokenizer(model)
        try:
            # not .to(): that would round the rotary frequencies too, which no other code does
            model, report = opened(classes.AutoModelForCausalLM, model, **{_dtype_name(classes): wanted})
        except (OSError, ValueError) as error:  # a name that cannot be one is the latter in older releases
            raise ValueError(f"no model could be loaded from {model!r}: {str(error).splitlines()[0]}") from error
        refuse_gaps(model, report)
    if isinstance(tokenizer, str | Path):
        tokenizer = _transformers().AutoTokenizer.from_pretrained(tokenizer)
    if any(config.is_prompt_learning for config in getattr(model, "peft_config", {}).values()):
        raise ValueError("prompt tuning of peft puts vectors before the ids, which a layout knows nothing of: use LoRA")
    if hasattr(model, "get_base_model"):  # peft's wrapper: its layers sit in the model, which is what we call
        model = model.get_base_model()  # type: ignore[operator]
    config = text_settings(getattr(model, "config", None))
    scaled = {name: getattr(config, name, None) for name in _AFTER_THE_HEAD}
    odd = {name: value for name, value in scaled.items() if value not in (None, 1, 1.0)}
    if odd:
        raise ValueError(
            f"{type(model).__name__} changes its logits after the head ({odd}), which rows of the head alone do not "
            "show: write an adapter of your own on DecoderOnly, with that in logits()"
        )
    return model, tokenizer  # type: ignore[return-value]


def opened(kind: Any, name: str, **settings: Any) -> tuple[Any, Any]:
    """`kind.from_pretrained(name)`, and what it had no weights for; see `refuse_gaps`."""
    loaded = kind.from_pretrained(name, output_loading_info=True, ignore_mismatched_sizes=True, **settings)
    return loaded  # type: ignore[no-any-return]


def refuse_gaps(model: Any, report: Any) -> None:
    """Refuse what transformers fills with random numbers and goes on with.

    Raises:
        ValueError: weights and config do not belong together; names tensors and sizes.
    """
    missing, strange = (sorted(report[f"{what}_keys"]) for what in ("missing", "unexpected"))
    sizes = [
        f"{key} is {found} in the file and {wanted} by the config"
        for key, found, wanted in sorted(_mismatched(model, list(report["mismatched_keys"])))
    ]
    if missing or strange or sizes:
        cause = (
            "The weights belong to another config.json, or were saved under another prefix. Mend the folder; or load "
            "the model yourself and give it instead of its name"
        )
        raise ValueError(misfit(type(model).__name__, model.name_or_path, sizes, missing, strange, cause))


def _mismatched(model: Any, keys: Sequence[Any]) -> list[tuple[str, Any, Any]]:
    """Name, size in the file, size by the config. Older releases report names alone, and the rest is looked up."""
    if keys and isinstance(keys[0], str):
        wanted, folder = model.state_dict(), Path(model.name_or_path)
        found = read_weights(folder) if folder.is_dir() else {}
        keys = [(key, found[key].shape if key in found else "another size", wanted[key].shape) for key in keys]
    return [(key, found if isinstance(found, str) else tuple(found), tuple(wanted)) for key, found, wanted in keys]


def _dtype_name(classes: Any) -> str:
    """What `from_pretrained` calls the type of weights: `torch_dtype` until transformers 4.55."""
    major, minor = (int(part) for part in classes.__version__.split(".")[:2])
    return "dtype" if (major, minor) >= (4, 56) else "torch_dtype"


def _own_tokenizer(model: str) -> Any:
    try:
        return _transformers().AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError, TypeError):  # all three are ways to say that there is none
        return None


def head_of(model: nn.Module) -> nn.Linear:
    """The output layer.

    Raises:
        Unsupported: there is none, or it is not a plain linear layer in floating point.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # type: ignore[operator]
    plain = isinstance(head, nn.Linear) and head.weight.is_floating_point()
    if not plain:
        raise Unsupported(
            f"the head of {type(model).__name__} is {type(head).__name__}, and rows can only be taken from a plain "
            "linear layer: leave it out of quantisation and of LoRA's targets, merge what peft trained whole "
            "(model.merge_and_unload()), or write an adapter on DecoderOnly"
        )
    return head  # type: ignore[return-value]


def checkpoint(model: nn.Module) -> None:
    """Gradient checkpointing, without reentry: that form works with frozen embeddings, as under LoRA."""
    # transformers 5 calls the same thing activation checkpointing
    kind = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    enable = getattr(model, f"{kind}_checkpointing_enable")
    enable(**{f"{kind}_checkpointing_kwargs": {"use_reentrant": False}})


def state(model: nn.Module) -> dict[str, Tensor]:
    """All weights as the model's own code names them, LoRA merged in, tied ones once."""
    tied = set(getattr(model, "_tied_weights_keys", None) or ()) if _is_tied(model) else set()
    return {name: value for name, value in merged_state(model).items() if name not in tied}


def _is_tied(model: nn.Module) -> bool:
    head = model.get_output_embeddings()  # type: ignore[operator]
    return head is not None and head.weight is getattr(model.get_input_embeddings(), "weight", None)  # type: ignore[operator]


def save(model: nn.Module, path: str | Path, tokenizer: Any, adapters_only: bool) -> None:
    """Write the model as its own code loads it, whole or not at all; see `CausalLM.save`."""
    if adapters_only:
        return save_adapters(model, path)
    plain = state(model)
    with whole_folder(path) as draft:
        # where transformers has loaded adapters itself, it would write these and no weights
        flag: Any = getattr(model, "_hf_peft_config_loaded", False)
        model._hf_peft_config_loaded = False  # type: ignore[assignment]
        try:
            model.save_pretrained(str(draft), state_dict=plain)  # type: ignore[operator]
        finally:
            model._hf_peft_config_loaded = flag
        if tokenizer is not None:
            tokenizer.save_pretrained(str(draft))


def restore(backbone: nn.Module, model: nn.Module, path: str | Path, unsafe: bool) -> None:
    """Load weights that `save` or the model's own code wrote; see `CausalLM.load`."""
    if (Path(path) / "adapter_config.json").is_file():
        load_adapters(backbone, path, unsafe)
    else:
        load_into(model, read_weights(path, unsafe), path)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError('Hugging Face models need transformers: pip install "seaalign[hf]"') from error
    return transformers


@contextmanager
def frequencies_kept(module: nn.Module) -> Iterator[None]:
    """Inside, types of weights may change; those of rotary frequencies do not.

    In 16 bits far positions would be other ones, which no other code that runs the model does.
    """
    kept = [
        (child, name, value)
        for child in module.modules()
        for name, value in child._buffers.items()
        if name.endswith("inv_freq") and value is not None and value.dtype == torch.float32
    ]
    yield
    for child, name, value in kept:
        moved = child._buffers[name]
        if moved is not None and moved.dtype != value.dtype:
            child._buffers[name] = value.to(moved.device)
