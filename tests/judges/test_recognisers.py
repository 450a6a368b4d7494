"""Transcribers that hold a model, on tiny random ones read from disk: loading, batches, languages, no side effects.

The texts are gibberish, but each model's must equal those of a few lines written out here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import random
from itertools import groupby

import numpy as np
import pytest
import torch

from seaalign import audio
from seaalign.audio import resample
from seaalign.judges.transcribers import MMS, Dolphin, FasterWhisper, Pipeline, SpeechBrain, Whisper
from seaalign.judges.transcribers.dolphin import undisturbed
from tests.judges.tiny_asr import (
    LETTERS,
    save_dolphin,
    save_faster_whisper,
    save_mms,
    save_speechbrain,
    save_whisper,
    waveforms,
)

pytestmark = pytest.mark.audio  # transformers imports torchaudio by itself
GREEDY = {"num_beams": 1, "max_length": 20}
LENGTHS = (1, 0.3, 2, 0.01, 0, 1.5)  # the fourth is too short, the fifth empty


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Each model's folder, made when it is asked for."""
    pytest.importorskip("transformers")
    made = {}
    savers = {"whisper": save_whisper, "mms": save_mms, "speechbrain": save_speechbrain, "faster": save_faster_whisper}

    def folder(name, **options):
        key = (name, *options.items())
        if key not in made:
            made[key] = str(savers[name](tmp_path_factory.mktemp(name) / "model", **options))
        return made[key]

    return folder


@pytest.fixture(params=["whisper", "mms", "faster", "speechbrain", "pipeline"])
def ear(request, folders):
    if request.param == "faster":
        pytest.importorskip("faster_whisper")
    return {
        "whisper": lambda: Whisper(folders("whisper"), device="cpu", batch=3),
        "mms": lambda: MMS(folders("mms"), device="cpu", batch=3),
        "faster": lambda: FasterWhisper(folders("faster"), device="cpu", compute_type="float32", beam=1),
        "speechbrain": lambda: SpeechBrain(folders("speechbrain"), "EncoderASR", device="cpu"),
        "pipeline": lambda: Pipeline(folders("whisper"), device="cpu", options={"generate_kwargs": GREEDY}),
    }[request.param]()


def test_company_in_the_batch_changes_no_text(ear):
    sounds = waveforms(*LENGTHS)
    texts = ear.transcribe(sounds, 16_000, "th")
    assert texts == [ear.transcribe([sound], 16_000, "th")[0] for sound in sounds]
    assert texts == ear.transcribe(sounds[::-1], 16_000, "th")[::-1]
    assert texts[3] == texts[4] == "" and len({texts[0], texts[1], texts[2]}) == 3, "each sound has its own text"


def test_another_sample_rate_is_resampled(ear):
    sounds = waveforms(1, 0.5, rate=8000)
    assert ear.transcribe(sounds, 8000, "th") == ear.transcribe(
        [resample(sound, 8000, 16_000) for sound in sounds], 16_000, "th"
    )


def test_nan_stops_the_call_and_is_named(ear):
    sounds = waveforms(0.5, 0.5)
    sounds[1][7] = float("nan")
    with pytest.raises(ValueError, match="waveform 1 holds 1 NaN"):
        ear.transcribe(sounds, 16_000, "th")


def test_listening_leaves_the_program_as_it_was(ear):
    def state():
        return [
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            torch.random.get_rng_state().tolist(),
            random.getstate(),
            np.random.get_state()[1].tolist(),
            logging.getLogger().level,
            list(logging.getLogger().handlers),
        ]

    before = state()
    for language in ("th", "lo"):
        ear.transcribe(waveforms(0.3), 16_000, language)
    assert state() == before


def by_hand(folder, sound, language, steps=10):
    """Greedy decoding of Whisper, one token after another, without `generate`."""
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    processor = WhisperProcessor.from_pretrained(folder)
    features = processor.feature_extractor(sound.numpy(), sampling_rate=16_000, return_tensors="pt").input_features
    settings, said = model.generation_config, []
    start = [f"<|{name}|>" for name in ("startoftranscript", language, "transcribe", "notimestamps")]
    ids = processor.tokenizer.convert_tokens_to_ids(start)
    for step in range(steps):
        with torch.no_grad():
            logits = model(features, decoder_input_ids=torch.tensor([ids + said])).logits[0, -1]
        logits[settings.suppress_tokens + (settings.begin_suppress_tokens if step == 0 else [])] = -torch.inf
        said.append(int(logits.argmax()))
    return processor.tokenizer.decode(said, skip_special_tokens=True).strip()


@pytest.mark.parametrize("language", ["th", "lo", "km", "my", "vi"])
def test_whisper_says_what_greedy_decoding_by_hand_says(folders, language):
    ear = Whisper(folders("whisper"), device="cpu")
    sounds = waveforms(1, 2)
    for text, sound in zip(ear.transcribe(sounds, 16_000, language), sounds, strict=True):
        expected = by_hand(folders("whisper"), sound, language)
        assert expected and text.startswith(expected)


