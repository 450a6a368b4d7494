"""Adapters: how seaalign reaches a spoken language model.

The contract is in `base`; the other files turn a few hooks into it.
"""

from seaalign.backbones.base import Backbone, Unsupported
from seaalign.backbones.decoder import DecoderOnly
from seaalign.backbones.logits import LogitsBackbone
from seaalign.backbones.step import StepBackbone

__all__ = ["Backbone", "DecoderOnly", "LogitsBackbone", "StepBackbone", "Unsupported"]
