"""A fixed voice for models whose tokens mix voice and content: what is decoded goes through a voice converter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from seaalign.backbones.base import Backbone
from seaalign.records import Speech

Decode = Callable[[Speech, Sequence[Any]], list[Tensor]]
Converter = Callable[[Tensor, Any], Tensor]


def with_converter(decode: Decode | Backbone, converter: Converter, sample_rate: int | None = None) -> Converted:
    """A `decode` after which every answer to a prompt is heard in the prompt's voice.

    It is for listening: for recognisers, prosody measures and ears, which then compare how something is said and not
    who says it. The tokens still carry the voice, and preference training sees tokens: a candidate may win by it. So
    this does not make "timbre" a feature of the backbone, and DGSA goes on refusing it; use TDSC.

    Recipes, written from the projects' own code and not run here:

    - CosyVoice: `next(cosyvoice.inference_vc(source, reference))["tts_speech"][0]`, 24 kHz with CosyVoice 2. The
      language model takes no part: the source becomes speech tokens, which flow and vocoder say in the voice of the
      reference. Source and reference are 16 kHz (files, in newer checkouts), the source 30 s at most; let the timbre
      be the reference.
    - Vevo-Timbre (Amphion): `pipeline.inference_fm(src_wav_path=..., timbre_ref_wav_path=...)`, 24 kHz. It keeps the
      style of the source, which is what is to be judged. It reads files; look at the licence of its weights first.

    Args:
        decode: `(speech, timbres) -> list of waveforms (samples,)`, or a backbone, of which the `decode` that it has
            now is taken.
        converter: `(waveform (samples,), timbre) -> waveform (samples,)`; the timbre is what `Prompt.timbre` holds.
        sample_rate: Hz of what the converter returns. Default: the `sample_rate` of `decode`, which stays as it is.

    Returns:
        A function `(speech, timbres) -> list of waveforms` with an attribute `sample_rate`. Pass both on,
        `CausalLM(..., decode=it, sample_rate=it.sample_rate)`, or assign them: `backbone.decode = it`.

    Example:
        >>> def loud(waveform, timbre):
        ...     return waveform * timbre
        >>> def codec(speech, timbres):
        ...     return [row.float() for row in speech.rows()]
        >>> decode = with_converter(codec, loud, sample_rate=24_000)
        >>> decode(Speech.pack([[1, 2], [], [3]]), [10.0, None, 0.5]), decode.sample_rate
        ([tensor([10., 20.]), tensor([]), tensor([1.5000])], 24000)
    """
    rate = getattr(decode, "sample_rate", None) if sample_rate is None else sample_rate
    return Converted(decode.decode if isinstance(decode, Backbone) else decode, converter, rate)


class Converted:
    """What `with_converter` returns.

    Args:
        decode: `(speech, timbres) -> list of waveforms`.
        converter: `(waveform, timbre) -> waveform`.
        sample_rate: Hz of what the converter returns, where known.
    """

    def __init__(self, decode: Decode, converter: Converter, sample_rate: int | None = None) -> None:
        self.decode, self.converter, self.sample_rate = decode, converter, sample_rate

    def __call__(self, speech: Speech, timbres: Sequence[Any]) -> list[Tensor]:
        """Waveforms (samples,) of B rows, each in the voice of its timbre; a row without speech has no sound.

        Args:
            speech: B rows.
            timbres: one for each.

        Raises:
            ValueError: a row has no timbre, or what was decoded or converted is no waveform; the message names the row.
            RuntimeError: the converter failed at a row.
        """
        if len(timbres) != len(speech):
            raise ValueError(f"{len(timbres)} timbres for {len(speech)} rows: pass one for each row")
        rows = speech.lengths.nonzero().squeeze(-1)
        voices = {row: timbres[row] for row in rows.tolist()}
        for row, timbre in voices.items():
            if timbre is None:
                raise ValueError(
                    f"row {row} has no timbre, so there is no voice to convert it to: set Prompt.timbre, to what the "
                    "converter wants as its second argument"
                )
        decoded = self.decode(speech.select(rows), list(voices.values())) if voices else []
        if len(decoded) != len(voices):
            raise ValueError(f"decode() returned {len(decoded)} waveforms for {len(voices)} rows")
        heard = [torch.zeros(0) for _ in timbres]
        for (row, timbre), waveform in zip(voices.items(), decoded, strict=True):
            heard[row] = self._convert(row, _checked(row, "decode()", waveform), timbre)
        return heard

    def _convert(self, row: int, waveform: Tensor, timbre: Any) -> Tensor:
        if not len(waveform):
            return waveform
        try:
            converted = self.converter(waveform, timbre)
        except Exception as error:
            raise RuntimeError(
                f"row {row}: the converter failed on {len(waveform)} samples ({type(error).__name__}: {error}); leave "
                "the row out, or mend the converter"
            ) from error
        converted = _checked(row, "the converter", converted)
        if not len(converted):
            raise ValueError(f"row {row}: the converter made nothing of {len(waveform)} samples")
        return converted


def _checked(row: int, who: str, waveform: Any) -> Tensor:
    if not isinstance(waveform, Tensor) or waveform.dim() != 1 or not waveform.is_floating_point():
        kind = f"{waveform.dtype} {tuple(waveform.shape)}" if isinstance(waveform, Tensor) else type(waveform).__name__
        raise ValueError(f"row {row}: {who} returned {kind}, and a waveform is a floating-point tensor (samples,)")
    if not bool(waveform.isfinite().all()):
        raise ValueError(f"row {row}: {who} returned samples that are NaN or infinite")
    return waveform
