"""Callbacks for any LightningModule that holds a backbone, made to be subclassed. Training never depends on them."""

from seaalign.callbacks.audio import SampleAudio
from seaalign.callbacks.checkpoint import ConstraintCheckpoint
from seaalign.callbacks.compiled import CompileBlocks
from seaalign.callbacks.curriculum import TemperatureCurriculum
from seaalign.callbacks.erosion import ErosionMonitor
from seaalign.callbacks.prompted import PromptedCallback
from seaalign.callbacks.saturation import DriftStop, SaturationAlert
from seaalign.callbacks.shards import ShardWriter

__all__ = [
    "CompileBlocks",
    "ConstraintCheckpoint",
    "DriftStop",
    "ErosionMonitor",
    "PromptedCallback",
    "SampleAudio",
    "SaturationAlert",
    "ShardWriter",
    "TemperatureCurriculum",
]
