"""Any recogniser of SpeechBrain."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from seaalign.audio import speechbrain_recogniser
from seaalign.judges.transcribers.base import Engine, place


class SpeechBrain(Engine):
    """A recogniser by speechbrain.inference, asked for one waveform at a time: few of its models mask all padding.

    A recipe (hyperparams.yaml) can run any code while it loads: take only those that you trust.

    Args:
        source: name on the Hugging Face hub ("speechbrain/asr-..."), or a folder with hyperparams.yaml.
        interface: the class of speechbrain.inference.ASR that the model's page names: "EncoderDecoderASR",
            "EncoderASR", ...
        device: default: the GPU where there is one.
        savedir: where downloaded files go; default: the cache of Hugging Face.

    Raises:
        ImportError: speechbrain, or a torchaudio that fits, is missing.
        ValueError: no such interface, or one that transcribes no batches.
    """

    def __init__(
        self,
        source: str,
        interface: str = "EncoderDecoderASR",
        device: str | torch.device | None = None,
        savedir: str | Path | None = None,
    ) -> None:
        super().__init__(source, interface=interface)
        self._model = speechbrain_recogniser(source, interface, place(device), savedir)
        self.sample_rate = int(getattr(self._model.hparams, "sample_rate", 16_000))

    def recognise(self, waveforms: list[Tensor], sample_rate: int, language: str | None) -> list[str]:
        return [self._model.transcribe_batch(waveform[None], torch.ones(1))[0][0] for waveform in waveforms]
