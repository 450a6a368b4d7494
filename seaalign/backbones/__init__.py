"""Adapters: how seaalign reaches a spoken language model.

The contract is in `base`; `decoder`, `step` and `logits` turn a few hooks into it; the ready adapters stand on those.
"""

from seaalign.backbones.base import Backbone, Unsupported
from seaalign.backbones.causal import CausalLM
from seaalign.backbones.cosyvoice import CosyVoice
from seaalign.backbones.decoder import DecoderOnly
from seaalign.backbones.layouts import LAYOUTS, Layout
from seaalign.backbones.logits import LogitsBackbone
from seaalign.backbones.lora import adapters_off, add_lora
from seaalign.backbones.snac import snac_books, snac_tokens
from seaalign.backbones.step import StepBackbone

__all__ = [
    "LAYOUTS",
    "Backbone",
    "CausalLM",
    "CosyVoice",
    "DecoderOnly",
    "Layout",
    "LogitsBackbone",
    "StepBackbone",
    "Unsupported",
    "adapters_off",
    "add_lora",
    "snac_books",
    "snac_tokens",
]
