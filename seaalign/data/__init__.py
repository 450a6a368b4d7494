"""LightningDataModules: batches by frames, the same trajectory after a resume, DDP without extra arguments."""

from seaalign.data.batches import SpeechBatch, TripletBatch
from seaalign.data.batching import FrameBatchSampler
from seaalign.data.loader import FrameLoader
from seaalign.data.speech import SpeechData, load_utterances
from seaalign.data.triplets import TripletData

__all__ = [
    "FrameBatchSampler",
    "FrameLoader",
    "SpeechBatch",
    "SpeechData",
    "TripletBatch",
    "TripletData",
    "load_utterances",
]
