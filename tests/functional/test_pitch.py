"""F0 on voices whose F0 is known, and on what is no speech."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seaalign.functional import f0, f0_std
from seaalign.functional import pitch as pitch_module
from seaalign.functional.pitch import correlation

RATES = (8000, 16000, 22050, 24000)
VOICES = ((75, 2.0), (110, 4.0), (160, 4.0), (220, 4.0), (290, 4.0))  # register (Hz), largest excursion (semitones)
VOWELS = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (440, 1020, 2240))


def formant(hertz: np.ndarray, centre: np.ndarray, width: float) -> np.ndarray:
    pole = np.pi * (-width + 2j * centre)
    s = 2j * np.pi * hertz
    return np.abs(pole) ** 2 / ((s - pole) * (s - np.conj(pole)))


def vowel(g: np.random.Generator, pitch: np.ndarray, rate: int) -> np.ndarray:
    """Harmonics of a moving pitch through three formants that glide from one vowel to another, faded at both ends."""
    u = np.linspace(0, 1, len(pitch))
    phase, tilt = 2 * np.pi * np.cumsum(pitch) / rate, g.uniform(1.0, 2.0)
    start, end = (VOWELS[g.integers(len(VOWELS))] for _ in range(2))
    sound = np.zeros(len(pitch))
    for h in range(1, min(60, int(0.45 * rate / pitch.min())) + 1):
        gain = np.exp(1j * h * phase) * h**-tilt * (h * pitch < 0.45 * rate)
        for a, b, width in zip(start, end, (70, 90, 120), strict=True):
            gain = gain * formant(h * pitch, a + (b - a) * u, width)
        sound += gain.real
    return faded(sound / np.sqrt((sound**2).mean()) * g.uniform(0.4, 1), int(0.015 * rate))


def faded(sound: np.ndarray, edge: int) -> np.ndarray:
    ramp = np.minimum(1, np.minimum(np.arange(len(sound)), np.arange(len(sound))[::-1]) / edge)
    return sound * ramp


@functools.lru_cache(None)
def voice(register: float, excursion: float, rate: int, seconds: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """A voice and its F0 at every sample (0 = unvoiced): vowels, hissing and silence in turn."""
    g = np.random.default_rng(int(register))
    samples = int(seconds * rate)
    sound, truth = np.zeros(samples), np.zeros(samples)
    at, turn = 0.15, 0
    while at < seconds - 0.8:
        length = g.uniform(0.15, 0.5)
        a, b = int(at * rate), int((at + length) * rate)
        u = np.linspace(0, 1, b - a)
        bend, wobble = g.uniform(-0.75, 0.75, 2), 0.25 * np.sin(2 * np.pi * g.uniform(2, 6) * u * length)
        truth[a:b] = register * 2 ** (excursion * (bend[0] + (bend[1] - bend[0]) * u + wobble) / 12)
        sound[a:b] = vowel(g, truth[a:b], rate)
        gap = g.uniform(0.06, 0.2)
        if turn % 2:
            hiss = np.diff(g.standard_normal(int(gap * rate) + 1))
            sound[b : b + len(hiss)] = 0.15 * faded(hiss, int(0.01 * rate))
        at, turn = at + length + gap, turn + 1
    return sound, truth


def audio(sound: np.ndarray, snr: float | None = None) -> torch.Tensor:
    if snr is not None:
        noise = np.random.default_rng(1).standard_normal(len(sound))
        sound = sound + noise * math.sqrt((sound**2).mean() / 10 ** (snr / 10))
    return torch.from_numpy(sound).float()


def at_centres(truth: np.ndarray, rate: int, frames: int) -> np.ndarray:
    return truth[((np.arange(frames) + 0.5) * rate / 100).astype(int)]


@pytest.mark.parametrize("snr", [None, 15.0], ids=["clean", "15dB"])
@pytest.mark.parametrize("rate", RATES)
def test_known_pitch(rate, snr):
    gross = both = wrong = frames = 0
    fine = []
    for register, excursion in VOICES:
        sound, truth = voice(register, excursion, rate)
        found = f0(audio(sound, snr), rate).numpy()
        known = at_centres(truth, rate, len(found))
        assert 0.3 < (known > 0).mean() < 0.9
        voiced = (found > 0) & (known > 0)
        off = np.abs(found[voiced] / known[voiced] - 1)
        gross, both = gross + (off > 0.2).sum(), both + voiced.sum()
        wrong, frames = wrong + ((found > 0) != (known > 0)).sum(), frames + len(found)
        fine += list(12 * np.abs(np.log2(found[voiced] / known[voiced]))[off <= 0.2])
    assert gross <= 0.01 * both
    assert wrong <= 0.05 * frames
    assert np.median(fine) <= 0.06 and np.sqrt(np.mean(np.square(fine))) <= 0.2  # semitones


@pytest.mark.parametrize("register", [70, 110, 180, 250, 350])
@pytest.mark.parametrize("rate", RATES)
def test_flat_speech_measures_flat(rate, register):
    sound, _ = voice(register, 0.0, rate)
    for snr in (None, 15.0):
        contour = f0(audio(sound, snr), rate)
        spread = f0_std(contour)
        assert spread.defined and spread.value <= 0.3
        assert abs(12 * math.log2(contour[contour > 0].median() / register)) <= 0.1


def test_a_glide_is_measured_neither_early_nor_late():
    t = torch.arange(8000, dtype=torch.float64) / 8000
    glide = 100 * torch.exp2(t)  # an octave a second
    phase = 2 * math.pi * glide.cumsum(0) / 8000
    found = f0(sum(torch.sin(h * phase) / h for h in range(1, 8)).float(), 8000)
    centres = (torch.arange(100, dtype=torch.float64) + 0.5) / 100
    error = 12 * torch.log2(found[5:95] / (100 * torch.exp2(centres[5:95])))
    assert error.abs().max() < 0.1 and error.mean().abs() < 0.02  # 0.02 semitones are 1.7 ms


@settings(max_examples=25, deadline=None)
@given(
    pitch=st.floats(62, 390), weights=st.lists(st.floats(0.3, 1), min_size=4, max_size=4), rate=st.sampled_from(RATES)
)
@example(pitch=389.08, weights=[0.32, 0.32, 0.3, 1.0], rate=8000)  # one high harmonic dominates
def test_steady_tones(pitch, weights, rate):
    t = torch.arange(rate // 2, dtype=torch.float64) / rate
    tone = sum(w * torch.cos(2 * math.pi * pitch * h * t) for h, w in enumerate(weights, 1))
    contour = f0(tone, rate)
    assert (contour[3:-3] > 0).all()
    assert (12 * torch.log2(contour[3:-3] / pitch)).abs().max() < 0.1


def test_neither_scale_nor_offset_nor_sample_type_matters():
    sound, _ = voice(*VOICES[1], 16000)
    speech = audio(sound / np.abs(sound).max())
    contour = f0(speech, 16000)
    assert torch.equal(f0(speech / 1024, 16000), contour)
    for other in (speech * 300, speech * 1e-5, 0.5 * speech + 0.4, (speech * 32767).to(torch.int16)):
        found = f0(other, 16000)
        assert ((found > 0) != (contour > 0)).float().mean() < 0.02
        both = (found > 0) & (contour > 0)
        assert torch.allclose(found[both], contour[both], rtol=2e-3)


def test_a_batch_is_its_parts_and_blocks_do_not_show(monkeypatch):
    sounds = [audio(voice(*v, 8000)[0], 15.0)[: 8000 + 5000 * n] for n, v in enumerate(VOICES[:3])]
    single = [f0(s, 8000) for s in sounds]
    for a, b in zip(f0(sounds, 8000), single, strict=True):
        assert torch.equal(a, b)
    monkeypatch.setattr(pitch_module, "_BLOCK", 37)
    for a, b in zip(f0(sounds, 8000), single, strict=True):
        assert ((a > 0) == (b > 0)).all() and torch.allclose(a, b, rtol=1e-3)


@pytest.mark.parametrize("frame_rate", [50.0, 86.1328125, 100.0, 200.0])
def test_frame_rates(frame_rate):
    sound, truth = voice(*VOICES[2], 22050)
    found = f0(audio(sound), 22050, frame_rate=frame_rate).numpy()
    assert len(found) == int(len(sound) * frame_rate / 22050)
    known = truth[((np.arange(len(found)) + 0.5) * 22050 / frame_rate).astype(int)]
    both = (found > 0) & (known > 0)
    assert both.sum() > 0.9 * (known > 0).sum() and (np.abs(found[both] / known[both] - 1) < 0.2).all()


@pytest.mark.parametrize("rate", RATES)
def test_what_is_no_voice(rate):
    assert not f0(torch.zeros(rate), rate).any()
    assert not f0(torch.full((rate,), 0.7), rate).any()
    noise = torch.randn(3 * rate, generator=torch.Generator().manual_seed(0))
    assert (f0(noise, rate) > 0).float().mean() < 0.02
    click = torch.zeros(rate)
    click[rate // 2] = 1
    assert not f0(click, rate).any()


def test_a_short_octave_island_is_dropped_and_a_long_one_kept():
    t = torch.arange(8000) / 8000
    for length, kept in ((0.06, False), (0.2, True)):
        parts = (100, t < 0.5), (210, (t > 0.65) & (t < 0.65 + length))
        contour = f0(
            sum(sum(torch.sin(2 * math.pi * hz * h * t) for h in (1, 2, 3)) * part for hz, part in parts), 8000
        )
        assert (contour[:50] > 0).all() and (contour[60:] > 0).any().item() is kept


@pytest.mark.parametrize("samples", [0, 1, 79, 80, 81, 400])
def test_short_audio(samples):
    assert f0(torch.sin(torch.arange(samples) * 0.1), 8000).shape == (samples // 80,)


@pytest.mark.parametrize(
    ("waveform", "settings", "message"),
    [
        (torch.tensor([0.0, math.nan, math.inf]), {}, "2 of 3 samples are NaN"),
        (torch.zeros(2, 8000), {}, r"\(2, 8000\).*mix channels down"),
        (torch.zeros(800, dtype=torch.uint8), {}, "uint8"),
        (torch.zeros(800), {"fmin": 300.0, "fmax": 200.0}, "fmin=300.0"),
        (torch.zeros(800), {"fmax": 900.0, "sample_rate": 3000}, "sample_rate=3000"),
        (torch.zeros(800), {"frame_rate": 5.0}, "frame_rate=5.0"),
    ],
)
def test_refusals(waveform, settings, message):
    with pytest.raises(ValueError, match=message):
        f0(waveform, **{"sample_rate": 8000, **settings})


def test_correlation_agrees_with_loops():
    frame = torch.randn(1, 24, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x = frame[0].tolist()
    for k, value in zip(range(2, 9), correlation(frame, torch.arange(2, 9))[0].tolist(), strict=True):
        products = sum(x[j] * x[j + k] for j in range(24 - k))
        energies = sum(v * v for v in x[: 24 - k]) * sum(v * v for v in x[k:])
        assert value == pytest.approx(products / math.sqrt(energies), abs=1e-9)


def test_correlation_with_silence_is_not_blown_up():
    frame = torch.zeros(1, 400)
    frame[0, :300], frame[0, 300:] = torch.sin(torch.arange(300) * 0.3), 1e-7 * torch.cos(torch.arange(100) * 2.0)
    assert correlation(frame, torch.arange(310, 390)).abs().max() < 0.01  # of sound with what is left of it
