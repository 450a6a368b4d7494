"""Triplets for DGSA: sampled and scored once by the frozen checkpoint, stored with the fingerprints of both."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import Precision

from seaalign.backbones.base import Backbone
from seaalign.data.batches import TripletBatch
from seaalign.data.speech import load_utterances
from seaalign.data.stored import Reference, StoredData
from seaalign.functional.batching import frames_of
from seaalign.records import Triplet, Utterance
from seaalign.sampling import Pairing, Twin, reference_logps, say_twins, twins
from seaalign.sampling.dual import require_spoken
from seaalign.storage import data_hash, layout_of, read_triplets, samples_hash, write_triplets


class TripletData(StoredData[Utterance, Triplet]):
    """Real utterances and their sampled twins, for `DGSA`.

    Where the triplet file does not exist, it is made before training: all processes sample from the module's backbone,
    which at that time is the frozen SFT checkpoint, and add the reference log-probs of the same weights; the file is
    written whole or not at all. Killed meanwhile, the same command goes on from what is there already. Where it exists,
    it must have come from these weights, this layout, these utterances and these settings. After a resume (`ckpt_path`)
    the weights at hand say nothing, as the checkpoint's are loaded later; then the file must hold the very samples that
    the checkpoint was trained on. Under `fast_dev_run` a missing file is made of eight utterances, and beside its
    place. Several machines need a folder that all of them see.

    Args:
        utterances: real utterances with style and timbre, or a Parquet or JSONL file of them. Synthetic ones (their
            `source` is not "real") are refused: the real speech is what both objectives prefer.
        triplets: the Parquet file, read or made.
        val_fraction: share of the triplets kept for validation, drawn by seed; at least one where it is above 0.
        max_frames: ceiling on the frames of a batch, per process. Where the backbone packs rows without padding, that
            is the sum of prompts (text; and with `styled` the style) and answers, and batches are filled up to it;
            elsewhere it is three times the triplets x the longest answer, and triplets of similar length share a batch.
        temperature: of the sampling.
        top_p: of the sampling.
        max_len: most frames of a sample; None: twice the real utterance and 20.
        pairing: "shuffled" takes style and timbre from another utterance (the paper's ablation; see
            `sampling.dual_mode`).
        styled: store the log-probs that `DGSA(styled_stability=True)` needs.
        reference: "stored" log-probs, or "disabled_adapter": the policy without its LoRA layers scores each batch, so
            that triplets are sampled and no more. The losses are the same; a step costs one more pass without gradient.
        seed: of sampling, split and shuffle.
        vocab_size: refuse token ids outside 0..vocab_size-1 when reading files.

    Raises:
        ValueError: at setup; the file does not belong to the rest, and the message says in what. Or an utterance is
            synthetic.
    """

    noun, argument = "triplets", "triplets"
    kept = ("samples", "weights", "layout", "data", "settings")

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
        reference: Reference = "stored",
    ) -> None:
        super().__init__(triplets, val_fraction, max_frames, seed, vocab_size, reference)
        self.source, self.styled = utterances, styled
        self.sampling: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "max_len": max_len}
        self.sampling |= {"pairing": pairing, "seed": seed}

    def _items(self, sources: list[Utterance]) -> list[Twin]:
        return twins(sources, self.sampling["pairing"], self.sampling["seed"])

    def _made(self, items: Sequence[Twin], backbone: Backbone, precision: Precision, progress: bool) -> list[Triplet]:
        how = {name: self.sampling[name] for name in ("temperature", "top_p", "max_len", "seed")}
        triplets = say_twins(backbone, items, **how, progress=progress)
        if self.reference == "stored":
            # scored under the precision of the training, so that policy and reference start equal
            with precision.forward_context():
                triplets = reference_logps(backbone, triplets, styled=self.styled, progress=progress)
        return triplets

    def _save(self, path: Path, rows: list[Triplet], about: dict[str, Any]) -> None:
        write_triplets(path, rows, about, allow_empty=True)  # a shard whose samples were all empty

    def _load(self, path: Path) -> list[Triplet]:
        return read_triplets(path, on_bad="raise")

    def _whole(self, rows: list[Triplet], sources: list[Utterance]) -> dict[str, Any]:
        require_spoken(rows, len(sources))
        cut = sum(not all(triplet.ended) for triplet in rows)
        if cut > len(rows) / 10:
            warnings.warn(
                f"{cut} of {len(rows)} triplets hold a sample cut at max_len: does the model know how to end?",
                stacklevel=2,
            )
        counts = {"utterances": len(sources), "triplets": len(rows), "cut": cut}
        return {"samples": samples_hash(rows), "counts": counts}

    def _read(self, path: Path, sources: list[Utterance]) -> list[Triplet]:
        triplets = read_triplets(path, vocab_size=self.vocab_size, on_bad="raise")
        real = {utterance.id: utterance.tokens for utterance in sources}
        odd = [item.id for item in triplets if item.id not in real or not torch.equal(item.real, real[item.id])]
        self._refuse([f"the real speech of {odd[:5]}"] if odd else [])
        if self.reference == "stored" and not any(triplet.reference for triplet in triplets):
            self._refuse(["reference: here stored, file without log-probs, made for reference='disabled_adapter'"])
        return triplets

    def _expected(self, sources: list[Utterance], backbone: Backbone | None) -> dict[str, Any]:
        styled = self.styled
        if self.reference == "disabled_adapter":  # which log-probs a file holds does not matter where none are read
            styled = self.metadata.get("settings", {}).get("styled", styled)
        expected: dict[str, Any] = {"data": data_hash(sources), "settings": {**self.sampling, "styled": styled}}
        if backbone is not None:
            expected |= {"layout": layout_of(backbone), "sampler": getattr(backbone, "sampler", None)}
        return expected

    def _batch(self, rows: list[Triplet]) -> TripletBatch:
        return TripletBatch.of(rows, stored=self.reference == "stored")

    def _frames(self, row: Triplet) -> int:
        real, expressive, stable = row.completions()
        if self.packed and self.styled:  # four rows, see `modules.objectives.rows_to_score`
            with_style = frames_of(row.prompt, (real, expressive), packed=True)
            return with_style + frames_of(row.prompt.plain(), (real, stable), packed=True)
        return frames_of(row.prompt.plain(), row.completions(), self.packed)

    def _sources(self) -> list[Utterance]:
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
