"""The small audit before DGSA trains: token probes on the triplets at hand, nothing generated, nothing drawn."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from seaalign.audit.questions import Material, style_finding
from seaalign.audit.verdict import Separation
from seaalign.records import Triplet

_MOST_ROWS = 1000


class SeparationWarning(UserWarning):
    """Style tokens identify the speaker; once `SeparationAudit` has listened and cleared the backbone, ignore it."""


def quick_audit(triplets: Sequence[Triplet], backbone: str) -> Separation:
    """Does the style prefix of these triplets identify the speaker (by equal timbres)? A linear probe, in a second.

    Args:
        triplets: at most 1,000 are looked at, evenly spread over all.
        backbone: its name, for the report.
    """
    rows = [triplets[i] for i in torch.linspace(0, len(triplets) - 1, min(len(triplets), _MOST_ROWS)).long().tolist()]
    material = Material.of([t.prompt for t in rows], [t.real for t in rows], None)
    return Separation(backbone, (style_finding(material),))


def warn_before_training(trainer: Any, backbone: Any) -> None:
    """Warn where the style tokens of the trainer's triplets identify the speaker: on process 0, in fresh runs only.

    Silent where nothing says who speaks (timbres missing, or all different), and where the data cannot tell.
    """
    triplets = getattr(trainer.datamodule, "train", None)
    if not trainer.is_global_zero or trainer.global_step > 0 or not triplets or not isinstance(triplets[0], Triplet):
        return
    found = quick_audit(triplets, type(backbone).__name__)
    if found.status == "suspect":
        warnings.warn(found.verdict, SeparationWarning, stacklevel=2)
