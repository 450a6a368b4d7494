"""Swap tests: the style of one speaker with the timbre of another, and what of each comes out.

Every scene takes a text and two utterances of different speakers, A and B, and says the text in five ways: with style
and timbre of A, of B, style of A with timbre of B, style of B with timbre of A, and timbre of A without style. All say
the same words, so that melodies can be compared: aligned on the sounds, never on F0 itself.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from seaalign.audit.splits import together
from seaalign.backbones.base import Backbone, evaluating
from seaalign.backbones.sound import sound, steady
from seaalign.functional.alignment import align, cepstra
from seaalign.functional.pitch import f0
from seaalign.functional.prosody import f0_correlation, f0_range, f0_std
from seaalign.records import Prompt, Speech, Utterance
from seaalign.sampling.dual import say

Embedder = Callable[[Sequence[Tensor], int], Tensor]
"""Waveforms (samples,) and their rate (Hz) in, speaker embeddings (B, D) out."""
WAYS = ("AA", "AB", "BA", "BB", "-A")
"""Whose style, then whose timbre; "-" is style off."""
_QUIET = 1e-3  # peak under which there is no voice
_REFERENCES = 6  # recordings that make up a speaker's voice


@dataclass(frozen=True)
class Heard:
    """What was generated and what was measured on it; NaN where nothing could be. S scenes.

    Args:
        text: which text each scene says (S,).
        tokens: of every way (5, S).
        similarity: cosine with the voices of A and of B, by way (5, S, 2).
        spread: F0 std in semitones (5, S).
        span: F0 range in semitones (5, S).
        melody: F0 correlation of AB and BA with the way of the same style, and with that of the same timbre (2, 2, S).
    """

    text: Tensor
    tokens: dict[str, list[Tensor]]
    similarity: Tensor
    spread: Tensor
    span: Tensor
    melody: Tensor


def scenes(speakers: Sequence[Hashable], count: int, seed: int) -> list[tuple[int, int]]:
    """Pairs of utterances of different speakers, drawn by seed; with one speaker alone each is paired with itself.

    Example:
        >>> scenes(["ann", "ann", "bob"], 2, seed=0)
        [(2, 0), (0, 2)]
    """
    order = torch.randperm(len(speakers), generator=torch.Generator().manual_seed(seed)).tolist()
    pairs = []
    for at, first in enumerate(order[:count]):
        ring = order[at + 1 :] + order[:at]
        pairs.append((first, next((j for j in ring if speakers[j] != speakers[first]), first)))
    return pairs


def perform(
    backbone: Backbone,
    utterances: Sequence[Utterance],
    pairs: Sequence[tuple[int, int]],
    *,
    temperature: float,
    top_p: float,
    seed: int,
    progress: bool,
) -> tuple[dict[str, list[Tensor]], dict[str, list[Tensor]]]:
    """Say every scene in five ways: tokens and waveforms (empty where nothing was said), by way."""
    prompts = [_prompt(utterances, pair, way) for way in WAYS for pair in pairs]
    limits = [2 * len(utterances[first].tokens) + 20 for _ in WAYS for first, _ in pairs]
    with evaluating(backbone):
        said = say(
            backbone, prompts, limits, temperature=temperature, top_p=top_p, batch=64, seed=seed,
            what="audit: swapping style and timbre", progress=progress,
        )  # fmt: skip
    tokens = [row for row, _ in said]
    waves = decoded(backbone, tokens, prompts)
    cut = {way: slice(i * len(pairs), (i + 1) * len(pairs)) for i, way in enumerate(WAYS)}
    return {way: tokens[part] for way, part in cut.items()}, {way: waves[part] for way, part in cut.items()}


def decoded(backbone: Backbone, tokens: Sequence[Tensor], prompts: Sequence[Prompt], batch: int = 64) -> list[Tensor]:
    """Waveforms of token rows in the timbres of their prompts, on the CPU; empty rows have none."""
    waves = [torch.zeros(0)] * len(tokens)
    device = next(iter(backbone.parameters()), torch.zeros(0)).device
    full = [i for i, row in enumerate(tokens) if len(row)]
    with evaluating(backbone), steady(device):
        for start in range(0, len(full), batch):
            part = full[start : start + batch]
            speech = Speech.pack([tokens[i] for i in part])
            for row, wave in sound(backbone, speech, [prompts[i] for i in part]).items():
                waves[part[row]] = wave
    return waves


def _prompt(utterances: Sequence[Utterance], pair: tuple[int, int], way: str) -> Prompt:
    first, second = (utterances[i].prompt for i in pair)
    style = {"A": first.style, "B": second.style, "-": None}[way[0]]
    return replace(first, style=style, timbre={"A": first, "B": second}[way[1]].timbre)


def voices(
    backbone: Backbone, utterances: Sequence[Utterance], speakers: Sequence[Hashable], rate: int, embed: Embedder
) -> dict[Hashable, Tensor]:
    """Each speaker's voice as the backbone's decoder renders it: mean embedding of real speech in its own timbre."""
    chosen = [i for name in dict.fromkeys(speakers) for i in _some(speakers, name)]
    waves = decoded(backbone, [utterances[i].tokens for i in chosen], [utterances[i].prompt for i in chosen])
    embedded = embeddings(waves, rate, embed)
    found: dict[Hashable, Tensor] = {}
    for name in dict.fromkeys(speakers):
        rows = embedded[[at for at, i in enumerate(chosen) if speakers[i] == name]]
        rows = rows[rows.isfinite().all(1)]
        if len(rows):
            found[name] = torch.nn.functional.normalize(rows.mean(0), dim=0)
    return found


def _some(speakers: Sequence[Hashable], name: Hashable) -> list[int]:
    return [i for i, speaker in enumerate(speakers) if speaker == name][:_REFERENCES]


def embeddings(waves: Sequence[Tensor], rate: int, embed: Embedder) -> Tensor:
    """Unit vectors (B, D); NaN for silence, which has no voice."""
    loud = [i for i, wave in enumerate(waves) if len(wave) and float(wave.abs().max()) > _QUIET]
    if not loud:
        return torch.full((len(waves), 1), torch.nan)
    found = torch.nn.functional.normalize(embed([waves[i] for i in loud], rate).detach().cpu().float(), dim=-1)
    rows = torch.full((len(waves), found.shape[1]), torch.nan)
    rows[loud] = found
    return rows


def hear(
    tokens: dict[str, list[Tensor]],
    waves: dict[str, list[Tensor]],
    pairs: Sequence[tuple[int, int]],
    utterances: Sequence[Utterance],
    speakers: Sequence[Hashable],
    rate: int,
    known: dict[Hashable, Tensor] | None,
    embed: Embedder | None,
) -> Heard:
    """Measure what `perform` gave; without an embedder the similarities are NaN."""
    text = torch.tensor(together([tuple(utterances[first].prompt.text.tolist()) for first, _ in pairs]))
    similarity = torch.full((len(WAYS), len(pairs), 2), torch.nan)
    if embed is not None and known:
        for i, way in enumerate(WAYS):
            found = embeddings(waves[way], rate, embed)
            for side in (0, 1):
                lacking = torch.full((found.shape[1],), torch.nan)
                wanted = torch.stack([known.get(speakers[pair[side]], lacking) for pair in pairs])
                similarity[i, :, side] = (found * wanted).sum(1)
    contours = {way: f0(waves[way], rate) for way in WAYS}
    spread = torch.stack([torch.stack([_value(f0_std(c)) for c in contours[way]]) for way in WAYS])
    span = torch.stack([torch.stack([_value(f0_range(c)) for c in contours[way]]) for way in WAYS])
    melody = torch.full((2, 2, len(pairs)), torch.nan)
    if any(a != b for a, b in pairs):
        sounds = {way: [cepstra(wave, rate) for wave in waves[way]] for way in WAYS}
        for i, (mixed, same_style, same_timbre) in enumerate((("AB", "AA", "BB"), ("BA", "BB", "AA"))):
            for j, other in enumerate((same_style, same_timbre)):
                rows = zip(contours[mixed], contours[other], sounds[mixed], sounds[other], strict=True)
                melody[i, j] = torch.stack([_correlation(*row) for row in rows])
    return Heard(text, tokens, similarity, spread, span, melody)


def _value(measured: Any) -> Tensor:
    return measured.value.float() if measured.defined else torch.tensor(torch.nan)


def _correlation(a: Tensor, b: Tensor, sounds_a: Tensor, sounds_b: Tensor) -> Tensor:
    if not len(sounds_a) or not len(sounds_b):
        return torch.tensor(torch.nan)
    return _value(f0_correlation(a, b, align(sounds_a, sounds_b)))
