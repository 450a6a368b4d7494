"""The contract that every spoken language model is reached through.

An adapter HOLDS the user's model; the user's model inherits nothing from seaalign. `Backbone` is all that DGSA and
TDSC call; the base classes beside this file (`StepBackbone`, `DecoderOnly`, `LogitsBackbone`) give the contract for a
few short hooks. `seaalign.testing.check_backbone` makes the rules executable.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from seaalign.functional.sampling import content_key
from seaalign.records import Prompt, Speech


class Unsupported(NotImplementedError):
    """The backbone lacks an optional ability; the message names what needs it and what to use instead."""


class Backbone(nn.Module):
    """What DGSA and TDSC call. Text ids in, log-probs and speech tokens out.

    Attributes:
        features: which of "style" (the prompt's style prefix changes the score), "timbre" (the speaker is set apart
            from the tokens), "decode" and "encode" the adapter offers.
        sampler: the name of the sampling rule, printed in every report ("nucleus" unless `sample` is overridden).
        vocab_size: number of speech-token ids, where known: then ids beyond it are refused by name.
        layout: whatever else decides how a prompt is laid out, as text; stored log-probs are good for one layout only.
    """

    features: frozenset[str] | set[str] = frozenset()
    sampler: str = "nucleus"
    vocab_size: int | None = None
    layout: str | None = None

    @abstractmethod
    def forward(self, prompts: Sequence[Prompt], speech: Speech) -> Tensor:
        """Log-prob of every token (eq. 1), natural log, fp32.

        Args:
            prompts: P prompts.
            speech: B rows; row b answers `prompts[speech.prompt[b]]`.

        Returns:
            (B, T+1): column t = log p of token t; column lengths[b] = log p of the end token, 0 where the row was
            cut; 0 beyond. `.sum(-1)` is log pi(y|x).
        """
        raise NotImplementedError

    @abstractmethod
    def sample(
        self,
        prompts: Sequence[Prompt],
        n: int = 1,
        temperature: float | Tensor = 1.0,
        top_p: float = 1.0,
        max_len: int | Tensor = 1024,
        min_len: int | Tensor = 0,
        generator: torch.Generator | None = None,
    ) -> Speech:
        """Draw n answers to each of P prompts: P*n rows, those of prompt 0 first.

        Args:
            prompts: P prompts.
            n: answers per prompt.
            temperature: a number or one per row (P*n,); 0 = greedy.
            top_p: nucleus mass.
            max_len: a number or one per row, frames; rows that reach it come back with `ended` False.
            min_len: a number or one per row, frames; the end token is not drawn before.
            generator: one number is drawn from it per call. The same seed gives the same rows, whatever other prompts
                are in the call.
        """
        raise NotImplementedError

    def packs(self, prompts: Sequence[Prompt]) -> bool:
        """Are rows scored without padding? Then a batch costs the sum of its positions; see `TripletData`.

        Args:
            prompts: one or more, to try it on.
        """
        return False

    def decode(self, speech: Speech, timbres: Sequence[Any]) -> list[Tensor]:
        """Waveforms (samples,) of B rows, each with its timbre."""
        raise Unsupported(
            f"{type(self).__name__} has no decode(): audio metrics, SampleAudio and audio judges need it. "
            "Override decode(speech, timbres), or use token statistics only."
        )

    def encode(self, waveforms: Sequence[Tensor], sample_rate: int) -> Speech:
        """Speech tokens of waveforms (samples,)."""
        raise Unsupported(
            f"{type(self).__name__} has no encode(): building data from audio needs it. "
            "Override encode(waveforms, sample_rate), or bring speech tokens made by your own tokenizer."
        )

    def save(self, path: str | Path, adapters_only: bool = False) -> None:
        """Write the weights as the model's own inference code loads them, LoRA merged in, or the LoRA layers alone."""
        raise Unsupported(
            f"{type(self).__name__} has no save(): it alone knows the format of its model. Override save(path, "
            "adapters_only), or save the model that it holds as your own code does."
        )

    def load(self, path: str | Path, unsafe: bool = False) -> None:
        """Load weights in the model's own format; nothing is unpickled unless `unsafe`."""
        raise Unsupported(
            f"{type(self).__name__} has no load(): override load(path, unsafe), or load the model that it holds."
        )


