"""Habits taken out of prosody codes: what comes out is the same for everybody, and what goes back is what came in."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from seaalign import Disentangler, Habits, Prompt, StylePrefix, Utterance
from seaalign.functional import fsq_values
from seaalign.miniature.mixed import MixedCodec, mixed_lm

pytestmark = pytest.mark.audio
RATE = 8000
CUSTOM = {"ann": 4.0, "ben": -4.0}  # semitones that an utterance rises by
REGISTER = {"ann": 12.0, "ben": 2.0}  # semitones above 100 Hz


def tone(who: str, seed: int, seconds: float | None = None, rise: float | None = None) -> torch.Tensor:
    """A tone that rises as its speaker does, more or less, and gets louder or softer, and ends some time."""
    g = torch.Generator().manual_seed(seed)
    drawn = torch.randn(3, generator=g).tolist()
    time = torch.linspace(-0.5, 0.5, int(RATE * (seconds or 1.0 + 0.1 * drawn[2])))
    pitch = REGISTER[who] + time * (CUSTOM[who] + drawn[0] if rise is None else rise)
    phase = torch.cumsum(2 * math.pi * 100 * 2 ** (pitch / 12) / RATE, 0)
    return 0.1 * torch.sin(phase) * 10 ** (time * 6 * drawn[1] / 20)


@pytest.fixture(scope="module")
def said() -> tuple[list[torch.Tensor], list[str]]:
    names = ["ann", "ben"] * 16
    return [tone(name, i) for i, name in enumerate(names)], names


@pytest.fixture(scope="module")
def habits(said) -> Habits:
    return Habits(RATE, levels=(5, 5), numbers=4, points=6).fit(*said)


def rise(frames: torch.Tensor) -> float:
    return float(frames[-1, 0] - frames[0, 0])


def test_everybody_has_the_same_mean_and_spread_afterwards(said):
    waves, names = said
    exact = Habits(RATE, levels=(5, 5), numbers=4, points=6, prior=1e-6).fit(waves, names)
    numbers = torch.stack([row[0] for row in exact.describe(waves, names)])
    for name in CUSTOM:
        own = numbers[[n == name for n in names]]
        torch.testing.assert_close(torch.cov(own.T, correction=0), torch.eye(4).double(), atol=1e-4, rtol=0)
        torch.testing.assert_close(own.mean(0), torch.zeros(4).double(), atol=1e-9, rtol=0)
    alike = Habits(RATE, levels=(5, 5), numbers=4, points=6).fit(waves, ["all"] * len(waves))
    numbers = torch.stack([row[0] for row in alike.describe(waves, ["all"] * len(waves))])
    apart = numbers[::2].mean(0) - numbers[1::2].mean(0)
    assert apart.abs().max() > 1.5  # of one habit for all, ann and ben are told apart


def test_a_map_redone_by_hand(said, habits):
    waves, names = said
    heard = habits._heard(waves, names)
    own = heard.rows[::2] @ habits._everybody["into"]
    centred = own - own.mean(0)
    values, vectors = torch.linalg.eigh((centred.T @ centred + 3 * torch.eye(4)) / 19)
    wanted = centred[0] @ vectors @ torch.diag(values**-0.5) @ vectors.T
    torch.testing.assert_close(habits.describe(waves[:1], ["ann"])[0][0], wanted)


def test_nothing_is_lost_but_by_leaving_out_and_rounding(said):
    """Two points about their mean are one number a channel: three and the duration say all, but for the rounding."""
    waves, names = said
    small = Habits(RATE, levels=(5, 5), numbers=4, points=2).fit(waves, names)
    rows, codes = small._heard(waves, names).rows, small.prosody(waves, names)
    for row, name, numbers, ids in zip(rows, names, small.describe(waves, names), codes, strict=True):
        habit = small._people[name]
        back = habit["mean"] + numbers[0] @ habit["back"] @ small._everybody["out"]
        torch.testing.assert_close(back, row)
        said = 1.9 * fsq_values(ids, small.levels).flatten()  # five levels, 0.95 apart
        assert bool(((said - numbers[0].clamp(-1.9, 1.9)).abs() < 0.476).all())


def test_codes_come_back_by_the_habits_of_the_speaker_and_swap(said, habits):
    waves, names = said
    codes = habits.prosody(waves, names)
    out = habits.resynthesise(codes, names)
    wrong = [rise(o) / (5 / 6) - (CUSTOM[n] + float(torch.randn(3, generator=torch.Generator().manual_seed(i))[0]))
             for i, (o, n) in enumerate(zip(out, names, strict=True))]  # fmt: skip
    assert torch.tensor(wrong).abs().mean() < 0.6
    swapped = habits.resynthesise(codes, ["ben" if n == "ann" else "ann" for n in names])
    assert all((rise(o) > 0) == (n == "ben") for o, n in zip(swapped, names, strict=True))
    assert abs(float(swapped[0][:, 0].mean()) - REGISTER["ben"]) < 0.5
    assert [len(o) for o in habits.resynthesise(codes[:2], names[:2], [7, 9])] == [7, 9]


def test_the_length_of_a_code_tells_windows_and_no_frames(habits):
    codes = habits.prosody([tone("ann", 1, s) for s in (0.6, 1.1, 2.9, 4.0, 30.0)], ["ann"] * 5)
    assert [len(ids) for ids in codes] == [2, 2, 2, 4, 30]
    short, long = (len(habits.resynthesise([codes[i]], ["ann"])[0]) for i in (1, 3))
    assert abs(short - 110) < 15 and long > 1.8 * short  # two windows of a pace that no utterance had


def test_others_are_met_later_without_moving_those_who_are_known(said):
    waves, names = said
    first = Habits(RATE, levels=(5, 5), numbers=4, points=6).fit(waves, names)
    codes = first.prosody(waves[:2], names[:2])
    with pytest.raises(ValueError, match="habits of 'cho' are not known .*ann, ben.*meet"):
        first.prosody(waves[:1], ["cho"])
    first.meet([tone("ben", 50 + i, rise=0.0 + i) for i in range(8)], ["cho"] * 8)
    assert first.people == ("ann", "ben", "cho")
    assert all(torch.equal(a, b) for a, b in zip(codes, first.prosody(waves[:2], names[:2]), strict=True))
    again = Habits(RATE, levels=(5, 5), numbers=4, points=6)
    again.load_state_dict(first.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(codes, again.prosody(waves[:2], names[:2]), strict=True))


def test_habits_survive_a_file_that_holds_tensors_alone(habits, said, tmp_path):
    torch.save(habits.state_dict(), tmp_path / "habits.pt")
    again = Habits(RATE, levels=(5, 5), numbers=4, points=6)
    again.load_state_dict(torch.load(tmp_path / "habits.pt", weights_only=True))
    assert torch.equal(again.prosody(said[0][:1], ["ann"])[0], habits.prosody(said[0][:1], ["ann"])[0])


def test_few_utterances_are_said_so(habits):
    state = habits.state_dict()
    copy = Habits(RATE, levels=(5, 5), numbers=4, points=6)
    copy.load_state_dict(state)
    with pytest.warns(UserWarning, match=r"1 speakers have fewer than 4 windows \(dov\)"):
        copy.meet([tone("ann", 3)], ["dov"])
    assert "dov" not in habits.people
    assert copy.describe([tone("ann", 3)], ["dov"])[0].abs().max() > 0.5  # by its own mean it would say nothing


def test_unvoiced_and_silent_recordings_have_codes(habits):
    noise = 0.1 * torch.randn(RATE, generator=torch.Generator().manual_seed(0))
    codes = habits.prosody([noise, torch.zeros(RATE)], ["ann", "ben"])
    assert all(len(ids) == 2 and fsq_values(ids, habits.levels).isfinite().all() for ids in codes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Habits(numbers=15), "15 numbers must be a multiple of 4"),
        (lambda: Habits(points=5), "at most three for each of 5 points"),
        (lambda: Habits(seconds=0), "seconds=0 .* must be above 0"),
        (lambda: Habits().prosody([torch.zeros(16000)], ["ann"]), "nothing has been learned yet"),
        (lambda: Habits().fit([torch.zeros(16000)], ["ann"]), "1 windows cannot tell which 16"),
        (lambda: Habits().fit([torch.zeros(16000)], ["ann", "ben"]), "1 waveforms, 2 speakers"),
        (lambda: Habits().fit([torch.zeros(16000)], [None]), "a name for each"),
        (lambda: Habits().fit([torch.full((16000,), torch.nan)], ["ann"]), "waveform 0"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_ids_that_make_no_window_are_refused(habits):
    with pytest.raises(ValueError, match="code 0 has 3 ids, and a window has 2"):
        habits.resynthesise([torch.tensor([0, 1, 2])], ["ann"])


def test_restyle_takes_these_codes_and_style_prefix_reads_them(habits, said):
    waves, names = said[0][:4], said[1][:4]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = Disentangler(sample_rate=RATE, speakers=(), dim=8, timbre_size=4)
    plain = [Utterance(str(i), Prompt([1, 2]), [3, 4, 5]) for i in range(4)]
    codes = habits.prosody(waves, names)
    styled = module.restyle(plain, waves, names, codes=codes)
    assert all(torch.equal(u.prompt.style.tokens, ids) for u, ids in zip(styled, codes, strict=True))
    assert torch.equal(styled[0].prompt.timbre, styled[2].prompt.timbre)
    with pytest.raises(ValueError, match="one speaker, and one code"):
        module.restyle(plain, waves, names, codes=codes[:2])
    lm = StylePrefix(mixed_lm(MixedCodec(codes=60), dim=16, layers=1), habits.levels, 4, vectors=2)
    assert lm.embed_prompt(styled[0].prompt).shape[0] == lm.embed_prompt(styled[0].prompt.plain()).shape[0] + 2


def test_fitted_anew_earlier_people_are_forgotten(said):
    waves, names = said
    again = Habits(RATE, levels=(5, 5), numbers=4, points=6).fit(waves, names)
    again.fit(waves, [{"ann": "cas"}.get(name, name) for name in names])
    with pytest.raises(ValueError, match="habits of 'ann' are not known"):  # they were told in other numbers
        again.prosody(waves[:1], ["ann"])
