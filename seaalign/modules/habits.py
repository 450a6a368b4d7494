"""Prosody codes in closed form: what an utterance does beyond what its speaker always does."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seaalign.data.hearing import FRAME_RATE, hear
from seaalign.functional.fsq import fsq, fsq_values
from seaalign.functional.transport import monge_map

_WEIGHTS = (1.0, 0.5, 0.5)  # of pitch, voicing and level, in units of their spread: pitch is what DGSA is after
_STEP = 0.95  # standard deviations between two levels: for five of them near the least error on a Gaussian


class _Windows(NamedTuple):
    rows: Tensor  # (N, 3 points + 1): pitch, voicing and level of each point, then the logarithm of the frames
    owners: list[str]  # who speaks, of each window
    counts: list[int]  # windows of each utterance
    names: list[str]  # who speaks, of each utterance
    registers: Tensor  # mean pitch, voicing and level of each utterance (B, 3)


class Habits:
    """Prosody codes that are free of the speaker's custom, by optimal transport, without training.

    An utterance is cut into windows of equal length, about `seconds` each. A window is described by `points` means of
    pitch, voicing and level about the utterance's own, so that its length tells nothing, and by its duration. The
    `numbers` - 1 directions in which windows of everybody vary most, and the duration, are kept. People differ in the
    mean and the covariance of these numbers: every speaker's are carried to zero mean and unit covariance
    (`monge_map`), and rounded. Decoding goes the way back by the habits of whoever shall speak.

    The codes are rows of ids as `Disentangler` makes them and `StylePrefix` reads them: give them to
    `Disentangler.restyle(codes=...)`. Habits are learned from the utterances at hand: one speaker's are as good as
    there are utterances of it. Who is to be coded later, keep by `state_dict`; `meet` learns those of others.

    Args:
        sample_rate: of the waveforms (Hz).
        levels: of the ids; each holds as many numbers.
        numbers: of a window, a multiple of the length of `levels`.
        points: in time, of a window.
        seconds: of a window, about.
        prior: windows of everybody that a speaker's covariance is learned along with. The mean is its own, or
            everybody's where there is a single window, whose code would else be empty.

    Raises:
        ValueError: sizes that do not fit.

    Example:
        >>> waves = [0.1 * torch.sin(torch.arange(4000 + 800 * (i % 3)) * (0.2 + 0.02 * i)) for i in range(6)]
        >>> habits = Habits(8000, levels=(5, 5), numbers=4).fit(waves, ["ann", "ben"] * 3)
        >>> [ids.shape for ids in habits.prosody(waves[:2], ["ann", "ben"])]
        [torch.Size([2]), torch.Size([2])]
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        levels: Sequence[int] = (5, 5, 5, 5),
        numbers: int = 16,
        points: int = 20,
        seconds: float = 2.0,
        prior: float = 3.0,
    ) -> None:
        if numbers < 2 or numbers % len(levels) or numbers > 3 * points or points < 2:
            raise ValueError(
                f"{numbers} numbers must be a multiple of {len(levels)} (levels {levels}), at most three for each "
                f"of {points} points"
            )
        if seconds <= 0 or prior <= 0:
            raise ValueError(f"seconds={seconds} and prior={prior} must be above 0")
        self.sample_rate, self.levels, self.numbers = sample_rate, tuple(levels), numbers
        self.points, self.seconds, self.prior = points, seconds, prior
        self._everybody: dict[str, Tensor] = {}
        self._people: dict[str, dict[str, Tensor]] = {}

    @property
    def people(self) -> tuple[str, ...]:
        """Names whose habits are known."""
        return tuple(self._people)

    def fit(self, waveforms: Sequence[Tensor], speakers: Sequence[str]) -> Habits:
        """Learn which numbers describe a window, and everyone's habits.

        Args:
            waveforms: (S,) each.
            speakers: of each.

        Raises:
            ValueError: nothing is there, or no more windows than numbers.
        """
        heard = self._heard(waveforms, speakers)
        if len(heard.rows) <= self.numbers:
            raise ValueError(f"{len(heard.rows)} windows cannot tell which {self.numbers} numbers they need: give more")
        means = {name: heard.rows[_is(heard.owners, name)].mean(0) for name in sorted(set(heard.owners))}
        rest = heard.rows - torch.stack([means[name] for name in heard.owners])
        spread = rest[:, :-1].unflatten(1, (-1, 3)).square().mean((0, 1)).sqrt().clamp(min=1e-3)
        weights = (torch.tensor(_WEIGHTS).to(spread) / spread).repeat(self.points)
        scaled = rest[:, :-1] * weights
        values, vectors = torch.linalg.eigh(scaled.mT @ scaled / len(rest))
        sizes, basis = values[1 - self.numbers :].clamp(min=1e-6).sqrt(), vectors[:, 1 - self.numbers :]
        pace = rest[:, -1].square().mean().sqrt().clamp(min=1e-3).view(1, 1)
        self._people = {}  # theirs are told in numbers that are no more
        self._everybody = {
            "mean": torch.stack(list(means.values())).mean(0),
            "into": torch.block_diag(weights[:, None] * basis / sizes, 1 / pace),
            "out": torch.block_diag((basis * sizes).mT / weights, pace),
        }
        return self._meet(heard)

    def meet(self, waveforms: Sequence[Tensor], speakers: Sequence[str]) -> Habits:
        """Learn the habits of these people from these utterances alone; the numbers keep their meaning.

        Raises:
            ValueError: nothing has been fitted yet.
        """
        self._fitted()
        return self._meet(self._heard(waveforms, speakers))

    def describe(self, waveforms: Sequence[Tensor], speakers: Sequence[str]) -> list[Tensor]:
        """The numbers (windows, numbers) of each utterance, not yet rounded; the last of a window is its duration.

        Raises:
            ValueError: the habits of a speaker are not known; a waveform is empty or holds NaN.
        """
        into, heard = self._fitted()["into"], self._heard(waveforms, speakers)
        habits = [self._habit(name) for name in heard.owners]
        rows = [(row - habit["mean"]) @ into @ habit["to"] for row, habit in zip(heard.rows, habits, strict=True)]
        return list(torch.stack(rows).split(heard.counts))

    def prosody(self, waveforms: Sequence[Tensor], speakers: Sequence[str]) -> list[Tensor]:
        """Prosody codes: integer ids (M,) in 0..prod(levels)-1 each, numbers / len(levels) of them for a window."""
        numbers = self.describe(waveforms, speakers)
        shares = [(row.view(-1, len(self.levels)) / self._reach()).clamp(-0.9999, 0.9999) for row in numbers]
        return [fsq(torch.atanh(share), self.levels)[1] for share in shares]  # which undoes its tanh: evenly rounded

    def resynthesise(
        self, codes: Sequence[Tensor], speakers: Sequence[str], lengths: Sequence[int] | None = None
    ) -> list[Tensor]:
        """The prosody that codes have by the habits of a speaker, theirs or another's.

        Args:
            codes: ids (M,) each.
            speakers: who shall speak, for each.
            lengths: frames of each (100 a second). None = as the code says, at the speaker's pace.

        Returns:
            F0 (semitones above 100 Hz), share of voicing, level (dB), for each frame (T, 3).

        Raises:
            ValueError: ids out of range, no whole window, or habits that are not known.
        """
        everybody, made, per = self._fitted(), [], self.numbers // len(self.levels)
        for i, (ids, name) in enumerate(zip(codes, speakers, strict=True)):
            if not len(ids) or len(ids) % per:
                raise ValueError(f"code {i} has {len(ids)} ids, and a window has {per}")
            habit = self._habit(name)
            numbers = (fsq_values(ids, self.levels) * self._reach()).view(-1, self.numbers)
            windows = habit["mean"] + numbers @ habit["back"] @ everybody["out"]
            length = lengths[i] if lengths is not None else max(int(windows[:, -1].exp().sum().round()), 1)
            frames = F.interpolate(windows[:, :-1].reshape(1, -1, 3).mT, size=length, mode="linear")[0].mT
            frames = frames + habit["register"]
            made.append(torch.stack([frames[:, 0], frames[:, 1].clamp(0, 1), frames[:, 2]], 1).float())
        return made

    def state_dict(self) -> dict[str, Any]:
        """All that was learned: tensors by name, for `torch.save`."""
        return {"everybody": self._everybody, "people": self._people}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What `state_dict` gave, of habits made with the same arguments."""
        self._everybody, self._people = dict(state["everybody"]), dict(state["people"])

    def _meet(self, heard: _Windows) -> Habits:
        everybody, identity = self._everybody, torch.eye(self.numbers).to(heard.rows)
        names = sorted(set(heard.owners))
        for name in names:
            own = heard.rows[_is(heard.owners, name)]
            numbers = (own - own.mean(0)) @ everybody["into"]
            covariance = (numbers.mT @ numbers + self.prior * identity) / (len(own) + self.prior)
            self._people[name] = {
                "mean": own.mean(0) if len(own) > 1 else everybody["mean"],
                "to": monge_map(covariance, identity),
                "back": monge_map(identity, covariance),
                "register": heard.registers[_is(heard.names, name)].mean(0),
            }
        few = [name for name in names if heard.owners.count(name) < self.numbers]
        if few:
            warnings.warn(
                f"{len(few)} speakers have fewer than {self.numbers} windows ({', '.join(few[:3])}): the fewer, the "
                "more their habits are everybody's, and the more a code tells who it is",
                stacklevel=3,
            )
        return self

    def _heard(self, waveforms: Sequence[Tensor], speakers: Sequence[str]) -> _Windows:
        names = [str(name) for name in speakers]
        if len(waveforms) != len(names) or not names or None in speakers:
            raise ValueError(f"{len(waveforms)} waveforms, {len(names)} speakers: give some, and a name for each")
        rows, counts, registers = [], [], []
        for heard in hear([wave.cpu() for wave in waveforms], self.sample_rate, self.sample_rate):
            frames = bridged(heard.frames[:, :3].double())
            count = max(1, round(len(frames) / FRAME_RATE / self.seconds))
            points = F.adaptive_avg_pool1d(frames.mT[None], count * self.points)[0].mT
            registers.append(points.mean(0))
            contour = (points - registers[-1]).reshape(count, -1)
            rows.append(F.pad(contour, (0, 1), value=math.log(len(frames) / count)))
            counts.append(count)
        owners = [name for name, count in zip(names, counts, strict=True) for _ in range(count)]
        return _Windows(torch.cat(rows), owners, counts, names, torch.stack(registers))

    def _fitted(self) -> dict[str, Tensor]:
        if not self._everybody:
            raise ValueError("nothing has been learned yet: call fit(waveforms, speakers) or load_state_dict first")
        return self._everybody

    def _habit(self, name: str) -> dict[str, Tensor]:
        if str(name) not in self._people:
            known = ", ".join(list(self._people)[:5])
            raise ValueError(f"the habits of {name!r} are not known (of {known}, ...): meet some of its utterances")
        return self._people[str(name)]

    def _reach(self) -> Tensor:
        """The largest number that each place of an id can hold."""
        return (torch.tensor(self.levels, dtype=torch.float64) - 1) / 2 * _STEP


def bridged(frames: Tensor) -> Tensor:
    """Pitch, voicing, level (T, 3), with pitch led straight through what is unvoiced and held at the ends.

    >>> bridged(torch.tensor([[3.0, 0, 0], [1.0, 1, 0], [9.0, 0, 0], [5.0, 1, 0]]))[:, 0]
    tensor([1., 1., 3., 5.])
    """
    voiced = (frames[:, 1] > 0).nonzero()[:, 0].numpy()
    if not len(voiced):
        return frames
    pitch = np.interp(np.arange(len(frames)), voiced, frames[voiced, 0].numpy())
    return torch.cat([torch.from_numpy(pitch).to(frames)[:, None], frames[:, 1:]], 1)


def _is(names: Sequence[str], name: str) -> Tensor:
    return torch.tensor([n == name for n in names])
