"""The audit on backbones whose answer is known: a voice that comes with the style, or with the timbre, and neither."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from seaalign import Prompt, SeparationAudit, Style, Utterance
from seaalign.audit.effects import TOGGLE, VOICE, over_texts
from seaalign.audit.findings import Finding, of_probes, table, weigh
from seaalign.audit.probes import Probe
from seaalign.audit.questions import SPEECH, SPREAD, STYLE
from seaalign.audit.swaps import scenes
from seaalign.audit.verdict import Separation
from seaalign.backbones import Backbone
from seaalign.records import Speech

RATE, REGISTER = 8000, (110.0, 150.0, 205.0)


class Singer(Backbone):
    """Says two frames per word. Tokens: 3 * steepness of the melody + speaker of the style (0 where it is off).

    `voice_from` says where the decoder takes register and timbre of the voice from: "timbre", or "tokens" (mixed).
    """

    vocab_size, sample_rate = 12, RATE

    def __init__(self, voice_from: str, features: frozenset[str] = frozenset({"style", "timbre", "decode"})) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.voice_from, self.features = voice_from, features

    def sample(self, prompts, n=1, temperature=1.0, top_p=1.0, max_len=1024, min_len=0, generator=None):
        style = [p.style.tokens[:1] if p.style else torch.zeros(1, dtype=torch.long) for p in prompts]
        return Speech.pack([token.repeat(2 * len(p.text)) for token, p in zip(style, prompts, strict=True)])

    def decode(self, speech, timbres):
        return [self._sing(row, timbre) for row, timbre in zip(speech.rows(), timbres, strict=True)]

    def _sing(self, row, timbre):
        who = int(row[0]) % 3 if self.voice_from == "tokens" else int(timbre[0])
        steep = int(row[0]) // 3
        t = torch.arange(len(row) * 640) / RATE
        semitones = steep * torch.sin(2 * math.pi * 3 * t)
        phase = 2 * math.pi * torch.cumsum(REGISTER[who] * 2 ** (semitones / 12), 0) / RATE
        return 0.1 * sum(torch.sin(k * phase) / k for k in range(1, 6))


def by_register(waves, rate):
    """A speaker embedder: one direction for each register."""
    from seaalign.functional import f0

    median = torch.stack(
        [c[c > 0].log().quantile(0.5) if (c > 0).any() else torch.tensor(0.0) for c in f0(waves, rate)]
    )
    return torch.exp(-((median[:, None] - torch.tensor(REGISTER).log()) ** 2) / 0.02)


def people(count=60, who=3, seed=0, named_by=lambda speaker, i: [float(speaker)]) -> list[Utterance]:
    """Utterances of `who` speakers; style tokens tell who speaks and how steep the melody is."""
    g = torch.Generator().manual_seed(seed)
    made = []
    for i in range(count):
        speaker = i % who
        tokens = 3 * torch.randint(1, 4, (6,), generator=g) + speaker  # the first one is what Singer sings
        text = torch.randint(20, (int(torch.randint(2, 6, (), generator=g)),), generator=g)
        words = torch.randint(20, (4,), generator=g)
        style = Style(tokens, words)
        made.append(Utterance(f"u{i}", Prompt(text, style, torch.tensor(named_by(speaker, i))), style.tokens))
    return made


def audit(backbone, **kwargs):
    return SeparationAudit(
        backbone, **{"speaker_embedder": by_register, "scenes": 12, "kinds": ["linear"], "progress": False, **kwargs}
    )


@pytest.fixture(scope="module")
def mixed():
    return audit(Singer("tokens")).run(people())


@pytest.fixture(scope="module")
def separated():
    return audit(Singer("timbre"), scenes=30).run(people())


def test_a_voice_that_comes_with_the_style_is_convicted(mixed):
    assert mixed.status == "mixed"
    assert mixed[VOICE].value == pytest.approx(0.0, abs=0.02) and mixed[VOICE].outcome == "leak"
    assert mixed[STYLE].value == 1.0 and mixed[STYLE].chance == pytest.approx(1 / 3)
    assert mixed.verdict.startswith("this backbone's style tokens identify the speaker with 100% (chance 33%); ")
    assert mixed.verdict.endswith("DGSA pairs will differ in identity; wrap it with StylePrefix")


def test_a_voice_that_comes_with_the_timbre_is_cleared_though_its_tokens_tell_who_speaks(separated):
    assert separated.status == "separated"
    assert separated[VOICE].value == pytest.approx(1.0, abs=0.02) and separated[VOICE].outcome == "clear"
    assert separated[TOGGLE].outcome == "clear" and separated[STYLE].outcome == "leak"
    assert "although this backbone's style tokens identify the speaker" in separated.verdict


def test_melody_follows_the_style_and_the_toggle_is_measured(separated):
    same, other = (separated[f"swap: F0 range, distance from the same {whose}"] for whose in ("style", "timbre"))
    assert same.value < 0.2 < other.low  # the rest of `same` is rounding: the register moves the grid of frames
    spread = separated["toggle: F0 std, style on minus off"]
    assert spread.low > 0.5  # off is monotone; steepness 1 to 3 has a standard deviation of 0.7 to 2.1 semitones
    assert separated["toggle: H_p, style on minus off, equal counts"].low > 0  # off is one token, over and over


def test_register_in_the_timbre_is_expected_and_spread_is_not():
    clean = audit(Singer("timbre"), scenes=0).run(people())
    assert clean["F0 register from timbre"].value > 0.9 and clean["F0 register from timbre"].outcome == "expected"
    assert clean[SPREAD].outcome == "clear"
    steepness = [int(u.tokens[0]) // 3 for u in people()]
    told = people(named_by=lambda speaker, i: [float(speaker), float(steepness[i])])
    leaky = audit(Singer("timbre"), scenes=0).run(told, speakers=[i % 3 for i in range(60)])
    assert leaky[SPREAD].outcome == "leak" and leaky[SPREAD].value > 0.9
    assert leaky["speaker from timbre"].value > 0.8


def test_without_sound_tokens_accuse_and_clear_but_do_not_convict():
    deaf = Singer("timbre", frozenset({"style", "timbre"}))
    accused = audit(deaf).run(people())
    assert accused.status == "suspect" and "unless its decoder takes the voice from the timbre alone" in accused.verdict
    assert "does not decode" in str(accused)
    told_nothing = [
        Utterance(
            u.id,
            Prompt(u.prompt.text, Style(u.prompt.style.tokens // 3, u.prompt.style.text), u.prompt.timbre),
            u.tokens,
        )
        for u in people(300)
    ]
    cleared = audit(deaf).run(told_nothing)
    assert cleared.status == "separated" and "do not tell who speaks" in cleared.verdict


def test_two_speakers_one_speaker_no_timbre_no_style():
    two = audit(Singer("tokens")).run(people(who=2))
    assert two.status == "mixed" and two[STYLE].chance == 0.5
    one = audit(Singer("tokens")).run(people(who=1))
    assert one.status == "unknown" and "1 label(s)" in one[STYLE].note and "one speaker alone" in one[VOICE].note
    assert one["toggle: F0 std, style on minus off"].low > 0  # still heard
    bare = [Utterance(u.id, Prompt(u.prompt.text, u.prompt.style), u.tokens) for u in people()]
    timbreless = audit(Singer("tokens", frozenset({"style", "decode"}))).run(bare, speakers=[i % 3 for i in range(60)])
    assert timbreless.status == "mixed" and timbreless["words from timbre"].outcome == "skipped"
    assert "no timbre to swap" in timbreless[VOICE].note and "without a timbre nothing else" in timbreless.verdict
    plain = [Utterance(u.id, u.prompt.plain(), u.tokens) for u in people()]
    styleless = audit(Singer("tokens", frozenset({"decode"}))).run(plain)
    assert "no style prefix" in styleless[STYLE].note and styleless[SPEECH].value == 1.0
    assert "speech tokens identify the speaker with 100%" in styleless.verdict and styleless.status == "mixed"


def test_nobody_knows_who_speaks():
    strangers = people(named_by=lambda speaker, i: [float(speaker), i / 100])
    found = audit(Singer("tokens")).run(strangers)
    assert "all timbres differ" in found[STYLE].note and found.status == "unknown"
    few = audit(Singer("tokens")).run(people(3))
    assert few.status == "unknown" and str(few)
    with pytest.raises(ValueError, match="2 speakers for 60"):
        audit(Singer("tokens")).run(people(), speakers=["a", "b"])
    with pytest.raises(ValueError, match="0 utterances"):
        audit(Singer("tokens")).run([])


def test_an_embedder_that_cannot_be_had_leaves_the_rest_standing(tmp_path):
    found = audit(Singer("timbre"), speaker_embedder=str(tmp_path / "no-such-model")).run(people(30))
    assert "cannot be had" in found[VOICE].note and found["toggle: F0 std, style on minus off"].low > 0
    assert "no speaker_embedder" in audit(Singer("timbre"), speaker_embedder=None).run(people(30))[VOICE].note


def test_the_same_audit_twice_is_the_same_and_draws_nothing():
    state = torch.random.get_rng_state()
    one, two = (audit(Singer("tokens")).run(people(30)) for _ in range(2))
    assert one.findings == two.findings and torch.equal(state, torch.random.get_rng_state())


def test_table_file_and_picture(mixed, tmp_path):
    text = str(mixed).splitlines()
    assert text[0] == "Separation of style and timbre: Singer" and text[-1] == f"mixed: {mixed.verdict}"
    assert any(line.startswith(STYLE) and line.endswith("leak") for line in text)
    mixed.to_json(tmp_path / "a.json")
    stored = json.loads((tmp_path / "a.json").read_text())
    assert stored["status"] == "mixed" and len(stored["findings"]) == len(mixed.findings)
    mixed.figure(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    Separation("X", mixed.findings[:2]).figure(tmp_path / "probes.png")


def test_golden_rule():
    """At six speakers a tenth of the way from chance is 25 %, one and a half times chance."""
    probe = Probe("accuracy", 0.83, 0.7, 0.9, 1 / 6, 100, 50, 6)
    found = of_probes("x", [probe])
    assert found.bound == pytest.approx(0.25) and found.outcome == "leak"
    assert [weigh(0.26, 0.3, 0.25), weigh(0.2, 0.25, 0.25), weigh(0.2, 0.3, 0.25)] == ["leak", "clear", "unclear"]
    assert "leak above 25%" in table([found])


def test_worse_than_chance_clears_nobody():
    """Nine style recordings in all, each held out alone: that is too little data, not proof."""
    found = of_probes("x", [Probe("accuracy", 0.0, 0.0, 0.2, 1 / 3, 60, 9, 3)])
    assert found.outcome == "unclear" and "worse than chance" in found.note


def test_the_verdict_of_the_issue():
    style = Finding(STYLE, "leak", 0.83, 0.7, 0.9, "accuracy", 1 / 6, 0.25)
    said = Separation("Orpheus", (style,)).verdict
    assert said.startswith("this backbone's style tokens identify the speaker with 83% (chance 17%)")
    unclear = Separation("X", (Finding(STYLE, "unclear", 0.3, 0.2, 0.4, "accuracy", 1 / 6, 0.25),))
    assert unclear.status == "unknown" and "give more utterances" in unclear.verdict


def test_bootstrap_is_over_texts():
    values = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    statistic = lambda v: lambda w: float((w * v).sum() / w.sum())  # noqa: E731
    value, low, high = over_texts(statistic(values), torch.arange(6))
    copied = over_texts(statistic(values.repeat(20)), torch.arange(6).repeat(20))
    assert value == copied[0] == 2.5 and copied[2] - copied[1] == pytest.approx(high - low, rel=1e-3)
    # the standard error of the mean of six numbers, and Student's factor for them
    assert (high - low) / 2 == pytest.approx(2.571 * values.std().item() / 6**0.5, rel=0.15)
    assert over_texts(statistic(values[:2]), torch.arange(2)) is None


def test_scenes_pair_different_speakers():
    assert all(i % 3 != j % 3 for i, j in scenes([i % 3 for i in range(30)], 30, seed=1))
    assert scenes(["one"] * 4, 3, 0) == [(i, i) for i, _ in scenes(["one"] * 4, 3, 0)]


def test_numbers_that_tell_a_little_less_than_nothing_are_clear():
    found = of_probes("x", [Probe("R2", -0.001, -0.002, -0.0005, 0.0, 60, 30, 3)])
    assert found.outcome == "clear" and found.number == "0.00 [0.00, 0.00]"
