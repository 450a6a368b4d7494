from __future__ import annotations

import io
import wave
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seaalign import Speech, Unsupported
from seaalign.data.prepare import prepare
from seaalign.data.references import Spoken, choose
from seaalign.data.sound import sound_of
from seaalign.records.recording import Recording
from seaalign.storage import Refused, read_utterances, write_utterances
from tests.toy import Toy

RATE = 8000


def letters(text: str) -> list[int]:
    return [ord(letter) - 97 for letter in text]


def encode(waveforms, sample_rate):
    """One token for each tenth of a second: its rounded level in tenths."""
    rows = [[round(10 * float(part.mean())) for part in wave.split(sample_rate // 10)] for wave in waveforms]
    return Speech.pack(rows)


def samples(*levels, rate=RATE):
    """A tenth of a second at each level."""
    return torch.tensor(levels, dtype=torch.float32).repeat_interleave(rate // 10)


def file(*levels, rate=RATE, channels=1) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(2)
        out.setframerate(rate)
        data = (samples(*levels, rate=rate).numpy() * 32767).astype("<i2")
        out.writeframes(np.repeat(data, channels).tobytes())
    return buffer.getvalue()


def said(key, text, speaker="ann", length=80, **changes):
    return Recording(key, text, **{"tokens": [len(key)] * length, "speaker": speaker, **changes})


def quietly(recordings, **changes):
    return prepare(recordings, letters, **{"progress": False, "references": None, **changes})


def test_sound_is_the_same_however_it_is_kept(tmp_path):
    levels = (0.1, 0.2, 0.3, 0.4)
    (tmp_path / "a.wav").write_bytes(file(*levels))
    for audio in (tmp_path / "a.wav", file(*levels), (samples(*levels), RATE), file(*levels, channels=2)):
        one = Recording("a", "x", audio)
        for start, duration, want in (
            (None, None, levels),
            (0.1, 0.2, (0.2, 0.3)),
            (0.3, None, (0.4,)),
            (0, 9, levels),
        ):
            waveform, rate = sound_of(replace(one, start=start, duration=duration))
            assert rate == RATE and waveform.dtype == torch.float32
            torch.testing.assert_close(waveform, samples(*want), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audio": None}, "no audio"),
        ({"audio": b"no sound"}, "cannot be read"),
        ({"audio": "nowhere/a.wav"}, "cannot be read"),
        ({"audio": file()}, "holds 0 samples"),
        ({"audio": file(0.1), "start": 0.1}, r"it has 0.10 s, and start is 0.1 s"),
        ({"audio": (samples(0.1), RATE), "start": 2.0}, "ends before the start"),
        ({"audio": (torch.tensor([0.0, float("nan")]), RATE)}, "1 NaN or infinite of 2"),
        ({"audio": file(0.1), "duration": 1e-9}, "holds 0 samples"),
    ],
)
def test_sound_that_cannot_be_had(changes, message):
    with pytest.raises(ValueError, match=message):
        sound_of(Recording("a", "x", **changes))


def test_sound_becomes_tokens(tmp_path):
    (tmp_path / "b.wav").write_bytes(file(0.3, 0.4, 0.5))
    recordings = [
        Recording("a", "ab", (samples(0.1, 0.2), RATE)),
        Recording("b", "c", tmp_path / "b.wav", start=0.1, duration=0.1, source="mms"),
        Recording("c", "d", file(0.5, 0.6, rate=16_000)),
        Recording("d", "e", tokens=[9, 9]),
    ]
    made = quietly(recordings, encode=encode)
    assert [(u.id, u.tokens.tolist(), u.prompt.text.tolist(), u.source) for u in made] == [
        ("a", [1, 2], [0, 1], "real"),
        ("b", [4], [2], "mms"),
        ("c", [5, 6], [3], "real"),
        ("d", [9, 9], [4], "real"),
    ]
    assert all(u.prompt.style is None and u.prompt.timbre is None for u in made)


def test_calls_of_the_encoder_are_small_and_of_one_rate():
    calls = []

    class Backbone:
        def encode(self, waveforms, sample_rate):
            calls.append((len(waveforms), sample_rate))
            return encode(waveforms, sample_rate)

    rates = [8000, 8000, 16_000, 8000, 16_000]
    recordings = [Recording(f"u{i}", "x", (samples(0.1 * i, rate=rate), rate)) for i, rate in enumerate(rates)]
    made = quietly(recordings, encode=Backbone(), batch_size=3)
    assert calls == [(2, 8000), (1, 16_000), (1, 8000), (1, 16_000)]
    assert [u.tokens.tolist() for u in made] == [[0], [1], [2], [3], [4]]


def test_bad_recordings_are_refused_and_counted():
    def picky(waveforms, sample_rate):
        if any(float(wave.max()) > 0.85 for wave in waveforms):
            raise ValueError("too loud: turn it down")
        return encode(waveforms, sample_rate)

    def tokenize(text):
        if text == "bad":
            raise ValueError("no such letters: use others")
        return letters(text) if text != "none" else []

    recordings = [
        Recording("fine", "x", (samples(0.1, 0.2), RATE)),
        Recording("loud", "x", (samples(0.9), RATE)),  # in one call with the one before, which is kept
        Recording("mute", "x"),
        Recording("empty", "x", (torch.zeros(0), RATE)),
        Recording("broken", "x", b"no sound"),
        Recording("none", "none", tokens=[1, 1]),
        Recording("bad", "bad", tokens=[1, 1]),
        Recording("short", "x", tokens=[1]),
        Recording("long", "x", tokens=[1] * 5),
        Recording("large", "x", tokens=[10, 10]),
        Recording("fine", "x", tokens=[2, 2]),
    ]
    refused: list[Refused] = []
    with pytest.warns(UserWarning, match="10 of 11 rows refused"):
        made = prepare(
            recordings,
            tokenize,
            picky,
            references=None,
            min_frames=2,
            max_frames=4,
            vocab_size=10,
            progress=False,
            refused=refused,
        )
    assert [(u.id, u.tokens.tolist()) for u in made] == [("fine", [1, 2])]
    want = ["too loud", "no audio", "holds 0 samples", "cannot be read", "Prompt.text is empty", "no such letters"]
    want += ["out of range: 1 speech tokens, allowed 2..4", "out of range: 5", "speech tokens hold id 10"]
    want += ["duplicate of recording 0"]
    assert [(r.where, part) for r, part in zip(refused, want, strict=True) if part in r.reason] == [
        (f"recording {number}", part) for number, part in enumerate(want, 1)
    ]


def test_under_raise_the_first_fault_ends_the_work_before_anything_is_encoded():
    def never(waveforms, sample_rate):
        raise AssertionError("encoded for nothing")

    recordings = [Recording("a", "x", (samples(0.1), RATE)), Recording("a", "y", (samples(0.1), RATE))]
    with pytest.raises(ValueError, match=r"recording 1 \(id 'a'\): id 'a' is a duplicate"):
        quietly(recordings, encode=never, on_bad="raise")


def test_other_errors_of_the_encoder_are_not_swallowed():
    def full(waveforms, sample_rate):
        raise RuntimeError("out of memory")

    def short(waveforms, sample_rate):
        return Speech.pack([[1]])

    recordings = [Recording(key, "x", (samples(0.1), RATE)) for key in "ab"]
    with pytest.raises(RuntimeError, match="out of memory"):
        quietly(recordings, encode=full)
    with pytest.raises(ValueError, match="encode gave 1 rows for 2 waveforms"):
        quietly(recordings, encode=short)
    with pytest.raises(Unsupported, match="Toy has no encode"):
        quietly(recordings, encode=Toy())
    with pytest.raises(ValueError, match="pass encode="):
        quietly(recordings)
    with pytest.raises(ValueError, match="the encoder made none"):
        quietly(recordings, encode=lambda waveforms, rate: Speech.pack([[]] * len(waveforms)))


def test_a_reference_is_another_recording_of_the_speaker():
    recordings = [
        said("a", "ab", timbre=torch.ones(1)),
        said("bb", "cd", timbre=torch.ones(2)),
        said("ccc", "ef", speaker="bea", timbre=torch.ones(3)),
        said("dddd", "gh", speaker="bea", timbre=torch.ones(4)),
    ]
    made = quietly(recordings, references="speaker")
    assert [(u.prompt.style.tokens[0].item(), u.prompt.timbre.numel()) for u in made] == [
        (2, 2),
        (1, 1),
        (4, 4),
        (3, 3),
    ]
    assert [u.prompt.style.text.tolist() for u in made] == [[2, 3], [0, 1], [6, 7], [4, 5]]
    assert [u.tokens[0].item() for u in made] == [1, 2, 3, 4]


def test_a_recording_itself_is_a_reference_only_where_it_is_asked_for():
    (made,) = quietly([said("a", "ab", speaker=None, timbre=torch.ones(1))], references="self")
    assert torch.equal(made.prompt.style.tokens, made.tokens) and made.prompt.style.text.tolist() == [0, 1]
    (made,) = quietly([said("a", "ab", speaker=None, timbre=torch.ones(1))])
    assert made.prompt.style is None and made.prompt.timbre.numel() == 1


def test_speakers_who_say_nothing_else_are_refused_or_left_without_style():
    recordings = [
        said("a", "ab"),
        said("bb", "cd"),
        said("c", "ef", speaker="once", timbre=torch.ones(1)),
        said("d", "gh", speaker="twice the same"),
        said("e", "gh", speaker="twice the same"),
        said("f", "ij", speaker=None),
    ]
    refused: list[Refused] = []
    with pytest.warns(UserWarning, match="4 of 6 rows refused"):
        assert [u.id for u in quietly(recordings, references="speaker", refused=refused)] == ["a", "bb"]
    assert [r.reason.split(":")[0] for r in refused] == ["no reference"] * 3 + ["the speaker is unknown"]
    assert "speaker 'once' says nothing else; alone='plain'" in refused[0].reason
    with pytest.warns(UserWarning, match="3 of 5 utterances have no style"):
        made = quietly(recordings[:5], references="speaker", alone="plain")
    assert [u.prompt.style is None for u in made] == [False, False, True, True, True]
    assert made[2].prompt.timbre.numel() == 1  # of itself
    with pytest.raises(ValueError, match="the speaker is unknown: name the column"):
        quietly(recordings[5:], references="speaker")


def test_timbres_are_computed_once_for_what_is_used():
    heard = []

    def timbre(waveform, rate):
        heard.append(round(10 * float(waveform[0])))
        if heard[-1] == 9:
            raise ValueError("hoarse")
        return torch.tensor([heard[-1]])

    def one(i, **changes):
        return Recording(f"u{i}", "abcdefghij"[i], (samples(i / 10), RATE), [i] * 80, "ann", **changes)

    made = quietly([one(i) for i in range(8)], references="speaker", per_speaker=2, timbre=timbre)
    assert len(heard) == 2 and {int(u.prompt.timbre) for u in made} == set(heard)
    assert all(u.prompt.timbre.item() == u.prompt.style.tokens[0].item() != u.tokens[0].item() for u in made)
    heard.clear()
    with pytest.warns(
        UserWarning, match="1 of 2 rows refused(?s:.)*that of the reference 'u9' cannot be computed .hoarse"
    ):
        made = quietly([one(0), one(9)], references="speaker", timbre=timbre)
    assert [u.id for u in made] == ["u9"]


def test_what_cannot_give_a_timbre_is_no_reference():
    deaf = said("a", "ab", audio=None)
    made = quietly(
        [deaf, *(said(key, key, audio=(samples(0.1), RATE)) for key in ("b", "c"))],
        references="speaker",
        timbre=lambda waveform, rate: torch.ones(1),
    )
    assert all(u.prompt.style.text.tolist() != [0, 1] for u in made) and len(made) == 3


def test_utterances_are_what_is_written(tmp_path):
    recordings = [said(f"u{i}", "abcdef"[i : i + 2], timbre={"embedding": torch.randn(4)}) for i in range(4)]
    write_utterances(tmp_path / "u.parquet", quietly(recordings, references="speaker"))
    assert [u.prompt.style.tokens.tolist() for u in read_utterances(tmp_path / "u.parquet")] == [[2] * 80] * 4


@pytest.mark.parametrize(
    ("argument", "value"), [("references", "other"), ("alone", "drop"), ("per_speaker", 1), ("on_bad", "skip")]
)
def test_arguments_out_of_range(argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be"):
        quietly([said("a", "ab"), said("b", "cd")], **{argument: value})


def spoken(rows):
    return {
        i: Spoken(f"u{i}", speaker, torch.tensor([text]), torch.zeros(length), usable)
        for i, (speaker, text, length, usable) in enumerate(rows)
    }


rows_of_speech = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.sampled_from([10, 80, 200, 400]), st.booleans()), max_size=12
)


@given(rows_of_speech, st.sampled_from([None, 2, 3]), st.integers(0, 3))
def test_what_any_reference_is(rows, per_speaker, seed):
    table = spoken(rows)
    chosen = choose(table, (75, 250), per_speaker, seed)
    assert chosen.keys() == table.keys()
    for i, other in chosen.items():
        may = [
            j
            for j, item in table.items()
            if item.speaker == table[i].speaker and item.usable and rows[j][1] != rows[i][1]
        ]
        assert (other is None) == (not may) and (other is None or other in may)
        good = [j for j in may if 75 <= rows[j][2] <= 250]
        if other is not None and per_speaker is None:  # a good length, or else the nearest
            assert other in good if good else abs(rows[other][2] - 75) in (65, 325) and other in may
    if per_speaker is not None:
        for speaker in "ab":
            assert len({j for i, j in chosen.items() if j is not None and rows[i][0] == speaker}) <= per_speaker


def test_references_depend_on_seed_and_id_and_not_on_the_order():
    table = spoken([("a", i, 80 + i, True) for i in range(30)])
    first = choose(table)
    turned = choose(dict(reversed(table.items())))
    assert first == turned and first != choose(table, seed=1)
    assert len(set(first.values())) > 10  # spread over the recordings
    assert set(choose(table, per_speaker=3).values()) == set(choose(table, per_speaker=3).values())


def test_the_nearest_length_is_taken_where_none_is_good():
    chosen = choose(spoken([("a", 0, 10, True), ("a", 1, 60, True), ("a", 2, 300, True), ("a", 3, 700, True)]))
    assert chosen == {0: 1, 1: 2, 2: 1, 3: 1}
