"""What surrounds the language model of CosyVoice: the user's checkout, flow and vocoder, and the frontend.

Everything here is upstream's own code, called the way upstream calls it; nothing is trained, moved or saved.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import random
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seaalign import audio
from seaalign.backbones.base import Unsupported, evaluating
from seaalign.backbones.sound import steady

REPOSITORY = "https://github.com/FunAudioLLM/CosyVoice"
LONGEST, LOWEST = 30.0, 16_000
"""What upstream's speech tokenizer takes: at most so many seconds, at so many Hz or more."""


def open_folder(folder: str | os.PathLike[str]) -> Any:
    """The whole `CosyVoice2` or `CosyVoice3` object of a model folder, built by the checkout on PYTHONPATH.

    Upstream seeds every random generator while it builds, and sets up logging when it is imported: both are put back.

    Raises:
        FileNotFoundError: no such folder, or one without cosyvoice2.yaml or cosyvoice3.yaml.
        ImportError: the checkout cannot be imported; the message says how to make it so.
    """
    path = Path(folder)
    kinds = {name: path / f"{name.lower()}.yaml" for name in ("CosyVoice3", "CosyVoice2")}
    kind = next((name for name, recipe in kinds.items() if recipe.is_file()), None)
    if kind is None:
        there = "holds no cosyvoice2.yaml or cosyvoice3.yaml" if path.is_dir() else "is not there"
        old = ": CosyVoice 1 is another model and not supported" if (path / "cosyvoice.yaml").is_file() else ""
        raise FileNotFoundError(f"{path} {there}{old}; give the folder that llm.pt and flow.pt were downloaded into")
    with _undisturbed():
        try:
            module = importlib.import_module("cosyvoice.cli.cosyvoice")
        except ImportError as error:
            raise ImportError(
                f"{path} is built by CosyVoice's own code, and importing it fails: {error}. Clone it (git clone "
                f"--recursive {REPOSITORY}), install what its requirements.txt lists, and start Python with "
                "PYTHONPATH=/path/to/CosyVoice:/path/to/CosyVoice/third_party/Matcha-TTS; or build the object in your "
                "code and pass it instead of the folder"
            ) from error
        build = getattr(module, "AutoModel", None) or getattr(module, kind)  # checkouts before CosyVoice 3 lack it
        return build(model_dir=str(path))


