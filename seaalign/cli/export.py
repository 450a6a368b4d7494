"""`seaalign export`: a trained policy in the format of its own inference code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console

from seaalign.backbones.checkpoints import load_weights
from seaalign.cli.backbone import parsed


def _options(parser: LightningArgumentParser) -> None:
    parser.add_argument("--weights", type=str, required=True, help="checkpoint of the training")
    parser.add_argument(
        "--output",
        type=str,
        required=True,
        help="what the backbone's save() writes; a file: CosyVoice (llm.pt), Chatterbox (.safetensors), most of "
        "your own adapters; a folder: Hugging Face models, and LoRA layers alone",
    )
    parser.add_argument(
        "--adapters_only", type=bool, default=False, help="write the LoRA layers alone, as peft does, not merged"
    )


def export(argv: Sequence[str]) -> None:
    """`seaalign export`."""
    given, backbone = parsed("export", "Save a trained policy as its own inference code loads it.", argv, _options)
    load_weights(backbone, given.weights)
    Path(given.output).parent.mkdir(parents=True, exist_ok=True)  # torch.save makes none
    backbone.save(given.output, adapters_only=given.adapters_only)
    Console(stderr=True).print(f"wrote {given.output}", highlight=False, soft_wrap=True)
