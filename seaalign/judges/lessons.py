"""How a token recogniser learns: synthetic utterances, disturbed so that it listens instead of remembering."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from seaalign.functional.errors import error_counts
from seaalign.judges.recogniser import TokenRecogniser, frames_needed
from seaalign.records import Utterance

MASKED, SWAPPED, SKIPPED, DOUBLED = 0.15, 0.05, 0.05, 0.05
"""Shares of the tokens of a lesson that are masked, replaced by another one, left out, and said twice."""
_LOOKS = 10
_MOST_TRIED = 200


class _Lesson(NamedTuple):
    """Speech tokens (T, K) as the recogniser reads them, and its symbols' indices (L,)."""

    tokens: Tensor
    target: Tensor


class Fitted(NamedTuple):
    """What came of it.

    Attributes:
        losses: CTC loss of every step, nats per text id.
        errors: share of wrong text ids on the held-out texts, at every look; the best is kept.
        dropped: utterances with too few tokens for their text.
    """

    losses: list[float]
    errors: list[float]
    dropped: int


def fit(
    recogniser: TokenRecogniser,
    utterances: Sequence[Utterance],
    steps: int = 400,
    seed: int = 0,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    batch: int = 32,
    lr: float = 4e-3,
    held_out: float = 0.1,
) -> Fitted:
    """Train a recogniser from scratch, in place, and keep the weights that err least on texts it was not taught.

    A lesson is an utterance, or two of them one after the other, disturbed. Held out are whole texts: the recogniser
    will judge texts that nobody has said.

    Args:
        recogniser: its weights are drawn anew from `seed`; `TokenRecogniser.of(utterances)` makes one that fits.
        utterances: the synthetic speech that the model was taught with.
        steps: gradient steps; ten times on the way it is tried on the held-out texts.
        seed: source of all randomness.
        progress: called once around the steps.
        batch: lessons per step.
        lr: peak learning rate (one cosine).
        held_out: share of the texts to hold out, at least one text.

    Raises:
        ValueError: fewer than two different texts, or most utterances have too few tokens for their text.
    """
    usable = [u for u in utterances if frames_needed(u.prompt.text.tolist()) <= len(u.tokens) * recogniser.steps]
    if 2 * len(usable) < len(utterances):
        raise ValueError(
            f"{len(utterances) - len(usable)} of {len(utterances)} utterances have too few tokens for their text: make "
            "the recogniser with TokenRecogniser.of(utterances), or with more steps"
        )
    generator = torch.Generator().manual_seed(seed)
    taught, kept = hold_out(usable, held_out, generator)
    _begin(recogniser, taught, seed)
    lessons = [_lesson(recogniser, utterance) for utterance in taught]
    optimizer = torch.optim.AdamW(recogniser.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.15)
    looks = {round(steps * (i + 1) / _LOOKS) for i in range(_LOOKS)}
    losses, errors = list[float](), list[float]()
    best = copy.deepcopy(recogniser.state_dict())
    for step in progress(range(steps)):
        loss = _loss(recogniser, [_one_or_two(recogniser, lessons, generator) for _ in range(batch)])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(recogniser.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if step + 1 in looks:
            errors.append(error_of(recogniser, kept))
            if errors[-1] == min(errors):  # of equals the later, which has learned more
                recogniser.held_out.fill_(errors[-1])
                best = copy.deepcopy(recogniser.state_dict())
    recogniser.load_state_dict(best)
    return Fitted(losses, errors, len(utterances) - len(usable))


def hold_out(
    utterances: Sequence[Utterance], share: float, generator: torch.Generator
) -> tuple[list[Utterance], list[Utterance]]:
    """Utterances to teach and utterances to try, no text in both.

    Args:
        utterances: some of which may say the same text.
        share: of the texts to hold out; at least one text is, and at least one is not.
        generator: says which.

    Raises:
        ValueError: fewer than two different texts.
    """
    texts = sorted({tuple(u.prompt.text.tolist()) for u in utterances})
    if len(texts) < 2:
        raise ValueError(f"a recogniser needs utterances of at least two different texts, got {len(texts)}")
    count = min(max(1, round(share * len(texts))), len(texts) - 1)
    chosen = {texts[i] for i in torch.randperm(len(texts), generator=generator)[:count].tolist()}
    parts: tuple[list[Utterance], list[Utterance]] = ([], [])
    for utterance in utterances:
        parts[tuple(utterance.prompt.text.tolist()) in chosen].append(utterance)
    return parts


def error_of(recogniser: TokenRecogniser, utterances: Sequence[Utterance]) -> float:
    """Share of text ids that it gets wrong (1.0 where it hears nothing)."""
    heard = recogniser.recognise([u.tokens for u in utterances[:_MOST_TRIED]])
    said = [u.prompt.text.tolist() for u in utterances[:_MOST_TRIED]]
    wrong, total = error_counts([[str(i) for i in row] for row in heard], [[str(i) for i in row] for row in said])
    return wrong / total


@torch.no_grad()
def _begin(recogniser: TokenRecogniser, utterances: Sequence[Utterance], seed: int) -> None:
    """Fresh weights, and note which speech tokens will be met."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in recogniser.modules():
            if isinstance(module, nn.Embedding | nn.Linear | nn.Conv1d | nn.LayerNorm):
                module.reset_parameters()
    recogniser.seen.zero_()
    for utterance in utterances:
        columns = utterance.tokens.view(len(utterance.tokens), -1).T
        for book, column in zip(recogniser.seen, columns, strict=True):
            book[column] = True


def _lesson(recogniser: TokenRecogniser, utterance: Utterance) -> _Lesson:
    symbols = [recogniser.index[symbol] for symbol in utterance.prompt.text.tolist()]
    return _Lesson(recogniser.rows([utterance.tokens])[0], torch.tensor(symbols))


def _one_or_two(recogniser: TokenRecogniser, lessons: Sequence[_Lesson], generator: torch.Generator) -> _Lesson:
    """A lesson or, as often, two in a row, which no text ever was; disturbed, unless that makes it too short."""
    first, second, two = torch.randint(len(lessons), (3,), generator=generator).tolist()
    tokens, target = lessons[first]
    if two % 2:
        tokens, target = torch.cat([tokens, lessons[second].tokens]), torch.cat([target, lessons[second].target])
    other = disturb(tokens, recogniser.codes, generator)
    if len(other) * recogniser.steps < frames_needed(target.tolist()):
        return _Lesson(tokens, target)
    return _Lesson(other, target)


def disturb(tokens: Tensor, mask: int, generator: torch.Generator) -> Tensor:
    """Mask some tokens, swap some for others of the same utterance, leave some out and say some twice.

    Args:
        tokens: (T, K).
        mask: id of the masked token.
        generator: the only source of randomness.

    Returns:
        (T', K).
    """
    chance = torch.rand(len(tokens), 2, generator=generator)
    other = tokens[torch.randint(len(tokens), (len(tokens),), generator=generator)]
    swapped = torch.where(chance[:, :1] < SWAPPED, other, tokens)
    masked = torch.where(chance[:, :1] > 1 - MASKED, torch.full_like(tokens, mask), swapped)
    times = 1 - (chance[:, 1] < SKIPPED).long() + (chance[:, 1] > 1 - DOUBLED).long()
    return masked.repeat_interleave(times, dim=0)


def _loss(recogniser: TokenRecogniser, lessons: Sequence[_Lesson]) -> Tensor:
    """CTC loss per text id ()."""
    lengths = torch.tensor([len(lesson.tokens) for lesson in lessons])
    tokens = pad_sequence([lesson.tokens for lesson in lessons], batch_first=True)
    logp, frames = recogniser(tokens, lengths.to(tokens.device))
    targets, sizes = torch.cat([lesson.target for lesson in lessons]), torch.tensor([len(le.target) for le in lessons])
    loss = F.ctc_loss(logp.transpose(0, 1), targets, frames, sizes, recogniser.blank, reduction="sum")
    return loss / len(targets)