class Engine:
    """Samples in the place of a backbone's own loop; see `VLLM`.

    Attributes:
        sampler: the name of the sampling rule, for reports.
    """

    sampler: str = "engine"

    def sample(
        self,
        backbone: Any,
        prompts: Sequence[Prompt],
        n: int,
        temperature: float | Tensor,
        top_p: float,
        max_len: int | Tensor,
        min_len: int | Tensor,
        generator: torch.Generator | None,
    ) -> Speech:
        """As `Backbone.sample`, for this backbone."""
        raise NotImplementedError


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode and no gradient inside; what `module.compile()` compiled runs as it is, as shapes change at every call.

    Every submodule's own mode is restored afterwards: some may be frozen in eval on purpose.
    """
    kept = {child: (child.training, vars(child).pop("_compiled_call_impl", None)) for child in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for child, (mode, compiled) in kept.items():
            child.training = mode
            if compiled is not None:
                child._compiled_call_impl = compiled


def prompt_key(prompt: Prompt, salt: int = 0) -> int:
    """What a prompt says and holds, as a 64-bit number: equal prompts have equal keys."""
    leaves = [leaf for leaf in _pytree.tree_leaves(prompt.timbre) if isinstance(leaf, Tensor)]
    style = (prompt.style.tokens, prompt.style.text) if prompt.style else ()
    return content_key([prompt.text, *style, *leaves], salt)


def occurrences(prompts: Sequence[Prompt]) -> list[int]:
    """How many equal prompts come before each one.

    A prompt draws by what it holds, so equal prompts draw alike unless they stand in one call (where each is the next
    answer) or in calls of different seeds. Whoever cuts a list into several calls uses this number for the seed.

    Example:
        >>> occurrences([Prompt([1]), Prompt([2]), Prompt([1])])
        [0, 0, 1]
    """
    seen = dict[int, int]()
    counts = []
    for key in map(prompt_key, prompts):
        counts.append(seen.get(key, 0))
        seen[key] = counts[-1] + 1
    return counts


def calls(
    prompts: Sequence[Prompt], batch: int, size: Sequence[int] | None = None, before: Sequence[int] | None = None
) -> list[tuple[list[int], int]]:
    """Cut a long list into calls of `sample` so that what a prompt draws does not depend on the cut.

    Args:
        prompts: P prompts.
        batch: prompts per call.
        size: what to put neighbours together by (P,), for instance expected lengths; default: their order.
        before: `occurrences` of the prompts (P,), where they are a part of a longer list that others work on too.

    Returns:
        For each call the indices of its prompts, no two of them equal, and what to add to the seed.

    Example:
        >>> calls([Prompt([1]), Prompt([2]), Prompt([1])], 8)
        [([0, 1], 0), ([2], 1000003)]
        >>> calls([Prompt([1])], 8, before=[1])  # somebody else says the first of them
        [([0], 1000003)]
    """
    rounds = occurrences(prompts) if before is None else before
    order = sorted(range(len(prompts)), key=lambda i: (rounds[i], size[i] if size else i))
    groups = [list(group) for _, group in groupby(order, key=lambda i: rounds[i])]
    far = 1_000_003  # from the seeds that people give
    return [(group[i : i + batch], far * rounds[group[0]]) for group in groups for i in range(0, len(group), batch)]


def row_keys(prompts: Sequence[Prompt], n: int, seed: int) -> Tensor:
    """The random key of each row (P*n,): from the seed, what the prompt says and holds, and which answer to it this is.

    Position in the batch is left out on purpose: a prompt draws the same answers alone and in company.
    """
    keys = []
    for prompt, before in zip(prompts, occurrences(prompts), strict=True):
        base = prompt_key(prompt, seed)
        keys += [content_key([], base + (before * n + i) * 0x2545F4914F6CDD1D) for i in range(n)]
    return torch.tensor(keys, dtype=torch.int64)


def seed_of(generator: torch.Generator | None) -> int:
    """The one number that a call of `sample` draws."""
    where = generator.device if generator is not None else "cpu"
    return int(torch.randint(1 << 62, (), generator=generator, device=where))


def row_limits(
    temperature: float | Tensor, max_len: int | Tensor, min_len: int | Tensor, rows: int, device: Any
) -> list[Tensor]:
    """Temperature, max_len and min_len of each row, (rows,) each.

    Raises:
        ValueError: they cannot be met; with the values.
    """
    heat, most, least = (
        torch.as_tensor(value, dtype=dtype, device=device).expand(rows)
        for value, dtype in ((temperature, torch.float), (max_len, torch.long), (min_len, torch.long))
    )
    if not bool((heat.isfinite() & (heat >= 0)).all()):
        raise ValueError(f"temperature must be finite and >= 0 (0 = greedy), got {heat.unique().tolist()}")
    if not bool(((least <= most) & (most >= 0)).all()):
        raise ValueError(
            f"need 0 <= max_len and min_len <= max_len, got {most.unique().tolist()}, {least.unique().tolist()}"
        )
    return [heat, most, least]
