"""What one system says, measured: word errors, entropy, F0, repetition, similarity, and their standard errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seaalign.audit.splits import together
from seaalign.backbones import Backbone
from seaalign.demo.train import load, policy
from seaalign.demo.world import heard
from seaalign.functional import count_entropy, edit_distance, entropy_at, f0_std, repetition_span, token_counts
from seaalign.functional.comparison import group_weights
from seaalign.functional.pitch import f0
from seaalign.functional.repetition import repetition_hits
from seaalign.miniature.ear import Ear
from seaalign.miniature.speaker import Speakers
from seaalign.records import Prompt, Speech, Utterance
from seaalign.storage import read_utterances

BOOTSTRAP = 200
TOP_P = 0.9
METRICS = {
    "wer": "WER %",
    "entropy": "H_p b",
    "prosody_entropy": "pros. b",
    "f0_std": "F0 st",
    "repetition": "rep %",
    "similarity": "SIM",
    "tokens_per_word": "tok/word",
}


@dataclass(frozen=True)
class Outcome:
    """One system's answers to the test texts, per utterance (B rows)."""

    name: str
    tokens: list[Tensor]
    waveforms: list[Tensor]
    errors: Tensor  # (B,) word errors
    words: Tensor  # (B,) words asked for
    text: Tensor  # (B,) which text; several rows may say the same one
    f0_std: Tensor  # (B,) semitones
    voiced: Tensor  # (B,) bool, False where too little is voiced to have an F0 spread
    similarity: Tensor  # (B,) cosine with a recording of the same speaker


@dataclass(frozen=True)
class Ears:
    """Who listens: the judge may choose, the reporter only reports.

    `voices` is the mean embedding of the speaker of each test sentence over other recordings.
    """

    judge: Ear
    reporter: Ear
    speaker: Speakers
    voices: Tensor


def answer(
    backbone: Backbone,
    cases: Sequence[Utterance],
    style: bool,
    seed: int,
    n: int = 1,
    choose: Callable[[Sequence[Tensor], Sequence[Prompt]], Tensor] | None = None,
) -> Speech:
    """Say every text once, at temperature 1, nucleus 0.9.

    With `choose`, the best of n by a judge's errors (rejection sampling).
    """
    prompts = [case.prompt if style else case.prompt.plain() for case in cases]
    most = torch.tensor([40 * len(prompt.text) + 20 for prompt in prompts]).repeat_interleave(n)
    speech = backbone.sample(prompts, n, 1.0, TOP_P, most, 1, torch.Generator().manual_seed(seed))
    if choose is None:
        return speech
    owners = [prompts[p] for p in speech.prompt.tolist()]
    errors = choose(backbone.decode(speech, [p.timbre for p in owners]), owners).view(len(prompts), n)
    return speech.select(errors.argmin(1) + n * torch.arange(len(prompts)))


def word_errors(recogniser: Any, waveforms: Sequence[Tensor], prompts: Sequence[Prompt]) -> Tensor:
    """Word errors of each waveform against its text (B,)."""
    heard = recogniser.transcribe(waveforms)
    pairs = zip(heard, prompts, strict=True)
    return torch.tensor([edit_distance([str(w) for w in h], [str(w) for w in p.text.tolist()]) for h, p in pairs])


def measure(
    name: str,
    speech: Speech,
    backbone: Backbone,
    cases: Sequence[Utterance],
    ears: Ears,
    waves: list[Tensor] | None = None,
) -> Outcome:
    """Decode the answers, unless they come with their waveforms, and listen to them."""
    prompts = [case.prompt for case in cases]
    waves = backbone.decode(speech, [prompt.timbre for prompt in prompts]) if waves is None else waves
    rows = len(waves)
    # a row of silence has no voice and no words: all its words are errors and its similarity is 0
    loud = [i for i, wave in enumerate(waves) if len(wave) and float(wave.abs().max()) > 1e-3]
    errors = torch.tensor([len(prompt.text) for prompt in prompts])
    errors[loud] = word_errors(ears.reporter, [waves[i] for i in loud], [prompts[i] for i in loud])
    spread = [f0_std(contour) for contour in f0(waves, 8000)]
    similarity = torch.zeros(rows)
    similarity[loud] = (ears.speaker.embed([waves[i] for i in loud]) * ears.voices[loud]).sum(-1)
    return Outcome(
        name,
        speech.rows(),
        waves,
        errors,
        torch.tensor([len(prompt.text) for prompt in prompts]),
        torch.tensor(together([tuple(prompt.text.tolist()) for prompt in prompts])),
        torch.stack([each.value for each in spread]).float(),
        torch.tensor([each.defined for each in spread]),
        similarity,
    )


