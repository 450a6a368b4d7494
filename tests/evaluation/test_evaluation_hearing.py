"""Listeners: silence, melody beside a person's, voices by a small WavLM, predictors that are there or not."""

from __future__ import annotations

import math
import sys
from types import ModuleType

import pytest
import torch

from seaalign.backbones import Unsupported
from seaalign.evaluation import Case, Naturalness, WavLM
from seaalign.evaluation.encoders import encoder_of
from seaalign.evaluation.hearing import Heard, Repetition, Similarity, contours, errors, prosody, transcripts
from seaalign.judges.transcribers import as_transcriber
from tests.evaluation.world import RATE, hum

pytestmark = pytest.mark.audio
CASE = Case("x", "one two three", language="en")


def heard(wave: torch.Tensor, case: Case = CASE, **more) -> Heard:
    return Heard(case, wave, RATE, contours([wave], [RATE])[0], **more)


def test_silence_is_heard_without_asking():
    asked = []
    ear = as_transcriber(lambda waves, rate: [asked.append(len(w)) or "one" for w in waves])
    rows = [heard(torch.zeros(0)), heard(torch.full((800,), 1e-4)), heard(hum([150.0] * 4))]
    assert transcripts(ear, rows) == ["", "", "one"] and asked == [1600]
    assert [row.silent for row in rows] == [True, True, False]


def test_golden_errors():
    assert errors(CASE, "one too", True) == {
        "character_errors": 6.0,
        "characters": 11.0,
        "word_errors": 2.0,
        "words": 3.0,
    }
    assert errors(CASE, "", True)["word_errors"] == 3.0
    assert math.isnan(errors(CASE, None, True)["word_errors"]) and errors(CASE, None, True)["words"] == 3.0
    assert "words" not in errors(CASE, "one", False)


def test_a_melody_beside_a_persons():
    tune = [150.0, 160, 180, 210, 200, 170, 140, 130]
    person = heard(hum(tune, 0.1))
    same, flat = heard(hum(tune, 0.1), person=person), heard(hum([150.0] * 8, 0.1), person=person)
    ours, theirs = prosody([same, flat])
    assert ours["f0_correlation"] > 0.99 and ours["f0_rmse"] < 0.2 and ours["duration"] == pytest.approx(0.8)
    assert theirs["f0_std"] < 0.1 < ours["f0_std"] and theirs["f0_rmse"] > 1
    nobody = prosody([heard(hum(tune))])[0]
    assert "f0_rmse" not in nobody
    silent = prosody([heard(torch.zeros(4000), person=person)])[0]
    assert all(math.isnan(silent[name]) for name in ("f0_std", "f0_std_hz", "f0_range", "energy_std"))


def test_golden_repetition():
    rows = [heard(hum([150.0]), tokens=torch.tensor([7, 7, 7, 7, 7, 1])), heard(hum([150.0]), tokens=torch.tensor([1]))]
    found = [each["repetition"] for each in Repetition()(rows)]
    assert found[0] == 50.0 and math.isnan(found[1])


def test_similarity_is_to_the_voice_else_to_the_person_and_never_to_oneself():
    calls = []

    def encoder(waves, rate):
        calls.append(len(waves[0]))
        return torch.stack([torch.tensor([float(len(wave) == 1600), float(len(wave) != 1600)]) for wave in waves])

    voice, person = (hum([150.0] * 4), RATE), (hum([150.0] * 6), RATE)
    both, real = Case("x", "one", audio=person, voice=voice), Case("x", "one", audio=person)
    answer = hum([150.0] * 4)
    beside = heard(person[0], real)
    rows = [
        heard(answer, both, person=beside), heard(answer, real, person=beside), heard(answer, real),
        heard(torch.zeros(800), both, person=beside), heard(answer, Case("x", "one")),
    ]  # fmt: skip
    assert Similarity(encoder)(rows) == [{"similarity": 1.0}, {"similarity": 0.0}, {}, {}, {}]
    assert len(calls) == 4  # each reference once


def test_wavlm_averages_the_layer_that_was_asked_for(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 20}
    sizes |= {"conv_dim": (8, 8), "conv_stride": (5, 4), "conv_kernel": (10, 8), "num_conv_pos_embeddings": 4}
    torch.manual_seed(0)
    model = transformers.WavLMModel(
        transformers.WavLMConfig(**sizes, num_feat_extract_layers=2, num_conv_pos_embedding_groups=2)
    ).eval()
    model.save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path)
    waves = [hum([150.0] * 8), hum([220.0, 240.0] * 3)]
    found = WavLM(str(tmp_path), layer=2, device="cpu")(waves, 16_000)
    assert found.shape == (2, 16)
    for wave, embedding in zip(waves, found, strict=True):
        scaled = (wave - wave.mean()) / (wave.var(unbiased=False) + 1e-7).sqrt()
        with torch.no_grad():
            hidden = model(scaled[None], output_hidden_states=True).hidden_states[2]
        assert torch.allclose(embedding, hidden[0].mean(0), atol=1e-4)
    with pytest.raises(ValueError, match="has 3 layers, there is no layer 12"):
        WavLM(str(tmp_path), device="cpu")


def test_encoders_by_name(monkeypatch):
    from seaalign.evaluation import encoders

    monkeypatch.setattr(encoders, "speaker_encoder", lambda source: source)
    assert encoder_of("ecapa") == "speechbrain/spkrec-ecapa-voxceleb" and encoder_of("runs/mine") == "runs/mine"
    assert encoder_of(len) is len


def test_a_predictor_that_is_there(tmp_path, monkeypatch):
    fake = ModuleType("torchmetrics.functional.audio.dnsmos")
    fake.deep_noise_suppression_mean_opinion_score = lambda wave, rate, personalized: torch.tensor([1.0, 2.0, 3.0, 4.5])
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    monkeypatch.setattr("seaalign.evaluation.encoders.find_spec", lambda name: object())
    with pytest.raises(Unsupported, match="sig_bak_ovr.onnx, .*model_v8.onnx.; calling .* once downloads them"):
        Naturalness("dnsmos", tmp_path)
    for name in ("sig_bak_ovr.onnx", "model_v8.onnx"):
        (tmp_path / "DNSMOS" / "DNSMOS").mkdir(parents=True, exist_ok=True)
        (tmp_path / "DNSMOS" / "DNSMOS" / name).touch()
    rows = [heard(hum([150.0] * 20)), heard(hum([150.0])), heard(torch.zeros(9000))]
    assert Naturalness("dnsmos", tmp_path)(rows) == [{"dnsmos": 4.5}, {}, {}]


def test_a_predictor_that_is_not_there(monkeypatch):
    monkeypatch.setattr("seaalign.evaluation.encoders.find_spec", lambda name: None)
    with pytest.raises(Unsupported, match="nisqa was left out: it needs pip install librosa requests"):
        Naturalness("nisqa")
    with pytest.raises(ValueError, match="no predictor 'mos': there are dnsmos, nisqa"):
        Naturalness("mos")
