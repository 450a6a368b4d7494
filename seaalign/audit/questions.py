"""What is asked of tokens and timbres, without generating anything."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seaalign.audit.features import timbre_features, token_features
from seaalign.audit.findings import Finding, of_probes, skipped
from seaalign.audit.probes import Kind, Probe, probe_labels, probe_values
from seaalign.audit.splits import together
from seaalign.functional.prosody import f0_range, f0_std
from seaalign.records import Prompt
from seaalign.sampling.dual import voice_key

STYLE = "speaker from style tokens"
SPEECH = "speaker from speech tokens"
WORDS = "words from style tokens"
SPREAD = "F0 spread from timbre, within a speaker"
_WORDS = 16  # text ids whose share is to be told


def speakers_of(prompts: Sequence[Prompt], given: Sequence[Hashable] | None = None) -> list[Hashable]:
    """Who speaks in each: as given, or by equal timbres.

    Raises:
        ValueError: not one per prompt; or nobody is named, and timbres are missing or all different.

    Example:
        >>> speakers_of([Prompt([1], timbre=torch.tensor([float(i % 2)])) for i in range(4)])
        ['voice 0', 'voice 1', 'voice 0', 'voice 1']
    """
    if given is not None:
        if len(given) != len(prompts):
            raise ValueError(f"{len(given)} speakers for {len(prompts)} utterances: name one for each")
        return list(given)
    keys = [voice_key(prompt) for prompt in prompts]
    if not all(keys):
        raise ValueError(f"{sum(not key for key in keys)} of {len(keys)} prompts have no timbre: pass speakers=[...]")
    numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    if len(numbers) == len(keys) > 1:
        raise ValueError("all timbres differ, so they do not say who is the same speaker: pass speakers=[...]")
    return [f"voice {numbers[key]}" for key in keys]


def style_groups(prompts: Sequence[Prompt]) -> list[int]:
    """Groups of style prefixes: the same recording, or the same words, are one."""
    styles = [prompt.style for prompt in prompts]
    tokens = [tuple(style.tokens.flatten().tolist()) if style else () for style in styles]
    texts = [tuple(text.tolist()) for text in style_texts(prompts)]
    return together(tokens, texts)


def style_texts(prompts: Sequence[Prompt]) -> list[Tensor]:
    """The words of each style prefix; where it has no transcript, those of the utterance, from which a code may be."""
    return [p.style.text if p.style is not None and p.style.text is not None else p.text for p in prompts]


def text_groups(prompts: Sequence[Prompt]) -> list[int]:
    """Groups of utterances: the same words are one."""
    return together([tuple(prompt.text.tolist()) for prompt in prompts])


@dataclass(frozen=True)
class Material:
    """What questions are asked of: N utterances, who speaks in them, and how to ask.

    Args:
        prompts: (N,).
        tokens: their own speech tokens (N,).
        speakers: (N,), or None where nobody knows.
        nobody: why nobody knows.
        kinds: of probes.
        most: columns of token features.
        seed: of folds and networks.
    """

    prompts: Sequence[Prompt]
    tokens: Sequence[Tensor]
    speakers: Sequence[Hashable] | None
    nobody: str = ""
    kinds: Sequence[Kind] = ("linear",)
    most: int = 128
    seed: int = 0

    @classmethod
    def of(
        cls, prompts: Sequence[Prompt], tokens: Sequence[Tensor], speakers: Sequence[Hashable] | None, **how: Any
    ) -> Material:
        """With speakers as given, or by equal timbres, or unknown with the reason."""
        try:
            return cls(prompts, tokens, speakers_of(prompts, speakers), **how)
        except ValueError as error:
            if speakers is not None:
                raise
            return cls(prompts, tokens, None, str(error), **how)

    @property
    def confidence(self) -> float:
        """Of each kind's interval, so that all of them hold together with 95 % (Bonferroni)."""
        return 1 - 0.05 / len(self.kinds)

    def who(
        self, name: str, x: Tensor, groups: Sequence[Hashable], rows: Sequence[int], expected: bool = False
    ) -> Finding:
        """Do the features of some rows identify the speaker?"""
        if self.speakers is None:
            return skipped(name, self.nobody)
        labels = [self.speakers[i] for i in rows]

        def ask(kind: Kind) -> Probe:
            return probe_labels(x, labels, groups, kind, seed=self.seed, confidence=self.confidence)

        return self._asked(name, ask, expected)

    def words(
        self, name: str, x: Tensor, texts: Sequence[Tensor], groups: Sequence[Hashable], expected: bool
    ) -> Finding:
        """Do the features tell the words: the shares of the 16 most frequent text ids?"""
        ids, counts = torch.cat([*texts]).unique(return_counts=True)
        frequent = ids[counts.argsort(descending=True, stable=True)[:_WORDS]]
        shares = torch.stack([(text[:, None] == frequent).float().mean(0) for text in texts])
        return self.numbers(name, x, shares, groups, expected=expected)

    def numbers(
        self,
        name: str,
        x: Tensor,
        values: Tensor,
        groups: Sequence[Hashable],
        within: Sequence[Hashable] | None = None,
        expected: bool = False,
    ) -> Finding:
        """Do the features tell these numbers?"""

        def ask(kind: Kind) -> Probe:
            return probe_values(x, values, groups, kind, within, seed=self.seed, confidence=self.confidence)

        return self._asked(name, ask, expected)

    def _asked(self, name: str, ask: Callable[[Kind], Probe], expected: bool) -> Finding:
        try:
            return of_probes(name, [ask(kind) for kind in self.kinds], "expected" if expected else None)
        except ValueError as error:  # what a probe refuses is a question skipped
            return skipped(name, str(error))


