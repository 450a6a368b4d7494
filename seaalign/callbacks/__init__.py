"""Callbacks for any LightningModule that holds a backbone, made to be subclassed. Training never depends on them."""

from seaalign.callbacks.audio import SampleAudio
from seaalign.callbacks.curriculum import TemperatureCurriculum
from seaalign.callbacks.erosion import ErosionMonitor
from seaalign.callbacks.prompted import PromptedCallback
from seaalign.callbacks.shards import ShardWriter

__all__ = ["ErosionMonitor", "PromptedCallback", "SampleAudio", "ShardWriter", "TemperatureCurriculum"]
