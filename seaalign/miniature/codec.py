"""Speech tokens whose factors are known: what is said times how high it is said, and back to sound.

A token is content * 6 + prosody, or the pause. Content is a k-means code of the mel spectrum relative to the speaker's
mean; prosody is 0 for unvoiced, else 1..5 for the F0 relative to the speaker's median (quintiles of the expressive
speech). A silence between words becomes exactly one pause token, whatever its length, and nothing else does: n words of
the miniature hold n - 1 pauses (`seaalign.miniature.analysis.word_spans`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seaalign.audio import FLOOR
from seaalign.miniature.analysis import FRAME_RATE, Frames, analyse, timbre
from seaalign.miniature.flow import Flow
from seaalign.miniature.spoken import HOP, RATE
from seaalign.miniature.vocoder import N_MELS, steady_noise, vocode

CLASSES = 6
"""Prosody classes of a token: unvoiced and five bins of relative F0."""
PAUSE_SECONDS = 0.2
"""How long a pause token sounds."""
_CEPSTRA = 20
_EDGE = 3  # frames of silence before the first and after the last token
_LOG_FLOOR = math.log(FLOOR)
_SPREAD = 2.0
_SEMITONES = 3.0
_SEMITONES_PER_NEPER = 12 / math.log(2)


class Codec(nn.Module):
    """Tokenizer and decoder of the miniature; `seaalign.miniature.codec_fit.fit` trains it.

    Args:
        codes: Content codes.
        frame_rate: Tokens a second (50 or 25; must divide 100).
        width: Hidden channels of the decoder.
        temperature: Standard deviation of the flow's starting noise, relative to the data's.
    """

    reach = 12.0
    """Farthest that decoded F0 goes from that of the timbre, in semitones."""

    def __init__(self, codes: int = 100, frame_rate: int = 50, width: int = 112, temperature: float = 0.3) -> None:
        super().__init__()
        if FRAME_RATE % frame_rate:
            raise ValueError(f"frame_rate {frame_rate} does not divide {FRAME_RATE}: use 25, 50 or 100")
        self.settings = {"codes": codes, "frame_rate": frame_rate, "width": width, "temperature": temperature}
        self.codes, self.frame_rate, self.temperature = codes, frame_rate, temperature
        self.stack = FRAME_RATE // frame_rate
        self.mean: Tensor
        self.basis: Tensor
        self.centroids: Tensor
        self.edges: Tensor
        self.register_buffer("mean", torch.zeros(self.stack * N_MELS))
        self.register_buffer("basis", torch.zeros(self.stack * N_MELS, _CEPSTRA))
        self.register_buffer("centroids", torch.zeros(codes, _CEPSTRA))
        self.register_buffer("edges", torch.zeros(CLASSES - 2))
        self.flow = Flow(codes + 1, CLASSES + 1, N_MELS + 1, self.stack * (N_MELS + 2), width)

    @property
    def sample_rate(self) -> int:
        """Rate of the waveforms `decode` returns (Hz)."""
        return RATE

    @property
    def pause(self) -> int:
        """Id of the pause token, the last of the vocabulary."""
        return self.codes * CLASSES

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return self.codes * CLASSES + 1

    def content(self, tokens: Tensor) -> Tensor:
        """Content code of each token; `codes` for the pause."""
        return tokens // CLASSES

    def prosody(self, tokens: Tensor) -> Tensor:
        """Prosody class of each token (0 unvoiced, 1 lowest .. 5 highest); 6 for the pause."""
        return torch.where(tokens == self.pause, CLASSES, tokens % CLASSES)

    def words(self, tokens: Tensor) -> int:
        """How many words a token string holds: stretches of speech between pauses."""
        speech = tokens != self.pause
        return int((speech & ~torch.cat([torch.tensor([False]), speech[:-1]])).sum())

    def timbre(
        self, waveforms: Sequence[Tensor], rate: int = RATE, f0: Sequence[Tensor | None] | None = None
    ) -> Tensor:
        """Timbre vector (41,) of one speaker, pooled over reference waveforms."""
        return timbre(analyse(waveforms, rate, f0))

    def encode(
        self,
        waveforms: Sequence[Tensor],
        rate: int = RATE,
        timbres: Tensor | None = None,
        f0: Sequence[Tensor | None] | None = None,
    ) -> list[Tensor]:
        """Tokens of each waveform (N,), leading and trailing silence dropped.

        Args:
            waveforms: Samples (T,) each.
            rate: Their rate (Hz).
            timbres: Timbre of each waveform's speaker (B, 41), to which mel and F0 are relative; None takes the
                waveform's own, which is less stable for one or two words.
            f0: Known contours in Hz at 100 frames a second; None measures them.

        Raises:
            ValueError: A waveform is empty, silent, or holds NaN; the codec has not been fitted.
        """
        frames = analyse(waveforms, rate, f0)
        rows = [timbre([f]) for f in frames] if timbres is None else list(timbres)
        return [self.tokenize(f, row) for f, row in zip(frames, rows, strict=True)]

    def tokenize(self, frames: Frames, row: Tensor) -> Tensor:
        """Tokens (N,) of one analysed utterance relative to a timbre (41,)."""
        if not bool(self.centroids.any()):
            raise ValueError("this codec has not been fitted: call seaalign.miniature.codec_fit.fit or Codec.load")
        mel, pitch, voiced, place = self.windows(frames, row)
        content = torch.cdist((mel - self.mean) @ self.basis, self.centroids).argmin(dim=1)
        prosody = torch.where(voiced, self.pitch_class(pitch), 0)
        tokens = torch.full((len(place),), self.pause)
        tokens[place] = self.joined(content, prosody)
        return tokens

    def pitch_class(self, semitones: Tensor) -> Tensor:
        """Prosody class, 1 or above, of voiced windows whose F0 is so many semitones above that of the timbre."""
        return torch.bucketize(semitones, self.edges) + 1

    def joined(self, content: Tensor, prosody: Tensor) -> Tensor:
        """The token of a content code and a prosody class."""
        return content * CLASSES + prosody

    def windows(self, frames: Frames, row: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Cut words into token windows.

        Returns:
            Mel relative to the speaker (W, stack * N_MELS), semitones from the speaker's median F0 (W,), voiced or not
            (W,), and for each token of the string whether it is a window, not a pause (N,).
        """
        mel, semitones, voiced, place = self._cut(frames, row)
        count = voiced.sum(dim=1)
        return mel.flatten(1), semitones.sum(dim=1) / count.clamp(min=1), 2 * count >= self.stack, place

    def targets(self, frames: Frames, row: Tensor) -> tuple[Tensor, Tensor]:
        """What the flow should produce for each token, and the weight of each number (N, channels)."""
        mel, semitones, voiced, place = self._cut(frames, row)
        values = [mel / _SPREAD, semitones[..., None] / _SEMITONES, 2.0 * voiced[..., None] - 1]
        # F0 and voicing are 2 of 42 numbers but half of what a listener needs.
        weights = [torch.ones_like(mel), 10.0 * voiced[..., None], torch.full_like(values[2], 3.0)]
        target, weight = torch.zeros(2, len(place), self.flow.channels)
        target[place], weight[place] = (torch.cat(parts, dim=-1).flatten(1) for parts in (values, weights))
        return target, weight

    def _cut(self, frames: Frames, row: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Windows of relative mel (W, stack, N_MELS), relative F0, voicing (W, stack), and their places (N,)."""
        index = [span_windows(int(a), int(b), self.stack) for a, b in frames.spans]
        place = torch.cat([torch.tensor([*[True] * len(w), False]) for w in index])[:-1]
        windows = torch.cat(index).clamp(max=len(frames.mel) - 1)
        f0 = frames.f0[windows]
        semitones = _SEMITONES_PER_NEPER * (f0.clamp(min=1).log() - row[N_MELS])
        return frames.mel[windows] - row[:N_MELS], torch.where(f0 > 0, semitones, 0.0), f0 > 0, place

    def condition(self, tokens: Sequence[Tensor], timbres: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pad token strings to what `Flow` takes: content, prosody (B, N), timbre (B, 41), mask (B, N)."""
        padded = nn.utils.rnn.pad_sequence(list(tokens), batch_first=True, padding_value=self.pause)
        mask = torch.arange(padded.shape[1])[None] < torch.tensor([len(t) for t in tokens])[:, None]
        return self.content(padded), self.prosody(padded), _scaled(timbres), mask.float()

    @torch.no_grad()
    def decode(self, tokens: Sequence[Tensor], timbres: Tensor, steps: int = 2, seed: int = 0) -> list[Tensor]:
        """Waveforms at 8 kHz of token strings in given timbres; the same seed gives the same sound.

        Args:
            tokens: Ids (N,) each.
            timbres: (B, 41).
            steps: Euler steps of the flow; 1 is the bare regressor.
            seed: Seed of the noise of flow and vocoder, the same for every row.

        Raises:
            ValueError: An empty string or an id outside the vocabulary.
        """
        for i, row in enumerate(tokens):
            if row.numel() == 0 or int(row.min()) < 0 or int(row.max()) >= self.vocabulary:
                raise ValueError(f"token string {i} is empty or leaves 0..{self.vocabulary - 1}: {row.tolist()[:20]}")
        condition = self.condition(tokens, timbres)
        length, channels = condition[0].shape[1], self.flow.channels
        noise = self.temperature * steady_noise(length * channels, seed).view(length, channels)
        x = self.flow.integrate(noise.expand(len(tokens), -1, -1), steps, *condition)
        pairs = [self._expand(x[i, : len(row)], row, timbres[i]) for i, row in enumerate(tokens)]
        mel = nn.utils.rnn.pad_sequence([m for m, _ in pairs], batch_first=True, padding_value=_LOG_FLOOR)
        f0 = nn.utils.rnn.pad_sequence([p for _, p in pairs], batch_first=True)
        waves = vocode(mel, f0, seed)
        return [wave[: (len(m) - 1) * HOP].clamp(-1, 1) for wave, (m, _) in zip(waves, pairs, strict=True)]

    def _expand(self, x: Tensor, tokens: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """Frames of mel (F, N_MELS) and F0 (F,) of one row; pauses become silence of `PAUSE_SECONDS`."""
        frames = x.view(len(tokens), self.stack, N_MELS + 2)
        mel = frames[..., :N_MELS] * _SPREAD + row[:N_MELS]
        semitones = (frames[..., N_MELS] * _SEMITONES).clamp(-self.reach, self.reach)
        f0 = torch.exp(row[N_MELS] + semitones / _SEMITONES_PER_NEPER)
        f0 = torch.where(frames[..., N_MELS + 1] > 0, f0, 0.0)
        silence = round(PAUSE_SECONDS * FRAME_RATE)
        quiet, mute = torch.full((silence, N_MELS), _LOG_FLOOR), torch.zeros(silence)
        pauses = (tokens == self.pause).tolist()
        mels = [quiet if pause else mel[i] for i, pause in enumerate(pauses)]
        f0s = [mute if pause else f0[i] for i, pause in enumerate(pauses)]
        return torch.cat([quiet[:_EDGE], *mels, quiet[:_EDGE]]), torch.cat([mute[:_EDGE], *f0s, mute[:_EDGE]])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write settings and weights, tensors and numbers only; `Codec.load` reads them back."""
        torch.save({"settings": self.settings, "state": self.state_dict()}, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Codec:
        """Read what `save` wrote."""
        stored = torch.load(path, weights_only=True)
        codec = cls(**stored["settings"])
        codec.load_state_dict(stored["state"])
        return codec


def span_windows(start: int, end: int, stack: int) -> Tensor:
    """Frame indices (W, stack) that cover [start, end); the last window repeats the last frame.

    >>> span_windows(4, 7, 2).tolist()
    [[4, 5], [6, 6]]
    """
    count = -(-(end - start) // stack)
    return (start + torch.arange(count * stack)).clamp(max=end - 1).view(count, stack)


def _scaled(timbres: Tensor) -> Tensor:
    """Timbres with roughly unit spread."""
    return torch.cat([(timbres[:, :N_MELS] + 5) / 2, (timbres[:, N_MELS:] - 4.9) * 3], dim=1)
