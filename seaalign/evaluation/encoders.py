"""Models that listen: whose voice it is, and how natural it sounds. Downloaded at first use, or named by a folder."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seaalign.audio import resample, speaker_encoder
from seaalign.backbones.base import Unsupported
from seaalign.evaluation.hearing import Encoder, Heard
from seaalign.judges.transcribers.base import place, require

ECAPA = "speechbrain/spkrec-ecapa-voxceleb"
WAVLM = "microsoft/wavlm-large"


class WavLM:
    """Voices as WavLM hears them: hidden states of a layer, averaged over time.

    Args:
        model: name on the Hugging Face hub, or a folder.
        layer: whose output; 0 is what goes into the first layer.
        device: default: the GPU where there is one.

    Raises:
        ImportError: transformers is missing.
        ValueError: no such layer.

    Source: Geng et al. 2026, eq. 26 (WavLM-Large, layer 12, mean-pooled); Chen et al. 2022, arXiv 2110.13900.
    """

    rate = 16_000

    def __init__(self, model: str = WAVLM, layer: int = 12, device: str | torch.device | None = None) -> None:
        hf = require("transformers", "hf", "WavLM")
        self.features = hf.AutoFeatureExtractor.from_pretrained(model)
        self.model = hf.AutoModel.from_pretrained(model).to(place(device)).eval()
        self.layer, self.fingerprint = layer, f"{model}, layer {layer}"
        if not 0 <= layer <= self.model.config.num_hidden_layers:
            raise ValueError(f"{model} has {self.model.config.num_hidden_layers} layers, there is no layer {layer}")

    @torch.no_grad()
    def __call__(self, waveforms: Sequence[Tensor], sample_rate: int) -> Tensor:
        """Embeddings (B, D); one by one, because padding would change the mean."""
        return torch.stack([self._one(resample(wave.float().cpu(), sample_rate, self.rate)) for wave in waveforms])

    def _one(self, waveform: Tensor) -> Tensor:
        inputs = self.features(waveform.numpy(), sampling_rate=self.rate, return_tensors="pt").input_values
        hidden = self.model(inputs.to(self.model.device), output_hidden_states=True).hidden_states
        mean: Tensor = hidden[self.layer][0].mean(0).float().cpu()
        return mean


def encoder_of(named: str | Encoder) -> Encoder:
    """A speaker encoder: "ecapa", "wavlm", a model of speechbrain by its name or folder, or a function as it is."""
    if not isinstance(named, str):
        return named
    if named == "wavlm":
        return WavLM()
    found: Encoder = speaker_encoder(ECAPA if named == "ecapa" else named)
    return found


_HOME = "torchmetrics.functional.audio"
_PREDICTORS = {
    # name: module, function, further arguments, which of its numbers, packages, files of weights
    "dnsmos": (
        *("dnsmos", "deep_noise_suppression_mean_opinion_score", (False,), 3, ("librosa", "onnxruntime", "requests")),
        ("DNSMOS/DNSMOS/sig_bak_ovr.onnx", "DNSMOS/DNSMOS/model_v8.onnx"),
    ),
    "nisqa": (
        *("nisqa", "non_intrusive_speech_quality_assessment", (), 0, ("librosa", "requests")),
        ("NISQA/nisqa.tar",),
    ),
}


class Naturalness:
    """A predictor of how natural speech sounds, of torchmetrics: "dnsmos" (overall) or "nisqa" (quality), 1 to 5.

    They were taught with a few large languages: compare systems by them, do not quote them. Nothing is downloaded.

    Args:
        name: "dnsmos" or "nisqa".
        folder: where torchmetrics keeps its weights.

    Raises:
        ValueError: no such predictor.
        Unsupported: its packages or weights are missing; the message says which, and how to get them.
    """

    def __init__(self, name: str, folder: str | Path = "~/.torchmetrics") -> None:
        if name not in _PREDICTORS:
            raise ValueError(f"no predictor {name!r}: there are {', '.join(_PREDICTORS)}, and measures of your own")
        module, function, self._settings, self._place, packages, files = _PREDICTORS[name]
        self.name = self.fingerprint = name
        missing = [package for package in packages if find_spec(package) is None]
        if missing:
            raise Unsupported(f"{name} was left out: it needs pip install {' '.join(missing)}")
        lacking = [
            str(Path(folder).expanduser() / file) for file in files if not Path(folder, file).expanduser().is_file()
        ]
        if lacking:
            raise Unsupported(
                f"{name} was left out: its weights are not there ({', '.join(lacking)}); calling "
                f"{_HOME}.{module}.{function} once downloads them"
            )
        self.score: Any = getattr(importlib.import_module(f"{_HOME}.{module}"), function)

    def __call__(self, heard: Sequence[Heard]) -> list[dict[str, float]]:
        """Of each answer; undefined for silence and for less than half a second."""
        return [self._one(each) for each in heard]

    def _one(self, each: Heard) -> dict[str, float]:
        if each.silent or len(each.waveform) < each.sample_rate / 2:
            return {}
        found = self.score(each.waveform.float().cpu(), each.sample_rate, *self._settings)
        return {self.name: float(found[self._place])}
