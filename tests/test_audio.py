"""The door to sound: files come back as they went in, and what is broken is named."""

import importlib
import math
import os

import pytest
import soundfile
import torch

from seaalign import audio

pytestmark = pytest.mark.audio


def tone(seconds=0.5, rate=8000, hertz=200.0):
    return 0.5 * torch.sin(2 * math.pi * hertz * torch.arange(int(seconds * rate)) / rate)


def test_save_then_load_gives_the_samples_back(tmp_path):
    assert audio.save(tmp_path / "a.wav", tone(), 8000) == 0
    back, rate = audio.load(tmp_path / "a.wav")
    assert rate == 8000 and back.dtype == torch.float32
    assert (back - tone()).abs().max() < 1.1 / 32768
    assert os.listdir(tmp_path) == ["a.wav"]


def test_stereo_is_averaged_and_resampled(tmp_path):
    stereo = torch.stack([tone(rate=16000), torch.zeros(8000)], dim=1)
    soundfile.write(tmp_path / "s.wav", stereo.numpy(), 16000)
    wave, rate = audio.load(tmp_path / "s.wav", 8000)
    assert rate == 8000 and wave.shape == (4000,)
    middle = slice(500, 3500)  # the filter rings at the ends
    torch.testing.assert_close(wave[middle], tone()[middle] / 2, atol=2e-3, rtol=0)


def test_clipping_is_counted_and_reported(tmp_path):
    with pytest.warns(UserWarning, match=r"2 samples clipped \(peak 3.00\)"):
        assert audio.save(tmp_path / "c.wav", torch.tensor([0.0, 3.0, -2.0]), 8000) == 2
    assert audio.load(tmp_path / "c.wav")[0].abs().max() <= 1


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"not audio at all", "not readable"), (b"", "not readable"), (b"RIFF\x00\x00\x00\x00WAVE", "not readable")],
)
def test_a_corrupt_file_is_named(tmp_path, content, message):
    (tmp_path / "bad.wav").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        audio.load(tmp_path / "bad.wav")
    assert "bad.wav" in str(error.value)


def test_missing_empty_and_nan(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.wav"):
        audio.load(tmp_path / "nowhere.wav")
    soundfile.write(tmp_path / "empty.wav", torch.zeros(0).numpy(), 8000)
    with pytest.raises(ValueError, match="empty.wav holds 0 samples"):
        audio.load(tmp_path / "empty.wav")
    soundfile.write(tmp_path / "nan.wav", torch.tensor([0.0, float("nan"), 0.1]).numpy(), 8000, subtype="FLOAT")
    with pytest.raises(ValueError, match="nan.wav holds 1 NaN or infinite of 3 samples"):
        audio.load(tmp_path / "nan.wav")
    with pytest.raises(ValueError, match="expected"):
        audio.check(torch.zeros(2, 3))


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "a.wav"
    audio.save(target, tone(), 8000)
    before = target.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        audio.save(target, torch.zeros(100), 8000)
    assert target.read_bytes() == before and os.listdir(tmp_path) == ["a.wav"]


@pytest.mark.parametrize(
    "error", [OSError("libcudart.so.13"), RuntimeError("CUDA versions"), ImportError("No module named torchaudio")]
)
def test_an_unloadable_package_says_what_to_install(monkeypatch, error):
    def fail(name):
        raise error

    monkeypatch.setattr(importlib, "import_module", fail)
    for door in (audio.torchaudio, audio.speechbrain):
        with pytest.raises(ImportError, match=r'pip install "torch>=2\.11,<2\.13" "torchaudio==2\.11\.\*"'):
            door()


def test_log_mel_of_silence_and_of_a_tone():
    silent = audio.log_mel(torch.zeros(2, 800), 8000)
    assert silent.shape == (2, 11, 40)
    assert torch.allclose(silent, torch.tensor(math.log(1e-5)))
    loud = audio.log_mel(tone(hertz=1000.0), 8000)[20]
    # 1000 Hz is 1000 mel of 2146 mel, so band 1000 / 2146 * 41 - 1 = 18.1
    assert int(loud.argmax()) == 18
    # Parseval: ten times the amplitude is 20 dB, 4.605 nepers of power
    assert float(audio.log_mel(10 * tone(hertz=1000.0), 8000)[20, 18] - loud[18]) == pytest.approx(4.605, abs=1e-3)


def test_frame_rate_must_divide_the_rate():
    with pytest.raises(ValueError, match="do not divide"):
        audio.log_mel(torch.zeros(8000), 8000, frame_rate=30)
