"""Composition, and that a judge fails closed: every wrong answer of a criterion stops the run, with a name."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seaalign.judges import Criterion, Judge, JudgeError, Repetition
from seaalign.judges.fingerprint import described
from seaalign.records import Candidate, Prompt, Sentence, Verdict
from seaalign.testing import JudgeFault, check_judge

RATE = 8000


def candidates(count: int, size: int = 6) -> list[Candidate]:
    return [
        Candidate(Sentence(f"s{i}", f"text {i}", Prompt([i + 1])), (torch.arange(size) + i) % 50, index=i % 3)
        for i in range(count)
    ]


def decode(batch):
    return [replace(c, waveform=0.1 * torch.ones(RATE) * (1 + c.tokens[0]), sample_rate=RATE) for c in batch]


class Rule(Criterion):
    """Rejects by a function of the candidate, and counts what it was asked."""

    def __init__(self, name, accepts, needs_audio=False, score=None):
        self.name, self.accepts, self.needs_audio, self.score, self.seen = name, accepts, needs_audio, score, []

    def __call__(self, batch):
        self.seen.append([c.name for c in batch])
        scores = [{} if self.score is None else {self.score: float(c.tokens[0])} for c in batch]
        return [
            Verdict.accept(s) if self.accepts(c) else Verdict.reject("whatever", scores=s)
            for c, s in zip(batch, scores, strict=True)
        ]


def first(number):
    return lambda candidate: int(candidate.tokens[0]) % number != 0


# composition


def test_listening_is_left_for_those_that_passed_everything_else():
    decoded = []

    def decoding(batch):
        decoded.append([c.name for c in batch])
        return decode(batch)

    two, three, ear = Rule("two", first(2)), Rule("three", first(3)), Rule("ear", lambda c: c.waveform[0] < 0.7, True)
    rows = candidates(12)
    verdicts = Judge(ear, two, three, batch=5)(rows, decoding)
    survivors = [c.name for c in rows if int(c.tokens[0]) % 2 and int(c.tokens[0]) % 3]  # 1, 5, 7, 11
    assert [name for batch in decoded for name in batch] == survivors == [name for batch in ear.seen for name in batch]
    assert two.seen == three.seen == [[c.name for c in rows[i : i + 5]] for i in (0, 5, 10)]
    expected = [("two", "three"), (), ("two",), ("three",), ("two",), (), ("two", "three")]  # 0.1 * 6 < 0.7
    assert [v.reasons for v in verdicts[:7]] == expected and verdicts[7].reasons == ("ear",)


@given(st.lists(st.tuples(st.booleans(), st.sets(st.integers(0, 8))), min_size=1, max_size=5), st.integers(1, 10))
def test_reasons_are_the_union(rules, batch):
    """Against the definition, written out: every silent criterion, and where those accept, every listening one."""
    criteria = [
        Rule(f"c{n}", lambda c, bad=bad: int(c.tokens[0]) not in bad, audio) for n, (audio, bad) in enumerate(rules)
    ]
    rows = candidates(9)
    verdicts = Judge(*criteria, batch=batch)(rows, decode)
    for number, verdict in enumerate(verdicts):
        silent = {f"c{n}" for n, (audio, bad) in enumerate(rules) if not audio and number in bad}
        heard = {f"c{n}" for n, (audio, bad) in enumerate(rules) if audio and number in bad}
        assert set(verdict.reasons) == (silent or heard)
        assert verdict.ok == (not silent and not heard)
        assert len(set(verdict.reasons)) == len(verdict.reasons)


def test_scores_and_transcripts_are_put_together():
    def ear(batch):
        return [Verdict.reject("x", scores={"error": 0.5, "wer": 0.5}, transcript="heard") for _ in batch]

    verdict = Judge(Rule("a", first(99), score="error"), ear)(candidates(2), decode)[1]
    assert verdict == Verdict("reject", ("ear",), {"error": 1.0, "ear.error": 0.5, "wer": 0.5}, "heard")


def test_functions_stand_among_criteria():
    def loud(batch):
        return [Verdict.accept({"peak": float(c.waveform.max())}) for c in batch]

    def short(batch, limit):
        return [Verdict.accept() if len(c.tokens) < limit else Verdict.reject("long") for c in batch]

    bounded = functools.partial(short, limit=3)
    assert Judge(loud)(candidates(2), decode)[1].scores == {"peak": pytest.approx(0.2)}
    with pytest.raises(ValueError, match="'short' listens, but 2 of 2 candidates have no waveform, first s0#0"):
        Judge(bounded)(candidates(2))
    bounded.needs_audio = False
    assert Judge(bounded)(candidates(1))[0].reasons == ("short",)


def test_what_brings_a_waveform_is_not_decoded_again():
    rows = candidates(4)
    rows[2] = replace(rows[2], waveform=torch.full((9,), 0.25), sample_rate=RATE)
    asked = []

    def decoding(batch):
        asked.extend(c.name for c in batch)
        return decode(batch)

    verdicts = Judge(lambda batch: [Verdict.accept({"first": float(c.waveform[0])}) for c in batch])(rows, decoding)
    assert asked == ["s0#0", "s1#1", "s3#0"]
    assert [v.scores["first"] for v in verdicts] == pytest.approx([0.1, 0.2, 0.25, 0.4])


def test_nothing_said_is_rejected_and_not_decoded():
    verdicts = Judge(Rule("ear", first(99), True))(candidates(2, size=0), decode=None)
    assert [v.reasons for v in verdicts] == [("empty",)] * 2
    assert Judge(Repetition())(candidates(1, size=0))[0].reasons == ("empty",)
    assert Judge(Repetition())([]) == []


def test_a_judge_of_nonsense_is_refused():
    ear = Rule("ear", first(2))
    for criteria, error, message in [
        ((), ValueError, "at least one criterion"),
        ((ear, Rule("ear", first(3))), ValueError, r"several criteria are called \['ear'\]"),
        ((Repetition,), TypeError, r"Repetition is a class: construct it, as in Repetition\(...\)"),
        ((Judge(ear),), TypeError, r"a judge is no criterion: .*Judge\(\*judge.criteria"),
        (("wer",), TypeError, "'wer' is no criterion"),
    ]:
        with pytest.raises(error, match=message):
            Judge(*criteria)
    for settings in ({"retries": -1}, {"batch": 0}, {"timeout": 0}, {"timeout": float("nan")}):
        with pytest.raises(ValueError, match="retries >= 0, batch >= 1 and timeout > 0"):
            Judge(ear, **settings)


# failing closed


WRONG = {
    "none": (lambda good: None, "TypeError: it returned None, expected a list of 1 verdicts"),
    "text": (lambda good: "ok", "TypeError: it returned 'ok'"),
    "too few": (lambda good: good[1:], "ValueError: it returned 0 verdicts for 1 candidates"),
    "too many": (lambda good: [*good, *good], "ValueError: it returned 2 verdicts for 1 candidates"),
    "no verdict": (lambda good: [0.0] * len(good), "TypeError: it returned 0.0 among its verdicts"),
    "abstains": (lambda good: [None] * len(good), "TypeError: it returned None among its verdicts"),
    "failed": (lambda good: [Verdict.failed("no GPU")] * len(good), "RuntimeError: it could not say: no GPU"),
    "nan": (lambda good: [Verdict.accept({"error": float("nan")})] * len(good), r"scores \{'error': nan\} are not fin"),
    "inf": (lambda good: [Verdict.reject("x", scores={"e": float("inf")})] * len(good), "not finite"),
    "no number": (lambda good: [Verdict.accept({"error": "low"})] * len(good), "ValueError: could not convert"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_whatever_is_no_verdict_stops_the_run_and_names_the_candidate(wrong):
    """One candidate of 40; the others are judged as ever."""
    answer, message = WRONG[wrong]

    def ear(batch):
        good = [Verdict.accept() for _ in batch]
        return answer(good) if any(c.name == "s27#0" for c in batch) else good

    with pytest.raises(JudgeError, match=message) as caught:
        Judge(ear, retries=1)(candidates(40), decode)
    error = caught.value
    assert "criterion 'ear' failed 2 times on candidate s27#0, 'text 27'" in str(error)
    assert (error.who, error.candidates, error.sentence) == ("criterion 'ear'", ("s27#0",), "text 27")
    assert isinstance(error.__cause__, Exception) and isinstance(error, RuntimeError)
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and again.candidates == error.candidates


@pytest.mark.parametrize("timeout", [None, 20.0])
def test_a_crash_is_retried_in_the_batch_and_then_alone(timeout):
    calls = []

    def ear(batch):
        calls.append(len(batch))
        if any(c.name == "s7#1" for c in batch):
            raise ConnectionError("refused")
        return [Verdict.accept() for _ in batch]

    with pytest.raises(JudgeError, match="candidate s7#1, 'text 7': ConnectionError: refused"):
        Judge(ear, retries=2, batch=4, timeout=timeout)(candidates(40), decode)
    # a good batch, 3 tries, then each of the batch alone until the guilty one, which gets 3 tries too
    assert calls == [4, 4, 4, 4, 1, 1, 1, 1, 1, 1]


def test_what_fails_once_or_in_large_batches_only_is_judged():
    turn = Counter()

    def flaky(batch):
        turn["flaky"] += 1
        if turn["flaky"] == 1:
            raise TimeoutError("busy")
        return [Verdict.accept({"x": float(c.tokens[0])}) for c in batch]

    def small(batch):
        if len(batch) > 1:
            raise torch.cuda.OutOfMemoryError("too large")
        return [Verdict.accept() for _ in batch]

    verdicts = Judge(flaky, small, retries=1)(candidates(5), decode)
    assert [v.scores["x"] for v in verdicts] == [0, 1, 2, 3, 4]
    with pytest.raises(JudgeError, match="failed 1 times"):
        turn.clear()
        Judge(flaky, retries=0)(candidates(1), decode)


def test_an_interrupt_is_no_failure_of_the_judge():
    def ear(batch):
        raise KeyboardInterrupt

    for timeout in (None, 5.0):
        with pytest.raises(KeyboardInterrupt):
            Judge(ear, timeout=timeout)(candidates(2), decode)


DECODED = {
    "none": (lambda batch: None, "it returned None for 1"),
    "too few": (lambda batch: [], "it returned 0 candidates for 1"),
    "others": (lambda batch: [replace(c, index=9) for c in decode(batch)], r"\['s0#9'\] for \['s0#0'\]: keep their or"),
    "no sound": (lambda batch: list(batch), "s0#0 has no waveform"),
    "no rate": (lambda batch: [replace(c, sample_rate=None) for c in decode(batch)], "s0#0 has no sample_rate"),
    "nan": (lambda batch: [replace(c, waveform=c.waveform / 0 * 0) for c in decode(batch)], "8000 NaN or inf"),
    "stereo": (lambda batch: [replace(c, waveform=c.waveform[None]) for c in decode(batch)], r"shape \(1, 8000\)"),
}


@pytest.mark.parametrize("wrong", DECODED)
def test_a_decoder_fails_closed_too(wrong):
    answer, message = DECODED[wrong]
    with pytest.raises(JudgeError, match=f"decode failed 1 times on candidate s0#0, 'text 0'.*{message}"):
        Judge(Rule("ear", first(99), True), retries=0)(candidates(1), answer)


def test_what_decodes_to_no_sample_is_rejected_unheard():
    """Short answers may be less than a vocoder's window: that is no fault of the decoder."""

    def short(batch):
        return [replace(c, waveform=c.waveform[: 8000 * (c.index % 2)]) for c in decode(batch)]

    ear = Rule("ear", first(99), True)
    verdicts = Judge(ear)(candidates(4), short)
    silent = [verdict.reasons == ("empty",) for verdict in verdicts]
    assert silent == [c.index % 2 == 0 for c in candidates(4)] and any(silent)
    assert all(verdict.reasons == ("empty",) for verdict in Judge(ear)(candidates(2)[:1], short))


