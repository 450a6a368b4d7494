"""What a judge's answers depend on, as text: verdicts are kept under it, and other settings are asked anew."""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seaalign.storage.fingerprint import weights_hash


def described(value: Any) -> str:
    """A setting as text, the same in every process.

    Numbers, texts and collections are written out; tensors and modules count by their contents, functions by their code
    and what they enclose, other objects by their class and its attributes. Whatever has a str `fingerprint` says it
    itself: give one to what depends on more, such as a service or a file.

    Args:
        value: any object.

    Returns:
        Text; long ones end in a hash.

    Example:
        >>> described({"k": 4, "rate": 0.1}), described(len)
        ("{'k':4,'rate':0.1}", 'builtins.len')
        >>> described(lambda x: x + 1) == described(lambda x: x + 2)
        False
    """
    return _described(value, ())


def _described(value: Any, above: tuple[int, ...]) -> str:
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return repr(value)
    if id(value) in above:
        return "..."  # it holds itself
    inner = (*above, id(value))
    name = _name(value if hasattr(value, "__qualname__") else type(value))
    own = getattr(value, "fingerprint", None)
    if isinstance(own, str):
        return f"{name}:{own}"
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return f"{value.dtype}{tuple(value.shape)}{_short(flat.numpy().tobytes())}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{_short(value.tobytes())}"
    if isinstance(value, nn.Module):
        return f"{name}:{weights_hash(value)}"
    if isinstance(value, Mapping):
        pairs = sorted(f"{_described(k, inner)}:{_described(v, inner)}" for k, v in value.items())
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, (list, tuple)):
        return "(" + ",".join(_described(item, inner) for item in value) + ")"
    if isinstance(value, (set, frozenset)):
        return "{" + ",".join(sorted(_described(item, inner) for item in value)) + "}"
    if isinstance(value, type | types.BuiltinFunctionType | types.ModuleType):
        return name
    if not hasattr(value, "__dict__") and type(value).__repr__ is not object.__repr__:
        return f"{name}:{value!r}"  # a path, a number of another kind
    return f"{name}:{_short('|'.join(_parts(value, inner)).encode())}"


def _parts(value: Any, inner: tuple[int, ...]) -> list[str]:
    """What functions and objects are made of."""
    if isinstance(value, functools.partial):
        held: list[Any] = [value.func, value.args, value.keywords]
    elif isinstance(value, types.MethodType):
        held = [value.__self__, value.__func__]
    elif isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return [_code(value.__code__), _described((value.__defaults__, value.__kwdefaults__, cells), inner)]
    else:
        call = getattr(type(value), "__call__", None)  # noqa: B004  # its code, not whether there is any
        held = [getattr(value, "__dict__", {}), call if isinstance(call, types.FunctionType) else None]
    return [_described(item, inner) for item in held]


def _code(code: types.CodeType) -> str:
    constants = [_code(c) if isinstance(c, types.CodeType) else _described(c, ()) for c in code.co_consts]
    return _short(repr((code.co_code, code.co_names, constants)).encode())


def _name(thing: Any) -> str:
    return f"{getattr(thing, '__module__', None)}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"


def _short(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
