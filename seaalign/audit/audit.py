"""The audit of a backbone: probes of its tokens and timbres, and, where it can be heard, swap tests."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from seaalign.audio import speaker_encoder
from seaalign.audit.effects import AA, AB, BA, OFF, TOGGLE, VOICE, prosody_findings, voice_findings
from seaalign.audit.findings import Finding, skipped
from seaalign.audit.probes import Kind
from seaalign.audit.questions import Material, timbre_findings, token_findings
from seaalign.audit.swaps import Embedder, Heard, decoded, hear, perform, scenes, voices
from seaalign.audit.verdict import Separation
from seaalign.backbones.base import Backbone
from seaalign.backbones.sound import rate_of
from seaalign.functional.pitch import f0
from seaalign.records import Utterance

ECAPA = "speechbrain/spkrec-ecapa-voxceleb"


class SeparationAudit:
    """Does the style of a backbone change prosody alone, and does its timbre carry the voice alone?

    Probes ask tokens and timbres what they should not know; see `probe_labels` for the protocol. Where the backbone
    decodes, swap tests listen: style of one speaker with the timbre of another, style on and off in one voice. What a
    backbone or the data cannot answer is skipped, with the reason. Nothing is trained in the backbone, and no global
    random state is touched.

    Args:
        backbone: the policy; any one, with the features it has.
        speaker_embedder: from waveforms and their rate (Hz) to embeddings (B, D); or a model for
            `seaalign.audio.speaker_encoder`, downloaded at first use (where it cannot be had, the voice is skipped);
            or None, to judge no voices.
        scenes: how many swaps to generate, five samples each; 0 generates nothing.
        kinds: of probes; the finding is that of the better reader, with an interval that holds for all of them.
        temperature: of the sampling.
        top_p: of the sampling.
        sample_rate: of what the backbone decodes (Hz), where it does not say so itself.
        most: columns of token features, see `token_features`.
        seed: of folds, draws and bootstraps.
        progress: show a bar on a terminal.

    Raises:
        ValueError: fewer than 0 scenes, or no kind of probe.

    Example:
        >>> from seaalign.miniature.lm import TextSpeechLM
        >>> from seaalign.records import Prompt, Style
        >>> def speech(i):  # two people: one has a style of even tokens, the other of odd ones
        ...     g = torch.Generator().manual_seed(i)
        ...     style = Style(2 * torch.randint(6, (9,), generator=g) + i % 2)
        ...     prompt = Prompt(torch.randint(10, (3,), generator=g), style, torch.tensor([float(i % 2)]))
        ...     return Utterance(f"u{i}", prompt, torch.randint(12, (12,), generator=g))
        >>> lm = TextSpeechLM(codes=13, pause=12, dim=16, layers=1, heads=2)
        >>> print(SeparationAudit(lm, kinds=["linear"]).run([speech(i) for i in range(60)]).verdict[:73])
        this backbone's style tokens identify the speaker with 100% (chance 50%):
    """

    def __init__(
        self,
        backbone: Backbone,
        speaker_embedder: str | Embedder | None = ECAPA,
        scenes: int = 96,
        kinds: Sequence[Kind] = ("linear", "mlp"),
        temperature: float = 1.0,
        top_p: float = 0.9,
        sample_rate: int | None = None,
        most: int = 128,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        if scenes < 0 or not kinds or not set(kinds) <= {"linear", "mlp"}:
            raise ValueError(f"scenes={scenes} must be 0 or more, kinds={kinds!r} of 'linear' and 'mlp'")
        self.backbone, self.embedder, self.scenes, self.kinds = backbone, speaker_embedder, scenes, tuple(kinds)
        self.sampling: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "seed": seed, "progress": progress}
        self.sample_rate, self.most, self.seed = sample_rate, most, seed

    def run(
        self,
        utterances: Sequence[Utterance],
        speakers: Sequence[Hashable] | None = None,
        contours: Sequence[Tensor] | None = None,
    ) -> Separation:
        """Ask everything that can be asked.

        Args:
            utterances: some hundreds are good: real ones, each with style and timbre, of several speakers and texts.
            speakers: who speaks in each; None: equal timbres are one speaker.
            contours: F0 (frames,) in Hz, 0 where unvoiced, of the recordings that the timbres were taken from; None:
                of the utterances' own tokens, decoded.

        Raises:
            ValueError: no utterances, or not one speaker (or contour) for each.
        """
        if not utterances or (contours is not None and len(contours) != len(utterances)):
            got = None if contours is None else len(contours)
            raise ValueError(f"{len(utterances)} utterances and {got} contours: give some, and one contour for each")
        prompts, tokens = [u.prompt for u in utterances], [u.tokens for u in utterances]
        material = Material.of(prompts, tokens, speakers, kinds=self.kinds, most=self.most, seed=self.seed)
        deaf = self._deaf()
        if contours is None and deaf is None:
            contours = f0(decoded(self.backbone, tokens, prompts), self._rate)
        found = token_findings(material)
        found += timbre_findings(material, speakers is not None, contours, deaf or "")
        heard, listened = self._listen(utterances, material, deaf)
        return Separation(
            type(self.backbone).__name__, (*found, *listened), "timbre" in self.backbone.features, _points(heard)
        )

    @property
    def _rate(self) -> int:
        return rate_of(self.backbone, self.sample_rate)

    def _deaf(self) -> str | None:
        """Why nothing can be heard, or None."""
        if "decode" in self.backbone.features:
            return None
        return f"{type(self.backbone).__name__} does not decode, so that nothing can be heard"

    def _listen(
        self, utterances: Sequence[Utterance], material: Material, deaf: str | None
    ) -> tuple[Heard | None, list[Finding]]:
        """Swap tests, or why there are none."""
        unstyled = sum(prompt.style is None for prompt in material.prompts)
        lacking = [name for name in ("style", "timbre") if name not in self.backbone.features]
        why = deaf or (
            f"the backbone has no {' and no '.join(lacking)} to swap" if lacking
            else f"{unstyled} of {len(utterances)} utterances have no style prefix" if unstyled
            else "scenes=0" if self.scenes == 0
            else None
        )  # fmt: skip
        if why is not None:
            return None, [skipped(name, why) for name in (VOICE, TOGGLE)]
        who = material.speakers or [0] * len(utterances)  # unknown: style on and off in one voice can still be compared
        pairs = scenes(who, self.scenes, self.seed)
        two = any(who[a] != who[b] for a, b in pairs)
        said = perform(self.backbone, utterances, pairs, **self.sampling)
        voiceless = material.nobody or (None if two else "one speaker alone: there is no other voice to swap with")
        embed, unable = self._embedder() if voiceless is None else (None, voiceless)
        known = voices(self.backbone, utterances, who, self._rate, embed) if embed else None
        heard = hear(*said, pairs, utterances, who, self._rate, known, embed)
        size = self.backbone.vocab_size or max(
            int(row.max()) + 1 for rows in said[0].values() for row in rows if len(row)
        )
        found = voice_findings(heard, unable if embed is None else None, self.seed)
        return heard, found + prosody_findings(heard, two, size, self.seed)

    def _embedder(self) -> tuple[Embedder | None, str | None]:
        """Who tells voices apart, or why nobody does."""
        if self.embedder is None:
            return None, "no speaker_embedder was given, so that nobody tells voices apart"
        if not isinstance(self.embedder, str):
            return self.embedder, None
        try:
            return speaker_encoder(self.embedder), None
        except Exception as error:  # not installed, no network, no such model: the rest of the audit stands
            why = " ".join(str(error).split())[:160]
            return None, f"the speaker encoder {self.embedder!r} cannot be had ({type(error).__name__}: {why})"


def _points(heard: Heard | None) -> dict[str, list[float]]:
    """What the picture shows: numbers of scenes in which both sides were measured."""
    if heard is None:
        return {}
    similarity, spread = heard.similarity, heard.spread

    def both(x: Tensor, y: Tensor) -> tuple[list[float], list[float]]:
        known = x.isfinite() & y.isfinite()
        return x[known].tolist(), y[known].tolist()

    to_style = torch.cat([similarity[AB, :, 0], similarity[BA, :, 1]])
    to_timbre = torch.cat([similarity[AB, :, 1], similarity[BA, :, 0]])
    points = zip(("swap_style", "swap_timbre"), both(to_style, to_timbre), strict=True)
    voice = zip(("similarity_on", "similarity_off"), both(similarity[AA, :, 0], similarity[OFF, :, 0]), strict=True)
    melody = zip(("spread_on", "spread_off"), both(spread[AA], spread[OFF]), strict=True)
    return {**dict(points), **dict(voice), **dict(melody)}