def test_a_decoder_that_mixes_its_candidates_up_is_noticed():
    """Then each is decoded alone, where nothing can be mixed up."""
    sizes = []

    def mixing(batch):
        sizes.append(len(batch))
        return decode(batch[::-1])

    def first_sample(batch):
        return [Verdict.accept({"first": float(c.waveform[0])}) for c in batch]

    verdicts = Judge(first_sample, retries=0)(candidates(3), mixing)
    assert [v.scores["first"] for v in verdicts] == pytest.approx([0.1, 0.2, 0.3]) and sizes == [3, 1, 1, 1]


# hanging


def test_one_that_hangs_is_named_within_its_time():
    release, started = threading.Event(), time.monotonic()

    def ear(batch):
        if any(c.name == "s5#2" for c in batch):
            release.wait(30)
        return [Verdict.accept() for _ in batch]

    with pytest.raises(
        JudgeError,
        match=r"'ear' did not answer within 0.3 s on a batch of 4 candidates \(s4#1 ... s7#1; the first is 'text 4'\)",
    ) as caught:
        Judge(ear, timeout=0.3, batch=4)(candidates(40), decode)
    assert caught.value.candidates == ("s4#1", "s5#2", "s6#0", "s7#1")
    assert time.monotonic() - started < 3  # not asked again
    release.set()


