"""How speech language models lay their sequence out, as data: one table row a model, with its source."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeAlias

import torch
from torch import Tensor

Piece: TypeAlias = "int | str | tuple[Piece, ...]"
Placed: TypeAlias = "list[Tensor | str | list[Any]]"
SLOTS = ("{text}", "{style.text}", "{style.speech}", "{timbre}")
_MARK = re.compile(r"<\|[^|<>]+\|>")


@dataclass(frozen=True)
class Layout:
    """A causal language model whose one vocabulary holds text and speech: what stands where, and which ids are speech.

    Args:
        name: for messages and fingerprints.
        prompt: what comes before the speech, in order: ids, texts that the tokenizer turns into ids, and the slots
            "{text}", "{style.text}", "{style.speech}" and "{timbre}". A tuple inside stands only where the style is on.
        speech: id of speech code 0, the others following; or how code i is spelled, as `"<|s_{}|>"`.
        codes: number of speech codes.
        end: the token that ends speech.
        also: tokens that share the head's probability with speech, and are never drawn.
        timbre: as `speech`, of the codes that a timbre is made of; None where the model has none.
        timbre_codes: their number.
        voice: a name that is written before each text, as "tara: ...", for models that have named voices.
        special: does the tokenizer add its own special tokens to a text?
        rate: speech tokens per second.
        source: where the facts come from.

    Example:
        >>> mine = Layout("mine", prompt=(7, "{text}", 8, ("{style.speech}",)), speech=10, codes=6, end=9)
        >>> mine.styled
        True
    """

    name: str
    prompt: tuple[Piece, ...]
    speech: int | str
    codes: int
    end: int | str
    also: tuple[int | str, ...] = ()
    timbre: int | str | None = None
    timbre_codes: int = 0
    voice: str = ""
    special: bool = False
    rate: float | None = None
    source: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", _nested(self.prompt))
        slots = [piece for piece in flattened(self.prompt) if isinstance(piece, str) and piece in SLOTS]
        if slots.count("{text}") != 1 or len(set(slots)) < len(slots):
            raise ValueError(f"layout {self.name!r} needs the slot '{{text}}' once and no slot twice, has {slots}")
        typos = [p for p in flattened(self.prompt) if isinstance(p, str) and p[:1] == "{" and p not in SLOTS]
        if typos:
            raise ValueError(f"layout {self.name!r} has unknown slots {typos}; there are {', '.join(SLOTS)}")
        if ("{timbre}" in slots) != (self.timbre is not None and self.timbre_codes > 0):
            raise ValueError(f"layout {self.name!r}: the slot '{{timbre}}', timbre= and timbre_codes= go together")

    @property
    def styled(self) -> bool:
        """Has it a place for the style prefix?"""
        return "{style.speech}" in flattened(self.prompt)

    def spoken(self, text: str) -> str:
        """A text as it is written before it is cut into tokens."""
        return f"{self.voice}: {text}" if self.voice else text

    @staticmethod
    def named(name: str) -> Layout:
        """A layout of the table `LAYOUTS`.

        Raises:
            ValueError: there is none of this name.
        """
        if name not in LAYOUTS:
            near = get_close_matches(name, LAYOUTS, n=1)
            meant = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(LAYOUTS)}."
            raise ValueError(f"no layout {name!r}; {meant} A model of your own: Layout(...)")
        return LAYOUTS[name]

    def place(self, tokenizer: Any = None) -> Placed:
        """The prompt with every text turned into ids: tensors, names of slots, and lists for what needs a style."""
        return _placed(self, self.prompt, tokenizer)

    def ids(self, spelled: int | str, count: int, tokenizer: Any = None) -> Tensor:
        """The ids of `count` codes that are spelled so, (count,).

        Raises:
            ValueError: there is no tokenizer to ask, or it does not know them.
        """
        if isinstance(spelled, int):
            return torch.arange(spelled, spelled + count)
        return torch.tensor(self.known([spelled.format(i) for i in range(count)], tokenizer))

    def known(self, marks: Sequence[int | str], tokenizer: Any = None) -> list[int]:
        """The ids of single tokens.

        Raises:
            ValueError: there is no tokenizer to ask, or it would take a token apart.
        """
        names = [mark for mark in marks if isinstance(mark, str)]
        if names and tokenizer is None:
            raise ValueError(f"layout {self.name!r} names tokens by their text, as {names[0]!r}: pass tokenizer=")
        found = dict(zip(names, tokenizer.convert_tokens_to_ids(names), strict=True)) if names else {}
        unknown = getattr(tokenizer, "unk_token_id", None)
        lost = [name for name, number in found.items() if number is None or number == unknown]
        if lost:
            raise ValueError(
                f"the tokenizer ({len(tokenizer)} tokens) does not match the layout {self.name!r}: it has no token "
                f"{lost[0]!r}{f' and {len(lost) - 1} more' if lost[1:] else ''}. Take the tokenizer of the checkpoint, "
                "or another layout"
            )
        return [found[mark] if isinstance(mark, str) else mark for mark in marks]


def flattened(prompt: Sequence[Piece]) -> list[int | str]:
    """The pieces without the nesting."""
    return [one for piece in prompt for one in (flattened(piece) if isinstance(piece, tuple) else [piece])]


def _nested(pieces: Any) -> tuple[Piece, ...]:
    """Lists, as YAML has them, are tuples here."""
    return tuple(_nested(piece) if isinstance(piece, list | tuple) else piece for piece in pieces)


def _placed(layout: Layout, prompt: Sequence[Piece], tokenizer: Any) -> Placed:
    placed: Placed = []
    for piece in prompt:
        if isinstance(piece, tuple):
            placed.append(_placed(layout, piece, tokenizer))
        elif isinstance(piece, int):
            placed.append(torch.tensor([piece]))
        elif piece in SLOTS:
            placed.append(piece)
        else:
            layout.known(_MARK.findall(piece) or [piece][:0], tokenizer)  # else they would be cut into letters
            if tokenizer is None:
                raise ValueError(f"layout {layout.name!r} has the text {piece!r} in its prompt: pass tokenizer=")
            placed.append(torch.tensor(tokenizer(piece, add_special_tokens=False)["input_ids"], dtype=torch.long))
    return placed


def walk(placed: Placed, styled: bool) -> Iterator[Tensor | str]:
    """Ids and slots in order, with or without what the style adds."""
    for piece in placed:
        if isinstance(piece, list):
            yield from walk(piece, styled) if styled else ()
        else:
            yield piece


_LLAMA = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    # the chat template of Llama 3.2 writes today's date here; a prompt that changes overnight would make stored
    # log-probs worthless, so it is the template's own fallback
    "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nConvert the text to speech:<|TEXT_UNDERSTANDING_START|>",
    ("{style.text}",),
    "{text}",
    "<|TEXT_UNDERSTANDING_END|><|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n<|SPEECH_GENERATION_START|>",
    ("{style.speech}",),
)

LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            "orpheus",
            # start of human, text, end of text, end of human, start of AI, start of speech
            prompt=(128259, "{text}", 128009, 128260, 128261, 128257),
            speech=128266,
            codes=7 * 4096,  # SNAC's three books flattened to 7 tokens a frame, each place with a range of its own
            end=128258,
            voice="tara",
            special=True,
            rate=82.0,
            source="github.com/canopyai/Orpheus-TTS: orpheus_tts/engine_class.py, decoder.py, pretrain/train.py",
        ),
        Layout(
            "llasa",
            prompt=_LLAMA,
            speech="<|s_{}|>",
            codes=65536,
            end="<|SPEECH_GENERATION_END|>",
            rate=50.0,
            source="huggingface.co/HKUSTAudio/Llasa-3B, model card",
        ),
        Layout(
            "neutts",
            prompt=(
                "user: Convert the text to speech:<|TEXT_PROMPT_START|>",
                ("{style.text}", " "),
                "{text}",
                "<|TEXT_PROMPT_END|>\nassistant:<|SPEECH_GENERATION_START|>",
                ("{style.speech}",),
            ),
            speech="<|speech_{}|>",
            codes=65536,
            end="<|SPEECH_GENERATION_END|>",
            rate=50.0,
            source="github.com/neuphonic/neutts-air: neutts/neutts.py, examples/finetune.py (texts are phonemes)",
        ),
        Layout(
            "spark",
            # the opening of the semantic part is in the prompt in both modes, where the model would say it itself
            prompt=(
                "<|task_tts|><|start_content|>",
                ("{style.text}",),
                "{text}",
                "<|end_content|><|start_global_token|>",
                "{timbre}",
                "<|end_global_token|><|start_semantic_token|>",
                ("{style.speech}",),
            ),
            speech="<|bicodec_semantic_{}|>",
            codes=8192,
            end="<|im_end|>",
            timbre="<|bicodec_global_{}|>",
            timbre_codes=4096,
            rate=50.0,
            source="github.com/SparkAudio/Spark-TTS: cli/SparkTTS.py, sparktts/utils/token_parser.py",
        ),
        Layout(
            "cosyvoice2-hf",
            prompt=("<|sos|>", ("{style.text}",), "{text}", "<|task_id|>", ("{style.speech}",)),
            speech="<|s_{}|>",
            codes=6561,
            end="<|eos1|>",
            also=("<|eos2|>", "<|eos3|>"),  # with them the log-probs are those of the original head
            rate=25.0,
            source="github.com/FunAudioLLM/CosyVoice: examples/grpo/cosyvoice2/pretrained_to_huggingface.py",
        ),
    )
}
"""Layouts by name. Their facts were read in the sources named; no published weights were run."""
