"""Rows that are made once, before training, and stored with the fingerprints of what made them."""

from __future__ import annotations

import shutil
from abc import abstractmethod
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from lightning.pytorch.plugins import Precision
from lightning.pytorch.trainer.states import TrainerFn

from seaalign.backbones.base import Backbone
from seaalign.data.loader import FrameLoader
from seaalign.data.making import Making
from seaalign.functional.batching import frames_of
from seaalign.records import Pair, Triplet
from seaalign.sampling.reference import require_adapters
from seaalign.storage import read_metadata, weights_hash

Reference = Literal["stored", "disabled_adapter"]
_Source = TypeVar("_Source", bound=Any)
_Row = TypeVar("_Row", bound=Triplet | Pair)


class StoredData(Making[_Source, _Row]):
    """What `TripletData` and `PairData` share: a file of rows, made where it is missing, refused where it is strange.

    Where the file does not exist, it is made before training from the module's backbone, which at that time is the
    frozen SFT checkpoint: all processes make shards of it, in a folder beside its place, and process 0 puts them
    together, whole or not at all. A run that is killed meanwhile goes on from the shards that are there, on any number
    of processes. Where it exists, it must have come from these weights,
    this layout and these sources. After a resume (`ckpt_path`) the weights at hand say nothing, as the checkpoint's are
    loaded later; then the file must be the very one that the checkpoint was trained on. Under `fast_dev_run` a missing
    file is made of eight sources, and beside its place. Several machines need a folder that all of them see.

    Args:
        path: the file.
        val_fraction: share of the rows kept for validation, drawn by seed; at least one where it is above 0.
        max_frames: ceiling on the frames of a batch, per process; see `FrameDataModule.packed`.
        seed: of split and shuffle.
        vocab_size: refuse token ids outside 0..vocab_size-1 when reading files.
        reference: "stored" log-probs, or "disabled_adapter": the policy without its LoRA layers scores each batch.

    Attributes:
        noun: what the rows are called; also where checkpoints keep their fingerprints.
        argument: what the path is called among the arguments.
        kept: the fingerprints that a resumed run must find again.
    """

    noun = "rows"
    argument = "path"
    kept: tuple[str, ...] = ("weights", "layout", "data")

    def __init__(
        self,
        path: str | Path,
        val_fraction: float,
        max_frames: int,
        seed: int,
        vocab_size: int | None,
        reference: Reference,
    ) -> None:
        super().__init__()
        if not 0 <= val_fraction < 1:
            raise ValueError(f"val_fraction must lie in 0..1, below 1, got {val_fraction}")
        if reference not in ("stored", "disabled_adapter"):
            raise ValueError(f"reference must be 'stored' or 'disabled_adapter', got {reference!r}")
        self.prepare_data_per_node = False
        self.path, self.reference = Path(path), reference
        self.val_fraction, self.max_frames, self.seed, self.vocab_size = val_fraction, max_frames, seed, vocab_size
        self.metadata: dict[str, Any] = {}
        self._strange_weights: list[str] = []
        self._file: Path | None = self.path
        self._lacking = False
        self.train: list[_Row] = []
        self.val: list[_Row] = []

    @abstractmethod
    def _sources(self) -> list[_Source]:
        """What the rows are made of, read and checked."""
        raise NotImplementedError

    @abstractmethod
    def _read(self, path: Path, sources: list[_Source]) -> list[_Row]:
        """The rows of a file whose fingerprints are right."""
        raise NotImplementedError

    @abstractmethod
    def _batch(self, rows: list[_Row]) -> Any:
        """Collate."""
        raise NotImplementedError

    def _frames(self, row: _Row) -> int:
        """What a row takes of a batch."""
        return frames_of(row.prompt, row.completions(), self.packed)

    def _held(self, sources: list[_Source]) -> list[_Row] | None:
        """The rows where there is nothing to make, and so no file; else None."""
        return None

    def make(self, backbone: Backbone) -> None:
        """Make the file; for scripts that want it before, or without, a Trainer.

        Args:
            backbone: the frozen SFT checkpoint, on the device to work on.
        """
        self._make(self.path, self._sources(), backbone, Precision())

    def prepare_data(self) -> None:
        """See whether the file has to be made; Lightning calls this on process 0 alone and lets the others wait."""
        super().prepare_data()
        if self.trainer is None:
            return
        backbone = self._backbone()
        if backbone is not None and self.reference == "disabled_adapter":
            require_adapters(backbone, f"{type(self).__name__}(reference='disabled_adapter')")
        path, sources = self._place()
        self._lacking = self._held(sources) is None and (path != self.path or not path.exists())
        if not self._lacking:
            shutil.rmtree(self._workshop(path), ignore_errors=True)  # of a kill right after the file was whole
            return
        if backbone is None or not self._fitting():
            raise ValueError(
                f"there is no {self.path}, and no policy to make it with: fit a module with a backbone, or call "
                f"{type(self).__name__}.make(backbone) first"
            )

    def setup(self, stage: str = "fit") -> None:
        """Make the file where it is missing, read the rows, and refuse a file that does not belong to the rest."""
        path, sources = self._place()
        self._make_together(path, sources)
        rows = self._held(sources)
        self._file = path if rows is None else None
        if rows is None:
            self.metadata = read_metadata(path)
            self._check(sources)
            rows = self._read(path, sources)
        else:
            self.metadata = self._expected(sources, self._backbone())
        self.ask(rows[0].prompt)
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(self.seed)).tolist()
        held = max(1, round(len(rows) * self.val_fraction)) if self.val_fraction and len(rows) > 1 else 0
        self.val, self.train = [rows[i] for i in order[:held]], [rows[i] for i in order[held:]]

    def _make_together(self, path: Path, sources: list[_Source]) -> None:
        trainer, backbone = self.trainer, self._backbone()
        if trainer is None or not trainer.strategy.broadcast(self._lacking):
            return
        assert backbone is not None  # process 0 has looked
        backbone.to(trainer.strategy.root_device)
        where = (trainer.global_rank, trainer.world_size, trainer.strategy)
        self._make(path, sources, backbone, trainer.precision_plugin, *where)
        self._lacking = False

    def train_dataloader(self) -> FrameLoader[Any]:
        """Shuffled, except under `Trainer(overfit_batches=...)`."""
        self._refuse(self._strange_weights)
        return self._loader(self.train, training=True)

    def val_dataloader(self) -> FrameLoader[Any] | list[Any]:
        """Never shuffled; an empty list where there is no validation data."""
        return self._loader(self.val, training=False) if self.val else []

    def state_dict(self) -> dict[str, Any]:
        """Where training stands, and which rows a resumed run must find again."""
        return {**super().state_dict(), self.noun: {key: self.metadata.get(key) for key in self.kept}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to resume on other rows than the checkpoint was trained on."""
        super().load_state_dict(state_dict)
        if self._fitting():
            self._strange_weights = []
            then = state_dict[self.noun]
            if self.reference == "disabled_adapter":  # which needs no fingerprint of the reference's weights
                then = {key: value for key, value in then.items() if key in self.metadata}
            self._refuse(self._differences(then, "checkpoint"))

    def _refuse(self, differences: list[str]) -> None:
        if not differences:
            return
        listed = "".join(f"\n  {difference}" for difference in differences)
        if self._file is None:
            raise ValueError(
                f"these are not the {self.noun} that the checkpoint was trained on. They differ in{listed}\nGive "
                "those, or start from the checkpoint's weights alone"
            )
        if self.metadata.get("data") is None:
            raise ValueError(
                f"{self.path} was not made by {type(self).__name__}: it does not say of what data and by which "
                f"settings its speech was drawn and scored. Give {self.argument}= another name; how to train on "
                f"{self.noun} of your own: docs/data.md"
            )
        raise ValueError(
            f"{self.path} belongs to something else. It differs in{listed}\nStored samples and log-probs are only "
            "good for the weights, layout, data and settings that made them. Load the checkpoint that made the file, "
            f"or give {self.argument}= another name, or delete the file to have it made anew."
        )

    def _check(self, sources: list[_Source]) -> None:
        backbone = self._backbone()
        self._refuse(self._differences(self._expected(sources, backbone), "here"))
        # A resumed run gets the checkpoint's weights later than this, so strange ones may only be refused once training
        # asks for batches; in between, load_state_dict takes the checkpoint's word for the reference instead.
        weights = {"weights": weights_hash(backbone)} if backbone is not None and self._fitting() else {}
        self._strange_weights = self._differences(weights, "here")

    def _differences(self, wanted: dict[str, Any], who: str) -> list[str]:
        found, where = {key: self.metadata.get(key) for key in wanted}, "file" if self._file else "here"
        return [f"{key}: {who} {wanted[key]}, {where} {found[key]}" for key in wanted if wanted[key] != found[key]]

    def _backbone(self) -> Backbone | None:
        return getattr(getattr(self.trainer, "lightning_module", None), "backbone", None)

    def _fitting(self) -> bool:
        return self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING

    def _place(self) -> tuple[Path, list[_Source]]:
        """The file and what it is made of; a rehearsal (fast_dev_run) is not worth hours of sampling."""
        sources = self._sources()
        if self.trainer is not None and getattr(self.trainer, "fast_dev_run", False) and not self.path.exists():
            return self.path.with_suffix(".fast_dev_run.parquet"), sources[:8]
        return self.path, sources

    def _loader(self, rows: list[_Row], training: bool) -> FrameLoader[Any]:
        def collate(indices: list[int], epoch: int) -> Any:
            return self._batch([rows[i] for i in indices])

        frames = [self._frames(row) for row in rows]
        return self.loader(frames, self.max_frames, self.seed, collate, training)