def summarise(outcome: Outcome, codec: Any, n_tokens: int, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Value and one sigma (bootstrap over texts) of every metric; other training seeds are not in it.

    Args:
        outcome: the system.
        codec: says which tokens are prosody.
        n_tokens: entropies are those of a corpus of so many tokens, so that systems that say more do not look livelier.
        seed: of the bootstrap.
    """
    rows = len(outcome.tokens)
    lengths = torch.tensor([len(row) for row in outcome.tokens])
    hits, positions = repetition_hits(outcome.tokens, k=repetition_span(160, codec.frame_rate))
    codes = _histogram(outcome.tokens, codec.vocabulary)
    prosody = _histogram([codec.prosody(row) for row in outcome.tokens], 7)

    def statistics(weight: Tensor, entropy: Callable[[Tensor], float]) -> dict[str, float]:
        total = (weight * lengths).sum()
        return {
            "wer": float(100 * (weight * outcome.errors).sum() / (weight * outcome.words).sum()),
            "entropy": entropy(weight @ codes),
            "prosody_entropy": entropy(weight @ prosody),
            "f0_std": float(
                (weight * outcome.voiced * outcome.f0_std).sum() / (weight * outcome.voiced).sum().clamp(min=1)
            ),
            "repetition": float(100 * (weight * hits).sum() / (weight * positions).sum().clamp(min=1)),
            "similarity": float((weight * outcome.similarity).sum() / weight.sum()),
            "tokens_per_word": float(total / (weight * outcome.words).sum()),
        }

    generator = torch.Generator().manual_seed(seed)
    # the plug-in value spreads as the rarefied one does, and takes a hundredth of the time
    times = group_weights(int(outcome.text.max()) + 1, BOOTSTRAP, generator)
    draws = [statistics(row[outcome.text].float(), lambda c: float(count_entropy(c))) for row in times]
    center = statistics(torch.ones(rows), lambda c: float(entropy_at(c, min(n_tokens, int(c.sum())))))
    return {key: (value, float(torch.tensor([draw[key] for draw in draws]).std())) for key, value in center.items()}


def _histogram(tokens: Sequence[Tensor], size: int) -> Tensor:
    return torch.stack([token_counts([row], vocab_size=size) for row in tokens]).float()


def listeners(folder: Path) -> Ears:
    """The listeners of a folder, and the voices of its test sentences."""
    speaker, known = Speakers.load(folder / "speaker.pt"), heard(folder, "real")
    voices = speaker.embed([spoken.waveform for spoken in known])
    speakers = [spoken.speaker for spoken in known]
    targets = [[i for i, name in enumerate(speakers) if name == spoken.speaker] for spoken in heard(folder, "test")]
    voices = torch.nn.functional.normalize(torch.stack([voices[rows].mean(0) for rows in targets]), dim=-1)
    return Ears(Ear.load(folder / "judge.pt"), Ear.load(folder / "reporter.pt"), speaker, voices)


def assess(folder: Path, name: str, title: str, style: bool, seed: int, n: int = 1, progress: Any = iter) -> Outcome:
    """Let a trained policy say the test texts, and measure it; with n > 1 the judge picks the best of n."""
    ears, cases, backbone = listeners(folder), read_utterances(folder / "test.parquet"), load(folder, name)
    choose = None if n == 1 else (lambda waves, prompts: word_errors(ears.judge, waves, prompts))
    for _ in progress(range(1)):
        outcome = measure(title, answer(backbone, cases, style, seed, n, choose), backbone, cases, ears)
    return outcome


def assess_recordings(folder: Path, progress: Any = iter) -> list[Outcome]:
    """The ceiling: the test sentences as they were recorded, and after the codec has been through them."""
    ears, cases = listeners(folder), read_utterances(folder / "test.parquet")
    backbone = policy(folder)
    for _ in progress(range(1)):
        waves = [spoken.waveform for spoken in heard(folder, "test")]
        speech = Speech.pack([case.tokens for case in cases])
        coded = measure("codec only", speech, backbone, cases, ears)
        natural = measure("recordings", speech, backbone, cases, ears, waves)
    return [natural, coded]