@contextmanager
def _undisturbed() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    level, handlers = logging.root.level, logging.root.handlers[:]
    with torch.random.fork_rng(range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            logging.root.setLevel(level)
            logging.root.handlers[:] = handlers


class Sound:
    """Flow, vocoder and frontend of a whole CosyVoice object.

    No `nn.Module`, so that they are neither trained, nor saved, nor moved with the language model; a copy shares them.

    Args:
        whole: `CosyVoice2` or `CosyVoice3`.
    """

    def __init__(self, whole: Any) -> None:
        self.model, self.frontend = whole.model, getattr(whole, "frontend", None)
        self.sample_rate = int(whole.sample_rate)
        self.features = {"decode"} if self.frontend is None else {"decode", "encode"}

    def __deepcopy__(self, memo: Any) -> Sound:
        return self  # sessions of onnxruntime cannot be copied

    def speak(self, tokens: Tensor, timbre: Mapping[str, Tensor]) -> Tensor:
        """Waveform (samples,) of one row (T,): `token2wav`, not streamed, as `inference_zero_shot` ends.

        The vocoder's noise comes from a seed of its own: the same row and timbre give the same sound.
        """
        tokens = self._without_long_silence(tokens.detach().cpu())
        if not len(tokens):
            return torch.zeros(0)
        prompt = {f"prompt_{name}": timbre[name].detach()[None] for name in ("token", "feat")}
        prompt["prompt_token"] = prompt["prompt_token"].to(torch.int32)
        caches, key = self.model.hift_cache_dict, str(uuid.uuid4())
        with evaluating(self.model.flow), evaluating(self.model.hift), steady(torch.device(self.model.device)):
            caches[key] = None
            try:
                waveform = self.model.token2wav(
                    token=tokens[None],
                    embedding=timbre["embedding"].detach()[None],
                    token_offset=0,
                    uuid=key,
                    finalize=True,
                    **prompt,
                )
            finally:
                caches.pop(key, None)
        return waveform[0].clone()  # upstream's is a tensor of inference mode, which autograd refuses

    def _without_long_silence(self, tokens: Tensor, most: int = 5) -> Tensor:
        """What upstream's synthesis passes on: of a run of its silent tokens the first five (CosyVoice 3)."""
        silent = torch.isin(tokens, torch.tensor(list(getattr(self.model, "silent_tokens", ())), dtype=tokens.dtype))
        place = torch.arange(1, len(tokens) + 1)
        run = place - torch.where(silent, 0, place).cummax(0).values if len(tokens) else place
        return tokens[run <= most]

    def timbre(self, waveform: Tensor, sample_rate: int) -> dict[str, Tensor]:
        """`token` (Tp,), `feat` (2 Tp, 80), `embedding` (192,) of one recording, as `frontend_zero_shot` makes them."""
        extract = self._frontend("timbre()").frontend_zero_shot
        with self._recording(waveform, sample_rate) as recording:
            given = ("", "", recording, self.sample_rate, "")  # no text; the last one is a stored speaker's name
            made = extract(*given[: len(inspect.signature(extract).parameters)])
        names = {"token": "flow_prompt_speech_token", "feat": "prompt_speech_feat", "embedding": "flow_embedding"}
        timbre = {name: made[theirs][0].detach().cpu() for name, theirs in names.items()}
        return {**timbre, "token": timbre["token"].long()}

    def tokens(self, waveform: Tensor, sample_rate: int) -> Tensor:
        """Speech tokens (T,) of one recording."""
        with self._recording(waveform, sample_rate) as recording:
            tokens, _ = self._frontend("encode()")._extract_speech_token(recording)
        return tokens[0].long().cpu()

    def _frontend(self, what: str) -> Any:
        if self.frontend is None:
            raise Unsupported(f"{what} needs the frontend of CosyVoice: pass the whole CosyVoice2 or CosyVoice3 object")
        return self.frontend

    @contextmanager
    def _recording(self, waveform: Tensor, sample_rate: int) -> Iterator[Any]:
        """What upstream's extractors take of a recording: samples (1, n) at 16 kHz in checkouts of 2025, now a path.

        They read the path by `torchaudio.load`, which today needs torchcodec and FFmpeg. The samples are here already,
        so inside their `load_wav` hands them over, resampled by the same filter as it does.
        """
        audio.check(waveform)
        seconds = len(waveform) / sample_rate
        if sample_rate < LOWEST or seconds > LONGEST:
            raise ValueError(
                f"a recording of {seconds:.1f} s at {sample_rate} Hz: CosyVoice's speech tokenizer takes at most "
                f"{LONGEST:.0f} s, at {LOWEST} Hz or more; cut it, or record it anew"
            )

        def samples(recording: Any, rate: int, *least: int) -> Tensor:
            return audio.resample(waveform.detach().cpu().float(), sample_rate, rate)[None]

        extract = self._frontend("reading a recording")._extract_speech_token
        if "prompt_wav" not in inspect.signature(extract).parameters:
            yield samples(None, LOWEST)
            return
        reader = extract.__globals__
        theirs = reader["load_wav"]
        reader["load_wav"] = samples
        try:
            yield "recording"
        finally:
            reader["load_wav"] = theirs


def check_timbre(timbre: Any, row: int) -> dict[str, Tensor]:
    """The three parts of a timbre, or an error that names what is missing or does not fit.

    Without `token` and `feat` the flow has the embedding alone, as in upstream's `inference_sft`.

    Raises:
        ValueError: no embedding, or shapes that do not belong together.
    """
    wanted = 'the timbre of CosyVoice is {"token": (Tp,), "feat": (2 Tp, 80), "embedding": (192,)}'
    if not isinstance(timbre, Mapping) or "embedding" not in timbre or ("token" in timbre) != ("feat" in timbre):
        found = sorted(timbre) if isinstance(timbre, Mapping) else type(timbre).__name__
        raise ValueError(f"row {row}: {wanted}, got {found}; backbone.timbre(waveform, sample_rate) makes one")
    embedding = torch.as_tensor(timbre["embedding"]).float()
    token = torch.as_tensor(timbre.get("token", ())).long()
    feat = torch.as_tensor(timbre.get("feat", ())).float()
    feat = feat if feat.numel() else feat.new_zeros(0, 80)
    fits = token.dim() == 1 and embedding.dim() == 1 and feat.dim() == 2 and len(feat) == 2 * len(token)
    if not fits:
        shapes = {"token": tuple(token.shape), "feat": tuple(feat.shape), "embedding": tuple(embedding.shape)}
        raise ValueError(
            f"row {row}: {wanted}, two mel frames to a token, got shapes {shapes}; take all three from one recording "
            "(backbone.timbre), without a batch dimension"
        )
    return {"token": token, "feat": feat, "embedding": embedding}
