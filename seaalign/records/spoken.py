"""Rows of a data set: an utterance, and what preference alignment compares."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from seaalign.records.speech import Ids, Prompt, set_fields, token_ids


@dataclass(frozen=True, eq=False, init=False)
class Utterance:
    """A recorded or synthetic sentence, ready for training.

    Args:
        id: unique within a data set; pairs and stored log-probs refer to it.
        prompt: text, and where it exists the style prefix and the timbre of the same reference recording.
        tokens: speech tokens of the recording (T,) or (T, K).
        source: "real", or the name of the system that synthesised it.

    Raises:
        TypeError: the prompt is no `Prompt`, or the tokens are no integer ids.
        ValueError: there are no tokens.
    """

    id: str
    prompt: Prompt
    tokens: Tensor
    source: str = "real"

    def __init__(self, id: str, prompt: Prompt, tokens: Ids, source: str = "real") -> None:
        if not isinstance(prompt, Prompt):
            kind = type(prompt).__name__
            raise TypeError(f"prompt of utterance {id!r} must be a Prompt, got {kind}: give Prompt(text ids)")
        set_fields(
            self, id=id, prompt=prompt, tokens=token_ids(tokens, f"tokens of utterance {id!r}", (1, 2)), source=source
        )
        if not len(self.tokens):
            raise ValueError(f"utterance {self.id!r} has no speech tokens; drop it, or check its audio")


@dataclass(frozen=True, eq=False)
class Triplet:
    """One text said three times (eq. 8-9): really, expressively (style on), stably (style off).

    Args:
        id: the id of the real utterance.
        prompt: the prompt that `expressive` was sampled from; `stable` was sampled from `prompt.plain()`.
        real, expressive, stable: speech tokens (T,) or (T, K).
        ended: did each of the three end by itself (real, expressive, stable)?
        reference: log-probs per column under the frozen reference policy, one tensor (T+1,) for each of the three, or
            None. Keys "plain" (scored from the text alone) and, where asked for, "styled" (scored with the style
            prefix; without `stable`).
    """

    id: str
    prompt: Prompt
    real: Tensor
    expressive: Tensor
    stable: Tensor
    ended: tuple[bool, bool, bool] = (True, True, True)
    reference: dict[str, tuple[Tensor, ...]] | None = None

    def completions(self) -> tuple[Tensor, Tensor, Tensor]:
        """(real, expressive, stable)."""
        return self.real, self.expressive, self.stable


@dataclass(frozen=True, eq=False)
class Pair:
    """Two answers to one prompt, the better one first (eq. 18).

    Args:
        id: unique within a file; usually that of the sentence.
        prompt: what both answer.
        chosen, rejected: speech tokens (T,) or (T, K).
        ended: did each of the two end by itself?
        reference: log-probs per column under the frozen reference policy, one tensor (T+1,) for each of the two, or
            None.
    """

    id: str
    prompt: Prompt
    chosen: Tensor
    rejected: Tensor
    ended: tuple[bool, bool] = (True, True)
    reference: tuple[Tensor, Tensor] | None = None

    def completions(self) -> tuple[Tensor, Tensor]:
        """(chosen, rejected)."""
        return self.chosen, self.rejected
