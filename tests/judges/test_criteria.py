"""What each criterion accepts, by numbers that a person can redo, and how it fails."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from seaalign.judges import Duration, Intelligibility, Judge, JudgeError, Repetition, SpeakerSimilarity
from seaalign.judges.transcribers import ByLanguage, Transcriber
from seaalign.records import Candidate, Prompt, Sentence, Utterance, Verdict
from seaalign.storage import write_utterances
from seaalign.testing import check_judge

RATE = 16_000


def said(text, tokens=(1, 2, 3), language=None, ids=(1,), **more) -> Candidate:
    sentence = Sentence(more.pop("id", "s"), text, Prompt(ids), language)
    return Candidate(sentence, torch.as_tensor(tokens, dtype=torch.long), **more)


# repetition


def test_repetition_is_strictly_below_the_rate():
    """10 tokens, k = 4: 6 positions. Runs of 5 and 6 equal tokens begin at 1 and 2 of them."""
    rows = [[1, 2, 3, 4, 5, 6, 7, 8, 9, 0], [7, 7, 7, 7, 7, 1, 2, 3, 4, 5], [7, 7, 7, 7, 7, 7, 1, 2, 3, 4]]
    verdicts = Repetition(max_rate=1 / 6)([said("x", row) for row in rows])
    assert [v.scores["repetition"] for v in verdicts] == pytest.approx([0, 1 / 6, 2 / 6])
    assert [v.reasons for v in Repetition(0.17)([said("x", row) for row in rows])] == [(), (), ("repetition",)]
    edge = Repetition(0.5)([said("x", [7] * 5 + [1])])[0]  # one of two positions: not below
    assert edge == Verdict.reject("repetition", scores={"repetition": 0.5})


def test_repetition_of_short_and_of_multi_codebook_speech():
    short, books = [7, 7, 7, 7], torch.tensor([[7, n] for n in range(10)])
    verdicts = Repetition()([said("x", short), said("x", []), said("x", books), said("x", books.flip(1))])
    assert [v.scores["repetition"] for v in verdicts] == [0.0, 0.0, 1.0, 0.0]
    assert Repetition(k=2)([said("x", short)])[0].scores["repetition"] == 1.0
    assert Repetition()([]) == []


def test_repetition_refuses_nonsense():
    for settings in ((0.0, 4), (1.5, 4), (0.1, 0)):
        with pytest.raises(ValueError, match="0 < max_rate <= 1 and k >= 1"):
            Repetition(*settings)


# duration


def test_duration_accepts_both_bounds_and_nothing_that_was_cut():
    """Ten frames per text id, three ids: 15 to 60 frames."""
    rule = Duration(0.5, 2.0, per_unit=10)
    verdicts = rule([said("x", range(n), ids=[1, 2, 3]) for n in (14, 15, 60, 61)])
    assert [v.ok for v in verdicts] == [False, True, True, False]
    assert verdicts[0] == Verdict.reject("length", scores={"tokens_per_unit": 14 / 3})
    assert rule([said("x", range(30), ids=[1, 2, 3], ended=False)])[0].reasons == ("length",)


@pytest.mark.parametrize(("unit", "count"), [("token", 3), ("character", 10), ("word", 2), ("grapheme", 9)])
def test_duration_counts_what_it_is_told_to(unit, count):
    """Blanks count nowhere, the exclamation mark as a character only."""
    (verdict,) = Duration(unit=unit, per_unit=3)([said("wide world!", range(90), ids=[5, 6, 7])])
    assert verdict.scores["tokens_per_unit"] == pytest.approx(90 / count)


@pytest.mark.parametrize("unit", ["token", "character", "grapheme", "word"])
@pytest.mark.parametrize(("text", "ids"), [("a", 1), ("ab cd" * 400, 2000)])
def test_texts_of_one_character_and_of_two_thousand(unit, text, ids):
    rule = Duration(unit=unit, per_unit=2)
    count = {"token": ids, "word": len(text.split())}.get(unit, len(text.replace(" ", "")))
    rows = [said(text, range(n), ids=[1] * ids) for n in (count - 1, count, 4 * count, 4 * count + 1)]
    assert [v.ok for v in rule(rows)] == [False, True, True, False]


def test_duration_is_calibrated_on_data(tmp_path):
    """10, 12 and 100 frames per text id: the median minds no runaway."""
    rows = [Utterance(f"u{n}", Prompt([1, 2]), range(2 * n)) for n in (10, 12, 100)]
    assert Duration(data=rows).per_unit == 12.0
    write_utterances(tmp_path / "sft.parquet", rows)
    assert Duration(data=str(tmp_path / "sft.parquet")).per_unit == 12.0
    pairs = [(Sentence("s", "abcd", Prompt([1])), torch.arange(12)), (Sentence("t", "a b", Prompt([1])), range(10))]
    assert Duration(unit="character", data=pairs).per_unit == 4.0  # of 3 and 5
    assert Duration(unit="token", data=pairs).per_unit == 11.0


def test_duration_says_how_to_calibrate():
    with pytest.raises(
        ValueError, match=r"how many speech tokens a word of text takes.*Duration\(data='sft.parquet'\)"
    ):
        Duration(unit="word")
    row = Utterance("u", Prompt([1]), [1])
    for settings, message in [
        ({"low": 2.0, "per_unit": 1}, "0 <= low < high, got 2.0 and 2.0"),
        ({"unit": "syllable", "per_unit": 1}, "got 'syllable'"),
        ({"per_unit": 0.0}, "per_unit=0.0"),
        ({"per_unit": float("nan")}, "per_unit=nan"),
        ({"per_unit": 3.0, "data": [row]}, "give one of them"),
        ({"data": []}, "nothing to calibrate Duration on"),
        ({"data": [row], "unit": "word"}, r"text ids alone, not words: pass \(sentence, tokens\) pairs"),
    ]:
        with pytest.raises(ValueError, match=message):
            Duration(**settings)
    with pytest.raises(JudgeError, match=r"sentence 's' has no word: '\?!'; drop it"):
        Judge(Duration(unit="word", per_unit=1))([said("?!")])


# intelligibility


class Scripted(Transcriber):
    """Hears what the level of the waveform says: the line of that number."""

    def __init__(self, *lines):
        super().__init__("scripted", lines=lines)
        self.lines, self.calls = lines, []

    def transcribe(self, waveforms, sample_rate, language=None):
        self.calls.append((len(waveforms), sample_rate, language))
        return [self.lines[round(float(w[0]) * 100)] for w in waveforms]


def spoken(text, line, **more) -> Candidate:
    return said(text, waveform=torch.full((1600,), line / 100), sample_rate=more.pop("rate", RATE), **more)


def judged(wanted, *lines, **settings) -> list[Verdict]:
    return Intelligibility(Scripted(*lines), **settings)([spoken(wanted, n) for n in range(len(lines))])


def test_intelligibility_by_hand():
    """Of 4 words and 13 letters: all right, another one, one left out, two left out, five that were never said."""
    wanted = "one two six four"
    verdicts = judged(wanted, wanted, "One, two; six four!", "one too six four", "one six four", "one two", "x y z w v")
    assert [v.scores["wer"] for v in verdicts] == [0, 0, 0.25, 0.25, 0.5, 1.25]
    assert [v.scores["cer"] for v in verdicts[:5]] == pytest.approx([0, 0, 1 / 13, 3 / 13, 7 / 13])
    assert [v.scores["error"] for v in verdicts] == [0, 0, 0.25, 0.25, 0.5, 1.0]  # at most 1
    assert [v.reasons for v in verdicts] == [(), (), (), (), ("intelligibility",), ("intelligibility",)]
    assert verdicts[1].transcript == "One, two; six four!"
    (edge,) = judged("a b c d e", "a b c x y")
    assert edge.scores["error"] == 0.4 and not edge.ok  # strictly below


def test_graphemes_decide_where_words_cannot():
    """Half of the words are wrong, a tenth of the letters."""
    wanted, heard = "abcde fghij", "abcde fghix"
    (by_word,), (by_grapheme,) = judged(wanted, heard), judged(wanted, heard, unit="grapheme")
    assert (by_word.scores, by_word.ok) == ({"cer": 0.1, "wer": 0.5, "error": 0.5}, False)
    assert (by_grapheme.scores, by_grapheme.ok) == ({"cer": 0.1, "error": 0.1}, True)


@pytest.mark.parametrize("silence", ["", "   ", "...", "\u200b"])
@pytest.mark.parametrize("max_error", [0.4, 1.0])
def test_silence_is_the_worst_score(silence, max_error):
    quiet, babble, half = judged("one two", silence, "x y z w", "one x", max_error=max_error)
    assert quiet.scores == {"wer": 1.0, "cer": 1.0, "error": 1.0} and quiet.reasons == ("intelligibility",)
    assert quiet.scores["error"] >= max(babble.scores["error"], half.scores["error"]) and half.scores["error"] == 0.5


def test_a_transcript_in_another_language_is_a_high_error():
    for heard in ("สวัสดีชาวโลก", "안녕하세요", "привет мир"):
        (verdict,) = judged("hello world", heard)
        assert (
            verdict.reasons == ("intelligibility",) and verdict.scores["error"] == 1.0 and verdict.scores["cer"] >= 1.0
        )


def test_texts_of_one_character_and_of_two_thousand_are_compared():
    long = " ".join(["abcd"] * 400)  # 1,999 characters
    assert judged("a", "a")[0].ok and judged("a", "b")[0].scores["error"] == 1.0
    exact, one_off, flood = judged(long, long, long[:-4] + "abcx", "abcd")
    assert exact.scores["error"] == 0 and flood.scores["wer"] == 399 / 400
    assert one_off.scores == {"wer": 1 / 400, "cer": 1 / 1600, "error": 1 / 400}
    assert judged("a", long)[0].scores["error"] == 1.0


def test_one_call_for_each_language_and_rate_and_the_order_is_kept():
    ear = Scripted("zero", "one", "two", "three")
    tongues = ["th", "lo", "th", None, "lo", "th"]
    rates = [RATE, RATE, RATE, RATE, RATE, 8000]
    lines = [0, 1, 2, 3, 0, 1]
    rows = [
        spoken("zero", line, language=t, rate=r, id=f"s{i}")
        for i, (line, t, r) in enumerate(zip(lines, tongues, rates, strict=True))
    ]
    verdicts = Intelligibility(ear)(rows)
    assert ear.calls == [(2, RATE, "th"), (2, RATE, "lo"), (1, RATE, None), (1, 8000, "th")]
    assert [v.transcript for v in verdicts] == ["zero", "one", "two", "three", "zero", "one"]
    routed = Intelligibility(ByLanguage({"th": Scripted("zero"), None: Scripted("one")}))
    assert [v.ok for v in routed([spoken("zero", 0, language="lo"), spoken("zero", 0, language="th")])] == [False, True]


ANSWERS = {
    "nothing": (lambda waves: None, "NoneType for 1 waveforms"),
    "one text": (lambda waves: "hello", "str for 1 waveforms"),
    "none among texts": (lambda waves: [None] * len(waves), "answered None for waveform 0 of 1"),
    "number": (lambda waves: [0] * len(waves), "answered 0 for waveform 0 of 1"),
    "too few": (lambda waves: [""] * (len(waves) - 1), "0 texts for 1 waveforms"),
    "crash": (lambda waves: [][0], "IndexError"),
}


@pytest.mark.parametrize("wrong", ANSWERS)
@pytest.mark.parametrize("as_class", [True, False])
def test_a_transcriber_that_does_not_answer_is_an_error_and_no_score(wrong, as_class):
    answer, message = ANSWERS[wrong]
    if as_class:
        ear = Scripted("")
        ear.transcribe = lambda waveforms, rate, language=None: answer(waveforms)
    else:
        ear = lambda waveforms, rate: answer(waveforms)  # noqa: E731
    with pytest.raises(JudgeError, match=f"'intelligibility' failed 1 times on candidate a#0, 'hello': .*{message}"):
        Judge(Intelligibility(ear), retries=0)([spoken("hello", 0, id="a"), spoken("hello", 0, id="b")])


def test_what_cannot_be_judged_is_named():
    ear = Intelligibility(Scripted("hello"))
    with pytest.raises(ValueError, match=r"nothing is spoken in the text of sentence 'odd', '\?! \.\.\.': drop it"):
        ear([spoken("?! ...", 0, id="odd")])
    with pytest.raises(ValueError, match="s#0 has no waveform with a sample rate: decode it first"):
        ear([said("hello")])
    for settings in ({"max_error": 0}, {"max_error": 1.01}, {"unit": "letter"}):
        with pytest.raises(ValueError, match="0 < max_error <= 1 and unit 'word' or 'grapheme'"):
            Intelligibility(Scripted(), **settings)
    with pytest.raises(TypeError, match="Scripted is a class"):
        Intelligibility(Scripted)


def test_a_loser_passed_length_and_repetition():
    judge = Judge(Repetition(), Duration(per_unit=10), Intelligibility(Scripted("yes", "no")))
    rows = [spoken("yes", 0, tokens=range(10)), spoken("yes", 1, tokens=range(10)), spoken("yes", 1, tokens=[3] * 30)]
    verdicts = judge(rows)
    assert [v.reasons for v in verdicts] == [(), ("intelligibility",), ("repetition", "length")]
    assert set(verdicts[1].scores) == {"repetition", "tokens_per_unit", "wer", "cer", "error"}
    assert "error" not in verdicts[2].scores
    sounds = {id(row.tokens): row.waveform for row in rows}
    silent = Scripted("yes", "no")
    silent.lines = ("", "yes", "no")
    moved = [replace(row, waveform=sounds[id(row.tokens)] + 0.01) for row in rows]
    check_judge(Judge(Repetition(), Duration(per_unit=10), Intelligibility(silent)), moved)


def test_settings_of_criteria_are_in_their_fingerprints():
    a, b = Scripted("a"), Scripted("b")
    rules = [
        *(Intelligibility(a), Intelligibility(b), Intelligibility(a, 0.5), Intelligibility(a, unit="grapheme")),
        *(Duration(per_unit=1), Duration(per_unit=2), Duration(0.4, per_unit=1), Duration(per_unit=1, unit="word")),
    ]
    prints = [Judge(rule).fingerprint for rule in rules]
    assert len(set(prints)) == len(prints) and prints[0] == Judge(Intelligibility(Scripted("a"))).fingerprint


# speaker similarity


def spectrum(waveforms, rate):
    """An "encoder": power of the fundamental and of its overtones."""
    return torch.stack([torch.fft.rfft(w[:800]).abs()[:50] for w in waveforms])


def tone(hertz) -> torch.Tensor:
    return torch.sin(2 * torch.pi * hertz * torch.arange(1600) / RATE)


def test_the_same_voice_is_near_and_another_is_far():
    rule = SpeakerSimilarity({"s": tone(200)}, 0.5, spectrum)
    rows = [said("x", waveform=w, sample_rate=RATE) for w in (0.3 * tone(200), tone(600), torch.zeros(1600))]
    same, other, silence = rule(rows)
    assert same.ok and same.scores["similarity"] == pytest.approx(1.0, abs=1e-5)
    assert other.reasons == ("similarity",) and other.scores["similarity"] < 0.1
    assert silence == Verdict.reject("similarity", scores={"similarity": -1.0})
    by_function = SpeakerSimilarity(lambda c: tone(200 if c.index == 0 else 600), 0.5, spectrum)
    twin = [replace(rows[0], index=n) for n in range(2)]
    assert [v.ok for v in by_function(twin)] == [True, False]  # each time a new recording
    check_judge(rule, [rows[0], rows[1]])


def test_similarity_fails_closed():
    row = said("x", waveform=tone(200), sample_rate=RATE)
    with pytest.raises(JudgeError, match="no reference recording of sentence 's': add one under its id"):
        Judge(SpeakerSimilarity({"t": tone(200)}, 0.5, spectrum))([row])
    with pytest.raises(JudgeError, match="the reference of s#0 holds 0 samples"):
        Judge(SpeakerSimilarity({"s": torch.zeros(0)}, 0.5, spectrum))([row])
    with pytest.raises(JudgeError, match=r"\{'similarity': nan\} are not finite"):
        Judge(SpeakerSimilarity({"s": tone(200)}, 0.5, lambda w, r: torch.full((1, 4), torch.nan)))([row])
    with pytest.raises(ValueError, match="a cosine, from -1 to 1, got 25"):
        SpeakerSimilarity({}, 25, spectrum)
    voices = [Judge(SpeakerSimilarity({"s": tone(n)}, 0.5, spectrum)).fingerprint for n in (200, 200, 300)]
    assert voices[0] == voices[1] != voices[2]


RECIPE = """
sample_rate: 16000
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: 16
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: 16
    channels: [16, 16, 16, 16, 48]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: 8
    res2net_scale: 4
    se_channels: 8
    lin_neurons: 12
