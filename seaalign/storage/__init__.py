"""Utterances and triplets on disk: Parquet for tokens, JSONL for people, fingerprints for what belongs together."""

from seaalign.storage.columns import read_metadata, write_json
from seaalign.storage.critique import read_candidates, read_pairs, write_candidates, write_pairs
from seaalign.storage.fingerprint import data_hash, layout_of, samples_hash, weights_hash
from seaalign.storage.manifest import read_manifest
from seaalign.storage.parquet import read_triplets, read_utterances, write_triplets, write_utterances
from seaalign.storage.rows import Refused
from seaalign.storage.texts import read_texts

__all__ = [
    "Refused",
    "data_hash",
    "layout_of",
    "read_candidates",
    "read_manifest",
    "read_metadata",
    "read_pairs",
    "read_texts",
    "read_triplets",
    "read_utterances",
    "samples_hash",
    "weights_hash",
    "write_candidates",
    "write_json",
    "write_pairs",
    "write_triplets",
    "write_utterances",
]