def test_whisper_hears_beyond_its_window(folders):
    ear = Whisper(folders("whisper"), device="cpu")
    sounds = waveforms(1, 5, 3, 2)  # the window of this one is 2 s
    texts = ear.transcribe(sounds, 16_000, "th")
    assert texts == [ear.transcribe([sound], 16_000, "th")[0] for sound in sounds]
    assert texts[1] != ear.transcribe([sounds[1][:32_000]], 16_000, "th")[0]


def test_whisper_refuses_a_language_it_does_not_know(folders):
    with pytest.raises(ValueError, match="xx"):
        Whisper(folders("whisper"), device="cpu").transcribe(waveforms(1), 16_000, "xx")


def test_whisper_in_other_precision_has_another_fingerprint(folders):
    ears = [Whisper(folders("whisper"), device="cpu", dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    assert ears[0].fingerprint != ears[1].fingerprint
    assert ears[1].transcribe(waveforms(1, 0.5), 16_000, "th")[0]


@pytest.mark.parametrize("kind", [Whisper, MMS, Pipeline])
def test_a_missing_model_fails_when_it_is_constructed(folders, tmp_path, kind):
    with pytest.raises((OSError, ValueError), match="nothing"):  # which one changed between versions of transformers
        kind(str(tmp_path / "nothing"), device="cpu")


def test_faster_whisper_is_set_to_repeat_itself(folders, monkeypatch):
    pytest.importorskip("faster_whisper")
    ear = FasterWhisper(folders("faster"), device="cpu", compute_type="float32", beam=1)
    asked, real = [], ear._model.transcribe
    monkeypatch.setattr(
        ear._model, "transcribe", lambda sound, **options: asked.append(options) or real(sound, **options)
    )
    first = ear.transcribe(waveforms(1, 5), 16_000, "lo")
    assert first == ear.transcribe(waveforms(1, 5), 16_000, "lo") != ear.transcribe(waveforms(1, 5), 16_000, "th")
    assert asked[0] == {
        "language": "lo",
        "task": "transcribe",
        "beam_size": 1,
        "temperature": 0.0,
        "condition_on_previous_text": False,
        "vad_filter": False,
    }


def test_faster_whisper_refuses_a_language_it_does_not_know(folders):
    pytest.importorskip("faster_whisper")
    with pytest.raises(ValueError, match="has no language 'xx', only .*: take another model"):
        FasterWhisper(folders("faster"), device="cpu").transcribe(waveforms(1), 16_000, "xx")


def collapsed(folder, code, sound):
    """MMS by hand: adapter put in by its file, best token of each frame, repeats dropped, then blanks and marks."""
    import json

    from safetensors.torch import load_file
    from transformers import Wav2Vec2ForCTC

    model = Wav2Vec2ForCTC.from_pretrained(folder).eval()
    weights = load_file(f"{folder}/adapter.{code}.safetensors")
    model.lm_head = torch.nn.Linear(*weights["lm_head.weight"].shape[::-1])
    model.load_state_dict(weights, strict=False)
    normal = (sound - sound.mean()) / (sound.var(unbiased=False) + 1e-7).sqrt()
    with torch.no_grad():
        best = model(normal[None]).logits[0].argmax(-1).tolist()
    with open(f"{folder}/vocab.json") as file:
        letters = {i: letter for letter, i in json.load(file)[code].items()}
    spoken = [letters[i] for i, _ in groupby(0 if 1 <= i <= 3 else i for i in best)]
    return "".join(spoken).replace("<pad>", "").replace("|", " ").strip()


def test_mms_puts_each_language_s_adapter_in_and_takes_it_out(folders):
    ear, sounds = MMS(folders("mms"), device="cpu"), waveforms(1, 0.3, 2)
    for language, code in [("th", "tha"), ("lo", "lao"), ("th", "tha"), ("lao", "lao")]:
        expected = [collapsed(folders("mms"), code, sound) for sound in sounds]
        assert ear.transcribe(sounds, 16_000, language) == expected
        assert any(expected)


def test_mms_hears_one_at_a_time_where_padding_would_be_heard(folders):
    ear, sounds = MMS(folders("mms", norm="group"), device="cpu", batch=3), waveforms(1, 0.3, 2)
    alone = [ear.transcribe([sound], 16_000, "th")[0] for sound in sounds]
    assert ear.transcribe(sounds, 16_000, "th") == alone
    ear._batch = 3
    assert ear.transcribe(sounds, 16_000, "th") != alone, "no longer needed: this model may be batched"


def test_mms_needs_a_language_it_has_and_a_model_with_adapters(folders):
    ear = MMS(folders("mms"), device="cpu")
    with pytest.raises(ValueError, match="needs a language: give Sentence"):
        ear.transcribe(waveforms(1), 16_000)
    with pytest.raises(ValueError, match="has no alphabet for language 'km': it takes en, id, km, lo, my, th, vi"):
        ear.transcribe(waveforms(1), 16_000, "km")
    plain = folders("mms", adapters=False)
    with pytest.raises(ValueError, match="has no language adapters: load it with seaalign's Pipeline"):
        MMS(plain, device="cpu")


def test_a_pipeline_of_whisper_says_what_whisper_says(folders):
    sounds = waveforms(*LENGTHS)
    expected = Whisper(folders("whisper"), device="cpu").transcribe(sounds, 16_000, "lo")
    greedy = Pipeline(folders("whisper"), device="cpu", options={"generate_kwargs": GREEDY})
    assert greedy.transcribe(sounds, 16_000, "lo") == expected


def test_a_pipeline_that_you_made_is_heard_in_eval_mode_and_given_back_as_it_was(folders):
    from transformers import pipeline

    made = pipeline("automatic-speech-recognition", model=folders("whisper"), device="cpu")
    made.model.train()
    ear, sounds = Pipeline(made, options={"generate_kwargs": GREEDY}), waveforms(1, 2, 0.5, 1.5)
    expected = Whisper(folders("whisper"), device="cpu").transcribe(sounds, 16_000, "th")
    assert ear.transcribe(sounds, 16_000, "th") == expected
    assert made.model.training
    other = Pipeline(made, options={"generate_kwargs": {**GREEDY, "language": "lo"}})
    assert other.transcribe(sounds, 16_000, "th") != expected, "what you say goes before the sentence's"
    assert other.fingerprint != ear.fingerprint


def test_a_pipeline_without_a_name_is_known_by_its_weights(folders):
    from transformers import pipeline

    made = pipeline("automatic-speech-recognition", model=folders("whisper"), device="cpu")
    made.model.config._name_or_path = made.model.name_or_path = ""
    before = Pipeline(made).fingerprint
    with torch.no_grad():
        made.model.proj_out.weight.mul_(2)
    assert Pipeline(made).fingerprint != before
    with pytest.raises(ValueError, match="expected a pipeline of task 'automatic-speech-recognition'"):
        Pipeline(object())


def test_speechbrain_says_what_its_best_letters_are(folders):
    ear, sound = SpeechBrain(folders("speechbrain"), "EncoderASR", device="cpu"), waveforms(1)[0]
    best = ear._model.encode_batch(sound[None], torch.ones(1))[0].argmax(-1).tolist()
    expected = "".join("-abcde"[i] for i, _ in groupby(best)).replace("-", "")
    assert ear.transcribe([sound], 16_000, "th") == [expected] != [""]


def test_speechbrain_refuses_what_transcribes_no_batches(folders):
    for interface in ("StreamingASR", "Whatever"):
        with pytest.raises(ValueError, match=f"no recogniser '{interface}'"):
            SpeechBrain(folders("speechbrain"), interface, device="cpu")


@pytest.mark.parametrize("told", [None, "", "allow_tf32"])
def test_speechbrain_is_kept_from_changing_settings_of_torch(monkeypatch, told):
    monkeypatch.delenv("SB_DISABLE_QUIRKS", raising=False)
    if told is not None:
        monkeypatch.setenv("SB_DISABLE_QUIRKS", told)  # somebody's own choice stays
    seen = []
    monkeypatch.setattr(audio, "_door", lambda name, install: seen.append(os.environ.get("SB_DISABLE_QUIRKS")))
    audio.speechbrain()
    every = ",".join(["allow_tf32", "disable_jit_profiling", "disable_cudnn_benchmarking"])
    assert seen[-1] == (every if told is None else told)
    assert os.environ.get("SB_DISABLE_QUIRKS") == told


def test_speechbrain_knows_every_setting_that_it_is_kept_from():
    quirks = pytest.importorskip("speechbrain.utils.quirks")
    assert set(quirks.KNOWN_QUIRKS) == {"allow_tf32", "disable_jit_profiling", "disable_cudnn_benchmarking"}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("dolphin") is None, reason="needs dataoceanai-dolphin")
def test_dolphin_of_the_real_package_hears_each_alone_and_leaves_logging_as_it_was(tmp_path, monkeypatch):
    before = logging.getLogger().level, list(logging.getLogger().handlers)
    with undisturbed():
        registry = importlib.import_module("dolphin.model_registry")
    weights = save_dolphin(tmp_path / "small") / "small.pt"
    monkeypatch.setitem(registry.MODELS["small"], "sha256", hashlib.sha256(weights.read_bytes()).hexdigest())
    ear, sounds = Dolphin("small", device="cpu", folder=weights.parent), waveforms(*LENGTHS, 0.03)
    texts = ear.transcribe(sounds, 16_000, "lo")
    assert texts == [ear.transcribe([sound], 16_000, "lo")[0] for sound in sounds]
    assert texts[3] == texts[4] == "" and len(set(texts[:3])) == 3 and set("".join(texts)) <= set(LETTERS)
    assert (logging.getLogger().level, list(logging.getLogger().handlers)) == before
