"""Any Hugging Face pipeline for speech recognition."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seaalign.backbones.base import evaluating
from seaalign.judges.transcribers.base import Engine, place, require
from seaalign.storage.fingerprint import weights_hash

TASK = "automatic-speech-recognition"


class Pipeline(Engine):
    """A pipeline of the task "automatic-speech-recognition", asked for one waveform at a time.

    One at a time, because many of these models answer otherwise in a padded batch. The language reaches Whisper;
    other models know only their own. How it decodes is the pipeline's choice: for Whisper recent versions take a beam
    of 5, `options` says otherwise.

    Args:
        pipeline: name of a model on the Hugging Face hub, a folder, or a pipeline that you made.
        device: where a named model goes; default: the GPU where there is one.
        options: what to call the pipeline with each time, for instance ``{"generate_kwargs": {"num_beams": 5}}``.

    Raises:
        ImportError: transformers is missing.
        ValueError: a pipeline of another task.
    """

    def __init__(
        self, pipeline: Any, device: str | torch.device | None = None, options: dict[str, Any] | None = None
    ) -> None:
        hf = require("transformers", "asr", "Pipeline")
        made = hf.pipeline(TASK, model=pipeline, device=place(device)) if isinstance(pipeline, str) else pipeline
        if getattr(made, "task", None) != TASK:
            raise ValueError(f"expected a pipeline of task {TASK!r} or a model's name, got {made!r:.200}")
        # A pipeline made of a model in memory has no name to be known by.
        name = made.model.name_or_path
        super().__init__(
            name or type(made.model).__name__,
            weights=None if name else weights_hash(made.model),
            dtype=str(made.model.dtype),
            options=options or {},
        )
        self._pipeline, self._options = made, options or {}
        self.sample_rate = made.feature_extractor.sampling_rate

    def recognise(self, waveforms: list[Tensor], sample_rate: int, language: str | None) -> list[str]:
        options = dict(self._options)
        if language and self._pipeline.type == "seq2seq_whisper":
            asked = {"language": language, "task": "transcribe"}
            options["generate_kwargs"] = asked | options.get("generate_kwargs", {})
        with evaluating(self._pipeline.model):
            return [
                self._pipeline({"raw": waveform.numpy(), "sampling_rate": sample_rate}, **options)["text"]
                for waveform in waveforms
            ]
