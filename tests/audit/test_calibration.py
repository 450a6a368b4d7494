"""Known cases on the embedded voice: tokens that hold the voice, tokens that hold less of it, a prosody code alone."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.audio

from seaalign.audit import probe_labels, probe_values, token_features  # noqa: E402
from seaalign.miniature import codec_fit, voice  # noqa: E402
from seaalign.miniature.analysis import analyse, timbre  # noqa: E402
from seaalign.miniature.codec import Codec  # noqa: E402

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "benchmarks" / "audit_calibration.py"


@pytest.fixture(scope="module")
def speech():
    """120 utterances of six voices, measured, and their tokens under both tokenizers."""
    g = torch.Generator().manual_seed(0)
    texts = [tuple(torch.randint(10, (2,), generator=g).tolist()) for _ in range(120)]
    people = list(voice.SPEAKERS)
    spoken = [voice.say(text, people[i % 6], True, g) for i, text in enumerate(texts)]
    frames = analyse([s.waveform for s in spoken], f0=[s.f0 for s in spoken])
    who = [s.speaker for s in spoken]
    voices = {name: timbre([f for f, w in zip(frames, who, strict=True) if w == name]) for name in people}
    mean, tokens = torch.stack(list(voices.values())).mean(0), {}
    for kind, rows in (("separated", [voices[w] for w in who]), ("mixed", [mean] * 120)):
        codec = Codec()
        codec_fit.fit_tokens(codec, frames, torch.stack(rows), torch.Generator().manual_seed(0))
        tokens[kind] = [codec.tokenize(f, row) for f, row in zip(frames, rows, strict=True)]
        tokens[f"{kind}, prosody"] = [codec.prosody(row) for row in tokens[kind]]
    return tokens, who, texts, spoken


def test_prosody_relative_to_the_speaker_tells_nobody_and_relative_to_all_tells(speech):
    tokens, who, texts, _ = speech
    relative = probe_labels(token_features(tokens["separated, prosody"], 64), who, texts)
    absolute = probe_labels(token_features(tokens["mixed, prosody"], 64), who, texts)
    assert not relative.leaks and relative.value < 1.5 * relative.chance
    assert absolute.value > 3 * absolute.chance and absolute.low > relative.high


def test_sounds_tell_the_speaker_under_both_tokenizers(speech):
    """Why tokens alone cannot convict: relative to their mean, the sounds of a long vocal tract still lie elsewhere."""
    tokens, who, texts, _ = speech
    for kind in ("separated", "mixed"):
        probe = probe_labels(token_features(tokens[kind]), who, texts)
        assert probe.low > 1.5 * probe.chance


def test_the_melody_is_in_the_prosody_code(speech):
    """The code that tells nobody apart tells how wide F0 moves: it is a style, not an empty one."""
    tokens, _, texts, spoken = speech
    spread = torch.stack([(12 * s.f0[s.f0 > 0].log2()).std() for s in spoken])
    assert probe_values(token_features(tokens["separated, prosody"], 16), spread, texts).value > 0.5


def test_the_benchmark_runs(monkeypatch, capsys, tmp_path):
    spec = importlib.util.spec_from_file_location("audit_calibration", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    small = {"real": 36, "flat": 12, "codec": 36, "lessons": 48, "codec_steps": 4}
    monkeypatch.setattr(module, "SIZES", replace(module.SIZES, **small))
    monkeypatch.setattr(module, "SeparationAudit", partial(module.SeparationAudit, scenes=3, kinds=["linear"]))
    found = module.one_seed(None, 0, 4, tmp_path / "a.png")
    assert list(found) == ["separated", "prosody only", "mixed"] and (tmp_path / "a_mixed.png").exists()
    assert "--- seed 0, prosody only" in capsys.readouterr().out
