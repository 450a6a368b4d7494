"""The second half of the demo: no real speech at all, little synthetic speech, and a policy that criticises itself."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seaalign.critique import NothingAccepted
from seaalign.data import SpeechData, TextData
from seaalign.demo.train import MAX_FRAMES, SFT_LR, load, policy, save, trainer
from seaalign.demo.world import Sizes, shuffled
from seaalign.functional import repetition_span
from seaalign.judges import Duration, Intelligibility, Judge, Liveliness, Repetition, RoundTrip
from seaalign.judges.recogniser import TokenRecogniser
from seaalign.judges.roundtrip import fit as teach
from seaalign.miniature.codec import Codec
from seaalign.miniature.ear import Ear
from seaalign.miniature.spoken import WORDS
from seaalign.modules import SFT, TDSC
from seaalign.records import Prompt, Sentence, Utterance
from seaalign.storage import read_utterances

BASE = "sft-scarce"
PRIOR_SFT_LR, ROUND_SFT_LR, ROUND_DPO_LR = 1e-3, 5e-4, 2e-5
ARMS: dict[str, dict[str, Any]] = {
    "TDSC": {},
    "self-training": {"judge": None, "dpo_steps": 0, "temperatures": (1.0,), "hottest": None, "n": 12},
}
MORE_ARMS: dict[str, dict[str, Any]] = {
    "TDSC without DPO": {"dpo_steps": 0},
    "TDSC at T = 1": {"temperatures": (1.0,), "hottest": None, "n": 12},
    "TDSC without ASR": {"judge": "round trip"},
}
"""Arms that examples/tdsc_arms.py adds; "round trip" is a judge that the scarce speech itself has taught."""


def known_pairs(folder: Path, sizes: Sizes, seed: int) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Digit pairs that the policy hears in its fine-tuning, and those it never does; none of them is a test text."""
    held = {tuple(case.prompt.text.tolist()) for case in read_utterances(folder / "test.parquet")}
    rest = shuffled([(i // 10, i % 10) for i in range(100) if (i // 10, i % 10) not in held], seed + 77)
    return rest[: sizes.scarce_pairs], rest[sizes.scarce_pairs :]


def scarce(folder: Path, sizes: Sizes, seed: int) -> list[Utterance]:
    """Little flat speech: single digits and some pairs."""
    known = set(known_pairs(folder, sizes, seed)[0])
    flat = read_utterances(folder / "flat.parquet")
    few = [u for u in flat if len(u.prompt.text) == 1 or tuple(u.prompt.text.tolist()) in known]
    return [Utterance(u.id, u.prompt.plain(), u.tokens, u.source) for u in few[: sizes.scarce]]


def sentences(folder: Path, sizes: Sizes, seed: int) -> list[Sentence]:
    """Pairs that nobody has said, each in several of the flat voices."""
    unknown = known_pairs(folder, sizes, seed)[1]
    voices = [utterance.prompt.timbre for utterance in scarce(folder, sizes, seed)]
    made = []
    for i in range(sizes.sentences):
        text, turn = unknown[i % len(unknown)], i // len(unknown)
        prompt = Prompt(text, timbre=voices[(7 * i + turn) % len(voices)])
        made.append(Sentence(f"{'-'.join(map(str, text))}-{turn}", spelled(text), prompt))
    return made


def spelled(words: Sequence[int]) -> str:
    """Digits as people write them."""
    return " ".join(WORDS[word] for word in words)


class Listener:
    """The demo's recogniser as a transcriber: any function from waveforms to texts is one."""

    def __init__(self, ear: Ear, name: str) -> None:
        self.ear, self.fingerprint = ear, name

    def __call__(self, waveforms: list[Tensor], sample_rate: int) -> list[str]:
        """Words heard."""
        return [spelled(heard) for heard in self.ear.transcribe(waveforms, sample_rate)]


def judge_of(folder: Path, sizes: Sizes, seed: int, hears: bool = True) -> Judge:
    """The paper's three filters; the recogniser never reports. One that `hears` nothing reads the tokens instead."""
    codec, known = Codec.load(folder / "codec.pt"), scarce(folder, sizes, seed)
    filters = Repetition(0.1, k=repetition_span(160, codec.frame_rate)), Duration(data=known)
    if hears:
        return Judge(*filters, Intelligibility(Listener(Ear.load(folder / "judge.pt"), "judge.pt")), Liveliness())
    reader = TokenRecogniser.of(known)
    teach(reader, known, seed=seed)
    return Judge(*filters, RoundTrip(reader), Liveliness())


def foreign(folder: Path, seed: int) -> list[Utterance]:
    """The expressive speech with its words renamed: another language to a policy, with all of its prosody."""
    names = torch.tensor(shuffled([(i,) for i in range(10)], seed + 5)).flatten()
    return [
        Utterance(u.id, Prompt(names[u.prompt.text], timbre=u.prompt.timbre), u.tokens, u.source)
        for u in read_utterances(folder / "real.parquet")
    ]


def sft(folder: Path, sizes: Sizes, seed: int, progress: Any = iter, name: str = BASE) -> str:
    """The policy to improve: fine-tuned on little flat speech; before that, where asked for, on a foreign language."""
    start = policy(folder, seed)
    if sizes.prior_steps:
        _fit(start, SFT_LR, foreign(folder, seed), sizes.prior_steps, seed, iter, sizes.device)
    runner = _fit(
        start, PRIOR_SFT_LR if sizes.prior_steps else SFT_LR, scarce(folder, sizes, seed), sizes.scarce_steps, seed,
        progress, sizes.device,
    )  # fmt: skip
    return save(runner, folder, name)


def _fit(start: Any, lr: float, speech: list[Utterance], steps: int, seed: int, progress: Any, device: str) -> Any:
    module = SFT(start, lr=lr, weight_decay=0.01, warmup_steps=steps // 10, schedule="cosine")
    runner = trainer(steps, progress, device)
    runner.fit(module, SpeechData(speech, max_frames=MAX_FRAMES, seed=seed))
    return runner


def criticise(
    folder: Path, name: str, title: str, sizes: Sizes, seed: int, progress: Any = iter
) -> list[dict[str, Any]]:
    """TDSC, or one of its arms, from the scarce policy; returns its dashboard."""
    arm = {"judge": "ear", "dpo_steps": sizes.round_dpo_steps, **{**ARMS, **MORE_ARMS}[title]}
    if arm["judge"] is not None:
        arm["judge"] = judge_of(folder, sizes, seed, hears=arm["judge"] == "ear")
    codec = Codec.load(folder / "codec.pt")
    module = TDSC(
        load(folder, BASE), work=folder / name, iterations=sizes.rounds, sft_steps=sizes.round_sft_steps,
        frames_per_symbol=0.8 * codec.frame_rate, batch=30, lr=ROUND_SFT_LR, dpo_lr=ROUND_DPO_LR, weight_decay=0.0,
        seed=seed, **arm,
    )  # fmt: skip
    data = TextData(sentences(folder, sizes, seed), sft=scarce(folder, sizes, seed), replay=0.3, max_frames=MAX_FRAMES)
    runner = trainer(sizes.rounds * (sizes.round_sft_steps + arm["dpo_steps"]), progress, sizes.device)
    with suppress(NothingAccepted):  # small sizes: a policy that says nothing right stays as it is
        runner.fit(module, data)
    save(runner, folder, name)
    return module.loop.history(sizes.rounds + 1)
