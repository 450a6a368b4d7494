"""Weights from files into models: tensors alone, strictly, with errors that name the tensor and the likely cause.

Files come from other people's training runs, so nothing is unpickled unless the caller asks for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

_INDEX = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLE = ("model.safetensors", "adapter_model.safetensors", "pytorch_model.bin", "adapter_model.bin", "llm.pt")


def read_weights(path: str | Path, unsafe: bool = False) -> dict[str, Tensor]:
    """Read a checkpoint as tensors by name.

    Understood are safetensors, files of `torch.save` (also those that hold a "state_dict", as Lightning's do), and
    folders of `save_pretrained`, in one file or in shards. What is no tensor, as the `epoch` and `step` that training
    scripts add, is left out.

    Args:
        path: a file or a folder.
        unsafe: unpickle whatever a file of `torch.save` holds. That runs code of whoever wrote it: only for files of
            your own.

    Returns:
        Tensors on the CPU.

    Raises:
        FileNotFoundError: no such file, or a folder without weights.
        ValueError: not a checkpoint, or one that holds more than tensors and numbers.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "llm.pt")
        >>> torch.save({"head.weight": torch.zeros(2, 1), "epoch": 3, "step": 700}, path)
        >>> list(read_weights(path))
        ['head.weight']
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path, unsafe)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}; check the path")
    found = _safetensors(path) if path.suffix == ".safetensors" else _torch(path, unsafe)
    state = found.get("state_dict", found) if isinstance(found, Mapping) else {}
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path} holds no tensors by name: give a checkpoint of weights")
    return tensors


def _folder(path: Path, unsafe: bool) -> dict[str, Tensor]:
    for name in _INDEX:
        if (path / name).is_file():
            shards = sorted(set(json.loads((path / name).read_text())["weight_map"].values()))
            parts = [read_weights(path / Path(shard).name, unsafe) for shard in shards]
            return {key: value for part in parts for key, value in part.items()}
    for name in _SINGLE:
        if (path / name).is_file():
            return read_weights(path / name, unsafe)
    raise FileNotFoundError(f"no weights in {path}: looked for {', '.join((*_SINGLE, *_INDEX))}")


def _safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError('reading safetensors needs pip install "seaalign[hf]"') from error
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no readable safetensors file ({error}); it may be cut off") from error


def _torch(path: Path, unsafe: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=not unsafe)
    except UnpicklingError as error:
        if not _saved_by_torch(path):
            raise ValueError(
                f"{path} is neither a file of torch.save nor one of safetensors; give a checkpoint of weights, such as "
                "last.ckpt, llm.pt or model.safetensors"
            ) from error
        raise ValueError(
            f"{path} holds more than tensors, and loading it would run code of whoever wrote it. If it is your own, "
            f"load it with unsafe=True ({str(error).splitlines()[0]})"
        ) from error
    # broken or foreign bytes make torch.load fail in all of these ways
    except (RuntimeError, LookupError, EOFError, ValueError, TypeError, AttributeError) as error:
        first = (str(error) or "it is empty").splitlines()[0]
        raise ValueError(f"{path} is no checkpoint that could be read ({type(error).__name__}: {first})") from error


def _saved_by_torch(path: Path) -> bool:
    """A zip archive, or before torch 1.6 a bare pickle, which opens with its protocol."""
    with path.open("rb") as file:
        start = file.read(4)
    return start == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in {bytes([i]) for i in range(1, 6)})


