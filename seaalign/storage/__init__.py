"""Utterances and triplets on disk: Parquet for tokens, JSONL for people, fingerprints for what belongs together."""

from seaalign.storage.columns import read_metadata, write_json
from seaalign.storage.cosyvoice import read_cosyvoice, read_cosyvoice_pairs
from seaalign.storage.cosyvoice_write import write_cosyvoice
from seaalign.storage.critique import (
    read_candidates,
    read_judged,
    read_pairs,
    write_candidates,
    write_judged,
    write_pairs,
)
from seaalign.storage.fingerprint import data_hash, layout_of, pairs_hash, samples_hash, weights_hash
from seaalign.storage.hub import read_dataset
from seaalign.storage.kaldi import read_kaldi
from seaalign.storage.manifest import read_manifest
from seaalign.storage.parquet import read_triplets, read_utterances, write_triplets, write_utterances
from seaalign.storage.preferences import read_preferences, write_preferences
from seaalign.storage.recordings import read_common_voice, read_ljspeech, read_nemo
from seaalign.storage.rows import Refused
from seaalign.storage.shards import Shards
from seaalign.storage.texts import read_texts

__all__ = [
    "Refused",
    "Shards",
    "data_hash",
    "layout_of",
    "pairs_hash",
    "read_candidates",
    "read_common_voice",
    "read_cosyvoice",
    "read_cosyvoice_pairs",
    "read_dataset",
    "read_judged",
    "read_kaldi",
    "read_ljspeech",
    "read_manifest",
    "read_metadata",
    "read_nemo",
    "read_pairs",
    "read_preferences",
    "read_texts",
    "read_triplets",
    "read_utterances",
    "samples_hash",
    "weights_hash",
    "write_candidates",
    "write_cosyvoice",
    "write_json",
    "write_judged",
    "write_pairs",
    "write_preferences",
    "write_triplets",
    "write_utterances",
]