def style_finding(material: Material) -> Finding:
    """Who speaks, from style tokens: the question that DGSA asks."""
    rows, tokens, groups = _styled(material)
    if len(rows) < 2:
        return skipped(STYLE, "the utterances have no style prefix")
    return material.who(STYLE, token_features(tokens, material.most), groups, rows)


def token_findings(material: Material) -> list[Finding]:
    """Who speaks, and which words, from style tokens; who speaks, from the utterances' own tokens."""
    rows, tokens, groups = _styled(material)
    words = skipped(WORDS, "the utterances have no style prefix")
    if len(rows) > 1:
        texts = style_texts([material.prompts[i] for i in rows])
        words = material.words(WORDS, token_features(tokens, material.most), texts, groups, expected=True)
    everything = range(len(material.prompts))
    x = token_features(material.tokens, material.most)
    own = material.who(SPEECH, x, text_groups(material.prompts), everything, expected=True)
    return [style_finding(material), own, words]


def _styled(material: Material) -> tuple[list[int], list[Tensor], list[int]]:
    rows = [i for i, prompt in enumerate(material.prompts) if prompt.style is not None]
    prompts = [material.prompts[i] for i in rows]
    return rows, [prompt.style.tokens for prompt in prompts if prompt.style], style_groups(prompts) if rows else []


def timbre_findings(material: Material, named: bool, contours: Sequence[Tensor] | None, unheard: str) -> list[Finding]:
    """Who speaks, which words, and how F0 moves, from timbres.

    The register of F0 in a timbre is the voice itself, and expected. Its spread is not, relative to the speaker's mean:
    some people speak more lively than others, and who speaks is the timbre's to tell, but how lively they were in the
    recording that it was taken from is prosody.

    Args:
        material: what to ask.
        named: do the speakers come from labels? Told by equal timbres, they are known from the timbre by construction.
        contours: F0 of the recordings (N,), Hz, 0 where unvoiced; or None.
        unheard: why there are none.
    """
    names = ("speaker from timbre", "words from timbre", "F0 register from timbre", SPREAD)
    try:
        x = timbre_features([prompt.timbre for prompt in material.prompts])
    except ValueError as error:
        return [skipped(name, str(error)) for name in names]
    groups, rows = text_groups(material.prompts), range(len(material.prompts))
    made = [skipped(names[0], "equal timbres are what says who speaks: pass speakers=[...] to ask this")]
    if named or material.speakers is None:
        made = [material.who(names[0], x, groups, rows, expected=True)]
    made.append(material.words(names[1], x, [prompt.text for prompt in material.prompts], groups, expected=False))
    if contours is None:
        return [*made, *(skipped(name, unheard) for name in names[2:])]
    return [*made, *_melody(material, x, contours, groups)]


def _melody(material: Material, x: Tensor, contours: Sequence[Tensor], groups: Sequence[int]) -> list[Finding]:
    names = ("F0 register from timbre", SPREAD)
    stats = [(f0_std(contour), f0_range(contour)) for contour in contours]
    keep = [i for i, (std, span) in enumerate(stats) if std.defined and span.defined]
    if len(keep) < 10:
        why = f"{len(keep)} of {len(contours)} recordings are voiced enough to have an F0 spread; 10 are needed"
        return [skipped(name, why) for name in names]
    register = torch.stack([contours[i][contours[i] > 0].log().mean() for i in keep])
    spread = torch.tensor([[float(stat.value) for stat in stats[i]] for i in keep])
    group = [groups[i] for i in keep]
    known = material.numbers(names[0], x[keep], register, group, expected=True)
    if material.speakers is None:
        return [known, skipped(SPREAD, material.nobody)]
    return [known, material.numbers(SPREAD, x[keep], spread, group, within=[material.speakers[i] for i in keep])]
