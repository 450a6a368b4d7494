"""What a training step receives: records stacked into rows.

Plain classes, not dataclasses: Lightning takes those apart to cast their tensors, and the records inside are frozen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from seaalign.records import Candidate, Pair, Prompt, Sentence, Speech, Triplet
from seaalign.sampling import stack


class SpeechBatch:
    """B utterances.

    Args:
        prompts: B prompts.
        speech: B rows, row b answers prompt b.
        ids: of the utterances (B,), for messages.
    """

    def __init__(self, prompts: list[Prompt], speech: Speech, ids: Sequence[str] = ()) -> None:
        self.prompts, self.speech, self.ids = prompts, speech, list(ids)

    def __len__(self) -> int:
        return len(self.prompts)

    def to(self, device: Any) -> SpeechBatch:
        """A copy on another device."""
        return SpeechBatch([prompt.to(device) for prompt in self.prompts], self.speech.to(device), self.ids)


class PairBatch:
    """P pairs as 2P rows in two blocks, all chosen, all rejected; those of a pair share its prompt.

    Args:
        prompts: P prompts.
        speech: 2P rows.
        reference: log-probs under the frozen reference (2P, T+1), in the same blocks; None where the reference is the
            policy without its adapters, which scores the rows when it is asked for.
        ids: of the pairs (P,), for messages.
    """

    def __init__(
        self, prompts: list[Prompt], speech: Speech, reference: Tensor | None, ids: Sequence[str] = ()
    ) -> None:
        self.prompts, self.speech, self.reference, self.ids = prompts, speech, reference, list(ids)

    @classmethod
    def of(cls, group: Sequence[Pair], stored: bool = True) -> PairBatch:
        """Collate pairs.

        Args:
            group: the pairs.
            stored: take along their reference log-probs. False leaves them out, for a policy with adapters.

        Raises:
            ValueError: a pair has none, and they are wanted.
        """
        prompts, ids = [pair.prompt for pair in group], [pair.id for pair in group]
        if not stored:
            return cls(prompts, stack(group), None, ids)
        bare = [pair.id for pair in group if pair.reference is None]
        if bare:
            raise ValueError(f"pairs {bare[:3]} carry no reference log-probs: pass them through sampling.pair_logps")
        rows = [values for block in zip(*(p.reference for p in group if p.reference), strict=True) for values in block]
        return cls(prompts, stack(group), pad_sequence(rows, batch_first=True), ids)

    def __len__(self) -> int:
        return len(self.prompts)

    def to(self, device: Any) -> PairBatch:
        """A copy on another device."""
        prompts = [prompt.to(device) for prompt in self.prompts]
        return PairBatch(prompts, self.speech.to(device), _moved(self.reference, device), self.ids)


class TripletBatch:
    """G triplets as 3G rows in three blocks, all real, all expressive, all stable; those of a triplet share its prompt.

    Args:
        prompts: G prompts, with style.
        speech: 3G rows.
        plain: reference log-probs given the text alone (3G, T+1), in the same blocks; None where the reference is the
            policy without its adapters, which scores the rows when it is asked for.
        styled: reference log-probs given the style prefix too (2G, T+1), blocks real and expressive; or None.
        ids: of the triplets (G,), for messages.
    """

    def __init__(
        self,
        prompts: list[Prompt],
        speech: Speech,
        plain: Tensor | None,
        styled: Tensor | None = None,
        ids: Sequence[str] = (),
    ) -> None:
        self.prompts, self.speech, self.plain, self.styled, self.ids = prompts, speech, plain, styled, list(ids)

    @classmethod
    def of(cls, group: Sequence[Triplet], stored: bool = True) -> TripletBatch:
        """Collate triplets.

        Args:
            group: the triplets.
            stored: take along their reference log-probs. False leaves them out, for a policy with adapters.

        Raises:
            ValueError: a triplet has none, or not the same ones as the others, and they are wanted.
        """
        prompts, ids = [triplet.prompt for triplet in group], [triplet.id for triplet in group]
        if not stored:
            return cls(prompts, stack(group), None, None, ids)
        bare = [triplet.id for triplet in group if not triplet.reference]
        if bare:
            raise ValueError(
                f"triplets {bare[:3]} carry no reference log-probs: pass them through sampling.reference_logps first"
            )
        carried = [triplet.reference or {} for triplet in group]
        wanted = {"plain"}.union(*carried)
        lacks = {triplet.id: sorted(wanted - modes.keys()) for triplet, modes in zip(group, carried, strict=True)}
        lacking = {key: modes for key, modes in lacks.items() if modes}
        if lacking:
            raise ValueError(
                f"{len(lacking)} of {len(group)} triplets lack reference log-probs that the batch needs, for example "
                f"{dict(list(lacking.items())[:3])}: pass all of them through sampling.reference_logps with one styled="
            )
        modes = {
            mode: [row for block in zip(*(c[mode] for c in carried), strict=True) for row in block]
            for mode in carried[0]
        }
        padded = {mode: pad_sequence(rows, batch_first=True) for mode, rows in modes.items()}
        return cls(prompts, stack(group), padded["plain"], padded.get("styled"), ids)

    def __len__(self) -> int:
        return len(self.prompts)

    def to(self, device: Any) -> TripletBatch:
        """A copy on another device."""
        prompts = [prompt.to(device) for prompt in self.prompts]
        plain, styled = _moved(self.plain, device), _moved(self.styled, device)
        return TripletBatch(prompts, self.speech.to(device), plain, styled, self.ids)


class SentenceBatch:
    """Sentences to say (B,), for `trainer.predict`."""

    def __init__(self, sentences: Sequence[Sentence]) -> None:
        self.sentences = list(sentences)

    def __len__(self) -> int:
        return len(self.sentences)

    def to(self, device: Any) -> SentenceBatch:
        """Itself: the sampler moves prompts where it needs them."""
        return self


class CandidateBatch:
    """What `trainer.predict` gives: candidates, in a box that Lightning does not take apart.

    Args:
        candidates: one per sentence.
    """

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.candidates = list(candidates)

    def __len__(self) -> int:
        return len(self.candidates)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self.candidates)


def _moved(values: Tensor | None, device: Any) -> Tensor | None:
    return None if values is None else values.to(device)
