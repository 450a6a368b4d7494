"""Pairs for DPO, from anywhere: scored once by the frozen checkpoint, stored with the fingerprints of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import Precision

from seaalign.backbones.base import Backbone
from seaalign.data.batches import PairBatch
from seaalign.data.stored import Reference, StoredData
from seaalign.records import Pair
from seaalign.sampling import pair_logps
from seaalign.storage import layout_of, read_metadata, read_pairs, write_pairs
from seaalign.storage.fingerprint import pairs_hash
from seaalign.storage.preferences import read_preferences
from seaalign.storage.rows import check_codes, sift


def load_pairs(source: str | Path | Sequence[Pair], vocab_size: int | None = None, backbone: Any = None) -> list[Pair]:
    """Pairs as they are, or from a file; bad ones are left out, and a warning lists them with reasons.

    Args:
        source: pairs, a file of `write_pairs`, or a preference table (.jsonl or .parquet; see `read_preferences`).
        vocab_size: refuse token ids outside 0..vocab_size-1.
        backbone: reads tables in ids or, by its tokenizer, texts of the model, where it can; `CausalLM` does.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no good pair.

    Example:
        >>> from seaalign.records import Prompt
        >>> load_pairs([Pair("a", Prompt([1]), torch.tensor([7]), torch.tensor([7]))])
        Traceback (most recent call last):
        ...
        ValueError: pairs: 1 of 1 rows refused (1 kinds of fault):
          pair 0 (id 'a'): the answers are the same: a pair says nothing unless they differ
    """
    if isinstance(source, str | Path):
        pairs, name = _from_file(Path(source), vocab_size, backbone), str(source)
    else:
        pairs, name = list(source), "pairs"
    rows = ((f"pair {i}", pair.id, partial(_checked, pair, vocab_size)) for i, pair in enumerate(pairs))
    good = sift(rows, name, "refuse", None)
    if not good:
        raise ValueError("there are no pairs: the list is empty")
    return good


def _from_file(path: Path, vocab_size: int | None, backbone: Any) -> list[Pair]:
    if path.suffix not in (".jsonl", ".json"):
        try:
            read_metadata(path)
        except ValueError:  # not of seaalign, or no Parquet at all: the reader of tables says what is wrong
            pass
        else:
            return read_pairs(path, vocab_size=vocab_size)
    spells = backbone if hasattr(backbone, "read_prompt") and hasattr(backbone, "read_speech") else None
    return read_preferences(path, spells, getattr(spells, "tokenizer", None), vocab_size=vocab_size)


def _checked(pair: Pair, vocab_size: int | None) -> Pair:
    for name, tokens in zip(("chosen", "rejected"), pair.completions(), strict=True):
        if not len(tokens):
            raise ValueError(f"{name} is empty: drop the pair, or check how it was made")
        check_codes(name, tokens, vocab_size)
    if pair.ended[0] == pair.ended[1] and torch.equal(*pair.completions()):
        raise ValueError("the answers are the same: a pair says nothing unless they differ")
    return pair


class PairData(StoredData[Pair, Pair]):
    """Pairs of a better and a worse answer, for `DPO`.

    Where the pairs carry no log-probs of the reference, they are scored before training, by all processes, and written
    to `scored`, whole or not at all: by the module's backbone, which at that time is the frozen SFT checkpoint. Killed
    meanwhile, the same command goes on from what is scored already. A file that exists must have come from these
    weights, this layout and these pairs. After a resume (`ckpt_path`) the weights at hand say nothing, as the
    checkpoint's are loaded later; then the file must be the one that the checkpoint was trained on. Under
    `fast_dev_run` a missing file is made of eight pairs, and beside its place. Several machines need a folder that all
    of them see. Pairs that carry log-probs of their own, all of them, are taken as they are, and with
    `reference="disabled_adapter"` nothing is scored before training: then there is no file.

    Args:
        pairs: pairs; a Parquet file of `storage.write_pairs`; or a preference table, .jsonl or .parquet, in ids of
            seaalign, or in ids or texts of the model where the backbone can read them (see `storage.read_preferences`).
        scored: the Parquet file of the pairs with their log-probs, read or made. Default: beside the file of the pairs,
            as NAME.scored.parquet; for pairs that are no file, scored.parquet in the working directory.
        val_fraction: share of the pairs kept for validation, drawn by seed; at least one where it is above 0.
        max_frames: ceiling on the frames of a batch, per process. Where the backbone packs rows without padding, that
            is the sum of prompts and answers, and batches are filled up to it; elsewhere it is twice the pairs x the
            longest answer, and pairs of similar length share a batch.
        seed: of split and shuffle.
        vocab_size: refuse token ids outside 0..vocab_size-1 when reading files.
        reference: "stored" log-probs, or "disabled_adapter": the policy without its LoRA layers scores each batch. The
            losses are the same; a step costs one more pass without gradient.

    Raises:
        ValueError: at setup; the file does not belong to the rest, and the message says in what. Or only some pairs
            carry log-probs.

    Example:
        >>> from seaalign.records import Prompt
        >>> better = Pair("a", Prompt([1, 2]), chosen=torch.tensor([7, 8]), rejected=torch.tensor([7, 7, 7]))
        >>> data = PairData([better], reference="disabled_adapter", val_fraction=0)
        >>> data.setup()
        >>> next(iter(data.train_dataloader())).speech.lengths.tolist()
        [2, 3]
    """

    noun, argument = "pairs", "scored"

    def __init__(
        self,
        pairs: str | Path | Sequence[Pair],
        scored: str | Path | None = None,
        val_fraction: float = 0.05,
        max_frames: int = 2000,
        seed: int = 0,
        vocab_size: int | None = None,
        reference: Reference = "stored",
    ) -> None:
        if scored is None:
            scored = Path(pairs).with_suffix(".scored.parquet") if isinstance(pairs, str | Path) else "scored.parquet"
        super().__init__(scored, val_fraction, max_frames, seed, vocab_size, reference)
        if isinstance(pairs, str | Path) and Path(pairs).resolve() == self.path.resolve():
            raise ValueError(f"pairs and scored are the same file, {scored}: give scored= a name of its own")
        self.source = pairs
        self._loaded: list[Pair] = []

    def _sources(self) -> list[Pair]:
        if self._loaded:
            return self._loaded
        pairs = load_pairs(self.source, self.vocab_size, self._backbone())
        if self.reference == "disabled_adapter":
            pairs = [replace(pair, reference=None) for pair in pairs]
        bare = [pair.id for pair in pairs if pair.reference is None]
        if 0 < len(bare) < len(pairs):
            raise ValueError(
                f"{len(bare)} of {len(pairs)} pairs carry no reference log-probs, first {bare[:3]}, and the others do: "
                "score all of them by one policy (sampling.pair_logps), or none (reference=None) to have it done here"
            )
        self._loaded = pairs
        return pairs

    def _held(self, sources: list[Pair]) -> list[Pair] | None:
        return sources if self.reference == "disabled_adapter" or sources[0].reference is not None else None

    def _made(self, items: Sequence[Pair], backbone: Backbone, precision: Precision, progress: bool) -> list[Pair]:
        # scored under the precision of the training, so that policy and reference start equal
        with precision.forward_context():
            return pair_logps(backbone, items, progress=progress)

    def _save(self, path: Path, rows: list[Pair], about: dict[str, Any]) -> None:
        write_pairs(path, rows, about)

    def _load(self, path: Path) -> list[Pair]:
        return read_pairs(path, on_bad="raise")

    def _read(self, path: Path, sources: list[Pair]) -> list[Pair]:
        pairs = read_pairs(path, vocab_size=self.vocab_size, on_bad="raise")
        bare = [replace(pair, reference=None) for pair in pairs]
        same = pairs_hash(bare) == pairs_hash(sources)
        self._refuse([] if same else ["the pairs inside: somebody has changed them"])
        return pairs

    def _expected(self, sources: list[Pair], backbone: Backbone | None) -> dict[str, Any]:
        return {"data": pairs_hash(sources)} | ({} if backbone is None else {"layout": layout_of(backbone)})

    def _batch(self, rows: list[Pair]) -> PairBatch:
        return PairBatch.of(rows, stored=self.reference == "stored")
