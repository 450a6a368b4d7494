"""What surrounds the talker of Qwen3-TTS: codec, tokenizer, speaker encoder and files, all called as upstream does."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seaalign import audio
from seaalign.backbones.base import Unsupported
from seaalign.backbones.lora_files import merged_state
from seaalign.backbones.weights import load_into, read_weights

_SPEAKER, _RATE = "speaker_encoder.", 24_000


def open_model(name: str, dtype: str) -> Any:
    """The `Qwen3TTSModel` of a folder or hub name.

    Raises:
        ImportError: qwen-tts is not installed, or not beside the transformers that it needs.
    """
    try:
        package = importlib.import_module("qwen_tts")
    except (ImportError, TypeError) as error:  # under transformers 5 its decorators fail with the latter
        raise ImportError(
            f"{name} is read by qwen-tts, and importing it fails ({error}): pip install qwen-tts==0.1.1, which needs "
            "transformers 4.57.3 and does not import beside transformers 5"
        ) from error
    return package.Qwen3TTSModel.from_pretrained(name, dtype=getattr(torch, dtype))


def check_codes(tokens: Tensor, real: Tensor, sizes: Sequence[int], place: str) -> None:
    """Refuse frames that are no codes.

    Args:
        tokens: (B, T, K).
        real: (B, T) bool, what to look at.
        sizes: number of codes of each book (K,).
        place: how a frame is called, with {0} for the row and {1} for the frame.

    Raises:
        ValueError: another number of books, or a code that a book does not have.
    """
    if tokens.dim() != 3 or tokens.shape[2] != len(sizes):
        raise ValueError(
            f"speech tokens of this Qwen3-TTS are (frames, {len(sizes)}), one column per codebook, got shape "
            f"{tuple(tokens.shape[1:])}: bring codes of its own codec (see encode)"
        )
    strange = real[..., None] & ((tokens < 0) | (tokens >= torch.tensor(sizes, device=tokens.device)))
    if bool(strange.any()):
        row, column, book = strange.nonzero()[0].tolist()
        raise ValueError(
            f"{place.format(row, column)}, codebook {book} holds id {int(tokens[row, column, book])}: its codes are "
            f"0..{sizes[book] - 1}, and the end is never stored (Speech.ended says whether a row ended); strip it, or "
            "check the codec"
        )


def text_ids(processor: Any, text: str, role: Sequence[int]) -> list[int]:
    """Ids of a text without the marks that upstream wraps it in.

    Raises:
        Unsupported: there is no processor.
        ValueError: the tokenizer does not spell those marks as `role` says.
    """
    if processor is None:
        raise Unsupported("tokenize() needs the processor: pass the Qwen3TTSModel around the model")
    wrapped = f"<|im_start|>assistant\n{text}<|im_end|>\n<|im_start|>assistant\n"
    ids: list[int] = torch.as_tensor(processor(text=wrapped, return_tensors="pt")["input_ids"]).reshape(-1).tolist()
    if ids[: len(role)] != list(role):
        raise ValueError(
            f"the tokenizer begins a text with {ids[: len(role)]}, and role={list(role)}: pass what it begins with"
        )
    return ids[len(role) : -2 - len(role)]


def x_vector(model: Any, waveform: Tensor, sample_rate: int) -> Tensor:
    """The speaker of a recording (D,), on the CPU, by the model's own encoder."""
    if model.speaker_encoder is None:
        raise Unsupported(
            f"a {model.config.tts_model_type!r} model has no speaker encoder: pass speaker=, or use a base model"
        )
    audio.check(waveform)
    wave = audio.resample(waveform.detach().cpu().float(), sample_rate, _RATE)
    return model.extract_speaker_embedding(wave.numpy(), _RATE).float().cpu().clone()  # type: ignore[no-any-return]


def codec_of(model: Any, what: str) -> Any:
    """The codec, or an error that says what needs it."""
    if model.speech_tokenizer is None:
        raise Unsupported(f"{what} needs the codec: load the model by from_pretrained, or call load_speech_tokenizer")
    return model.speech_tokenizer


def spoken(codec: Any, row: Tensor) -> Tensor:
    """Waveform (samples,) of one row (T, K)."""
    if not len(row):
        return torch.zeros(0)
    (waveform,), _ = codec.decode([{"audio_codes": row}])
    return torch.as_tensor(waveform)


def heard(codec: Any, waveform: Tensor, sample_rate: int) -> Tensor:
    """Codes (T, K) of one recording."""
    audio.check(waveform)
    codes = codec.encode([waveform.detach().cpu().float().numpy()], sr=sample_rate).audio_codes[0]
    return codes.long().cpu().clone()  # type: ignore[no-any-return]


def write_folder(model: Any, processor: Any, folder: Path) -> None:
    """Write what `Qwen3TTSModel.from_pretrained` reads: weights with LoRA merged in, and all that lies beside them."""
    model.save_pretrained(str(folder), state_dict=merged_state(model))
    _mend_config(model, folder / "config.json")
    if model.generate_config is not None:
        (folder / "generation_config.json").write_text(json.dumps(model.generate_config, indent=1))
    if processor is not None:
        processor.save_pretrained(str(folder))
    if model.speech_tokenizer is not None:
        codec = folder / "speech_tokenizer"
        model.speech_tokenizer.model.save_pretrained(str(codec))
        model.speech_tokenizer.feature_extractor.save_pretrained(str(codec))


def _mend_config(model: Any, path: Path) -> None:
    """Take out of the speaker encoder's settings what transformers adds and upstream's class refuses to read."""
    encoder = getattr(model.config, "speaker_encoder_config", None)
    if encoder is None or not path.is_file():
        return
    written, known = json.loads(path.read_text()), inspect.signature(type(encoder).__init__).parameters
    settings = written.get("speaker_encoder_config", {})
    written["speaker_encoder_config"] = {name: value for name, value in settings.items() if name in known}
    path.write_text(json.dumps(written, indent=2))


def read_folder(model: Any, path: str | Path, unsafe: bool) -> None:
    """Load weights; the speaker encoder stays where the file has none, as after upstream's fine-tuning.

    Raises:
        ValueError: they do not fit; the message names a tensor, both sizes and the likely cause.
    """
    state = read_weights(path, unsafe)
    if not any(name.startswith(_SPEAKER) for name in state):
        state |= {name: value for name, value in model.state_dict().items() if name.startswith(_SPEAKER)}
    load_into(model, state, path)