HANGING = """
import time, torch
from seaalign.judges import Judge
from seaalign.records import Candidate, Prompt, Sentence
def ear(batch):
    time.sleep(600)
ear.needs_audio = False
Judge(ear, timeout=0.3)([Candidate(Sentence("s", "hello", Prompt([1])), torch.arange(3))])
"""


def test_the_program_can_end_while_a_judge_hangs():
    done = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "JudgeError: criterion 'ear' did not answer within 0.3 s on a batch of 1 candidates (s#0;" in done.stderr


def test_judging_needs_no_gradient_in_any_thread():
    seen = []

    def ear(batch):
        seen.append(torch.is_grad_enabled())
        return [Verdict.accept() for _ in batch]

    for timeout in (None, 20.0):
        Judge(ear, timeout=timeout)(candidates(1), decode)
    assert seen == [False, False] and torch.is_grad_enabled()


# what a judge depends on


class Service:
    fingerprint = "asr-v2"


def test_settings_are_told_apart_and_processes_are_not():
    def above(limit):
        def rule(batch):
            return [Verdict.accept() if c.tokens[0] > limit else Verdict.reject("x") for c in batch]

        return rule

    assert Judge(above(1)).fingerprint == Judge(above(1)).fingerprint != Judge(above(2)).fingerprint
    assert Judge(Repetition(0.1)).fingerprint != Judge(Repetition(0.2)).fingerprint
    assert Judge(Repetition(k=4)).fingerprint != Judge(Repetition(k=5)).fingerprint
    a, b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    assert described(a) == described(a) != described(b)
    assert described([a.weight]) != described([b.weight]) and described(Service()).endswith("Service:asr-v2")
    assert described(functools.partial(above, 1)) != described(functools.partial(above, 2))
    assert described(torch.ones(2).numpy()) != described(torch.zeros(2).numpy())
    assert described({"b": {1, 2}, "a": None}) == described({"a": None, "b": {2, 1}})
    loop: list = []
    loop.append(loop)
    assert described(loop) == "(...)"
    code = (
        "from seaalign.judges import Judge, Repetition; print(Judge(Repetition(), lambda b: [c for c in {1, 'x'}])"
        ".fingerprint)"
    )
    runs = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout for _ in range(2)}
    assert len(runs) == 1 and runs != {""}