classifier: !new:torch.nn.Linear
    in_features: 12
    out_features: 2
modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    classifier: !ref <classifier>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
        classifier: !ref <classifier>
"""


@pytest.mark.audio
def test_an_ecapa_model_is_loaded_from_its_folder(tmp_path):
    """Random weights, laid out on disk as spkrec-ecapa-voxceleb is."""
    from seaalign.audio import speaker_encoder, speechbrain

    speechbrain()
    from hyperpyyaml import load_hyperpyyaml

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "hyperparams.yaml").write_text(RECIPE)
    torch.manual_seed(0)
    recipe = load_hyperpyyaml(RECIPE)
    model = recipe["embedding_model"]
    torch.save(recipe["classifier"].state_dict(), tmp_path / "model" / "classifier.ckpt")
    torch.save(model.state_dict(), tmp_path / "model" / "embedding_model.ckpt")
    voice = torch.randn(RATE, generator=torch.Generator().manual_seed(0)) * 0.1
    source = str(tmp_path / "model")
    embed = speaker_encoder(source)
    one, other = embed([voice, 0.1 * tone(300).repeat(10)], RATE)
    assert one.shape == (12,) and not torch.allclose(one, other)
    half = voice.reshape(-1, 2).mean(1)
    assert embed([half], 8000).shape == (1, 12)  # resampled
    rule = SpeakerSimilarity({"s": voice}, 0.999, source)
    rows = [said("x", waveform=w, sample_rate=RATE) for w in (voice, 0.1 * tone(300).repeat(10), voice[:8000])]
    verdicts = rule(rows)
    cosine = float(torch.nn.functional.cosine_similarity(one, other, dim=0))
    assert verdicts[0].scores["similarity"] == pytest.approx(1.0, abs=1e-5) and verdicts[0].ok
    assert verdicts[1].scores["similarity"] == pytest.approx(cosine, abs=1e-5)
    check_judge(rule, rows)
    assert Judge(rule).fingerprint == Judge(SpeakerSimilarity({"s": voice}, 0.999, source)).fingerprint
    with torch.no_grad():
        model.fc.conv.weight.add_(0.1)
    torch.save(model.state_dict(), tmp_path / "model" / "embedding_model.ckpt")
    assert Judge(rule).fingerprint != Judge(SpeakerSimilarity({"s": voice}, 0.999, source)).fingerprint


def test_without_speechbrain_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "speechbrain", None)
    with pytest.raises(ImportError, match="pip install"):
        SpeakerSimilarity({})


def test_importing_the_judges_loads_no_recogniser():
    heavy = "transformers", "speechbrain", "torchaudio", "soundfile", "pyarrow", "pythainlp", "faster_whisper"
    code = f"import sys, seaalign.judges; print({set(heavy)} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
