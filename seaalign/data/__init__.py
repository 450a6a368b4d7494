"""LightningDataModules: batches by frames, the same trajectory after a resume, DDP without extra arguments."""

from seaalign.data.batches import PairBatch, SpeechBatch, TripletBatch
from seaalign.data.batching import FrameBatchSampler
from seaalign.data.filter import filter_utterances
from seaalign.data.filter_funnel import Sieve
from seaalign.data.loader import FrameLoader
from seaalign.data.pairs import PairData, load_pairs
from seaalign.data.prepare import prepare
from seaalign.data.prosody import ProsodyBatch, ProsodyData
from seaalign.data.rounds import RoundLoader
from seaalign.data.shards import Shard, ShardData
from seaalign.data.speech import SpeechData, load_utterances
from seaalign.data.texts import TextData
from seaalign.data.triplets import TripletData

__all__ = [
    "FrameBatchSampler",
    "FrameLoader",
    "PairBatch",
    "PairData",
    "ProsodyBatch",
    "ProsodyData",
    "RoundLoader",
    "Shard",
    "ShardData",
    "Sieve",
    "SpeechBatch",
    "SpeechData",
    "TextData",
    "TripletBatch",
    "TripletData",
    "filter_utterances",
    "load_pairs",
    "load_utterances",
    "prepare",
]
