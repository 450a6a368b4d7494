"""What surrounds T3 in Chatterbox: S3Gen, voice encoder and tokenizer, and how they are found.

Everything here is upstream's own code, called the way upstream calls it; nothing is trained, moved or saved.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seaalign import audio
from seaalign.backbones.base import Unsupported, evaluating
from seaalign.backbones.sound import steady

INSTALL = (
    'pip install --no-deps chatterbox-tts==0.1.7 && pip install "seaalign[hf]" conformer diffusers librosa omegaconf '
    'pykakasi pyloudnorm resemble-perth s3tokenizer spacy-pkuseg "setuptools<82"'
)
LOWEST = 16_000
"""Hz: what the speech tokenizer and the voice encoder hear."""
_KINDS = {  # by the file that holds T3, in the order in which a folder with several is looked at
    "t3_turbo_v1.safetensors": ("chatterbox.tts_turbo", "ChatterboxTurboTTS"),
    "t3_cfg.safetensors": ("chatterbox.tts", "ChatterboxTTS"),
    "t3_mtl23ls_v2.safetensors": ("chatterbox.mtl_tts", "ChatterboxMultilingualTTS"),
}
_PARTS = "token", "feat", "embedding"


def open_folder(folder: str | os.PathLike[str], multilingual: bool) -> Any:
    """The whole Chatterbox object of a folder of downloaded weights, on the CPU.

    Args:
        folder: as upstream's `from_local` takes it.
        multilingual: of a folder that holds both, the multilingual model.

    Raises:
        FileNotFoundError: no file in it that upstream's loaders look for.
        ImportError: chatterbox-tts is not installed.
    """
    found = [name for name in _KINDS if (Path(folder) / name).is_file()]
    if not found:
        raise FileNotFoundError(
            f"{folder} holds none of {', '.join(_KINDS)}: give the folder that the weights were downloaded into"
        )
    module, kind = _KINDS[found[-1 if multilingual else 0]]
    try:
        maker = getattr(importlib.import_module(module), kind)
    except ImportError as error:
        raise ImportError(f"{folder} is read by Chatterbox's own code, which fails ({error}): {INSTALL}") from error
    with steady(torch.device("cpu")):  # building draws random weights that are then overwritten
        return maker.from_local(str(folder), "cpu")


class ChatterboxSound:
    """S3Gen, voice encoder and tokenizer of a whole Chatterbox object.

    No `nn.Module`, so that they are neither trained, nor saved, nor moved with T3; a copy shares them.

    Args:
        whole: `ChatterboxTTS`, `ChatterboxMultilingualTTS` or `ChatterboxTurboTTS`.
        language: what the multilingual tokenizer puts before a text, as "th"; None for the others.
    """

    def __init__(self, whole: Any, language: str | None = None) -> None:
        self.whole, self.language, self.sample_rate = whole, language, int(whole.sr)

    def __deepcopy__(self, memo: Any) -> ChatterboxSound:
        return self

    def words(self, text: str) -> list[int]:
        """Text ids as upstream's `generate` makes them, without the marks that T3 wants around them.

        Raises:
            ValueError: the tokenizer has no token for part of the text.
        """
        normalise = getattr(sys.modules.get(type(self.whole).__module__), "punc_norm", str)
        text, tokenizer = normalise(text), self.whole.tokenizer
        if not hasattr(tokenizer, "text_to_tokens"):  # turbo: a tokenizer of transformers
            return list(tokenizer(text)["input_ids"])
        tagged = {} if self.language is None else {"language_id": self.language}
        ids: list[int] = tokenizer.text_to_tokens(text, **tagged)[0].tolist()
        unknown = tokenizer.tokenizer.token_to_id("[UNK]")
        if unknown is not None and unknown in ids:
            raise ValueError(
                f"the tokenizer has no token for {ids.count(unknown)} of {len(ids)} pieces of {text!r}: give the model "
                "the tokenizer that your fine-tune was trained with, extended by the letters of its language"
            )
        return ids

    def speak(self, tokens: Tensor, timbre: Mapping[str, Tensor]) -> Tensor:
        """Waveform (samples,) of one row (T,), without upstream's watermark. The same row and timbre sound the same."""
        s3gen = self.whole.s3gen
        if not len(tokens):
            return torch.zeros(0)
        ref = {f"prompt_{name}": timbre[name].detach()[None].to(s3gen.device) for name in ("token", "feat")}
        length = torch.tensor([ref["prompt_token"].shape[1]], device=s3gen.device)
        ref |= {"prompt_token_len": length, "embedding": timbre["embedding"].detach()[None].to(s3gen.device)}
        with evaluating(s3gen), steady(torch.device(s3gen.device)):
            waveform, _ = s3gen.inference(
                speech_tokens=tokens.detach()[None].to(s3gen.device), ref_dict={**ref, "prompt_feat_len": None}
            )
        return waveform[0].detach().clone()  # upstream's is a tensor of inference mode, which autograd refuses

    def tokens(self, waveform: Tensor, sample_rate: int, most: int | None = None) -> Tensor:
        """Speech tokens (T,) of one recording; at most `most` of them."""
        wave = self._heard(waveform, sample_rate)
        with torch.no_grad():
            found, lengths = self.whole.s3gen.tokenizer.forward([wave], max_len=most)
        return found[0, : int(lengths[0])].long().cpu()

    def style(self, waveform: Tensor, sample_rate: int, most: int) -> Tensor:
        """What T3 reads of a style recording: the tokens of its first seconds (T,)."""
        wave = self._heard(waveform, sample_rate)[: self.whole.ENC_COND_LEN]
        return self.tokens(wave, LOWEST, most)

    def timbre(self, waveform: Tensor, sample_rate: int) -> dict[str, Tensor]:
        """The timbre of a recording, on the CPU, by upstream's extractors."""
        wave = self._heard(waveform, sample_rate)
        whole, short = self.whole, audio.resample(wave, LOWEST, self.sample_rate)[: self.whole.DEC_COND_LEN]
        if sample_rate >= self.sample_rate:  # the mel wants what 16 kHz lacks
            short = audio.resample(waveform.detach().cpu().float(), sample_rate, self.sample_rate)
            short = short[: whole.DEC_COND_LEN]
        with torch.no_grad(), evaluating(whole.s3gen):
            made = whole.s3gen.embed_ref(short, self.sample_rate, device=whole.s3gen.device)
            speaker = torch.as_tensor(whole.ve.embeds_from_wavs([wave.numpy()], sample_rate=LOWEST)).mean(0)
        token, feat, embedding = made["prompt_token"][0], made["prompt_feat"][0], made["embedding"][0]
        timbre = {"speaker_emb": speaker, "token": token.long(), "feat": feat, "embedding": embedding}
        return {name: value.detach().cpu().clone() for name, value in timbre.items()}

    def _heard(self, waveform: Tensor, sample_rate: int) -> Tensor:
        audio.check(waveform)
        return audio.resample(waveform.detach().cpu().float(), sample_rate, LOWEST)


