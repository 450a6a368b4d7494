"""Who speaks: a policy that generates, or recordings that exist already, of whatever system made them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seaalign.backbones.base import Backbone, evaluating, prompt_key
from seaalign.backbones.checkpoints import lent, load_weights, step_of
from seaalign.backbones.sound import rate_of, sound, steady
from seaalign.evaluation.prompting import prompts_of
from seaalign.evaluation.rows import Style
from seaalign.evaluation.texts import Case
from seaalign.records import Speech
from seaalign.sampling.dual import say
from seaalign.storage import layout_of, weights_hash
from seaalign.storage.shards import digest


@dataclass(frozen=True, eq=False)
class Said:
    """One answer.

    Args:
        waveform: samples (S,); none where nothing was said.
        sample_rate: Hz.
        tokens: speech tokens (T,) or (T, K), where there are some.
        ended: by itself?
        problem: why there is nothing.
    """

    waveform: Tensor = field(default_factory=lambda: torch.zeros(0))
    sample_rate: int = 16_000
    tokens: Tensor | None = None
    ended: bool = True
    problem: str = ""


class System(ABC):
    """Says the texts of an evaluation; subclass it to bring one that is neither of those below.

    Attributes:
        name: in tables and folders.
        alpha: synthetic share of its training data, where known.
        step: of its checkpoint, where known.
        codec: whose tokens these are, as text; entropies compare within one codec only. None: there are no tokens.
    """

    name: str
    alpha: float | None = None
    step: int | None = None
    codec: str | None = None

    @contextmanager
    def ready(self, cases: Sequence[Case]) -> Iterator[None]:
        """Whatever must be so while it is asked."""
        yield

    @abstractmethod
    def styles(self, cases: Sequence[Case]) -> list[Style]:
        """At which it can be asked."""
        raise NotImplementedError

    def repeats(self, asked: int) -> int:
        """How often it says each text."""
        return asked

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """What its answers depend on, as JSON values."""
        raise NotImplementedError

    @abstractmethod
    def speak(self, cases: Sequence[Case], style: Style, repeat: int, batch: int, progress: bool) -> Iterator[Said]:
        """An answer to each text, in order."""
        raise NotImplementedError


class Policy(System):
    """A backbone that says the texts.

    Args:
        name: in tables and folders.
        backbone: the model; None: the one that the evaluation gives to all that have none.
        weights: what it starts from, as `--weights` of `seaalign fit`: a checkpoint, or weights in the model's own
            format. None: as the backbone is.
        styles: "on" and "off", or one of them. Default: both where every text has a style prefix, else "off".
        alpha: synthetic share of the data it was trained on; for reports.
        step: of the checkpoint. Default: what the checkpoint says.
        temperature: of the draws, above 0.
        top_p: nucleus mass.
        max_len: most speech tokens of an answer.

    Raises:
        ValueError: a style that there is not, or no temperature.
    """

    def __init__(
        self,
        name: str,
        backbone: Backbone | None = None,
        weights: str | Path | None = None,
        styles: Sequence[str] | None = None,
        alpha: float | None = None,
        step: int | None = None,
        temperature: float = 1.0,
        top_p: float = 0.9,
        max_len: int = 1024,
    ) -> None:
        if not set(styles or ()) <= {"on", "off"} or not temperature > 0:
            raise ValueError(f"{name}: styles are 'on' and 'off', the temperature above 0; got {styles}, {temperature}")
        self.name, self.backbone, self.weights, self.alpha = name, backbone, weights, alpha
        self.step = step if step is not None or weights is None else step_of(weights)
        self.given, self.temperature, self.top_p, self.max_len = styles, temperature, top_p, max_len

    @property
    def model(self) -> Any:
        """The backbone."""
        if self.backbone is None:
            raise ValueError(f"system {self.name!r} has no backbone: give it one, or the evaluation one for all")
        return self.backbone

    @contextmanager
    def ready(self, cases: Sequence[Case]) -> Iterator[None]:
        """Its weights loaded, in eval mode, and the prompts made; afterwards the backbone is as it was."""
        with lent(self.model) if self.weights is not None else nullcontext(), evaluating(self.model):
            if self.weights is not None:
                load_weights(self.model, str(self.weights), "weights")
            rate_of(self.model, None)
            self.codec = codec_of(self.model)
            self._prompts = dict(zip((case.id for case in cases), prompts_of(cases, self.model), strict=True))
            yield

    def styles(self, cases: Sequence[Case]) -> list[Style]:
        able = [case.id for case in cases if self._prompts[case.id].style is not None]
        if self.given is not None and "on" in self.given and len(able) < len(cases):
            raise ValueError(
                f"{self.name}: style 'on' needs a style prefix for every text, {len(able)} of {len(cases)} have one: "
                "give `utterances` with styles, or `voice` recordings and a backbone that encodes"
            )
        both: list[Style] = ["on", "off"] if len(able) == len(cases) else ["off"]
        return [style for style in both if self.given is None or style in self.given]

    def about(self) -> dict[str, Any]:
        """Weights, layout and sampler."""
        how = {"temperature": self.temperature, "top_p": self.top_p, "max_len": self.max_len}
        model = {"weights": weights_hash(self.model), "layout": layout_of(self.model), "sampler": self.model.sampler}
        keys = {name: prompt_key(prompt) for name, prompt in self._prompts.items()}
        return {**how, **model, "prompts": digest(keys)}

    def speak(self, cases: Sequence[Case], style: Style, repeat: int, batch: int, progress: bool) -> Iterator[Said]:
        model = self.model
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        prompts = [self._prompts[case.id] for case in cases]
        prompts = [(prompt if style == "on" else prompt.plain()).to(device) for prompt in prompts]
        said = say(
            model, prompts, [self.max_len] * len(prompts), temperature=self.temperature, top_p=self.top_p, batch=batch,
            seed=repeat, what=f"{self.name}, style {style}, repeat {repeat + 1}: sampling", progress=progress,
        )  # fmt: skip
        rate = rate_of(model, None)
        for start in range(0, len(prompts), batch):
            part = said[start : start + batch]
            speech = Speech.pack([tokens for tokens, _ in part], [ended for _, ended in part]).to(device)
            with steady(device):
                waves = sound(model, speech, prompts[start : start + batch])
            for row, (tokens, ended) in enumerate(part):
                yield Said(waves.get(row, torch.zeros(0)), rate, tokens, ended, "" if len(tokens) else "no token said")


def codec_of(backbone: Any) -> str:
    """Whose tokens a backbone speaks: its class and the size of its codebook."""
    return f"{type(backbone).__name__}, {backbone.vocab_size or 'any number of'} codes"
