"""People who do exist: recorded English digits, and strings of them with known words and pauses.

The corpus is the Free Spoken Digit Dataset (CC BY-SA 4.0, six men, 8 kHz), read from a folder; nothing is downloaded. A
string is spliced from recordings of one speaker, so that its prosody is that of words, not of sentences.

Takes 0-4 are for testing, 5-24 for the tokenizer and the language model, 25-49 for the judges alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from seaalign.audio import load
from seaalign.miniature.analysis import PAUSE_MS, word_spans
from seaalign.miniature.spoken import HOP, RATE, WORDS, Spoken, check_words

TEST, TRAIN, JUDGE = range(0, 5), range(5, 25), range(25, 50)
"""Takes of each split."""
GAP_MS = (180, 230)
"""Shortest and longest silence put between two words."""
LEVEL = 0.06
"""Root mean square every string is scaled to: recordings differ in gain by 20 dB."""
_NAME = re.compile(r"(\d)_([a-z]+)_(\d+)\.wav")
_EDGE = HOP // 2


class Fsdd:
    """The recordings of a folder, trimmed to their word.

    Args:
        path: Folder with files named ``{digit}_{speaker}_{take}.wav``, or its parent.
        takes: Which takes to read; others are not opened.

    Attributes:
        speakers: Names, sorted.
        words: Trimmed waveforms by (digit, speaker, take).
        refused: File name and reason of every file that could not be used.

    Raises:
        FileNotFoundError: No such folder, or no recording in it.
    """

    def __init__(self, path: str | os.PathLike[str], takes: Sequence[int] = range(50)) -> None:
        folder = Path(path)
        folder = folder / "recordings" if (folder / "recordings").is_dir() else folder
        if not folder.is_dir():
            raise FileNotFoundError(
                f"no folder {folder}: give the path of the Free Spoken Digit Dataset (its 'recordings' folder or the "
                "repository Jakobovski/free-spoken-digit-dataset), or leave it out to use the embedded voice"
            )
        self.words: dict[tuple[int, str, int], Tensor] = {}
        self.refused: list[tuple[str, str]] = []
        wanted = set(takes)
        for file in sorted(folder.glob("*.wav")):
            name = _NAME.fullmatch(file.name)
            if name is None:
                self.refused.append((file.name, "name is not {digit}_{speaker}_{take}.wav"))
            elif int(name[3]) in wanted:
                try:
                    self.words[int(name[1]), name[2], int(name[3])] = trim(load(file, RATE)[0])
                except ValueError as error:
                    self.refused.append((file.name, str(error)))
        if not self.words:
            raise FileNotFoundError(
                f"no usable recording of takes {min(wanted)}..{max(wanted)} in {folder}; refused: {self.refused[:3]}"
            )
        self.speakers = sorted({speaker for _, speaker, _ in self.words})

    def say(self, words: Sequence[int], speaker: str, takes: Sequence[int], generator: torch.Generator) -> Spoken:
        """Splice a string of digits from recordings of one speaker.

        Args:
            words: Digits.
            speaker: Whose recordings.
            takes: Allowed takes: `TEST`, `TRAIN` or `JUDGE`.
            generator: Draws takes and pauses.

        Raises:
            ValueError: Empty or unknown words, or nothing recorded for one of them.
        """
        chosen = []
        for word in check_words(list(words)):
            there = [take for take in takes if (word, speaker, take) in self.words]
            if not there:
                raise ValueError(
                    f"no recording of {WORDS[word]!r} by {speaker!r} among takes {takes}; speakers: {self.speakers}"
                )
            pick = there[int(torch.randint(len(there), (), generator=generator))]
            chosen.append(self.words[word, speaker, pick])
        return splice(words, chosen, speaker, "real", generator)


def trim(recording: Tensor, floor_db: float = 30.0) -> Tensor:
    """The stretch of sound with most energy in a recording of one word, edges faded.

    Clicks and breaths far from the word go, and with them every silence long enough to be taken for a pause.

    Args:
        recording: Samples at 8 kHz (T,).
        floor_db: What lies this far below the loud frames is not the word.

    Raises:
        ValueError: The recording is silent.
    """
    # One frame less than a pause, so that no silence inside the word can be one even after its edges are faded.
    spans = word_spans(recording, PAUSE_MS - 30, floor_db) * HOP
    energy = [float(recording[a:b].square().sum()) for a, b in spans.tolist()]
    start, end = spans[energy.index(max(energy))].tolist()
    word = recording[max(start - HOP, 0) : end + HOP].clone()
    ramp = torch.linspace(0, 1, _EDGE + 1)[1:]
    word[:_EDGE] *= ramp
    word[-_EDGE:] *= ramp.flip(0)
    return word


def splice(
    words: Sequence[int], recordings: Sequence[Tensor], speaker: str, source: str, generator: torch.Generator
) -> Spoken:
    """Join trimmed words with jittered pauses and bring the string to `LEVEL`.

    >>> spoken = splice([1, 2], [torch.ones(800), torch.ones(400)], "x", "real", torch.Generator().manual_seed(0))
    >>> spoken.boundaries[0].tolist(), (spoken.boundaries[1, 1] - spoken.boundaries[1, 0]).item()
    ([400, 1200], 400)
    """
    low, high = (ms * RATE // 1000 for ms in GAP_MS)
    parts, bounds, at = [torch.zeros(400)], [], 400
    for i, recording in enumerate(recordings):
        if i:
            gap = low + int(torch.randint(high - low, (), generator=generator))
            parts.append(torch.zeros(gap))
            at += gap
        parts.append(recording)
        bounds.append((at, at + recording.numel()))
        at += recording.numel()
    waveform = torch.cat([*parts, torch.zeros(400)])
    active = torch.cat(list(recordings))
    waveform = waveform * (LEVEL / active.square().mean().sqrt().clamp(min=1e-6))
    # A few loud samples are bent rather than clipped.
    bent = torch.sign(waveform) * (1 - 0.16 / waveform.abs().clamp(min=0.8))
    waveform = torch.where(waveform.abs() > 0.8, bent, waveform)
    return Spoken(tuple(int(w) for w in words), waveform.clamp(-1, 1), RATE, speaker, source, torch.tensor(bounds))
