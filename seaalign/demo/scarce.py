"""The second half of the demo: no real speech at all, little synthetic speech, and a policy that criticises itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from seaalign.data import SpeechData, TextData
from seaalign.demo.train import MAX_FRAMES, SFT_LR, load, policy, save, trainer
from seaalign.demo.world import Sizes, shuffled
from seaalign.functional import repetition_span
from seaalign.judges import Duration, Intelligibility, Judge, Repetition
from seaalign.judges.liveliness import Liveliness
from seaalign.miniature.codec import Codec
from seaalign.miniature.ear import Ear
from seaalign.miniature.spoken import WORDS
from seaalign.modules import SFT, TDSC
from seaalign.records import Prompt, Sentence, Utterance
from seaalign.storage import read_utterances

BASE = "sft-scarce"
ROUND_SFT_LR, ROUND_DPO_LR = 5e-4, 2e-5
ARMS: dict[str, dict[str, Any]] = {
    "TDSC": {},
    "self-training": {"judge": None, "dpo_steps": 0, "temperatures": (1.0,), "hottest": None, "n": 12},
}


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


def judge_of(folder: Path, sizes: Sizes, seed: int) -> Judge:
    """The paper's three filters; the recogniser is the one that never reports."""
    codec = Codec.load(folder / "codec.pt")
    return Judge(
        Repetition(0.1, k=repetition_span(160, codec.frame_rate)),
        Duration(data=scarce(folder, sizes, seed)),
        Intelligibility(Listener(Ear.load(folder / "judge.pt"), "judge.pt")),
        Liveliness(),
    )


def sft(folder: Path, sizes: Sizes, seed: int, progress: Any = iter) -> str:
    """The policy to improve: fine-tuned on little flat speech."""
    steps = sizes.scarce_steps
    module = SFT(policy(folder, seed), lr=SFT_LR, weight_decay=0.01, warmup_steps=steps // 10, schedule="cosine")
    runner = trainer(steps, progress)
    runner.fit(module, SpeechData(scarce(folder, sizes, seed), max_frames=MAX_FRAMES, seed=seed))
    return save(runner, folder, BASE)


def criticise(
    folder: Path, name: str, title: str, sizes: Sizes, seed: int, progress: Any = iter
) -> list[dict[str, Any]]:
    """TDSC, or one of its arms, from the scarce policy; returns its dashboard."""
    arm = {"judge": judge_of(folder, sizes, seed), "dpo_steps": sizes.round_dpo_steps, **ARMS[title]}
    codec = Codec.load(folder / "codec.pt")
    module = TDSC(
        load(folder, BASE), work=folder / name, iterations=sizes.rounds, sft_steps=sizes.round_sft_steps,
        frames_per_symbol=0.8 * codec.frame_rate, batch=30, lr=ROUND_SFT_LR, dpo_lr=ROUND_DPO_LR, weight_decay=0.0,
        seed=seed, **arm,
    )  # fmt: skip
    data = TextData(sentences(folder, sizes, seed), sft=scarce(folder, sizes, seed), replay=0.3, max_frames=MAX_FRAMES)
    runner = trainer(sizes.rounds * (sizes.round_sft_steps + arm["dpo_steps"]), progress)
    runner.fit(module, data)
    save(runner, folder, name)
    return module.loop.history(sizes.rounds + 1)
