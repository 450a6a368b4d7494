"""The protocol of transcribers, with functions and doubles in place of models: nothing here needs sound."""

from __future__ import annotations

import logging
import sys
import warnings
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch

from seaalign.judges.transcribers import (
    MMS,
    ByLanguage,
    Dolphin,
    FasterWhisper,
    Pipeline,
    Transcriber,
    Whisper,
    as_transcriber,
)
from tests.judges.tiny_asr import waveforms


def lengths(waves, rate):
    return [f" {len(wave)} at {rate} " for wave in waves]


def test_one_text_for_each_waveform_in_order():
    ear = as_transcriber(lengths)
    assert ear.transcribe(waveforms(1, 0.5, 2, rate=8000), 8000) == ["8000 at 8000", "4000 at 8000", "16000 at 8000"]
    assert ear.transcribe([], 8000) == []


def test_what_is_too_short_for_speech_is_silence_and_not_asked_for():
    asked = []

    def ear(waves, rate):
        asked.append(len(waves))
        return ["heard"] * len(waves)

    sounds = [torch.zeros(0), torch.zeros(399), torch.zeros(400), torch.zeros(1)]  # 25 ms are 400 samples
    assert as_transcriber(ear).transcribe(sounds, 16_000) == ["", "", "heard", ""]
    assert as_transcriber(ear).transcribe([torch.zeros(0)], 16_000) == [""]
    assert asked == [1]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.tensor([0.0, float("nan")]), "waveform 1 holds 1 NaN or infinite of 2 samples"),
        (torch.tensor([float("inf")] * 1000), "waveform 1 holds 1000 NaN or infinite"),
        (torch.zeros(2, 1000), r"waveform 1 has shape \(2, 1000\)"),
        (torch.zeros(0, 2), r"waveform 1 has shape \(0, 2\)"),
        (torch.zeros(1000, dtype=torch.int16), "waveform 1 holds torch.int16, expected floats"),
    ],
)
def test_a_waveform_that_cannot_be_heard_is_an_error_and_never_a_text(bad, message):
    with pytest.raises(ValueError, match=message):
        as_transcriber(lengths).transcribe([torch.zeros(1000), bad], 16_000)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (None, TypeError, "answered NoneType for 2 waveforms: it must return a list of str"),
        ("ab", TypeError, "answered str for 2 waveforms"),
        (["a"], ValueError, "answered 1 texts for 2 waveforms"),
        (["a", None], TypeError, "answered None for waveform 1 of 2"),
    ],
)
def test_what_is_no_text_for_each_waveform_is_refused(answer, error, message):
    with pytest.raises(error, match=message):
        as_transcriber(lambda waves, rate: answer).transcribe(waveforms(0.1, 0.1), 16_000)


def test_a_function_hears_float32_without_gradients():
    def ear(waves, rate):
        assert waves[0].dtype == torch.float32 and not waves[0].requires_grad and not torch.is_grad_enabled()
        return ["fine"]

    wave = torch.zeros(1000, dtype=torch.float64, requires_grad=True)
    assert as_transcriber(ear).transcribe([wave], 16_000) == ["fine"]
    assert torch.is_grad_enabled()


def test_functions_are_known_by_name_source_or_by_what_they_say():
    one, other = lambda waves, rate: ["a"], lambda waves, rate: ["b"]  # noqa: E731
    assert as_transcriber(lengths).fingerprint == as_transcriber(lengths).fingerprint
    assert as_transcriber(lengths).fingerprint != as_transcriber(one).fingerprint

    class Ear:
        def __init__(self, version):
            self.fingerprint = version

        def __call__(self, waves, rate):
            return [self.fingerprint] * len(waves)

    prints = [as_transcriber(Ear(version)).fingerprint for version in ("1", "2", "1")]
    assert prints[0] == prints[2] != prints[1]
    assert as_transcriber(len).name == "len"  # no source to read
    assert repr(as_transcriber(lengths)) == "Function('lengths')"
    assert as_transcriber(other).transcribe(waveforms(0.1), 16_000) == ["b"]


def test_as_transcriber_takes_one_as_it_is_and_refuses_the_rest():
    ear = as_transcriber(lengths)
    assert as_transcriber(ear) is ear
    with pytest.raises(TypeError, match=r"Whisper is a class: construct it, as in Whisper\(\.\.\.\)"):
        as_transcriber(Whisper)
    with pytest.raises(TypeError, match="'whisper' is no transcriber"):
        as_transcriber("whisper")


def test_your_own_transcriber_needs_one_method():
    class Mine(Transcriber):
        def transcribe(self, waveforms, sample_rate, language=None):
            return [str(language)] * len(waveforms)

    assert Mine().name == "Mine" and Mine().fingerprint == Mine("Mine").fingerprint
    assert Mine(beam=1).fingerprint != Mine(beam=2).fingerprint
    assert Mine().transcribe(waveforms(1, 1), 16_000, "th") == ["th", "th"]
    with pytest.raises(TypeError, match="abstract"):
        Transcriber()


