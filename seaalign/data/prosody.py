"""Recordings, and what is heard of them, for modules that take prosody and timbre apart."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from seaalign.data.hearing import Heard, hear
from seaalign.data.loader import FrameDataModule, FrameLoader
from seaalign.data.sound import sound_of
from seaalign.functional.sampling import content_key, uniforms
from seaalign.records import Recording
from seaalign.sampling.progress import track


class _Row(NamedTuple):
    id: str
    speaker: int  # index, -1 where nobody knows
    inputs: Tensor  # (T, F) floats, or (T,) or (T, K) ids
    heard: Heard


class ProsodyBatch:
    """B utterances, each with another one of its speaker where there is one.

    Args:
        inputs: features (B, T, F) or ids (B, T, K), padded.
        lengths: frames of each (B,).
        prosody: F0 (semitones above 100 Hz), voicing, level (dB) of each frame (B, T, 3).
        spectrum: see `Heard` (B, BANDS).
        statistics: of the prosody, standardised; NaN where undefined (B, 4).
        speakers: indices, -1 where unknown (B,).
        partners: inputs of another utterance of the same speaker, or of the same one (B, T', ...).
        partner_lengths: frames of each (B,).
        paired: whether the partner is another utterance (B,).
        ids: of the utterances, for messages.
    """

    def __init__(
        self,
        inputs: Tensor,
        lengths: Tensor,
        prosody: Tensor,
        spectrum: Tensor,
        statistics: Tensor,
        speakers: Tensor,
        partners: Tensor,
        partner_lengths: Tensor,
        paired: Tensor,
        ids: Sequence[str] = (),
    ) -> None:
        self.inputs, self.lengths, self.prosody, self.spectrum = inputs, lengths, prosody, spectrum
        self.statistics, self.speakers, self.partners = statistics, speakers, partners
        self.partner_lengths, self.paired, self.ids = partner_lengths, paired, list(ids)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def mask(self) -> Tensor:
        """Real frames (B, T)."""
        return torch.arange(self.inputs.shape[1], device=self.lengths.device) < self.lengths[:, None]

    def to(self, device: Any) -> ProsodyBatch:
        """A copy on another device."""
        moved: dict[str, Any] = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in vars(self).items()}
        return ProsodyBatch(**moved)


class ProsodyData(FrameDataModule):
    """Recordings in batches by frames, for `Disentangler`.

    What cannot be used (no sound, NaN, silence, no inputs) is left out, listed in `refused`, and counted by a warning.

    Args:
        train: recordings with sound; `speaker` is None where nobody knows who speaks.
        val: the same, or None.
        inputs: by the id of a recording, what a model says of it: codec tokens (T,) or (T, K), or features per frame
            (T, F). They share the recording's time evenly. None = the sound itself.
        sample_rate: the rate at which sound is heard (Hz), see `hear`.
        max_frames: ceiling on rows x longest row of a batch, per process.
        seed: of the shuffle and of the choice of partners.

    Attributes:
        speakers: names in training, sorted: give them to `Disentangler(speakers=...)`.
        refused: id and reason of each recording left out.
        alone: ids of training utterances whose speaker has no other one, so that timbre cannot be exchanged.

    Raises:
        ValueError: at setup, where nothing usable is left.

    Example:
        >>> data = ProsodyData([Recording("a", "hm", (torch.zeros(16000), 16000), speaker="ann")])
        >>> data.speakers
        ('ann',)
    """

    def __init__(
        self,
        train: Sequence[Recording],
        val: Sequence[Recording] | None = None,
        inputs: Mapping[str, Tensor] | None = None,
        sample_rate: int = 16000,
        max_frames: int = 8000,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.sources, self.inputs = (list(train), list(val or [])), inputs
        self.sample_rate, self.max_frames, self.seed = sample_rate, max_frames, seed
        self.speakers = tuple(sorted({r.speaker for r in self.sources[0] if r.speaker is not None}))
        self.train: list[_Row] = []
        self.val: list[_Row] = []
        self.refused: list[tuple[str, str]] = []
        self.alone: list[str] = []

    def setup(self, stage: str = "fit") -> None:
        """Listen to everything, once."""
        if self.train:
            return
        self.train, self.val = (self._rows(source) for source in self.sources)
        if self.refused:
            shown = "; ".join(f"{key}: {why}" for key, why in self.refused[:3])
            warnings.warn(f"{len(self.refused)} recordings are left out: {shown}", stacklevel=2)
        if not self.train:
            raise ValueError(f"none of {len(self.sources[0])} recordings can be used; see the reasons above")
        table = torch.stack([row.heard.statistics for row in self.train])
        self._mean = table.nanmean(0)
        self._scale = (table - self._mean).square().nanmean(0).sqrt().clamp(min=1e-3)
        counts: dict[int, int] = {}
        for row in self.train:
            counts[row.speaker] = counts.get(row.speaker, 0) + 1
        self.alone = [row.id for row in self.train if row.speaker < 0 or counts[row.speaker] < 2]
        if self.alone:
            warnings.warn(
                f"{len(self.alone)} of {len(self.train)} utterances have no other one of their speaker: they take part "
                "in reconstruction, and not in cross-reconstruction",
                stacklevel=2,
            )

    def _rows(self, recordings: list[Recording]) -> list[_Row]:
        rows = []
        for recording in track(recordings, "listening", True):
            try:
                rows.append(self._row(recording))
            except ValueError as error:
                self.refused.append((recording.id, str(error)))
        return rows

    def _row(self, recording: Recording) -> _Row:
        waveform, rate = sound_of(recording)
        heard = hear([waveform], rate, self.sample_rate)[0]
        if heard.silent:
            raise ValueError(f"silent: 95 % of it is below {heard.loudest:.0f} dB")
        inputs = heard.frames if self.inputs is None else self.inputs.get(recording.id)
        if inputs is None or not len(inputs):
            raise ValueError("inputs hold nothing under its id")
        if inputs.is_floating_point() and not torch.isfinite(inputs).all():
            raise ValueError(f"{int((~torch.isfinite(inputs)).sum())} of its features are NaN or infinite")
        known = recording.speaker in self.speakers
        speaker = self.speakers.index(str(recording.speaker)) if known else -1
        return _Row(recording.id, speaker, inputs, heard)

    def train_dataloader(self) -> FrameLoader[ProsodyBatch]:
        """Shuffled, except under `Trainer(overfit_batches=...)`."""
        return self._loader(self.train, training=True)

    def val_dataloader(self) -> FrameLoader[ProsodyBatch] | list[Any]:
        """Never shuffled; an empty list where there is no validation data."""
        return self._loader(self.val, training=False) if self.val else []

    def _loader(self, rows: list[_Row], training: bool) -> FrameLoader[ProsodyBatch]:
        peers: dict[int, list[_Row]] = {}
        for row in rows:
            peers.setdefault(row.speaker, []).append(row)

        def collate(chosen: list[int], epoch: int) -> ProsodyBatch:
            return self._collate([rows[i] for i in chosen], peers, epoch if training else 0)

        return self.loader([len(row.inputs) for row in rows], self.max_frames, self.seed, collate, training)

    def _collate(self, chosen: list[_Row], peers: dict[int, list[_Row]], epoch: int) -> ProsodyBatch:
        partners = [self._partner(row, peers[row.speaker], epoch) for row in chosen]
        prosody = [row.heard.at(len(row.inputs)) for row in chosen]
        return ProsodyBatch(
            pad_sequence([row.inputs for row in chosen], batch_first=True),
            torch.tensor([len(row.inputs) for row in chosen]),
            pad_sequence(prosody, batch_first=True),
            torch.stack([row.heard.spectrum for row in chosen]),
            (torch.stack([row.heard.statistics for row in chosen]) - self._mean) / self._scale,
            torch.tensor([row.speaker for row in chosen]),
            pad_sequence([row.inputs for row in partners], batch_first=True),
            torch.tensor([len(row.inputs) for row in partners]),
            torch.tensor([other is not row for other, row in zip(partners, chosen, strict=True)]),
            [row.id for row in chosen],
        )

    def _partner(self, row: _Row, peers: list[_Row], epoch: int) -> _Row:
        """Another utterance of the speaker, drawn by id and epoch, so that a resumed run draws the same."""
        if row.speaker < 0 or len(peers) < 2:
            return row
        key = content_key([torch.tensor(list(row.id.encode()))], self.seed)
        own = next(i for i, peer in enumerate(peers) if peer is row)
        drawn = int(float(uniforms(torch.tensor([key]), epoch)) * (len(peers) - 1))
        return peers[drawn + (drawn >= own)]
