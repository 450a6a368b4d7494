"""Adapters: how seaalign reaches a spoken language model.

The contract is in `base`; `decoder`, `step` and `logits` turn a few hooks into it; the ready adapters stand on those.
"""

from seaalign.backbones.base import Backbone, Engine, Unsupported
from seaalign.backbones.causal import CausalLM
from seaalign.backbones.chatterbox import Chatterbox
from seaalign.backbones.compiled import compile_blocks
from seaalign.backbones.converter import with_converter
from seaalign.backbones.cosyvoice import CosyVoice
from seaalign.backbones.csm import CSM
from seaalign.backbones.decoder import DecoderOnly
from seaalign.backbones.hidden import hidden_states
from seaalign.backbones.layouts import LAYOUTS, Layout
from seaalign.backbones.logits import LogitsBackbone
from seaalign.backbones.lora import adapters_off, add_lora
from seaalign.backbones.qwen3tts import Qwen3TTS
from seaalign.backbones.snac import snac_books, snac_tokens
from seaalign.backbones.step import StepBackbone
from seaalign.backbones.style_prefix import StylePrefix
from seaalign.backbones.vllm import VLLM

__all__ = [
    "CSM",
    "LAYOUTS",
    "VLLM",
    "Backbone",
    "CausalLM",
    "Chatterbox",
    "CosyVoice",
    "DecoderOnly",
    "Engine",
    "Layout",
    "LogitsBackbone",
    "Qwen3TTS",
    "StepBackbone",
    "StylePrefix",
    "Unsupported",
    "adapters_off",
    "add_lora",
    "compile_blocks",
    "hidden_states",
    "snac_books",
    "snac_tokens",
    "with_converter",
]
