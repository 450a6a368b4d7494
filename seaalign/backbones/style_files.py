"""A style prefix on disk: safetensors beside the backbone's own files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seaalign.backbones.lora import has_adapters
from seaalign.backbones.weights import load_into, read_weights
from seaalign.storage.columns import whole_or_nothing

NAME = "style_prefix.safetensors"


def save_prefix(wrapped: Any, path: Path, adapters_only: bool) -> None:
    """See `StylePrefix.save`."""
    if not adapters_only or has_adapters(wrapped.backbone):
        for stale in {path / NAME, _beside(path)}:  # killed half way, there is no prefix rather than a wrong one
            stale.unlink(missing_ok=True)
        wrapped.backbone.save(path, adapters_only=adapters_only)
    elif path.suffix in (".pt", ".bin", ".safetensors"):
        raise ValueError(f"a prefix alone is a folder, and {path} is named like a file: name a folder")
    else:
        path.mkdir(parents=True, exist_ok=True)
    from safetensors.torch import save

    state = {name: value.detach().cpu().contiguous() for name, value in wrapped.prefix.state_dict().items()}
    content = save(state, {"format": "pt", "levels": str(wrapped.levels)})
    with whole_or_nothing(path / NAME if path.is_dir() else _beside(path)) as file:
        file.write(content)


def load_prefix(wrapped: Any, path: Path, unsafe: bool) -> None:
    """See `StylePrefix.load`.

    Raises:
        FileNotFoundError: there is no prefix.
        ValueError: it does not fit; nothing has changed.
    """
    file = path / NAME if path.is_dir() else _beside(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"no {file}: {path} holds no style prefix. Where it holds the backbone alone, call .backbone.load()"
        )
    state = read_weights(file)
    levels = _levels(file)
    if levels != str(wrapped.levels):
        raise ValueError(f"{file} was trained on codes of levels {levels}, here they are {wrapped.levels}")
    before = {name: value.clone() for name, value in wrapped.prefix.state_dict().items()}
    load_into(wrapped.prefix, state, file)
    try:
        if path.is_file() or any(other.name != NAME for other in path.iterdir()):
            wrapped.backbone.load(path, unsafe)
    except BaseException:
        wrapped.prefix.load_state_dict(before)
        raise


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}.{NAME}")


def _levels(file: Path) -> str | None:
    from safetensors import safe_open

    with safe_open(str(file), "pt") as opened:
        return (opened.metadata() or {}).get("levels")