def sound_of(sound: ChatterboxSound | None, what: str) -> ChatterboxSound:
    """The surroundings, or an error that says what needs them."""
    if sound is None:
        raise Unsupported(
            f"{what} needs S3Gen, voice encoder and tokenizer: pass the whole ChatterboxTTS object instead of its t3"
        )
    return sound


def check_timbres(timbres: Sequence[Any]) -> list[dict[str, Tensor]]:
    """What S3Gen takes of each timbre.

    Raises:
        ValueError: a part is missing, or parts do not fit each other; the message names row and shapes.
    """
    checked = []
    for row, timbre in enumerate(timbres):
        given = timbre if isinstance(timbre, Mapping) else {}
        parts = {name: torch.as_tensor(given[name]) for name in _PARTS if name in given}
        token, feat, embedding = (parts.get(name) for name in _PARTS)
        known = token is not None and feat is not None and embedding is not None
        fits = known and token.dim() == 1 and feat.dim() == 2 and embedding.dim() == 1  # type: ignore[union-attr]
        if not fits or len(feat) != 2 * len(token):  # type: ignore[arg-type]
            found = {name: tuple(value.shape) for name, value in parts.items()} or type(timbre).__name__
            raise ValueError(
                f'row {row}: S3Gen wants {{"token": (Tp,), "feat": (2 Tp, 80), "embedding": (192,)}}, two mel frames '
                f"to a token, and got {found}; backbone.timbre(waveform, sample_rate) makes a timbre"
            )
        checked.append(parts)
    return checked
