"""Speech recognisers behind one small protocol: waveforms of one language in, texts out.

Every name can be imported without the package it stands for; constructing it loads the model, or says what to install.
"""

from seaalign.judges.transcribers.base import Transcriber
from seaalign.judges.transcribers.dolphin import Dolphin
from seaalign.judges.transcribers.faster_whisper import FasterWhisper
from seaalign.judges.transcribers.mms import MMS
from seaalign.judges.transcribers.pipeline import Pipeline
from seaalign.judges.transcribers.routing import ByLanguage, as_transcriber
from seaalign.judges.transcribers.speechbrain import SpeechBrain
from seaalign.judges.transcribers.whisper import Whisper

__all__ = [
    "MMS",
    "ByLanguage",
    "Dolphin",
    "FasterWhisper",
    "Pipeline",
    "SpeechBrain",
    "Transcriber",
    "Whisper",
    "as_transcriber",
]
