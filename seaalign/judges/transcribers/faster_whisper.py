"""Whisper through faster-whisper (CTranslate2): the same weights, several times faster."""

from __future__ import annotations

from torch import Tensor

from seaalign.judges.transcribers.base import Engine, require


class FasterWhisper(Engine):
    """Whisper by faster-whisper, set so that the same sound gives the same text.

    Temperature 0 alone, no voice detection (it cuts speech away before it is judged), no text of the window before.

    Args:
        model: size ("large-v3", "small", ...), name of a converted model on the Hugging Face hub, or a folder.
        device: "auto", "cpu" or "cuda".
        compute_type: "default" (as stored), "float32", "float16", "int8", ...
        beam: width of the beam.

    Raises:
        ImportError: faster-whisper is missing.
    """

    def __init__(
        self, model: str = "large-v3", device: str = "auto", compute_type: str = "default", beam: int = 5
    ) -> None:
        engine = require("faster_whisper", "asr", "FasterWhisper")
        super().__init__(model, compute_type=compute_type, beam=beam)
        self._beam = beam
        self._model = engine.WhisperModel(model, device=device, compute_type=compute_type)
        self.sample_rate = self._model.feature_extractor.sampling_rate

    def recognise(self, waveforms: list[Tensor], sample_rate: int, language: str | None) -> list[str]:
        known = self._model.supported_languages
        if language and language not in known:  # an English-only model would listen for English, with a mere warning
            raise ValueError(f"{self.name} has no language {language!r}, only {', '.join(known)}: take another model")
        return [self._one(waveform, language) for waveform in waveforms]

    def _one(self, waveform: Tensor, language: str | None) -> str:
        segments, _ = self._model.transcribe(
            waveform.numpy(),
            language=language,
            task="transcribe",
            beam_size=self._beam,
            temperature=0.0,
            condition_on_previous_text=False,
            vad_filter=False,
        )
        return "".join(segment.text for segment in segments)