def load_into(module: nn.Module, state: Mapping[str, Tensor], source: str | Path, hint: str = "") -> None:
    """Copy weights into a module, all of them or none.

    Where LoRA layers sit in the module and the weights know nothing of them, they keep theirs, and the weights go into
    the layers below. A name that is missing because
    its tensor is tied to another one that is there is no fault.

    Args:
        module: what to load into; its tensors keep their type and device.
        state: tensors by name.
        source: where they came from, for messages.
        hint: what the caller knows of the likely cause.

    Raises:
        ValueError: names that do not match, or a tensor of another size; the module is untouched.

    Example:
        >>> load_into(torch.nn.Linear(3, 2), {"weight": torch.zeros(5, 3), "bias": torch.zeros(5)}, "five.pt")
        Traceback (most recent call last):
        ...
        ValueError: five.pt does not fit Linear: weight is (5, 3) in the file and (2, 3) in the model, and ...
    """
    target = module.state_dict(keep_vars=True)
    wanted = {name: value for name, value in target.items() if isinstance(value, Tensor)}
    if not any(map(is_adapter, state)):
        wanted = {plain_name(name): value for name, value in wanted.items() if not is_adapter(name)}
    wrong = [
        f"{name} is {tuple(state[name].shape)} in the file and {tuple(value.shape)} in the model"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    given = {value.data_ptr() for name, value in wanted.items() if name in state and value.numel()}
    missing = [name for name, value in wanted.items() if name not in state and value.data_ptr() not in given]
    strange = [name for name in state if name not in wanted]
    if wrong or missing or strange:
        cause = hint or _cause(wanted, state)
        raise ValueError(misfit(type(module).__name__, source, wrong, missing, strange, cause))
    _refuse_losses(wanted, state, source)
    with torch.no_grad():
        for name, value in wanted.items():
            if name in state:
                value.copy_(state[name])


def _refuse_losses(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str | Path) -> None:
    """Refuse what would be overwritten or overflow on the way in."""
    first: dict[tuple[int, torch.Size], str] = {}
    for name, value in wanted.items():
        if name not in state or not value.numel():
            continue
        twin = first.setdefault((value.data_ptr(), value.shape), name)
        if twin != name and not torch.equal(state[twin], state[name]):
            raise ValueError(
                f"{source} has different weights for {twin} and {name}, which are one tensor in the model: build the "
                "model without tying them (tie_word_embeddings=False)"
            )
        if value.dtype == torch.float16 and float(state[name].abs().max()) > torch.finfo(torch.float16).max:
            raise ValueError(
                f"{name} in {source} reaches {float(state[name].abs().max()):.3g}, and float16 ends at 65504: load it "
                "into bfloat16 or float32"
            )


def _cause(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    apart = [
        (value.shape, state[name].shape)
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    if any(name.startswith("backbone.") for name in state):
        return "It is a checkpoint of `seaalign fit`: give it as --weights, or write it out by `seaalign export`."
    depths = [_depth(names) for names in (state, wanted)]
    if not apart and depths[0] != depths[1] and _numberless(state) == _numberless(wanted):
        return f"The depth is another one: {depths[0]} layers in the file, {depths[1]} in the model."
    if not apart:
        return "They are weights of another class, or carry another prefix."
    rows_only = all(len(a) == len(b) and a[1:] == b[1:] for a, b in apart)
    return "The vocabulary is another one." if rows_only else "The model has another size."


def _numberless(names: Iterable[str]) -> set[str]:
    return {re.sub(r"\.\d+\.", ".#.", name) for name in names}


def _depth(names: Iterable[str]) -> int:
    """How many layers the longest list has."""
    return 1 + max((int(number) for name in names for number in re.findall(r"\.(\d+)\.", name)), default=-1)


def misfit(
    kind: str,
    source: str | Path,
    wrong: Sequence[str],
    missing: Sequence[str],
    strange: Sequence[str],
    cause: str,
) -> str:
    """What to say of weights that do not fit: sizes, names on either side, the likely cause."""
    said = []
    if wrong:
        said.append(wrong[0] + (f", and {len(wrong) - 1} more" if wrong[1:] else ""))
    if missing:
        said.append(f"it lacks {_some(missing)}")
    if strange:
        said.append(f"the model has no {_some(strange)}")
    return f"{source} does not fit {kind}: {'; '.join(said)}. {cause}"


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")


def plain_name(name: str) -> str:
    """The name that a tensor had before LoRA was put around its layer."""
    return name.replace(".base_layer.", ".").removeprefix("base_layer.")


def is_adapter(name: str) -> bool:
    """Does this tensor belong to a LoRA layer?"""
    return any(part.startswith("lora_") for part in name.split("."))
