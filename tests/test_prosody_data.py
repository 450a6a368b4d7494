"""Recordings for the disentangler: what is heard, who is paired with whom, what is left out and said so."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from seaalign import ProsodyData, Recording
from seaalign.data.hearing import hear

pytestmark = pytest.mark.audio
RATE = 8000


def tone(hertz: float, seconds: float = 0.5, level: float = 0.1) -> torch.Tensor:
    t = torch.arange(int(seconds * RATE)) / RATE
    return level * sum(torch.sin(2 * math.pi * hertz * k * t) / k for k in (1, 2, 3))


def recording(key: str, wave: torch.Tensor, speaker: str | None = "ann") -> Recording:
    return Recording(key, "hm", (wave, RATE), speaker=speaker)


def test_hearing_by_hand():
    # 200 Hz for 0.3 s, then nothing: 12 semitones above 100 Hz; unvoiced frames take the mean of the voiced ones
    heard = hear([torch.cat([tone(200, 0.3), torch.zeros(1600)])], RATE, RATE)[0]
    pitch, voicing, level = heard.frames[:, :3].T
    assert pitch[10].item() == pytest.approx(12, abs=0.05) and pitch[45].item() == pytest.approx(12, abs=0.05)
    assert voicing[10] == 1 and voicing[45] == 0
    assert level[45].item() == pytest.approx(heard.loudest - 40, abs=1e-3)  # the room is cut off
    assert abs(heard.spectrum.mean().item()) < 1e-5


def test_louder_is_the_same_spectrum_and_another_level():
    quiet, loud = hear([tone(150, level=0.05), tone(150, level=0.5)], RATE, RATE)
    assert (loud.frames[20, 2] - quiet.frames[20, 2]).item() == pytest.approx(20, abs=0.1)
    torch.testing.assert_close(loud.frames[:, :2], quiet.frames[:, :2], atol=1e-2, rtol=0)


def test_frames_of_another_rate_share_the_time():
    rising = hear([torch.cat([tone(100, 0.5), tone(200, 0.5)])], RATE, RATE)[0]
    at = rising.at(10)
    assert at.shape == (10, 3)
    assert at[2, 0].item() == pytest.approx(0, abs=0.1) and at[7, 0].item() == pytest.approx(12, abs=0.1)


def test_bad_recordings_are_left_out_counted_and_named():
    broken = tone(150)
    broken[7] = float("nan")
    data = ProsodyData(
        [recording("a", tone(150)), recording("b", tone(160)), recording("silent", torch.zeros(4000)),
         recording("nan", broken), Recording("none", "hm", speaker="ann"), recording("short", torch.ones(20))],
        sample_rate=RATE,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="4 recordings are left out: silent: silent"):
        data.setup()
    assert [row.id for row in data.train] == ["a", "b"]
    assert [key for key, _ in data.refused] == ["silent", "nan", "none", "short"]


def test_nothing_usable_is_an_error():
    data = ProsodyData([recording("silent", torch.zeros(4000))], sample_rate=RATE)
    with pytest.warns(UserWarning, match="left out"), pytest.raises(ValueError, match="none of 1"):
        data.setup()


def test_inputs_with_nan_or_absent_are_left_out():
    inputs = {"a": torch.zeros(9, 4), "b": torch.full((9, 4), float("nan"))}
    data = ProsodyData([recording(k, tone(150)) for k in "abc"], inputs=inputs, sample_rate=RATE)
    with pytest.warns(UserWarning, match="2 recordings are left out"):
        data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch.inputs.shape == (1, 9, 4) and batch.prosody.shape == (1, 9, 3)


def test_partners_are_others_of_the_same_speaker_and_the_lonely_are_counted():
    people = {"a": "ann", "b": "ann", "c": "ben", "d": "ben", "e": "eve", "f": None}
    data = ProsodyData(
        [recording(k, tone(120 + 9 * i), s) for i, (k, s) in enumerate(people.items())], sample_rate=RATE
    )
    with pytest.warns(UserWarning, match="2 of 6 utterances have no other one"):
        data.setup()
    assert data.alone == ["e", "f"] and data.speakers == ("ann", "ben", "eve")
    batch = next(iter(data.train_dataloader()))
    for i, key in enumerate(batch.ids):
        own = data.train[[row.id for row in data.train].index(key)]
        partner = batch.partners[i, : batch.partner_lengths[i]]
        assert bool(batch.paired[i]) == (key not in "ef") == (not torch.equal(partner, own.inputs))
    assert dict(zip(batch.ids, batch.speakers.tolist(), strict=True)) == {
        "a": 0,
        "b": 0,
        "c": 1,
        "d": 1,
        "e": 2,
        "f": -1,
    }


def test_the_same_epoch_draws_the_same_partners():
    def drawn(epoch: int) -> torch.Tensor:
        data = ProsodyData([recording(str(i), tone(120 + i)) for i in range(6)], sample_rate=RATE)
        data.setup()
        loader = data.train_dataloader()
        return loader.collate([0, 1, 2, 3], epoch).partners[..., 0].mean(1)

    assert torch.equal(drawn(1), drawn(1))
    assert any(not torch.equal(drawn(1), drawn(epoch)) for epoch in (2, 3))


def test_unvoiced_alone_and_thirty_seconds_can_be_used():
    noise = 0.1 * torch.randn(4000, generator=torch.Generator().manual_seed(0))
    long = torch.cat([tone(150, 15), tone(180, 15)])
    data = ProsodyData([recording("a", noise), recording("b", long)], sample_rate=RATE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.setup()
    assert [len(row.inputs) for row in data.train] == [50, 3000]
    assert data.train[0].heard.statistics.isnan().tolist()[:2] == [True, True]
