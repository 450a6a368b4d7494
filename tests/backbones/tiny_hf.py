"""Small random models of the real Hugging Face classes, and tokenizers that spell the tokens of a layout."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from seaalign import Prompt, Style
from seaalign.backbones.layouts import LAYOUTS, Layout, flattened

CODES, TIMBRES = 12, 6
# Orpheus names its tokens by number: the same order in a vocabulary of 64 letters instead of 128,000
SMALL = {
    **{name: replace(LAYOUTS[name], codes=CODES) for name in ("llasa", "neutts", "cosyvoice2-hf")},
    "spark": replace(LAYOUTS["spark"], codes=CODES, timbre_codes=TIMBRES),
    "orpheus": replace(LAYOUTS["orpheus"], prompt=(303, "{text}", 262, 304, 305, 301), speech=310, codes=28, end=302),
}


@cache
def tokenizer_for(layout: Layout) -> transformers.PreTrainedTokenizerFast:
    """256 bytes, then the marks that the layout's prompt names, then its codes, as Hugging Face has them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=core)
    texts = [piece for piece in flattened(layout.prompt) if isinstance(piece, str)]
    marks = [mark for text in texts for mark in re.findall(r"<\|[^|]+\|>", text)]
    marks += [mark for mark in (layout.end, *layout.also) if isinstance(mark, str)]
    for spelled, count in ((layout.speech, layout.codes), (layout.timbre, layout.timbre_codes)):
        marks += [spelled.format(i) for i in range(count)] if isinstance(spelled, str) else []
    made.add_special_tokens({"additional_special_tokens": list(dict.fromkeys(marks))})
    return made


def tiny(family: str, vocab_size: int, seed: int = 0, **settings) -> torch.nn.Module:
    """A random causal LM of two layers; weights large enough that its predictions differ."""
    sizes = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,  # the usual 0.02 makes a random model nearly uniform: nothing to tell apart
        **({"head_dim": 8} if family == "Qwen3" else {}),
        **settings,
    }
    config = getattr(transformers, f"{family}Config")(**sizes, bos_token_id=None, eos_token_id=None, pad_token_id=0)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return getattr(transformers, f"{family}ForCausalLM")(config).eval()


def model_for(name: str, family: str = "Llama", **settings) -> tuple[torch.nn.Module, Layout, object]:
    """A small model, layout and tokenizer that fit together."""
    layout = SMALL[name]
    tokenizer = tokenizer_for(layout)
    return tiny(family, max(340, len(tokenizer)), **settings), layout, tokenizer


def prompts_for(layout: Layout, seed: int = 0) -> list[Prompt]:
    """Three prompts of different length; with style and timbre where the layout has them."""
    g = torch.Generator().manual_seed(seed)

    def ids(size: int, high: int = 200) -> torch.Tensor:
        return torch.randint(high, (size,), generator=g)

    def timbre() -> torch.Tensor | None:
        return ids(4, TIMBRES) if layout.timbre is not None else None

    styled = [Style(ids(5, CODES), ids(3)), Style(ids(3, CODES), ids(2)), None] if layout.styled else [None] * 3
    return [Prompt(ids(size), style, timbre()) for size, style in zip((7, 4, 11), styled, strict=True)]


def rows(*sizes: int, seed: int = 0) -> list[torch.Tensor]:
    """Speech codes."""
    g = torch.Generator().manual_seed(100 + seed)
    return [torch.randint(CODES, (size,), generator=g) for size in sizes]
