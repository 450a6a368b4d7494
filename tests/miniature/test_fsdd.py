"""Recorded digits and their flat counterpart: strings with known words, and what is broken is listed."""

import pytest
import torch

from seaalign import audio
from seaalign.functional.pitch import f0
from seaalign.miniature import espeak
from seaalign.miniature.analysis import word_spans
from seaalign.miniature.fsdd import JUDGE, LEVEL, TEST, TRAIN, Fsdd, splice, trim
from seaalign.miniature.spoken import f0_std

pytestmark = pytest.mark.audio

spoken_by_espeak = pytest.mark.skipif(espeak.available() is None, reason="eSpeak NG is not installed")


def noise(samples, seed=0):
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def small(tmp_path):
    """Two speakers, two digits, two takes of noise, and five files that cannot be used."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    for digit in (0, 1):
        for name in ("ann", "bob"):
            for take in (0, 5):
                audio.save(folder / f"{digit}_{name}_{take}.wav", noise(2400, take), 8000)
    (folder / "1_ann_6.wav").write_bytes(b"broken")
    (folder / "1_ann_7.wav").write_bytes((folder / "1_ann_5.wav").read_bytes()[:44])
    audio.save(folder / "1_bob_8.wav", torch.zeros(4000), 8000)
    audio.save(folder / "seven.wav", noise(800), 8000)
    return tmp_path


def test_splits_do_not_overlap():
    assert sorted([*TEST, *TRAIN, *JUDGE]) == list(range(50))


def test_unusable_files_are_listed_with_the_reason(small):
    corpus = Fsdd(small)
    assert corpus.speakers == ["ann", "bob"] and len(corpus.words) == 8
    refused = dict(corpus.refused)
    assert set(refused) == {"1_ann_6.wav", "1_ann_7.wav", "1_bob_8.wav", "seven.wav"}
    assert "not readable" in refused["1_ann_6.wav"] and "0 samples" in refused["1_ann_7.wav"]
    assert "silent" in refused["1_bob_8.wav"] and "{digit}" in refused["seven.wav"]


def test_strings_are_seeded_scaled_and_bounded(small):
    corpus = Fsdd(small / "recordings", TRAIN)
    a, b = (corpus.say([0, 1, 1], "ann", TRAIN, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(a.waveform, b.waveform) and a.words == (0, 1, 1) and a.source == "real"
    active = torch.cat([a.waveform[s:e] for s, e in a.boundaries.tolist()])
    assert float(active.square().mean().sqrt()) == pytest.approx(LEVEL, rel=0.02)
    gaps = (a.boundaries[1:, 0] - a.boundaries[:-1, 1]) / 8
    assert ((gaps >= 180) & (gaps <= 230)).all()
    assert all(a.waveform[e:s].abs().max() == 0 for e, s in zip(a.boundaries[:-1, 1], a.boundaries[1:, 0], strict=True))


def test_what_is_not_there_is_named(small, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*missing"):
        Fsdd(small / "missing")
    with pytest.raises(FileNotFoundError, match="no usable recording"):
        Fsdd(small, JUDGE)
    corpus = Fsdd(small)
    cases = (([], "ann", "empty"), ([10], "ann", r"\[10\]"), ([2], "ann", "'two'"), ([0], "eve", "eve"))
    for words, speaker, message in cases:
        with pytest.raises(ValueError, match=message):
            corpus.say(words, speaker, TRAIN, torch.Generator())


def test_trim_keeps_the_word_and_drops_a_distant_click():
    recording = torch.cat([torch.zeros(800), noise(3200), torch.zeros(2400), noise(160), torch.zeros(800)])
    word = trim(recording)
    assert 3200 <= len(word) <= 3600
    torch.testing.assert_close(word[200:3000].square().mean(), noise(3200).square().mean(), rtol=0.1, atol=0)


def test_people_pause_once_between_two_words(fsdd_path):
    corpus, g = Fsdd(fsdd_path, TEST), torch.Generator().manual_seed(0)
    spoken = [corpus.say([i % 10, 6, 8], corpus.speakers[i % 6], TEST, g) for i in range(60)]
    assert len(corpus.words) == 300 and not corpus.refused
    assert sum(len(word_spans(s.waveform)) != 3 for s in spoken) == 0


@spoken_by_espeak
def test_the_flat_counterpart_is_flat():
    g = torch.Generator().manual_seed(0)
    for voice in espeak.VOICES[:2]:
        spoken = [espeak.say([i, 9 - i], voice, g) for i in range(5)]
        assert all(s.source == "flat" and len(word_spans(s.waveform)) == 2 for s in spoken)
        assert sum(f0_std(f0(s.waveform, 8000)) for s in spoken) / 5 <= 0.3
    assert not set(espeak.VOICES) & set(espeak.JUDGE_VOICES)
    with pytest.raises(ValueError, match="xx-none"):
        espeak.render("hello", "xx-none", 150)


def test_without_espeak_the_next_step_is_named(monkeypatch):
    monkeypatch.setattr(espeak, "available", lambda: None)
    with pytest.raises(ImportError, match=r'pip install "seaalign\[espeak\]"'):
        espeak.render("hello", "en-us", 150)


@pytest.mark.parametrize("level", [1e-4, 0.5])
def test_level_does_not_depend_on_the_recording(level):
    one = splice([0], [level * noise(4000)], "x", "real", torch.Generator().manual_seed(0))
    assert float(one.waveform[400:4400].square().mean().sqrt()) == pytest.approx(LEVEL, rel=0.02)
