"""The judges hear words and people, repeat exactly, and fail closed."""

import pytest
import torch

from seaalign.miniature.ear import Ear, fit, vocoded
from seaalign.miniature.speaker import Speakers, fit_speakers
from seaalign.miniature.voice import JUDGE_SPEAKERS, SPEAKERS, say

pytestmark = pytest.mark.audio


@pytest.fixture(scope="module")
def lessons():
    g = torch.Generator().manual_seed(0)
    names = list(JUDGE_SPEAKERS)
    return [say((i % 10, (i * 7) // 10 % 10), names[i % len(names)], i % 3 > 0, g) for i in range(120)]


def taught(lessons, steps, seed=0):
    ear = Ear(32, 1)
    return ear, fit(ear, [(s.waveform, s.words) for s in lessons], steps=steps, batch=16, lr=8e-3, seed=seed)


@pytest.fixture(scope="module")
def ear(lessons):
    return taught(lessons, 150)[0]


def test_it_hears_people_it_has_not_met(ear):
    g = torch.Generator().manual_seed(1)
    exam = [say((i, (i + 3) % 10), name, flat, g) for i in range(10) for name in SPEAKERS for flat in (True, False)]
    heard = ear.transcribe([s.waveform for s in exam])
    assert sum(h == s.words for h, s in zip(heard, exam, strict=True)) / len(exam) > 0.9
    resynthesised = ear.transcribe(vocoded(exam))
    assert sum(h == s.words for h, s in zip(resynthesised, exam, strict=True)) / len(exam) > 0.85


def test_batches_do_not_matter_and_noise_is_not_words(ear, lessons):
    waves = [s.waveform for s in lessons[:9]]
    assert ear.transcribe(waves) == ear.transcribe(waves, batch=1) == ear.transcribe(waves, batch=4)
    assert ear.transcribe([]) == []


def test_seeded_fits_repeat(lessons):
    (a, first), (b, second), (_, other) = taught(lessons, 4), taught(lessons, 4), taught(lessons, 4, seed=1)
    assert first == second and first != other
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_broken_file_is_not_a_wrong_answer(ear):
    for bad in (torch.zeros(0), torch.full((800,), float("nan"))):
        with pytest.raises(ValueError, match="waveform 1"):
            ear.transcribe([torch.ones(800), bad])
    with pytest.raises(ValueError, match="no lessons"):
        fit(Ear(8, 1), [])


def test_saved_and_loaded_ears_agree(ear, lessons, tmp_path):
    ear.save(tmp_path / "ear.pt")
    waves = [s.waveform for s in lessons[:5]]
    assert Ear.load(tmp_path / "ear.pt").transcribe(waves) == ear.transcribe(waves)


def test_people_sound_like_themselves(lessons, tmp_path):
    speakers = fit_speakers(lessons, vocoded(lessons[:60]))
    g = torch.Generator().manual_seed(2)
    a, b = ([say((i, 9 - i), name, True, g).waveform for name in SPEAKERS for i in range(3)] for _ in range(2))
    owner = torch.arange(len(SPEAKERS)).repeat_interleave(3)
    table = speakers.embed(a) @ speakers.embed(b).T
    same = owner[:, None] == owner[None]
    assert table[same].mean() > 0.6 and table[~same].mean() < 0.2
    assert table.abs().max() <= 1 + 1e-5
    torch.testing.assert_close(speakers.similarity(a, b), table.diagonal())
    torch.testing.assert_close(speakers.similarity(a, a), torch.ones(len(a)))
    speakers.save(tmp_path / "s.pt")
    assert torch.equal(Speakers.load(tmp_path / "s.pt").embed(a), speakers.embed(a))


def test_too_few_people_are_refused(lessons):
    with pytest.raises(ValueError, match="need two speakers"):
        Speakers.fit([s.waveform for s in lessons[:3]], ["a", "a", "b"])
    with pytest.raises(ValueError, match="1 waveforms but 0 references"):
        fit_speakers(lessons).similarity([lessons[0].waveform], [])
