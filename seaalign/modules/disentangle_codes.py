"""What a trained `Disentangler` is asked for: codes, timbres, prompts that carry both, contours after an exchange."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from seaalign.backbones.base import evaluating
from seaalign.data.hearing import hear
from seaalign.functional.fsq import fsq, fsq_values
from seaalign.modules.disentangle_nets import code_mask
from seaalign.records import Style, Utterance

_ROWS = 16  # utterances at once


class Codes(L.LightningModule):
    """The questions; `Disentangler` has the networks and how they are trained."""

    levels: tuple[int, ...]
    timbre_size: int
    prosody_encoder: Any
    timbre_encoder: Any
    decoder: Any

    def encode(self, inputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Padded inputs (B, T, ...) to values (B, M, C) with a gradient, ids (B, M), mask (B, M) of a prosody code."""
        values, ids = fsq(self.prosody_encoder(inputs, mask), self.levels)
        return values, ids, code_mask(mask, self.hparams["stride"])

    def prosody(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Prosody codes.

        Args:
            inputs: of each utterance the waveform (S,) at `sample_rate`, tokens (T,) or (T, K), or features (T, F).

        Returns:
            Integer ids (M,) each, in 0..prod(levels)-1, M = ceil(T / stride).

        Raises:
            ValueError: an utterance is empty, or holds NaN; tokens are out of range.
        """
        made = []
        for x, mask in self._batches(inputs):
            _, ids, short = self.encode(x, mask)
            made += [row[keep].cpu() for row, keep in zip(ids, short, strict=True)]
        return made

    def timbre(self, inputs: Sequence[Tensor]) -> Tensor:
        """Timbre embeddings (B, timbre_size) of inputs as in `prosody`."""
        return torch.cat([self.timbre_encoder(x, mask).cpu() for x, mask in self._batches(inputs)])

    def restyle(
        self,
        utterances: Sequence[Utterance],
        inputs: Sequence[Tensor],
        speakers: Sequence[str] | None = None,
        codes: Sequence[Tensor] | None = None,
    ) -> list[Utterance]:
        """The utterances with prompts that carry code and timbre: `Style(tokens=ids)` and a tensor (timbre_size,).

        Args:
            utterances: as they are.
            inputs: of each, of the recording whose style and voice the prompt shall have (itself, or a reference).
            speakers: of each. Then all utterances of a speaker get the mean of its timbres, one equal tensor, which is
                how seaalign knows that they are of one speaker. None = each its own.
            codes: of each, where another makes them, as `Habits.prosody`. None = `prosody` of the inputs.
        """
        if any(x is not None and len(x) != len(utterances) for x in (inputs, speakers, codes)):
            raise ValueError(
                f"{len(utterances)} utterances, {len(inputs)} inputs: give one for each, one speaker, and one code"
            )
        timbres = list(self.timbre(inputs)) if len(inputs) else []
        for name in set(speakers or ()):
            own = [i for i, speaker in enumerate(speakers or ()) if speaker == name]
            mean = torch.stack([timbres[i] for i in own]).mean(0)
            for i in own:
                timbres[i] = mean
        made = self.prosody(inputs) if codes is None else codes
        return [
            replace_prompt(utterance, Style(ids), timbre)
            for utterance, ids, timbre in zip(utterances, made, timbres, strict=True)
        ]

    def resynthesise(self, codes: Sequence[Tensor], timbres: Tensor) -> list[Tensor]:
        """The prosody that codes have in a voice: the one of A in the voice of B, for swap tests.

        Args:
            codes: ids (M,) each.
            timbres: one for each (B, timbre_size).

        Returns:
            F0 (semitones above 100 Hz: 100 x 2^(F0 / 12) Hz), probability of voicing, level (dB), for each frame
            (M x stride, 3).
        """
        made = []
        with evaluating(self):
            for ids, timbre in zip(codes, timbres, strict=True):
                values = fsq_values(ids.to(self.device), self.levels)[None]
                mask = torch.ones(1, len(ids) * self.hparams["stride"], dtype=torch.bool, device=self.device)
                out = self.decoder(values, timbre[None].to(self.device), mask)[0].cpu()
                made.append(torch.stack([out[:, 0], out[:, 1].sigmoid(), out[:, 2]], dim=1))
        return made

    def _batches(self, inputs: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        with evaluating(self):
            for start in range(0, len(inputs), _ROWS):
                rows = self._read(inputs[start : start + _ROWS], start)
                lengths = torch.tensor([len(row) for row in rows], device=self.device)
                x = pad_sequence(rows, batch_first=True).to(self.device)
                yield x, torch.arange(x.shape[1], device=self.device) < lengths[:, None]

    def _read(self, inputs: Sequence[Tensor], start: int) -> list[Tensor]:
        """Frames of the inputs, checked."""
        kind, size = self.hparams["inputs"], self.hparams["size"]
        if kind == "audio":
            rate = self.hparams["sample_rate"]
            return [heard.frames for heard in hear([wave.cpu() for wave in inputs], rate, rate)]
        for i, row in enumerate(inputs, start):
            if not len(row):
                raise ValueError(f"input {i} is empty: drop the row")
            if kind == "features" and (row.dim() != 2 or row.shape[1] != size or not torch.isfinite(row).all()):
                raise ValueError(f"input {i} must be finite features (T, {size}), got {tuple(row.shape)}: see `size`")
            if kind == "tokens" and (row.is_floating_point() or not 0 <= int(row.min()) <= int(row.max()) < size):
                raise ValueError(f"input {i} must be ids in 0..{size - 1} (T,) or (T, K), got {row.dtype}")
        return list(inputs)


def replace_prompt(utterance: Utterance, style: Style, timbre: Tensor) -> Utterance:
    """The utterance with another style and timbre in its prompt."""
    prompt = replace(utterance.prompt, style=style, timbre=timbre)
    return Utterance(utterance.id, prompt, utterance.tokens, utterance.source)
