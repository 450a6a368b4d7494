"""From a text and a voice to what a backbone is asked: text ids, style prefix, timbre."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from seaalign.backbones.base import Unsupported
from seaalign.evaluation.texts import Case, hear
from seaalign.records import Prompt, Style


def prompts_of(cases: Sequence[Case], backbone: Any) -> list[Prompt]:
    """A prompt for each text.

    What a case has is kept. Text ids come from `backbone.tokenize`; style and timbre of a `voice` from
    `backbone.encode` and `backbone.timbre`, where there are these.

    Args:
        cases: the texts.
        backbone: the model.

    Raises:
        ValueError: a text without ids, and a backbone that cannot tokenise.
    """
    made = dict[Any, tuple[Style | None, Any]]()
    return [_prompt(case, backbone, made) for case in cases]


def _prompt(case: Case, backbone: Any, made: dict[Any, tuple[Style | None, Any]]) -> Prompt:
    if case.prompt is None and not hasattr(backbone, "tokenize"):
        raise ValueError(
            f"text {case.id!r} has no ids, and {type(backbone).__name__} no tokenize(text): add ids, or `utterances`"
        )
    given = Prompt(backbone.tokenize(case.text)) if case.prompt is None else case.prompt
    if case.voice is None or given.style is not None or given.timbre is not None:
        return given
    key = (id(case.voice) if isinstance(case.voice, tuple) else case.voice, case.voice_text)
    if key not in made:
        made[key] = _voice(case, *hear(case.voice, f"the voice of {case.id!r}"), backbone)
    style, timbre = made[key]
    return Prompt(given.text, style, timbre)


def _voice(case: Case, waveform: Tensor, rate: int, backbone: Any) -> tuple[Style | None, Any]:
    timbre = backbone.timbre(waveform, rate) if hasattr(backbone, "timbre") else None
    try:
        tokens = backbone.encode([waveform], rate).rows()[0].cpu()
    except Unsupported:
        return None, timbre
    said = backbone.tokenize(case.voice_text) if case.voice_text and hasattr(backbone, "tokenize") else None
    return Style(tokens, said), timbre
