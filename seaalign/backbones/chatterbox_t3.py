"""T3 of Chatterbox by its attributes: what it reads, what must stay switched off in it, and its files."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from seaalign.backbones.lora_files import merged_state
from seaalign.backbones.weights import load_into, read_weights
from seaalign.records import Prompt
from seaalign.storage.columns import whole_or_nothing

_OWN_TABLE = "tfmr.wte.weight"  # of GPT-2: upstream's loader wants it in the file, and then deletes it from the model
_COPIES = "patched_model."  # what upstream's inference leaves in T3: a second name for parts of it


def text_embeddings(t3: Any, text: Tensor, weight: float) -> Tensor:
    """Input embeddings (L, D) of text ids (L',), with the marks around them where the model has marks.

    Args:
        t3: the model.
        text: ids without marks.
        weight: 1, or 0 for what guidance compares with: positions without words.

    Raises:
        ValueError: ids that the model does not have, marks among them, or more than it has positions for.
    """
    hp, rows, marks = t3.hp, t3.text_emb.num_embeddings, [] if t3.is_gpt else [t3.hp.start_text_token]
    marks += [] if t3.is_gpt else [hp.stop_text_token]
    strange = (text < 0) | (text >= rows) | torch.isin(text, text.new_tensor(marks))
    if bool(strange.any()):
        raise ValueError(
            f"the text holds id {int(text[strange][0])}: text ids lie in 0..{rows - 1}, and the marks {marks} around "
            "them are put there by the adapter; see tokenize()"
        )
    ids = torch.cat([text.new_tensor(marks[:1]), text, text.new_tensor(marks[1:])])
    x = t3.text_emb(ids) * weight
    if t3.text_pos_emb is None:
        return x  # type: ignore[no-any-return]
    most = t3.text_pos_emb.emb.num_embeddings
    if len(ids) > most:
        raise ValueError(f"the text takes {len(ids)} positions, and T3 has {most}: shorten it, or leave the row out")
    return x + t3.text_pos_emb(ids[None])  # type: ignore[no-any-return]


def speech_embeddings(t3: Any, tokens: Tensor, position: int) -> Tensor:
    """Input embeddings (B, t, D) of speech tokens (B, t); the first stands at `position`, the start mark at 0."""
    x, table = t3.speech_emb(tokens), t3.speech_pos_emb
    if table is None:
        return x  # type: ignore[no-any-return]
    end = position + tokens.shape[1]
    if end > table.emb.num_embeddings:
        raise ValueError(
            f"{end - 1} speech tokens, and T3 has positions for {table.emb.num_embeddings - 1}: leave the row out"
        )
    return x + table.emb.weight[position:end]  # type: ignore[no-any-return]


def conditioning(t3: Any, prompt: Prompt, emotion: float) -> Tensor:
    """Speaker, style latents and emotion (n, D), by upstream's own encoder.

    Raises:
        ValueError: no speaker, or one of another size; or style tokens that are no speech tokens.
    """
    like = t3.cond_enc.spkr_enc.weight
    given = prompt.timbre.get("speaker_emb") if isinstance(prompt.timbre, Mapping) else None
    speaker = None if given is None else torch.as_tensor(given).to(like).reshape(-1)
    if speaker is None or len(speaker) != t3.hp.speaker_embed_size:
        found = (
            f"one of {len(speaker)} numbers" if speaker is not None else f"{type(prompt.timbre).__name__} without it"
        )
        wanted = f'{{"speaker_emb": ({t3.hp.speaker_embed_size},), ...}}'
        raise ValueError(
            f"T3 reads the speaker in both modes: Prompt.timbre is {wanted}, got {found}; "
            "backbone.timbre(waveform, sample_rate) makes one"
        )
    read = t3.prepare_conditioning(
        SimpleNamespace(
            speaker_emb=speaker[None],
            clap_emb=None,
            cond_prompt_speech_tokens=None if prompt.style is None else _style_tokens(t3, prompt.style.tokens)[None],
            cond_prompt_speech_emb=None,
            emotion_adv=torch.full((1, 1, 1), emotion).to(like),
        )
    )
    return read[0]  # type: ignore[no-any-return]


def _style_tokens(t3: Any, tokens: Tensor) -> Tensor:
    most = t3.hp.start_speech_token
    if tokens.dim() != 1 or not len(tokens) or int(tokens.min()) < 0 or int(tokens.max()) >= most:
        held = f", from {int(tokens.min())} to {int(tokens.max())}" if tokens.numel() else ""
        raise ValueError(
            f"Style.tokens must be speech tokens (Ts,) in 0..{most - 1}, got shape {tuple(tokens.shape)}{held}; "
            "backbone.style(waveform, sample_rate) makes them"
        )
    return tokens[: t3.hp.speech_cond_prompt_len]


def train_without_dropout(t3: Any, mode: bool) -> None:
    """Train mode for what asks about it to checkpoint, and for LoRA's own dropout; eval mode for all else."""
    t3.eval()
    for name, module in t3.named_modules():
        module.training = mode and (hasattr(module, "gradient_checkpointing") or "lora_dropout" in name.split("."))


def warn_of_hooks(t3: Any) -> None:
    """Say so if upstream's multilingual inference (up to 0.1.7) has left its hooks and slow attention in the model."""
    hooks = sum(len(getattr(module, "_forward_hooks", ())) for module in t3.tfmr.modules())
    if hooks and getattr(t3.tfmr.config, "output_attentions", False):
        warnings.warn(
            f"this T3 has generated with chatterbox-tts 0.1.7 or older, whose alignment analyser leaves {hooks} hooks "
            "and eager attention behind: scores are right, but every pass copies attention to the CPU. Wrap the model "
            "before it generates, or load it anew",
            stacklevel=3,
        )


def file_name(t3: Any) -> str:
    """What upstream's loader calls the file of such a T3."""
    if t3.is_gpt:
        return "t3_turbo_v1.safetensors"
    return "t3_mtl23ls_v2.safetensors" if t3.hp.is_multilingual else "t3_cfg.safetensors"


def write_t3(t3: Any, path: Path) -> None:
    """Write safetensors that upstream's loader reads strictly, LoRA merged in, whole or not at all."""
    from safetensors.torch import save

    parts = {name: part for name, part in t3.named_children() if f"{name}." != _COPIES}
    state = {f"{name}.{key}": value for name, part in parts.items() for key, value in merged_state(part).items()}
    if t3.is_gpt and _OWN_TABLE not in state:
        state[_OWN_TABLE] = torch.zeros(t3.cfg.vocab_size, t3.dim, dtype=t3.speech_head.weight.dtype)
    with whole_or_nothing(path) as file:
        file.write(save({name: value.detach().cpu().contiguous() for name, value in state.items()}))


def read_t3(t3: Any, path: Path, unsafe: bool) -> None:
    """Read such a file, also one whose names carry the prefix "t3." of a training script.

    Raises:
        ValueError: it does not fit; the message names a tensor, both sizes and the likely cause.
    """
    state = {name.removeprefix("t3."): value for name, value in read_weights(path, unsafe).items()}
    here = t3.state_dict()
    state = {
        name: value
        for name, value in state.items()
        if not name.startswith(_COPIES) and (name != _OWN_TABLE or name in here)
    }
    rows = {name: (len(state[name]), len(here[name])) for name in ("text_emb.weight",) if name in state}
    hint = "".join(
        f"It has {theirs} text ids and the model {ours}: the tokenizer was extended; build T3 with "
        f"T3Config(text_tokens_dict_size={theirs}) first."
        for theirs, ours in rows.values()
        if theirs != ours
    )
    load_into(t3, state, path, hint)
