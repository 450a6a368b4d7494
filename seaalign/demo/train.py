"""The demo's training runs, each the library's own modules under a Lightning Trainer, each from files to files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L

from seaalign.backbones import Backbone
from seaalign.data import SpeechData, TripletData
from seaalign.demo.world import Sizes
from seaalign.miniature.codec import Codec
from seaalign.miniature.lm import TextSpeechLM
from seaalign.modules import DGSA, SFT
from seaalign.records import Utterance
from seaalign.sampling import Pairing
from seaalign.storage import read_utterances

SFT_LR, ALIGN_LR, REAL_SFT_LR = 3e-3, 1.5e-5, 1e-4
MAX_FRAMES = 1500


class _Steps(L.Callback):
    """Moves a progress bar with the optimizer."""

    def __init__(self, progress: Any, steps: int) -> None:
        self.steps: Iterator[int] = iter(progress(range(steps)))

    def on_train_batch_end(self, *_: Any) -> None:
        next(self.steps, None)


def policy(folder: Path, seed: int = 0) -> TextSpeechLM:
    """A fresh policy over the folder's codec."""
    codec = Codec.load(folder / "codec.pt")
    return TextSpeechLM(codes=codec.vocabulary, pause=codec.pause, seed=seed, codec=codec)


def load(folder: Path, name: str) -> Backbone:
    """The policy of a finished run, on the CPU wherever it was trained."""
    path, fresh = checkpoint(folder, name), policy(folder)
    return SFT.load_from_checkpoint(path, map_location="cpu", backbone=fresh, weights_only=True).backbone


def checkpoint(folder: Path, name: str) -> Path:
    """Where a run leaves its weights."""
    return folder / "checkpoints" / f"{name}.ckpt"


def trainer(steps: int, progress: Any, device: str = "cpu") -> L.Trainer:
    """A quiet Trainer on one device; "cuda" is a GPU."""
    return L.Trainer(
        accelerator=device, devices=1, max_steps=steps, max_epochs=-1, gradient_clip_val=1.0,
        callbacks=[_Steps(progress, steps)], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0,
    )  # fmt: skip


def mixture(folder: Path, alpha: float) -> list[Utterance]:
    """All real utterances and as many flat ones as make the synthetic share alpha; at alpha = 1 the flat ones alone."""
    real, flat = read_utterances(folder / "real.parquet"), read_utterances(folder / "flat.parquet")
    if alpha >= 1:
        return flat
    return real + flat[: round(len(real) * alpha / (1 - alpha))]


def sft(folder: Path, alpha: float, sizes: Sizes, seed: int, progress: Any = iter) -> str:
    """Train a policy from nothing on the mixture; half of the prompts of every epoch carry no style prefix."""
    name = f"sft-{alpha:g}"
    module = SFT(
        policy(folder, seed), lr=SFT_LR, weight_decay=0.01, warmup_steps=sizes.sft_steps // 10, schedule="cosine"
    )
    data = SpeechData(mixture(folder, alpha), max_frames=MAX_FRAMES, seed=seed, plain_fraction=0.5)
    return _fit(folder, name, module, data, sizes.sft_steps, progress, sizes.device)


def more_sft(folder: Path, start: str, sizes: Sizes, seed: int, lr: float = REAL_SFT_LR, progress: Any = iter) -> str:
    """The control: the same checkpoint, trained on with the real utterances alone."""
    module = SFT(load(folder, start), lr=lr, weight_decay=0.0)
    real = read_utterances(folder / "real.parquet")
    data = SpeechData(real, max_frames=MAX_FRAMES // 3, seed=seed, plain_fraction=1.0)
    return _fit(folder, "sft-real", module, data, sizes.real_sft_steps, progress, sizes.device)


def align(
    folder: Path,
    name: str,
    start: str,
    alpha: float,
    sizes: Sizes,
    seed: int,
    progress: Any = iter,
    pairing: Pairing = "paired",
    **arm: Any,
) -> str:
    """DGSA, or one of its arms, from a checkpoint."""
    arm = {"lr": ALIGN_LR, "weight_decay": 0.0, **arm}
    module = DGSA(load(folder, start), alpha=alpha, **arm)
    return _fit(folder, name, module, triplets(folder, seed, pairing), sizes.align_steps, progress, sizes.device)


def triplets(folder: Path, seed: int, pairing: Pairing = "paired") -> TripletData:
    """Triplets of the real utterances, said three times over."""
    real = read_utterances(folder / "real.parquet")
    thrice = [Utterance(f"{u.id}-{i}", u.prompt, u.tokens, u.source) for u in real for i in range(3)]
    file = folder / ("triplets.parquet" if pairing == "paired" else f"triplets-{pairing}.parquet")
    return TripletData(thrice, file, val_fraction=0.0, max_frames=2 * MAX_FRAMES, pairing=pairing, seed=seed)


def make_triplets(folder: Path, start: str, seed: int, progress: Any = iter, pairing: Pairing = "paired") -> None:
    """Sample and score them once, for every arm."""
    for _ in progress(range(1)):
        triplets(folder, seed, pairing).make(load(folder, start))


def _fit(
    folder: Path,
    name: str,
    module: L.LightningModule,
    data: L.LightningDataModule,
    steps: int,
    progress: Any,
    device: str,
) -> str:
    runner = trainer(steps, progress, device)
    runner.fit(module, data)
    return save(runner, folder, name)


def save(runner: L.Trainer, folder: Path, name: str) -> str:
    """Keep the weights of a finished run."""
    path = checkpoint(folder, name)
    path.parent.mkdir(exist_ok=True)
    runner.save_checkpoint(path, weights_only=True)
    return name
