"""seaalign: self-alignment for spoken language models that synthetic speech has made flat.

The flow, each arrow a function call or a file on disk:

    text -> backbone -> candidates -> judge -> pairs / triplets -> dataset -> alignment module -> aligned policy ->
    report

    backbone = CosyVoice("pretrained_models/CosyVoice2-0.5B")    # seaalign.backbones; or your own: four hooks
    check_backbone(backbone, prompts, speech)                    # seaalign.testing: every rule of the contract
    data = seaalign.TripletData("real.parquet", "triplets.parquet")  # real / style on / style off, and reference scores
    trainer.fit(seaalign.DGSA(backbone, alpha=0.8), data)        # lightning.Trainer

Names load when they are first used, so importing seaalign costs almost nothing and changes nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Candidate": "records",
    "Pair": "records",
    "Recording": "records",
    "Sentence": "records",
    "Verdict": "records",
    "Prompt": "records",
    "Speech": "records",
    "Style": "records",
    "Triplet": "records",
    "Utterance": "records",
    "Backbone": "backbones",
    "DecoderOnly": "backbones",
    "LogitsBackbone": "backbones",
    "StepBackbone": "backbones",
    "StylePrefix": "backbones",
    "Unsupported": "backbones",
    "PairData": "data",
    "ProsodyData": "data",
    "SpeechData": "data",
    "TextData": "data",
    "TripletData": "data",
    "read_triplets": "storage",
    "read_utterances": "storage",
    "write_triplets": "storage",
    "write_utterances": "storage",
    "Separation": "audit",
    "SeparationAudit": "audit",
    "DGSA": "modules",
    "DPO": "modules",
    "Disentangler": "modules",
    "Habits": "modules",
    "SFT": "modules",
    "TDSC": "modules",
    "CompileBlocks": "callbacks",
    "ConstraintCheckpoint": "callbacks",
    "DriftStop": "callbacks",
    "ErosionMonitor": "callbacks",
    "SampleAudio": "callbacks",
    "SaturationAlert": "callbacks",
    "TemperatureCurriculum": "callbacks",
    "evaluate": "evaluation",
    "read_evaluation": "evaluation",
}
_ROOMS = (
    "audio",
    "audit",
    "backbones",
    "callbacks",
    "critique",
    "data",
    "evaluation",
    "functional",
    "judges",
    "listening",
    "metrics",
    "miniature",
    "modules",
    "pairs",
    "records",
    "report",
    "sampling",
    "stages",
    "storage",
    "testing",
)

if TYPE_CHECKING:
    from seaalign.audit import Separation, SeparationAudit
    from seaalign.backbones import Backbone, DecoderOnly, LogitsBackbone, StepBackbone, StylePrefix, Unsupported
    from seaalign.callbacks import (
        CompileBlocks,
        ConstraintCheckpoint,
        DriftStop,
        ErosionMonitor,
        SampleAudio,
        SaturationAlert,
        TemperatureCurriculum,
    )
    from seaalign.data import PairData, ProsodyData, SpeechData, TextData, TripletData
    from seaalign.evaluation import evaluate, read_evaluation
    from seaalign.modules import DGSA, DPO, SFT, TDSC, Disentangler, Habits
    from seaalign.records import (
        Candidate,
        Pair,
        Prompt,
        Recording,
        Sentence,
        Speech,
        Style,
        Triplet,
        Utterance,
        Verdict,
    )
    from seaalign.storage import read_triplets, read_utterances, write_triplets, write_utterances

__all__ = [
    "Verdict",
    "Sentence",
    "Recording",
    "Pair",
    "Candidate",
    "Prompt",
    "Speech",
    "Style",
    "Triplet",
    "Utterance",
    "Backbone",
    "DecoderOnly",
    "LogitsBackbone",
    "StepBackbone",
    "StylePrefix",
    "Unsupported",
    "PairData",
    "ProsodyData",
    "SpeechData",
    "TextData",
    "TripletData",
    "read_triplets",
    "read_utterances",
    "write_triplets",
    "write_utterances",
    "Separation",
    "SeparationAudit",
    "DGSA",
    "DPO",
    "Disentangler",
    "Habits",
    "SFT",
    "TDSC",
    "CompileBlocks",
    "ConstraintCheckpoint",
    "DriftStop",
    "ErosionMonitor",
    "SampleAudio",
    "SaturationAlert",
    "TemperatureCurriculum",
    "evaluate",
    "read_evaluation",
    "audio",
    "audit",
    "backbones",
    "callbacks",
    "critique",
    "data",
    "evaluation",
    "functional",
    "judges",
    "listening",
    "metrics",
    "miniature",
    "modules",
    "pairs",
    "records",
    "report",
    "sampling",
    "stages",
    "storage",
    "testing",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"seaalign.{_HOME[name]}"), name)
    if name in _ROOMS:
        return importlib.import_module(f"seaalign.{name}")
    raise AttributeError(f"module 'seaalign' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