def test_each_language_has_its_ear_and_the_rest_a_default():
    ears = ByLanguage({"th": lambda w, r: ["thai"], "lo": lambda w, r: ["lao"], None: lambda w, r: ["any"]})
    assert [ears.transcribe(waveforms(0.1), 16_000, code)[0] for code in ("th", "lo", "km", None)] == [
        "thai",
        "lao",
        "any",
        "any",
    ]
    known = ByLanguage({"th": lengths, "lo": lengths})
    with pytest.raises(
        ValueError, match="no transcriber for language 'km', only for 'lo', 'th': add one, or a default"
    ):
        known.transcribe(waveforms(0.1), 16_000, "km")
    with pytest.raises(ValueError, match="for language None"):
        known.transcribe(waveforms(0.1), 16_000)
    with pytest.raises(ValueError, match="got no transcriber"):
        ByLanguage({})
    assert known.fingerprint != ears.fingerprint != ByLanguage({"th": lengths}).fingerprint
    assert known.fingerprint == ByLanguage({"lo": lengths, "th": lengths}).fingerprint
    assert known.name == "lo: lengths, th: lengths"


@pytest.mark.parametrize(
    ("make", "package", "extra"),
    [
        (Whisper, "transformers", "asr"),
        (MMS, "transformers", "asr"),
        (lambda: Pipeline("a model"), "transformers", "asr"),
        (FasterWhisper, "faster_whisper", "asr"),
        (Dolphin, "dolphin", "dolphin"),
    ],
)
def test_without_its_package_the_error_says_what_to_install(monkeypatch, make, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'needs {package}, .*pip install "seaalign\[{extra}\]"'):
        make()


@dataclass
class Result:  # the fields of dolphin.model.TranscribeResult that matter
    text: str
    text_nospecial: str


class FakeDolphin(ModuleType):
    """The calls of dataoceanai-dolphin 20260513. Where that is installed, test_recognisers.py asks the real one."""

    def __init__(self):
        super().__init__("dolphin")
        self.calls = []

    def load_model(self, model_name, model_dir=None, device=None):
        logging.getLogger().setLevel(logging.ERROR)  # as the real one does when it is imported
        logging.getLogger().addHandler(logging.NullHandler())
        warnings.filterwarnings("ignore", category=FutureWarning)
        self.loaded = (model_name, str(model_dir), device)
        return "the model"

    def transcribe(self, model, audio, lang_sym=None, region_sym=None, predict_time=False, word_timestamp=False):
        assert model == "the model" and audio.ndim == 2 and audio.shape[0] == 1
        self.calls.append((audio.shape[1], lang_sym, region_sym, predict_time))
        return Result(f"<{lang_sym}><{region_sym}><asr> {audio.shape[1]}", f" {audio.shape[1]}")


@pytest.fixture
def dolphin(monkeypatch):
    monkeypatch.setitem(sys.modules, "dolphin", fake := FakeDolphin())
    return fake


def test_dolphin_is_told_language_and_region_and_gives_text_without_marks(dolphin, tmp_path):
    ear = Dolphin("small", "lo", "LA", device="cpu", folder=tmp_path)
    assert dolphin.loaded == ("small", str(tmp_path), "cpu")
    assert ear.transcribe(waveforms(0.5, 0, 1), 16_000, "lo") == ["8000", "", "16000"]
    assert dolphin.calls == [(8000, "lo", "LA", False), (16000, "lo", "LA", False)]
    assert ear.name == "dolphin-small"
    assert ear.fingerprint != Dolphin("small", "th", "TH", device="cpu", folder=tmp_path).fingerprint


def test_dolphin_hears_what_is_longer_than_its_window_in_pieces(dolphin, tmp_path):
    ear = Dolphin(device="cpu", folder=tmp_path)
    assert ear.transcribe([torch.zeros(70 * 16_000), torch.zeros(30 * 16_000 + 10)], 16_000) == [
        "480000 480000 160000",
        "480000",  # the ten samples left over are no speech
    ]


def test_dolphin_gets_silence_after_what_is_too_short_for_its_first_layers(dolphin, tmp_path):
    assert Dolphin(device="cpu", folder=tmp_path).transcribe(waveforms(0.03), 16_000) == ["1600"]


def test_dolphin_refuses_a_language_it_was_not_made_for(dolphin, tmp_path):
    with pytest.raises(ValueError, match="listens for 'lo' and was asked for 'th': construct one for each language"):
        Dolphin(device="cpu", folder=tmp_path).transcribe(waveforms(1), 16_000, "th")


def test_dolphin_leaves_logging_and_warnings_as_they_were(dolphin, tmp_path):
    root = logging.getLogger()
    before = root.level, list(root.handlers), list(warnings.filters)
    Dolphin(device="cpu", folder=tmp_path)
    assert (root.level, list(root.handlers), list(warnings.filters)) == before
