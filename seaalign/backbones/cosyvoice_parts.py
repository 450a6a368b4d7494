"""What CosyVoice's objects and files are: the language model in what was given, and what a checkpoint was made for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seaalign.backbones.cosyvoice_sound import Sound
from seaalign.backbones.lora_files import merged_state
from seaalign.storage.columns import whole_or_nothing

_ASKED = (
    "give cosyvoice.llm.llm.Qwen2LM or CosyVoice3LM, a whole CosyVoice2 or CosyVoice3 object "
    "(cosyvoice.cli.cosyvoice), or the folder of a model"
)


def parts_of(model: Any) -> tuple[Any, Sound | None]:
    """The language model, and flow, vocoder and frontend where the whole object was given.

    Raises:
        TypeError: another object, for instance CosyVoice 1.
        ValueError: the layers are gone, as after `load_vllm=True`.
    """
    whole = hasattr(getattr(model, "model", None), "llm") and hasattr(model, "sample_rate")
    lm = model.model.llm if whole else model
    body = getattr(getattr(getattr(lm, "llm", None), "model", None), "model", None)
    if not hasattr(body, "embed_tokens") or not all(hasattr(lm, n) for n in ("speech_embedding", "llm_decoder")):
        first = "CosyVoice 1 has another language model and is not supported; " if hasattr(lm, "text_encoder") else ""
        peft = "put LoRA in with lora={...} rather than by get_peft_model; " if hasattr(body, "lm_head") else ""
        raise TypeError(f"{type(model).__name__} is no language model of CosyVoice 2 or 3; {first}{peft}{_ASKED}")
    if not hasattr(body, "layers"):
        raise ValueError(
            f"the layers of {type(lm).__name__} are gone: load_vllm=True deletes them; load the model without it, and "
            "pass engine=... to sample with vLLM"
        )
    return lm, Sound(model) if whole else None


def version_of(lm: nn.Module) -> int:
    """2 or 3: CosyVoice 2 keeps its two marks in an embedding of their own, CosyVoice 3 among the speech tokens."""
    return 2 if hasattr(lm, "llm_embedding") else 3


def served_weights(lm: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Weights under the names that vLLM's Qwen2 and upstream's `CosyVoice2ForCausalLM` load, LoRA merged in.

    The speech embedding is the engine's vocabulary, `llm_decoder` its head; prompts arrive as embeddings.
    """
    for name, value in merged_state(lm).items():
        if name == "speech_embedding.weight":
            yield "model.embed_tokens.weight", value
        elif name.startswith("llm_decoder."):
            yield f"lm_head.{name.removeprefix('llm_decoder.')}", value
        elif name.startswith("llm.model.model.") and not name.startswith("llm.model.model.embed_tokens."):
            yield name.removeprefix("llm.model."), value


def write_weights(lm: nn.Module, path: Path) -> None:
    """Upstream's `llm.pt`, a flat state_dict of tensors on the CPU, LoRA merged in, whole or not at all.

    Args:
        lm: the language model.
        path: the file; a folder, or a name that does not end like a file of weights, gets `llm.pt` in it.
    """
    copies: dict[Any, Tensor] = {}  # tied tensors stay one in the file
    state = {}
    for name, value in merged_state(lm).items():
        key = (value.data_ptr(), value.shape, value.dtype)
        if key not in copies:
            copies[key] = value.to("cpu", copy=True).contiguous()
        state[name] = copies[key]
    file_name = path.suffix in (".pt", ".pth", ".bin", ".ckpt") and not path.is_dir()
    with whole_or_nothing(path if file_name else path / "llm.pt") as file:
        torch.save(state, file)


def likely_cause(lm: Any, state: Mapping[str, Tensor]) -> str:
    """Why a checkpoint may not fit, from what it holds; empty where it tells nothing."""
    head, names = state.get("llm_decoder.weight"), state.keys()
    if head is None:
        return next((cause for sign, cause in _SIGNS.items() if any(n.startswith(sign) for n in names)), "")
    if any(name.startswith("text_encoder.") for name in names):
        return "It is a checkpoint of CosyVoice 1, which has another language model and is not supported."
    here, rows = version_of(lm), len(head)
    theirs = 2 if "llm_embedding.weight" in names else 3
    if theirs != here:
        return (
            f"head with {rows} rows{'' if theirs == 2 else ', no llm_embedding'}: a CosyVoice {theirs} checkpoint, the "
            f"model is CosyVoice {here} (head with {lm.llm_decoder.out_features} rows)."
        )
    if rows != lm.llm_decoder.out_features:
        extra = lm.llm_decoder.out_features - lm.speech_token_size
        return f"It knows {rows - extra} speech tokens and the model {lm.speech_token_size}: another speech tokenizer."
    text, rows = state.get("llm.model.model.embed_tokens.weight"), len(lm.llm.model.model.embed_tokens.weight)
    if text is not None and len(text) != rows:
        return f"It has {len(text)} text ids and the model {rows}: tokens were added to its tokenizer."
    return ""


_SIGNS = {
    "module.": 'Its names begin with "module.": it was saved from inside DistributedDataParallel; strip that.',
    "input_embedding.": "It looks like flow.pt; the language model is llm.pt.",
    "model.layers.": "It is in Hugging Face form (upstream's export): use CausalLM for it, or give llm.pt.",
    "m_source.": "It looks like hift.pt; the language model is llm.pt.",
}
