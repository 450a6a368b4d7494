"""What a training step receives: records stacked into rows.

Plain classes, not dataclasses: Lightning takes those apart to cast their tensors, and the records inside are frozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from seaalign.records import Prompt, Speech, Triplet
from seaalign.sampling import stack


class SpeechBatch:
    """B utterances.

    Args:
        prompts: B prompts.
        speech: B rows, row b answers prompt b.
    """

    def __init__(self, prompts: list[Prompt], speech: Speech) -> None:
        self.prompts, self.speech = prompts, speech

    def __len__(self) -> int:
        return len(self.prompts)

    def to(self, device: Any) -> SpeechBatch:
        """A copy on another device."""
        return SpeechBatch([prompt.to(device) for prompt in self.prompts], self.speech.to(device))


class TripletBatch:
    """G triplets as 3G rows in three blocks, all real, all expressive, all stable; those of a triplet share its prompt.

    Args:
        prompts: G prompts, with style.
        speech: 3G rows.
        plain: reference log-probs given the text alone (3G, T+1), in the same blocks.
        styled: reference log-probs given the style prefix too (2G, T+1), blocks real and expressive; or None.
    """

    def __init__(self, prompts: list[Prompt], speech: Speech, plain: Tensor, styled: Tensor | None = None) -> None:
        self.prompts, self.speech, self.plain, self.styled = prompts, speech, plain, styled

    @classmethod
    def of(cls, group: Sequence[Triplet]) -> TripletBatch:
        """Collate triplets that carry reference log-probs.

        Raises:
            ValueError: a triplet has none, or not the same ones as the others.
        """
        bare = [triplet.id for triplet in group if not triplet.reference]
        if bare:
            raise ValueError(
                f"triplets {bare[:3]} carry no reference log-probs: pass them through sampling.reference_logps first"
            )
        stored = [triplet.reference or {} for triplet in group]
        wanted = {"plain"}.union(*stored)
        lacks = {triplet.id: sorted(wanted - modes.keys()) for triplet, modes in zip(group, stored, strict=True)}
        lacking = {key: modes for key, modes in lacks.items() if modes}
        if lacking:
            raise ValueError(
                f"{len(lacking)} of {len(group)} triplets lack reference log-probs that the batch needs, for example "
                f"{dict(list(lacking.items())[:3])}: pass all of them through sampling.reference_logps with one styled="
            )
        modes = {
            mode: [row for block in zip(*(s[mode] for s in stored), strict=True) for row in block] for mode in stored[0]
        }
        padded = {mode: pad_sequence(rows, batch_first=True) for mode, rows in modes.items()}
        return cls([triplet.prompt for triplet in group], stack(group), padded["plain"], padded.get("styled"))

    def __len__(self) -> int:
        return len(self.prompts)

    def to(self, device: Any) -> TripletBatch:
        """A copy on another device."""
        styled = None if self.styled is None else self.styled.to(device)
        return TripletBatch(
            [prompt.to(device) for prompt in self.prompts], self.speech.to(device), self.plain.to(device), styled
        )
