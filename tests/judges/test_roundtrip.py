"""The criterion that needs no speech recogniser, on a token language whose every sound is known."""

from __future__ import annotations

import math

import pytest
import torch

from seaalign import Candidate, Prompt, Sentence, Utterance
from seaalign.judges.roundtrip import RoundTrip, TokenRecogniser, fit

GAP = 8


def say(text, sound=lambda symbol: symbol) -> list[int]:
    """Symbol s sounds as 2s 2s 2s+1, then a gap; `sound` says it as another one."""
    return [token for symbol in text for token in (*[2 * sound(symbol)] * 2, 2 * sound(symbol) + 1, GAP)]


def lessons(sound=lambda symbol: symbol) -> list[Utterance]:
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(4, (1 + i % 4,), generator=generator).tolist() for i in range(100)]
    return [Utterance(f"u{i}", Prompt(text), say(text, sound)) for i, text in enumerate(texts)]


def candidate(text, tokens) -> Candidate:
    return Candidate(Sentence("s", "as people write it", Prompt(text)), torch.tensor(tokens, dtype=torch.long))


@pytest.fixture(scope="module")
def recogniser() -> TokenRecogniser:
    made = TokenRecogniser.of(lessons(), width=32)
    fit(made, lessons(), steps=150)
    return made


def test_the_error_is_the_edit_distance_per_text_id(recogniser):
    text = [0, 3, 3, 1, 2]
    said = [text, [0, 3, 1, 2], [0, 3, 3, 1, 2, 2], [0, 2, 3, 2, 2], [1], [0, 1, 2, 3] * 3]
    verdicts = RoundTrip(recogniser)([candidate(text, say(row)) for row in said])
    # by hand: right; one left out; one too many; two replaced; all but one left out; and far too many
    errors = [0.0, 0.2, 0.2, 0.4, 0.8]
    assert [v.scores["roundtrip"] for v in verdicts[:5]] == pytest.approx(errors)
    assert verdicts[5].scores["roundtrip"] > 1
    assert [v.status for v in verdicts] == ["ok"] * 3 + ["reject"] * 3  # 0.4 is not below 0.4
    assert verdicts[3].reasons == ("intelligibility",) and verdicts[0].transcript == "0 3 3 1 2"
    assert verdicts[0].scores["surprise"] < 0.5 < verdicts[3].scores["surprise"] < verdicts[4].scores["surprise"]


def test_of_equal_errors_the_less_surprising_ranks_first_and_never_before_a_smaller_error(recogniser):
    text = [0, 1, 2, 3]
    clear, doubtful = say(text), [GAP if i in (1, 4) else token for i, token in enumerate(say(text))]
    rows = [candidate(text, tokens) for tokens in (clear, doubtful, say([0, 1, 2]))]
    scores = [verdict.scores for verdict in RoundTrip(recogniser)(rows)]
    assert scores[0]["roundtrip"] == scores[1]["roundtrip"] == 0.0 and scores[0]["surprise"] < scores[1]["surprise"]
    assert scores[0]["error"] < scores[1]["error"] < scores[2]["error"]
    # even the largest surprise is far less than one wrong id of ten thousand
    assert all(0 <= row["error"] - row["roundtrip"] <= 2.1e-5 for row in scores)


@pytest.mark.parametrize("tokens", [[], [GAP] * 6])
def test_nothing_heard_is_the_worst_and_never_zero(recogniser, tokens):
    assert recogniser.recognise([tokens]) == [()]
    (verdict,) = RoundTrip(recogniser, max_error=5.0)([candidate([1], tokens)])
    assert verdict.scores["roundtrip"] == 1.0 <= verdict.scores["error"] and verdict.transcript == ""
    assert verdict.status == "reject", "however lenient, silence is not the text"


def test_a_text_longer_than_its_speech_is_rejected_and_every_score_is_finite(recogniser):
    verdicts = RoundTrip(recogniser)([candidate([1, 1, 1, 1] * 500, say([1])), candidate([77, 78], say([1, 2]))])
    assert [v.status for v in verdicts] == ["reject", "reject"]
    assert all(math.isfinite(score) for v in verdicts for score in v.scores.values())
    assert verdicts[1].scores["roundtrip"] == 1.0, "text ids without lessons are never heard"


def test_no_candidates_no_verdicts_and_company_changes_nothing(recogniser):
    criterion = RoundTrip(recogniser)
    assert criterion([]) == []
    rows = [candidate([0, 1], say([0, 1])), candidate([2], say([2, 3])), candidate([3, 3], say([3]))]
    assert criterion(rows) == [criterion([row])[0] for row in rows]


def test_mining_takes_it_for_the_listening_criterion(recogniser):
    assert RoundTrip(recogniser).name == "intelligibility" and RoundTrip(recogniser).needs_audio is False


def test_the_fingerprint_is_that_of_settings_and_weights(recogniser, tmp_path):
    recogniser.save(tmp_path / "r.pt")
    again = TokenRecogniser.load(tmp_path / "r.pt")
    first = RoundTrip(recogniser).fingerprint
    assert RoundTrip(again).fingerprint == first != RoundTrip(recogniser, max_error=0.5).fingerprint
    with torch.no_grad():
        again.embed.weight[0, 0] += 1e-3
    assert RoundTrip(again).fingerprint != first


def test_what_its_lessons_say_wrongly_it_cannot_reject():
    """The limit of the method: model and recogniser have one teacher. Here the teacher takes 1 for 2 and 2 for 1."""
    swapped = {1: 2, 2: 1}
    teacher = lessons(sound=lambda symbol: swapped.get(symbol, symbol))
    misled = TokenRecogniser.of(teacher, width=32)
    fit(misled, teacher, steps=150)
    wrong, right = RoundTrip(misled)([candidate([0, 2], say([0, 1])), candidate([0, 2], say([0, 2]))])
    assert wrong.ok and wrong.scores["roundtrip"] == 0.0
    assert not right.ok and right.scores["roundtrip"] == 0.5


def test_it_refuses_a_recogniser_that_cannot_judge(recogniser):
    with pytest.raises(ValueError, match=r"untrained: .*fit\(recogniser, utterances\) first"):
        RoundTrip(TokenRecogniser(codes=4, symbols=[0, 1]))
    weak = TokenRecogniser.of(lessons(), width=8)
    fit(weak, lessons(), steps=1)
    with pytest.raises(ValueError, match="% of the text ids wrong .* who gets more than 40% wrong: train it longer"):
        RoundTrip(weak)
    with pytest.raises(ValueError, match="max_error must be above 0, got 0.0"):
        RoundTrip(recogniser, max_error=0.0)