# check_judge


def test_a_good_judge_passes_every_rule():
    def ear(batch):
        return [
            Verdict.accept({"peak": float(c.waveform.max())}) if c.waveform.abs().max() > 0 else Verdict.reject("ear")
            for c in batch
        ]

    report = check_judge(Judge(Repetition(), ear), candidates(5), decode)
    assert len(report) == 7 and all(outcome == "passed" for _, outcome in report)


def _listening(change):
    """A judge that hears the level, with something wrong."""
    state = Counter()

    def ear(batch):
        state["calls"] += 1
        return change(batch, [float(c.waveform.abs().max()) for c in batch], state["calls"])

    return ear


def level(values):
    return [Verdict.accept({"level": v}) if v > 0 else Verdict.reject("ear", scores={"level": v}) for v in values]


def swallowing(batch):
    try:
        return level([float(c.waveform.abs().max()) for c in batch])
    except AttributeError:
        return [Verdict.reject("ear", scores={"level": 0.0}) for _ in batch]


class Lenient(Judge):
    def __call__(self, batch, decode=None):
        return [Verdict.accept() for _ in batch]


FAULTS = {
    "the same candidate gets another verdict the second time": _listening(lambda b, v, n: level([x + n for x in v])),
    "verdicts do not follow their candidates": _listening(lambda b, v, n: level(sorted(v))),
    "a verdict depends on who else is in the batch": _listening(lambda b, v, n: level([x / max(v) for x in v])),
    "a second of silence is accepted": _listening(lambda b, v, n: [Verdict.accept({"level": x}) for x in v]),
    "an error becomes a verdict": swallowing,
    "a candidate without tokens is accepted": Lenient(Repetition()),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_found(name):
    with pytest.raises(JudgeFault, match=f"{name}.*\n  likely cause: .*\n  next step: "):
        check_judge(FAULTS[name], candidates(4), decode)


def test_check_judge_says_what_it_cannot_check():
    with pytest.raises(JudgeError, match="it returned None"):
        check_judge(lambda batch: None, candidates(2), decode)
    with pytest.raises(ValueError, match="at least two candidates, all with tokens, got 1"):
        check_judge(Repetition(), candidates(1))
