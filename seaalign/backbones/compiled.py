"""Compiled training: the blocks of a transformer, each by itself, so that all of them share what is compiled once."""

from __future__ import annotations

from typing import Any

from torch import nn


def compile_blocks(backbone: nn.Module, memory: float | None = None, **settings: Any) -> list[nn.Module]:
    """Compile the blocks of a backbone by `torch.compile`, for training: less memory, and fewer passes over it.

    Batches of any size run in what the first ones have compiled, those of validation in a second set; attention of
    packed rows stays as it is. Sampling, and all that runs in `evaluating`, takes the blocks uncompiled, as its shapes
    change at every token. Names of parameters stay, and so do checkpoints; a copy of the backbone is not compiled. On a
    CPU the first step needs a C++ compiler.

    Args:
        backbone: a `Backbone`, or any module; without gradient checkpointing, also later, as PyTorch compiles nothing
            inside it. `memory` stands for it.
        memory: in (0, 1]: share of the activations that is kept rather than made again in the backward pass, the cheap
            ones first; 1 is what `torch.compile` keeps by itself. PyTorch has one such number for the whole process;
            None leaves it alone.
        settings: of `torch.compile`; `dynamic=True` unless they say otherwise.

    Returns:
        The blocks.

    Raises:
        ValueError: the backbone has no list of blocks of one class, they are under gradient checkpointing (as Hugging
            Face models say it), or `memory` lies outside (0, 1].

    Example:
        >>> from seaalign.miniature.lm import TextSpeechLM
        >>> backbone = TextSpeechLM(codes=13, pause=12, factor=6, dim=32, layers=2, heads=2)
        >>> [type(block).__name__ for block in compile_blocks(backbone)]  # at the first step, and not before
        ['_Layer', '_Layer']
    """
    if memory is not None and not 0 < memory <= 1:
        raise ValueError(f"memory is the share of activations that is kept, in (0, 1]; got {memory}")
    blocks = _blocks(backbone)
    if not blocks:
        raise ValueError(
            f"{type(backbone).__name__} has no nn.ModuleList of two or more blocks of one class; compile the parts "
            "that repeat in it by their own `compile(dynamic=True)`"
        )
    if any(getattr(child, "gradient_checkpointing", False) for child in backbone.modules()):
        raise ValueError(
            f"{type(backbone).__name__} is under gradient checkpointing, inside which PyTorch compiles nothing: leave "
            "it off, and say memory=0.5"
        )
    if memory is not None:
        import torch._functorch.config

        torch._functorch.config.activation_memory_budget = memory
    for block in blocks:
        block.compile(**{"dynamic": True, **settings})
    return blocks


def _blocks(module: nn.Module) -> list[nn.Module]:
    """What repeats: lists of modules of one class that have modules inside, the outermost ones."""
    found = list[nn.Module]()
    for child in module.children():
        alike = isinstance(child, nn.ModuleList) and len(child) > 1 and len({type(block) for block in child}) == 1
        whole = alike and all(any(True for _ in block.children()) for block in child.children())
        found += list(child.children()) if whole else _blocks(child)
    return found
