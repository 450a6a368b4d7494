"""Statistics of speech tokens: how often each code is used, and how diverse they are.

Every function takes the utterances in either of two forms: a list of 1-D integer tensors, or a padded (B, T) tensor
with ``lengths`` (B,) (without ``lengths`` every row is full). A 1-D tensor is one utterance. Multi-codebook tokens are
one stream per codebook and their statistics must not be mixed: choose one with ``tokens[..., k]`` (codebook 0 is the
coarsest in residual tokenizers) and report which.

Entropy is a *corpus* statistic that grows with the number of tokens: 5,000 tokens of a 6,561-code vocabulary read about
0.3 to 1 bit low, more than the erosion one looks for (0.3 bit in the paper). So compare at equal token counts
(:func:`entropy_at`) or with a correction (:func:`count_entropy`), and report the count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from seaalign.functional.entropy import Correction, count_entropy

_BLOCK = 1 << 18  # tokens


def token_counts(tokens: Tensor | Sequence[Tensor], lengths: Tensor | None = None, *, vocab_size: int) -> Tensor:
    """How often each code occurs.

    Args:
        tokens: utterances, see the module's docstring.
        lengths: (B,) tokens per row of a padded tensor.
        vocab_size: V, number of codes; special tokens such as the end token are not codes.

    Returns:
        (V,) int64 counts, to be added over batches and processes.

    Raises:
        ValueError: for an id outside [0, V), with its value, and for shapes or dtypes that do not fit.

    Source: Geng et al. 2026, eq. 3 (p(v) is ``counts / counts.sum()``).

    >>> token_counts([torch.tensor([0, 2, 2]), torch.tensor([2])], vocab_size=4).tolist()
    [1, 0, 3, 0]
    """
    return sum(
        (_counted(stream, vocab_size) for stream, _ in blocks(tokens, lengths)), torch.zeros((), dtype=torch.int64)
    )


def _counted(stream: Tensor, vocab_size: int) -> Tensor:
    if stream.numel():
        low, high = (int(bound) for bound in torch.aminmax(stream))
        if low < 0 or high >= vocab_size:
            raise ValueError(
                f"token {low if low < 0 else high} is outside the codebook [0, {vocab_size}): strip padding and end "
                "tokens (or pass lengths), or check vocab_size."
            )
    return torch.bincount(stream, minlength=vocab_size)


def token_entropy(
    tokens: Tensor | Sequence[Tensor],
    lengths: Tensor | None = None,
    *,
    vocab_size: int,
    correction: Correction | None = None,
) -> Tensor:
    """Entropy of the code frequencies over all utterances, bits (the paper's prosodic entropy H_p).

    Args:
        tokens: utterances, see the module's docstring.
        lengths: (B,) tokens per row of a padded tensor.
        vocab_size: V, number of codes.
        correction: see :func:`count_entropy`, which also takes counts summed over batches.

    Returns:
        () bits, between 0 and log2 V.

    Raises:
        ValueError: see :func:`token_counts`; also where there is no token at all.

    Source: Geng et al. 2026, eq. 3.

    >>> token_entropy(torch.tensor([0, 1, 2, 2]), vocab_size=4).item()  # 1/4 * 2 + 1/4 * 2 + 1/2 * 1
    1.5
    """
    return count_entropy(token_counts(tokens, lengths, vocab_size=vocab_size), correction)


def tokens_per_unit(lengths: Tensor, units: Tensor) -> Tensor:
    """Speech tokens per text unit over a corpus: too many means loops and drawl, too few means skipped words.

    Args:
        lengths: (B,) speech tokens of each utterance.
        units: (B,) text units of each utterance: words, syllables or characters, but always the same.

    Returns:
        () ``lengths.sum() / units.sum()``.

    Raises:
        ValueError: where shapes differ, a number is negative, or there is no unit at all.

    >>> tokens_per_unit(torch.tensor([20, 30]), torch.tensor([2, 3])).item()
    10.0
    """
    if lengths.shape != units.shape:
        raise ValueError(f"lengths {tuple(lengths.shape)} and units {tuple(units.shape)} must have one shape.")
    if bool((lengths < 0).any()) or bool((units < 0).any()):
        raise ValueError("lengths and units must not be negative.")
    if not units.sum() > 0:
        raise ValueError("no text unit in the corpus, so tokens per unit is undefined: check the texts.")
    return lengths.sum() / units.sum()


def blocks(tokens: Tensor | Sequence[Tensor], lengths: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Both forms of utterances as streams of whole utterances, one or more.

    Streams that fit a processor's cache: a corpus as a single one takes three times as long, for copying it.

    Args:
        tokens: utterances, see the module's docstring.
        lengths: (B,) tokens per row of a padded tensor.

    Yields:
        (sum of sizes,) tokens without padding and (b,) int64 sizes.

    Raises:
        ValueError: for shapes or dtypes that do not fit.
    """
    rows = _rows(tokens, lengths)
    if isinstance(rows, tuple):
        yield rows
        return
    first, size = 0, 0
    for i, row in enumerate(rows):
        size += row.numel()
        if size >= _BLOCK:
            yield _join(rows[first : i + 1])
            first, size = i + 1, 0
    if first < len(rows) or not rows:
        yield _join(rows[first:])


def _rows(tokens: Tensor | Sequence[Tensor], lengths: Tensor | None) -> Sequence[Tensor] | tuple[Tensor, Tensor]:
    """Utterances one by one; or as one stream with its lengths, where they are one already."""
    if not isinstance(tokens, Tensor):
        if lengths is not None:
            raise ValueError("a list of utterances has its own lengths: pass lengths=None, or a padded tensor.")
        return list(tokens)
    rows = tokens[None] if tokens.dim() == 1 else tokens
    if rows.dim() != 2:
        raise ValueError(f"tokens must be (T,) or (B, T), got {tuple(tokens.shape)}; choose one codebook: [..., 0].")
    _require_integers(rows)
    batch, width = rows.shape
    if lengths is None:
        return rows.reshape(-1), torch.full((batch,), width, dtype=torch.int64, device=rows.device)
    if lengths.shape != (batch,) or lengths.is_floating_point():
        raise ValueError(f"lengths must be ({batch},) integers, got {lengths.dtype} {tuple(lengths.shape)}.")
    lengths = lengths.to(rows.device, torch.int64)
    wrong = (lengths < 0) | (lengths > width)
    if bool(wrong.any()):
        raise ValueError(f"lengths {lengths[wrong].tolist()} are outside [0, {width}], the width of tokens.")
    # slices: a mask over (B, T) takes four times as long for 90 million tokens
    return [row[:size] for row, size in zip(rows, lengths.tolist(), strict=True)]


def _join(utterances: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    if not utterances:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    for utterance in utterances:
        if utterance.dim() != 1:
            raise ValueError(f"each utterance must be (T,), got {tuple(utterance.shape)}; choose one codebook: [:, 0].")
    stream = torch.cat(list(utterances))
    _require_integers(stream)
    return stream, torch.tensor([len(u) for u in utterances], device=stream.device)


def _require_integers(tokens: Tensor) -> None:
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise ValueError(f"tokens must be integers, got {tokens.dtype}.")
