"""Triplets for DGSA: sampled and scored once by the frozen checkpoint, stored with the fingerprints of both."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import Precision
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from seaalign.backbones.base import Backbone
from seaalign.data.batches import TripletBatch
from seaalign.data.loader import FrameDataModule, FrameLoader
from seaalign.data.speech import load_utterances
from seaalign.records import Triplet, Utterance
from seaalign.sampling import Pairing, dual_mode, reference_logps
from seaalign.storage import (
    data_hash,
    layout_of,
    read_metadata,
    read_triplets,
    samples_hash,
    weights_hash,
    write_triplets,
)


class TripletData(FrameDataModule):
    """Real utterances and their sampled twins, for `DGSA`.

    Where the triplet file does not exist, it is made before training: process 0 samples it from the module's backbone,
    which at that time is the frozen SFT checkpoint, adds the reference log-probs of the same weights, and writes the
    file whole or not at all. Where it exists, it must have come from these weights, this layout, these utterances and
    these settings. After a resume (`ckpt_path`) the weights at hand say nothing, as the checkpoint's are loaded later;
    then the file must hold the very samples that the checkpoint was trained on. Under `fast_dev_run` a missing file is
    made of eight utterances, and beside its place. Several machines need a folder that all of them see.

    Args:
        utterances: real utterances with style and timbre, or a Parquet or JSONL file of them. Synthetic ones (their
            `source` is not "real") are refused: the real speech is what both objectives prefer.
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
        ValueError: at setup; the file does not belong to the rest, and the message says in what. Or an utterance is
            synthetic.
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
        self.sampling: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "max_len": max_len}
        self.sampling |= {"pairing": pairing, "seed": seed}
        self.styled = styled
        self.metadata: dict[str, Any] = {}
        self._strange_weights: list[str] = []
        self.train: list[Triplet] = []
        self.val: list[Triplet] = []

    def prepare_data(self) -> None:
        """Make the file where it is missing; Lightning calls this on process 0 alone and lets the others wait."""
        if self.trainer is None:
            return
        path, utterances = self._place()
        if path.exists() and path == self.path:
            return
        backbone = self._backbone()
        if backbone is None or not self._fitting():
            raise ValueError(
                f"there is no {self.path}, and no policy to sample it from: fit a DGSA, or call "
                "TripletData.make(backbone) first"
            )
        backbone.to(self.trainer.strategy.root_device)
        self._make(backbone, path, utterances, self.trainer.precision_plugin)

    def make(self, backbone: Backbone) -> None:
        """Sample, score and write the file; for scripts that want it before, or without, a Trainer.

        Args:
            backbone: the frozen SFT checkpoint, on the device to work on.
        """
        self._make(backbone, self.path, self._real(), Precision())

    def _make(self, backbone: Backbone, path: Path, utterances: list[Utterance], precision: Precision) -> None:
        triplets = dual_mode(backbone, utterances, **self.sampling)
        # scored under the precision of the training, so that policy and reference start equal
        with precision.forward_context():
            triplets = reference_logps(backbone, triplets, styled=self.styled)
        cut = sum(not all(triplet.ended) for triplet in triplets)
        if cut > len(triplets) / 10:
            warnings.warn(
                f"{cut} of {len(triplets)} triplets hold a sample cut at max_len: does the model know how to end?",
                stacklevel=2,
            )
        made = {"samples": samples_hash(triplets), "weights": weights_hash(backbone), "precision": precision.precision}
        counts = {"utterances": len(utterances), "triplets": len(triplets), "cut": cut}
        write_triplets(path, triplets, {**self._expected(utterances, backbone), **made, "counts": counts})

    def setup(self, stage: str = "fit") -> None:
        """Read the file, and refuse one that does not belong to the rest."""
        path, utterances = self._place()
        self.metadata = read_metadata(path)
        self._check(utterances)
        triplets = read_triplets(path, vocab_size=self.vocab_size, on_bad="raise")
        real = {utterance.id: utterance.tokens for utterance in utterances}
        odd = [item.id for item in triplets if item.id not in real or not torch.equal(item.real, real[item.id])]
        self._refuse([f"the real speech of {odd[:5]}"] if odd else [])
        order = torch.randperm(len(triplets), generator=torch.Generator().manual_seed(self.seed)).tolist()
        held = max(1, round(len(triplets) * self.val_fraction)) if self.val_fraction and len(triplets) > 1 else 0
        self.val, self.train = [triplets[i] for i in order[:held]], [triplets[i] for i in order[held:]]

    def train_dataloader(self) -> FrameLoader[TripletBatch]:
        """Shuffled, except under `Trainer(overfit_batches=...)`."""
        self._refuse(self._strange_weights)
        return self._loader(self.train, training=True)

    def val_dataloader(self) -> FrameLoader[TripletBatch] | list[Any]:
        """In order of length; an empty list where there is no validation data."""
        return self._loader(self.val, training=False) if self.val else []

    def state_dict(self) -> dict[str, Any]:
        """Where training stands, and which triplets a resumed run must find again."""
        kept = ("samples", "weights", "layout", "data", "settings")
        return {**super().state_dict(), "triplets": {key: self.metadata.get(key) for key in kept}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to resume on other triplets than the checkpoint was trained on."""
        super().load_state_dict(state_dict)
        if self._fitting():
            self._strange_weights = []
            self._refuse(self._differences(state_dict["triplets"], "checkpoint"))

    def _expected(self, utterances: list[Utterance], backbone: nn.Module | None) -> dict[str, Any]:
        expected: dict[str, Any] = {"data": data_hash(utterances), "settings": {**self.sampling, "styled": self.styled}}
        if backbone is not None:
            expected |= {"layout": layout_of(backbone), "sampler": getattr(backbone, "sampler", None)}
        return expected

    def _check(self, utterances: list[Utterance]) -> None:
        backbone = self._backbone()
        self._refuse(self._differences(self._expected(utterances, backbone), "here"))
        # A resumed run gets the checkpoint's weights later than this, so strange ones may only be refused once training
        # asks for batches; in between, load_state_dict takes the checkpoint's word for the reference instead.
        weights = {"weights": weights_hash(backbone)} if backbone is not None and self._fitting() else {}
        self._strange_weights = self._differences(weights, "here")

    def _differences(self, wanted: dict[str, Any], who: str) -> list[str]:
        found = {key: self.metadata.get(key) for key in wanted}
        return [f"{key}: {who} {wanted[key]}, file {found[key]}" for key in wanted if wanted[key] != found[key]]

    def _refuse(self, differences: list[str]) -> None:
        if differences:
            listed = "".join(f"\n  {difference}" for difference in differences)
            raise ValueError(
                f"{self.path} belongs to something else. It differs in{listed}\nStored samples and log-probs are only "
                "good for the weights, layout, utterances and settings that made them. Load the checkpoint that made "
                "the file, or give triplets= another name, or delete the file to have it made anew."
            )

    def _backbone(self) -> Backbone | None:
        return getattr(getattr(self.trainer, "lightning_module", None), "backbone", None)

    def _fitting(self) -> bool:
        return self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING

    def _place(self) -> tuple[Path, list[Utterance]]:
        """The file and the utterances it is made of; a rehearsal (fast_dev_run) is not worth hours of sampling."""
        utterances = self._real()
        if self.trainer is not None and getattr(self.trainer, "fast_dev_run", False) and not self.path.exists():
            return self.path.with_suffix(".fast_dev_run.parquet"), utterances[:8]
        return self.path, utterances

    def _real(self) -> list[Utterance]:
        """The utterances, unless some are synthetic: as the chosen side they would teach what DGSA is to undo."""
        utterances = load_utterances(self.source, self.vocab_size)
        odd = [utterance for utterance in utterances if utterance.source != "real"]
        if odd:
            counts = dict(Counter(utterance.source for utterance in odd))
            raise ValueError(
                f"{len(odd)} of {len(utterances)} utterances are synthetic, by source {counts}, first "
                f"{[utterance.id for utterance in odd[:3]]}: DGSA would learn to prefer them. Keep the rows whose "
                'source is "real"'
            )
        return utterances

    def _loader(self, triplets: list[Triplet], training: bool) -> FrameLoader[TripletBatch]:
        def collate(rows: list[int], epoch: int) -> TripletBatch:
            return TripletBatch.of([triplets[row] for row in rows])

        frames = [3 * max(len(tokens) for tokens in triplet.completions()) for triplet in triplets]
        return self.loader(frames, self.max_frames, self.seed, collate, training)
