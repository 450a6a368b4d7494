"""F0 of people and of a flat synthesiser, where there are recordings or the program."""

from __future__ import annotations

import shutil
import subprocess
import wave as wavefile
from pathlib import Path

import numpy as np
import pytest
import torch

from examples.benchmarks.pitch import beside_praat
from seaalign.functional import f0, f0_std


def read(source: Path) -> tuple[torch.Tensor, int]:
    with wavefile.open(str(source)) as file:
        samples = np.frombuffer(file.readframes(-1), np.int16)
        return torch.from_numpy(samples.copy()), file.getframerate()


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="no espeak-ng program")
@pytest.mark.parametrize("speaker", ["en-us", "en-us+f3", "vi"])
def test_flat_espeak_measures_flat(speaker, tmp_path):
    text = '<speak><prosody range="0">The quick brown fox jumps over the lazy dog and runs away home.</prosody></speak>'
    subprocess.run(["espeak-ng", "-m", "-v", speaker, "-w", str(tmp_path / "flat.wav"), text], check=True)
    spread = f0_std(f0(*read(tmp_path / "flat.wav")))
    assert spread.defined and spread.value <= 0.3


def test_people_are_not_flat(fsdd_path: Path):
    spreads = [f0_std(f0(*read(path))) for path in sorted((fsdd_path / "recordings").glob("*.wav"))[::60]]
    assert 1.2 < np.mean([s.value for s in spreads if s.defined]) < 2.5  # semitones; a robot has 0.1
    assert np.mean([s.defined for s in spreads]) > 0.85


def test_praat_agrees(fsdd_path: Path):
    praat = pytest.importorskip("parselmouth")
    heard = [read(path) for path in sorted((fsdd_path / "recordings").glob("*.wav"))[::60]]
    assert {rate for _, rate in heard} == {8000}
    off = np.abs(beside_praat(praat, [speech / 32768 for speech, _ in heard], 8000) - 1)
    assert len(off) > 500 and np.median(off) <= 0.01 and np.mean(off > 0.2) <= 0.01
