"""Your own speech language model in seaalign: the page to read first. Run it: `python examples/your_own_model.py`.

You have a text-to-speech model whose language model turns text into speech tokens. seaalign never asks you to rewrite
it: you write an ADAPTER that holds it. For a decoder-only model that is one class with two names and four methods
(`MyAdapter`, below). From it seaalign derives scoring with gradients, cached and batched sampling, and everything that
alignment needs. `check_backbone` then tests the adapter against every rule that alignment relies on, and names the
fault where there is one.

Part 1 stands for your code base, part 2 is what you write, part 3 is how you know that it is right.
docs/your_own_model.md goes on from there: from your checkpoint and your data to a file that your own code loads.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seaalign import DecoderOnly, Prompt, Speech, Style
from seaalign.backbones.lora_files import load_adapters, merged_state, save_adapters
from seaalign.backbones.weights import load_into, read_weights
from seaalign.testing import check_backbone

TEXT, CODES, WIDTH, HEADS = 40, 64, 48, 4  # text ids, speech codes, model width, attention heads


# -- Part 1: your model, as it is. It knows nothing of seaalign. -------------------------------------------------------


class Layer(nn.Module):
    """A transformer layer with a key-value cache."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(
        self, x: Tensor, mask: Tensor, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, dim=-1))
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        heard = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(heard.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x)), (k, v)


class MySpeechLM(nn.Module):
    """Text and speech embeddings, a causal transformer, and a head over the speech codes and an end token."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.speech = nn.Embedding(TEXT, WIDTH), nn.Embedding(CODES, WIDTH)
        self.marks = nn.Embedding(2, WIDTH)  # 0: text starts, 1: speech starts
        self.positions = nn.Embedding(512, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(2))
        self.head = nn.Linear(WIDTH, CODES + 1)  # the last id is the end token

    def transformer(self, x: Tensor, positions: Tensor, mask: Tensor, cache: list | None) -> tuple[Tensor, list]:
        x = x + self.positions(positions)
        new_cache = []
        for i, layer in enumerate(self.layers):
            x, kept = layer(x, mask, cache[i] if cache else None)
            new_cache.append(kept)
        return x, new_cache


# -- Part 2: the adapter. This is all you write. -----------------------------------------------------------------------


class MyAdapter(DecoderOnly):
    """Two names (`eos`, `features`) and four short methods; and two more for your files."""

    eos = CODES  # id of the end token among the head's outputs; it is never stored in Speech.tokens
    features = frozenset({"style", "timbre"})  # the style prefix can be left out; Prompt.timbre is the decoder's

    def __init__(self, model: MySpeechLM) -> None:
        super().__init__()
        self.model = model  # held, not inherited from: your checkpoints and your code keep working

    def embed_prompt(self, prompt: Prompt) -> Tensor:
        """All that comes before the speech, (L, D): text, and the style prefix if there is one.

        The last position is where the first speech token is predicted.
        """
        m, style = self.model, prompt.style
        text = prompt.text if style is None or style.text is None else torch.cat([style.text, prompt.text])
        parts = [m.marks.weight[:1], m.text(text), m.marks.weight[1:]]
        if style is not None:  # the reference recording's tokens, as if the model had just said them
            parts.append(m.speech(style.tokens))
        return torch.cat(parts)

    def embed_speech(self, tokens: Tensor, start: int) -> Tensor:
        """Speech tokens (B, t) as input embeddings (B, t, D); `start` is the place of the first, if that matters."""
        return self.model.speech(tokens)

    def body(self, inputs_embeds, attention_mask, position_ids, past_key_values, use_cache):  # type: ignore[no-untyped-def]
        """The transformer without its head. A Hugging Face body takes these arguments: write `self.body = model.model`.

        attention_mask (B, past + new) says which cache slots are real, None = all. It is up to the body to be causal.
        """
        new = inputs_embeds.shape[1]
        past = past_key_values[0][0].shape[2] if past_key_values else 0
        mask = torch.ones(new, past + new, dtype=torch.bool, device=inputs_embeds.device).tril(past)
        mask = mask if attention_mask is None else mask & attention_mask[:, None, None].bool()
        return self.model.transformer(inputs_embeds, position_ids, mask, past_key_values)

    def logits(self, features: Tensor) -> Tensor:
        """The head, called on real positions only and in chunks: no (batch, time, codes) tensor ever exists."""
        return self.model.head(features)

    def save(self, path: str | Path, adapters_only: bool = False) -> None:
        """What your own code loads: here a state_dict, LoRA merged in; or LoRA alone, in a folder of peft's."""
        save_adapters(self, path) if adapters_only else torch.save(merged_state(self.model), path)

    def load(self, path: str | Path, unsafe: bool = False) -> None:
        """The same the other way: strict, and nothing but tensors unless `unsafe`."""
        if Path(path).is_dir():
            return load_adapters(self, path, unsafe)
        load_into(self.model, read_weights(path, unsafe), path)


# -- Part 3: is it right? ----------------------------------------------------------------------------------------------


def main() -> None:
    random = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    backbone = MyAdapter(MySpeechLM())

    def ids(high: int, size: int) -> Tensor:
        return torch.randint(high, (size,), generator=random)

    # a few real prompts and the speech tokens that answer them; with your model: from your data set
    prompts = [
        Prompt(
            text=ids(TEXT, 9),
            style=Style(tokens=ids(CODES, 12), text=ids(TEXT, 4)),
            timbre=torch.randn(8, generator=random),
        ),
        Prompt(text=ids(TEXT, 5), timbre=torch.randn(8, generator=random)),
        Prompt(text=ids(TEXT, 14), timbre=torch.randn(8, generator=random)),
    ]
    speech = Speech.pack([ids(CODES, 20), ids(CODES, 11), ids(CODES, 17)])

    print(check_backbone(backbone, prompts, speech))  # raises and names the fault where a rule is broken

    # log pi(y|x), one number per row, with a gradient: what preference losses are made of
    print("\nlog-probs:", [round(value, 2) for value in backbone(prompts, speech).sum(-1).tolist()])

    # four answers to one prompt with the style prefix (expressive), four without (stable); same voice in both
    for name, prompt in (("style on", prompts[0]), ("style off", prompts[0].plain())):
        drawn = backbone.sample(
            [prompt], n=4, temperature=0.8, top_p=0.9, max_len=12, generator=torch.Generator().manual_seed(1)
        )
        print(f"\n{name}:")
        for row, ended in zip(drawn.rows(), drawn.ended.tolist(), strict=True):
            print("  ", row.tolist(), "" if ended else "(cut at max_len)")


if __name__ == "__main__":
    main()
