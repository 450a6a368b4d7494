"""Whisper through Hugging Face transformers. Source: Radford et al. 2022, arXiv 2212.04356."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seaalign.judges.transcribers.base import Engine, place, require


class Whisper(Engine):
    """Whisper by transformers: greedy, the language forced, never translated.

    What is longer than the model's window (30 s) is heard by Whisper's own long-form algorithm, one at a time.

    Args:
        model: name on the Hugging Face hub, or a folder.
        device: default: the GPU where there is one.
        dtype: of the weights; float32 by default, torch.float16 halves memory and time on a GPU.
        batch: waveforms heard at once.

    Raises:
        ImportError: transformers is missing.
        OSError: no such model.
    """

    def __init__(
        self,
        model: str = "openai/whisper-large-v3",
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        batch: int = 8,
    ) -> None:
        hf = require("transformers", "asr", "Whisper")
        super().__init__(model, dtype=str(dtype))
        self._device, self._dtype, self._batch = place(device), dtype, batch
        self._processor = hf.WhisperProcessor.from_pretrained(model)
        loaded = hf.WhisperForConditionalGeneration.from_pretrained(model)
        self._model = loaded.to(self._device, dtype).eval()
        self.sample_rate = self._processor.feature_extractor.sampling_rate

    def recognise(self, waveforms: list[Tensor], sample_rate: int, language: str | None) -> list[str]:
        window = self._processor.feature_extractor.n_samples
        long = [i for i, waveform in enumerate(waveforms) if len(waveform) > window]
        short = [i for i in range(len(waveforms)) if i not in long]
        texts = dict[int, str]()
        for group in [*(short[i : i + self._batch] for i in range(0, len(short), self._batch)), *([i] for i in long)]:
            heard = self._generate([waveforms[i] for i in group], sample_rate, language, long=group[0] in long)
            texts |= dict(zip(group, heard, strict=True))
        return [texts[i] for i in range(len(waveforms))]

    def _generate(self, waveforms: list[Tensor], rate: int, language: str | None, long: bool) -> list[str]:
        # A short one is padded to the whole window, as in training, so its company in the batch changes nothing.
        layout: dict[str, Any] = {"truncation": False, "padding": "longest"} if long else {}
        inputs = self._processor.feature_extractor(
            [waveform.numpy() for waveform in waveforms],
            sampling_rate=rate,
            return_tensors="pt",
            return_attention_mask=True,
            **layout,
        )
        tokens = self._model.generate(
            inputs.input_features.to(self._device, self._dtype),
            attention_mask=inputs.attention_mask.to(self._device),
            language=language,
            task="transcribe",
            do_sample=False,
            num_beams=1,
            temperature=0.0,  # without a list of higher ones to fall back to: the same text each time
            condition_on_prev_tokens=False,
            return_timestamps=long,
        )
        return list(self._processor.batch_decode(tokens, skip_special_tokens=True))
