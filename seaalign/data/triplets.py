"""Triplets for DGSA:

sampled once from the frozen checkpoint, scored once, and stored with the fingerprints of what made them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from seaalign.backbones.base import Backbone
from seaalign.batching import FrameBatchSampler
from seaalign.data.loader import FrameLoader
from seaalign.data.speech import load_utterances
from seaalign.records import Prompt, Speech, Triplet, Utterance
from seaalign.sampling import Pairing, dual_mode, reference_logps, stack
from seaalign.storage import data_hash, layout_of, read_metadata, read_triplets, weights_hash, write_triplets


class TripletBatch:
    """G triplets as 3G rows in three blocks:

    all real, all expressive, all stable. The three rows of a triplet share its prompt.

    A plain class, for the reason given at `SpeechBatch`.

    Args:
        prompts: G prompts, with style.
        speech: 3G rows.
        plain: reference log-probs given the text alone (3G, T+1), in the same blocks.
        styled: reference log-probs given the style prefix too (2G, T+1), blocks real and expressive; or None.
    """

    def __init__(self, prompts: list[Prompt], speech: Speech, plain: Tensor, styled: Tensor | None = None) -> None:
        self.prompts, self.speech, self.plain, self.styled = prompts, speech, plain, styled

    @classmethod
    def of(cls, group: Sequence[Triplet]) -> TripletBatch:
        """Collate triplets that carry reference log-probs.

        Raises:
            ValueError: a triplet has none.
        """
        bare = [triplet.id for triplet in group if not triplet.reference]
        if bare:
            raise ValueError(
                f"triplets {bare[:3]} carry no reference log-probs: pass them through sampling.reference_logps first"
            )
        stored = [triplet.reference or {} for triplet in group]
        modes = {
            mode: [row for block in zip(*(s[mode] for s in stored), strict=True) for row in block] for mode in stored[0]
        }
        padded = {mode: pad_sequence(rows, batch_first=True) for mode, rows in modes.items()}
        return cls([triplet.prompt for triplet in group], stack(group), padded["plain"], padded.get("styled"))

    def __len__(self) -> int:
        return len(self.prompts)

    def to(self, device: Any) -> TripletBatch:
        """A copy on another device."""
        styled = None if self.styled is None else self.styled.to(device)
        return TripletBatch(
            [prompt.to(device) for prompt in self.prompts], self.speech.to(device), self.plain.to(device), styled
        )


class TripletData(L.LightningDataModule):
    """Real utterances and their sampled twins, for `DGSA`.

    Where the triplet file does not exist, it is made before training: process 0 samples it from the module's backbone,
    which at that time is the frozen SFT checkpoint, adds the reference log-probs of the same weights, and writes the
    file whole or not at all. Where it exists, it must have come from these weights, this layout, these utterances and
    these settings. After a resume (`ckpt_path`) the weights at hand say nothing, as the checkpoint's are loaded later;
    then the file must be the one that the checkpoint was trained on. Several machines need a folder that all of them
    see.

    Args:
        utterances: real utterances with style and timbre, or a Parquet or JSONL file of them.
        triplets: the Parquet file, read or made.
        val_fraction: share of the triplets kept for validation, drawn by seed; at least one where it is above 0.
        max_frames: ceiling on the padded frames of a batch, per process; all three completions count.
        temperature: of the sampling.
        top_p: of the sampling.
        max_len: most frames of a sample; None: twice the real utterance and 20.
        pairing: "shuffled" takes style and timbre from another utterance (the paper's ablation; see
            `sampling.dual_mode`).
        styled: store the log-probs that `DGSA(styled_stability=True)` needs.
        seed: of sampling, split and shuffle.
        vocab_size: refuse token ids outside 0..vocab_size-1 when reading files.

    Raises:
        ValueError: at setup; the file does not belong to the rest, and the message says in what.
    """

    def __init__(
        self,
        utterances: str | Path | Sequence[Utterance],
        triplets: str | Path = "triplets.parquet",
        val_fraction: float = 0.05,
        max_frames: int = 2000,
        temperature: float = 1.0,
        top_p: float = 0.9,
        max_len: int | None = None,
        pairing: Pairing = "paired",
        styled: bool = False,
        seed: int = 0,
        vocab_size: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= val_fraction < 1:
            raise ValueError(f"val_fraction must lie in 0..1, below 1, got {val_fraction}")
        self.prepare_data_per_node = False
        self.path, self.source = Path(triplets), utterances
        self.val_fraction, self.max_frames, self.seed, self.vocab_size = val_fraction, max_frames, seed, vocab_size
        self.sampling = {
            "temperature": temperature,
            "top_p": top_p,
            "max_len": max_len,
            "pairing": pairing,
            "seed": seed,
        }
        self.styled = styled
        self.metadata: dict[str, Any] = {}
        self.train: list[Triplet] = []
        self.val: list[Triplet] = []

    def prepare_data(self) -> None:
        """Make the file where it is missing; Lightning calls this on process 0 while the others wait, however long it takes."""
        if self.path.exists() or self.trainer is None:
            return
        if self._resuming():
            raise ValueError(
                f"cannot resume without {self.path}, which the checkpoint was trained on: bring it back, or start without ckpt_path"
            )
        backbone = self._backbone()
        if backbone is None or self.trainer.state.fn != TrainerFn.FITTING:
            raise ValueError(
                f"there is no {self.path}, and no policy to sample it from: fit a DGSA, or call TripletData.make(backbone) first"
            )
        backbone.to(self.trainer.strategy.root_device)
        # scored under the precision of the training, so that policy and reference start equal
        self.make(backbone, self.trainer.precision_plugin.forward_context(), str(self.trainer.precision))

    def make(self, backbone: Backbone, context: Any = None, precision: str = "32-true") -> None:
        """Sample, score and write the file; for scripts that want it before, or without, a Trainer.

        Args:
            backbone: the frozen SFT checkpoint.
            context: a context manager to score in (autocast), or None.
            precision: its name, for the file's metadata.
        """
        utterances = load_utterances(self.source, self.vocab_size)
        triplets = dual_mode(backbone, utterances, **self.sampling)  # type: ignore[arg-type]
        with context or nullcontext():
            triplets = reference_logps(backbone, triplets, styled=self.styled)
        cut = sum(not all(triplet.ended) for triplet in triplets)
        if cut > len(triplets) / 10:
            warnings.warn(
                f"{cut} of {len(triplets)} triplets hold a sample that was cut at max_len: the model may not know how to end",
                stacklevel=2,
            )
        counts = {"utterances": len(utterances), "triplets": len(triplets), "cut": cut}
        made_by = {"weights": weights_hash(backbone), "precision": precision, "counts": counts}
        write_triplets(self.path, triplets, {**self._expected(utterances, backbone), **made_by})

    def setup(self, stage: str = "fit") -> None:
        """Read the file, and refuse one that does not belong to the rest."""
        if self.train:
            return
        self.metadata = read_metadata(self.path)
        self._check(load_utterances(self.source, self.vocab_size))
        triplets = read_triplets(self.path, vocab_size=self.vocab_size)
        order = torch.randperm(len(triplets), generator=torch.Generator().manual_seed(self.seed)).tolist()
        held = max(1, round(len(triplets) * self.val_fraction)) if self.val_fraction and len(triplets) > 1 else 0
        self.val, self.train = [triplets[i] for i in order[:held]], [triplets[i] for i in order[held:]]

    def train_dataloader(self) -> FrameLoader[TripletBatch]:
        """Shuffled, except under `Trainer(overfit_batches=...)`."""
        return self._loader(self.train, not getattr(self.trainer, "overfit_batches", 0))

    def val_dataloader(self) -> FrameLoader[TripletBatch] | list[Any]:
        """In order of length; an empty list where there is no validation data."""
        return self._loader(self.val, False) if self.val else []

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must find again."""
        return {key: self.metadata.get(key) for key in ("weights", "layout", "data", "settings")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to resume on other triplets than the checkpoint was trained on."""
        if self.metadata:
            self._refuse(
                [
                    f"{key}: checkpoint {value}, file {self.metadata.get(key)}"
                    for key, value in state_dict.items()
                    if value != self.metadata.get(key)
                ]
            )

    def _expected(self, utterances: list[Utterance], backbone: nn.Module | None) -> dict[str, Any]:
        made_from = {"data": data_hash(utterances), "settings": {**self.sampling, "styled": self.styled}}
        return (
            made_from
            if backbone is None
            else {**made_from, "layout": layout_of(backbone), "sampler": getattr(backbone, "sampler", None)}
        )

    def _check(self, utterances: list[Utterance]) -> None:
        backbone = self._backbone()
        expected = self._expected(utterances, backbone)
        fitting = self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        if backbone is not None and fitting and not self._resuming():
            expected["weights"] = weights_hash(backbone)
        self._refuse(
            [
                f"{key}: here {value}, file {self.metadata.get(key)}"
                for key, value in expected.items()
                if value != self.metadata.get(key)
            ]
        )

    def _refuse(self, differences: list[str]) -> None:
        if differences:
            raise ValueError(
                f"{self.path} belongs to something else. It differs in\n  "
                + "\n  ".join(differences)
                + "\nStored samples and log-probs are only "
                "good for the weights, layout, utterances and settings that made them. Load the checkpoint that made the file, or give "
                "triplets= another name, or delete the file to have it made anew."
            )

    def _backbone(self) -> Backbone | None:
        return getattr(getattr(self.trainer, "lightning_module", None), "backbone", None)

    def _resuming(self) -> bool:
        return (
            self.trainer is not None
            and self.trainer.state.fn == TrainerFn.FITTING
            and self.trainer.ckpt_path is not None
        )

    def _loader(self, triplets: list[Triplet], shuffle: bool) -> FrameLoader[TripletBatch]:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        frames = [3 * max(len(tokens) for tokens in triplet.completions()) for triplet in triplets]
        sampler = FrameBatchSampler(frames, self.max_frames, shuffle, self.seed, rank, world)
        return FrameLoader(sampler, lambda rows, _: TripletBatch.of([triplets[row] for row in rows]))
