"""How long the F0 of an hour of speech takes on one core, and how far it is from Praat's.

    python examples/benchmarks/pitch.py recordings/                     # a folder of sound files, looked through
    pip install praat-parselmouth && python examples/benchmarks/pitch.py recordings/

Recordings are put one after the other at 16 kHz, again and again until the hour is full, and cut into utterances of
--seconds. Praat, where it is installed, hears every recording by itself, by `to_pitch_ac` between the same bounds;
frames are compared where both hear a voice. A gross error is a frame that is off by more than 20 %.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seaalign import audio
from seaalign.functional import f0

RATE, LOW, HIGH = 16_000, 60.0, 400.0


def speech_of(folder: Path, most: int) -> list[Tensor]:
    """At most so many recordings (samples,) at 16 kHz, evenly taken from those of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".wav", ".flac"))
    if not files:
        sys.exit(f"{folder} holds no .wav or .flac file")
    return [audio.load(path, RATE)[0] for path in files[:: -(-len(files) // most)]]


def hour_of(recordings: Sequence[Tensor], minutes: float, seconds: float) -> list[Tensor]:
    """Utterances of one length that fill so many minutes."""
    stream, size = torch.cat(list(recordings)), int(minutes * 60 * RATE)
    return list(stream.repeat(-(-size // len(stream)))[:size].split(int(seconds * RATE)))


def beside_praat(praat: Any, recordings: Sequence[Tensor], rate: int = RATE) -> np.ndarray:
    """Ratios of our F0 to Praat's, of all frames in which both hear a voice."""
    ratios = []
    for wave in recordings:
        ours = f0(wave, rate, fmin=LOW, fmax=HIGH).numpy()
        room = rate // 20  # silence about it: Praat's first frame needs a whole window
        sound = praat.Sound(np.pad(wave.numpy().astype(np.float64), room), rate)
        track = sound.to_pitch_ac(time_step=0.01, pitch_floor=LOW, pitch_ceiling=HIGH)
        times = (np.arange(len(ours)) + 0.5) / 100 + room / rate
        nearest = np.round((times - track.xs()[0]) / 0.01).astype(int).clip(0, track.n_frames - 1)
        theirs = track.selected_array["frequency"][nearest]
        voiced = (ours > 0) & (theirs > 0)
        ratios.append(ours[voiced] / theirs[voiced])
    return np.concatenate(ratios)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path, help="folder of .wav and .flac files")
    parser.add_argument("--minutes", type=float, default=60.0, help="of speech (default: 60)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of an utterance (default: 5)")
    parser.add_argument("--most", type=int, default=300, help="recordings that are read (default: 300)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    recordings = speech_of(given.recordings, given.most)
    utterances = hour_of(recordings, given.minutes, given.seconds)
    f0(utterances[:2], RATE)  # to warm up
    start = time.process_time()
    contours = f0(utterances, RATE, fmin=LOW, fmax=HIGH)
    took, voiced = time.process_time() - start, float((torch.cat(contours) > 0).float().mean())
    print(f"F0 of {given.minutes:g} minutes: {took:.2f} s of one core, {voiced:.0%} of the frames voiced")
    try:
        import parselmouth
    except ImportError:
        print("Praat is not installed (pip install praat-parselmouth): nothing compared")
        return
    off = np.abs(beside_praat(parselmouth, recordings) - 1)
    print(
        f"beside Praat, {len(recordings)} recordings, {len(off)} frames that both hear: "
        f"{np.median(off):.2%} off in the median, gross errors {np.mean(off > 0.2):.2%}"
    )


if __name__ == "__main__":
    main()
