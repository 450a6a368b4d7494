"""Prompts and answers as text, for tools that run a tokenizer over it, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from seaalign.records import Prompt

ANSWERS = ("chosen", "rejected")


class Spells(Protocol):
    """What a table in the ids of a model needs of a backbone; `CausalLM` has it."""

    @property
    def eos_id(self) -> int:
        """Id of the end token."""

    def prompt_ids(self, prompt: Prompt) -> Tensor:
        """Everything before the speech (L,)."""

    def speech_ids(self, tokens: Tensor) -> Tensor:
        """Speech tokens as ids (M,), without the end."""

    def read_prompt(self, ids: Sequence[int]) -> Prompt:
        """The prompt that is laid out so; a ValueError where none is."""

    def read_speech(self, ids: Sequence[int]) -> tuple[Tensor, bool]:
        """Speech tokens, and whether they ended; a ValueError where an id is neither speech nor the end."""


def spell(tokenizer: Any, prompt: list[int], answers: Sequence[list[int]]) -> list[str]:
    """Texts that the tokenizer turns back into these ids when it is called as TRL calls it.

    TRL tokenises the prompt, and prompt and answer together, with whatever special tokens the tokenizer adds.

    Args:
        tokenizer: a `transformers` tokenizer.
        prompt: ids.
        answers: ids of what may follow it.

    Returns:
        The prompt, and each answer.

    Raises:
        ValueError: there is no such text.
    """
    # a tokenizer that adds its own first token must not find it in the text as well
    tries = [prompt, prompt[1:]] if prompt and prompt[0] == getattr(tokenizer, "bos_token_id", None) else [prompt]
    heads = [_written(tokenizer, ids) for ids in tries]
    head = next((text for text in heads if _ids(tokenizer, text) == prompt), None)
    if head is None:
        raise ValueError(_astray(prompt, _ids(tokenizer, heads[0]), "the prompt"))
    texts = []
    for ids in answers:
        texts.append(_written(tokenizer, ids))
        back = _ids(tokenizer, head + texts[-1])
        if back != prompt + ids:
            raise ValueError(_astray(prompt + ids, back, "prompt and answer"))
    return [head, *texts]


def unspell(row: Mapping[str, Any], tokenizer: Any, backbone: Spells) -> list[list[int]]:
    """The ids of prompt, chosen and rejected of a row of texts or conversations.

    Without a prompt of its own, the row's answers begin with it. TRL takes all that they have in common for the prompt;
    but two answers to one prompt often begin with the same speech, so here the prompt is the shortest beginning after
    which both hold speech alone. Chat templates open and close what people say: after a conversation's prompt, what
    they open belongs to the prompt; and after the end token, what they close is left out.

    Args:
        row: "chosen" and "rejected", and where it exists "prompt"; texts, or lists of messages.
        tokenizer: a `transformers` tokenizer, with a chat template for conversations.
        backbone: knows a prompt, speech and the end token.

    Raises:
        ValueError: no tokenizer, the prompt does not stay itself before an answer, or none can be found.
    """
    if tokenizer is None:
        raise ValueError("the row is text: pass tokenizer=, the one that the text was written for")
    said, asked = [row[name] for name in ANSWERS], row.get("prompt")
    chat = not isinstance(said[0], str)
    if any(isinstance(part, str) == chat for part in [*said, *([] if asked is None else [asked])]):
        raise ValueError("texts and conversations are mixed: prompt, chosen and rejected must be of one kind")
    encode = _chat if chat else _ids
    head = [] if asked is None else _chat(tokenizer, asked, True) if chat else _ids(tokenizer, asked)
    whole = [encode(tokenizer, part if asked is None else asked + part) for part in said]
    for ids in whole:
        if ids[: len(head)] != head:
            raise ValueError(_astray(head, ids[: len(head)], "the prompt before an answer"))
    if head and not chat:
        return [head, *(ids[len(head) :] for ids in whole)]
    for place in range(max(len(head), 1), _shared(*whole) + 1):
        answers = [_until(ids[place:], backbone.eos_id) if chat else ids[place:] for ids in whole]
        if _fits(backbone, whole[0][:place], answers):
            return [whole[0][:place], *answers]
    closed = ", up to the end token where it is a conversation" if chat else ""
    raise ValueError(
        f"no prompt is found: nothing that both answers begin with is one with only speech after it{closed}"
    )


def _fits(backbone: Spells, prompt: list[int], answers: list[list[int]]) -> bool:
    try:
        backbone.read_prompt(prompt)
        return all(len(backbone.read_speech(answer)[0]) for answer in answers)
    except ValueError:
        return False


def _written(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text)["input_ids"])


def _chat(tokenizer: Any, messages: Any, opening: bool = False) -> list[int]:
    try:
        made = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, add_generation_prompt=opening)
    except Exception as error:  # templates are programs of their own, and raise what they like
        raise ValueError(f"the chat template refuses the conversation: {type(error).__name__}: {error}") from error
    return list(made["input_ids"])


def _shared(first: list[int], second: list[int]) -> int:
    """How many ids they begin with in common."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(first), len(second)))


def _until(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids


def _astray(meant: list[int], found: list[int], what: str) -> str:
    place = _shared(meant, found)
    return (
        f"the tokenizer reads {what} otherwise: {len(meant)} ids are {len(found)} when read from text, and differ from "
        f"place {place} on ({meant[place : place + 4]} became {found[place : place + 4]}). Does it add special tokens "
        "(add_bos_token)? Does the layout join texts that were cut into tokens one by one?"
    )
