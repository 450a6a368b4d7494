"""MMS: one wav2vec 2.0 with a small adapter for each of 1,100 languages.

Source: Pratap et al. 2023, arXiv 2305.13516.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seaalign.judges.transcribers.base import Engine, place, require

ISO_639_3 = {"en": "eng", "id": "ind", "km": "khm", "lo": "lao", "my": "mya", "th": "tha", "vi": "vie"}


class MMS(Engine):
    """MMS by transformers: greedy CTC, the language's adapter and alphabet loaded when it is first asked for.

    Args:
        model: name on the Hugging Face hub, or a folder.
        device: default: the GPU where there is one.
        batch: waveforms heard at once, where padding changes nothing; one at a time where it would.

    Raises:
        ImportError: transformers is missing.
        OSError: no such model.
        ValueError: the model has no adapters.
    """

    def __init__(
        self, model: str = "facebook/mms-1b-all", device: str | torch.device | None = None, batch: int = 8
    ) -> None:
        hf = require("transformers", "asr", "MMS")
        super().__init__(model)
        self._hf, self._tokenizers, self._current = hf, dict[str, Any](), ""
        self._features = hf.Wav2Vec2FeatureExtractor.from_pretrained(model)
        loaded = hf.Wav2Vec2ForCTC.from_pretrained(model).to(torch.float32)
        if loaded.config.adapter_attn_dim is None:
            raise ValueError(f"{model} has no language adapters: load it with seaalign's Pipeline({model!r}) instead")
        self._model = loaded.to(place(device)).eval()
        # Group norm averages over time, padding included; and some models were trained without a mask.
        masked = loaded.config.feat_extract_norm == "layer" and self._features.return_attention_mask
        self._batch = batch if masked else 1
        self.sample_rate = self._features.sampling_rate

    def recognise(self, waveforms: list[Tensor], sample_rate: int, language: str | None) -> list[str]:
        tokenizer = self._speak(language)
        # Marks (<s>, <unk>) are silence too. Not by skip_special_tokens: some versions then drop blanks before repeats,
        # and with them the second of two equal letters.
        blank, marks = tokenizer.pad_token_id, {*tokenizer.all_special_ids} - {tokenizer.word_delimiter_token_id}
        order = sorted(range(len(waveforms)), key=lambda i: len(waveforms[i]))  # like with like: less padding
        texts = dict[int, str]()
        for start in range(0, len(order), self._batch):
            group = order[start : start + self._batch]
            for i, ids in zip(group, self._best([waveforms[i] for i in group], sample_rate), strict=True):
                texts[i] = tokenizer.decode([blank if token in marks else token for token in ids])
        return [texts[i] for i in range(len(waveforms))]

    def _best(self, waveforms: list[Tensor], rate: int) -> list[list[int]]:
        """Best token of each frame; frames that padding made are cut off."""
        inputs = self._features(
            [waveform.numpy() for waveform in waveforms],
            sampling_rate=rate,
            padding=True,
            return_tensors="pt",
            return_attention_mask=self._features.return_attention_mask,
        )
        best = self._model(**inputs.to(self._model.device)).logits.argmax(-1).tolist()
        frames = [int(self._model._get_feat_extract_output_lengths(len(waveform))) for waveform in waveforms]
        return [row[:count] for row, count in zip(best, frames, strict=True)]

    def _speak(self, language: str | None) -> Any:
        """The alphabet of a language, its adapter in place.

        A tokenizer for each, because one that is switched keeps the letters of the language before in old versions.
        """
        if language is None:
            raise ValueError('MMS needs a language: give Sentence(..., language="th"), or route with ByLanguage')
        code = ISO_639_3.get(language, language)
        if code not in self._tokenizers:
            try:
                self._tokenizers[code] = self._hf.Wav2Vec2CTCTokenizer.from_pretrained(self.name, target_lang=code)
            except KeyError as error:
                raise ValueError(
                    f"{self.name} has no alphabet for language {language!r}: it takes {', '.join(ISO_639_3)}, "
                    "or the ISO 639-3 code of any other that it was trained on"
                ) from error
        if code != self._current:
            self._current = ""  # if loading breaks off, the next call starts over
            self._model.load_adapter(code)
            self._current = code
        return self._tokenizers[code]
