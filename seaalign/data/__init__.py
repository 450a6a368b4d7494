"""Utterances and triplets as LightningDataModules:

batches by frames, the same trajectory after a resume, DDP without extra arguments.
"""

from seaalign.data.loader import FrameLoader
from seaalign.data.speech import SpeechBatch, SpeechData, load_utterances
from seaalign.data.triplets import TripletBatch, TripletData

__all__ = ["FrameLoader", "SpeechBatch", "SpeechData", "TripletBatch", "TripletData", "load_utterances"]
