"""The losses on the fast path (rows that share their prompt, packed or padded) and on the plain one: each row alone."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import pad

from seaalign import DGSA, Backbone, Pair, Prompt, Speech, Style, Triplet
from seaalign.data.batches import PairBatch, TripletBatch
from seaalign.modules.dpo import DPO
from seaalign.sampling import pair_logps, reference_logps
from tests.backbones.test_packing import causal, own
from tests.backbones.user_models import CODES, EncoderDecoder, TwoBookLSTM, built, ragged_prompts
from tests.toy import Toy


class Alone(Backbone):
    """Each row in a call of its own, with a prompt of its own and no padding."""

    def __init__(self, inner: Backbone) -> None:
        super().__init__()
        self.inner, self.features = inner, inner.features
        inner._packs = lambda like: False

    def forward(self, prompts, speech):
        scores = []
        for b, row in enumerate(speech.rows()):
            alone = Speech.pack([row], speech.ended[b : b + 1], [0])
            scores.append(self.inner([prompts[int(speech.prompt[b])]], alone)[0])
        return torch.stack([pad(each, (0, speech.tokens.shape[1] + 1 - len(each))) for each in scores])

    def sample(self, *args, **kwargs):
        raise NotImplementedError


def hugging_face(family: str):
    from tests.backbones.tiny_hf import prompts_for

    backbone = causal(family)
    return backbone, prompts_for(backbone.spec), 12, None


def cosyvoice(version: int):
    from tests.backbones import test_cosyvoice as where

    return where.adapter(version), where.prompts(), where.CODES, None


def csm():
    from tests.backbones import test_csm as where

    return where.csm(), where.prompts(), where.CODES, where.K


def chatterbox(kind: str):
    from seaalign.backbones import Chatterbox
    from tests.backbones import chatterbox_standin as where

    return Chatterbox(where.made(f"stand-in {kind}")), where.prompts(), where.CODES, None


def qwen3tts():
    from tests.backbones import test_qwen3tts as where

    return where.adapter("stand-in"), where.prompts(), where.CODES, where.BOOKS


def miniature():
    from seaalign.miniature.lm import TextSpeechLM

    prompts = [Prompt([1, 2, 3], Style([0, 7, 12]), 0), Prompt([4], Style([1, 2]), 0), Prompt([5, 6], Style([3]), 0)]
    return TextSpeechLM(codes=13, pause=12, factor=6, dim=16, layers=2, heads=2), prompts, 13, None


def example(*kind):
    return own(*kind), ragged_prompts(timbre=True), CODES, None


def plain_example():
    from examples.your_own_model import MyAdapter

    return example(MyAdapter)


def prefixed(make):
    from seaalign import StylePrefix
    from tests.backbones.test_style_prefix import LEVELS, TIMBRE, prompts

    backbone = make()
    return StylePrefix(backbone, LEVELS, TIMBRE, vectors=3, hidden=16, frozen=False), prompts(), 12, None


def prefixed_example():
    from tests.backbones.test_style_prefix import Mixed

    return prefixed(lambda: own(Mixed))


AUDIO = pytest.mark.audio  # not for sound: transformers itself imports torchaudio where it finds it installed
# each with how it scores rows that share a prompt: in one packed row, or padded behind a prompt that is read once
ADAPTERS = [
    *(pytest.param(lambda f=f: hugging_face(f), True, id=f, marks=AUDIO) for f in ("Llama", "Qwen2", "Qwen3")),
    pytest.param(lambda: hugging_face("Mistral"), True, id="Mistral", marks=AUDIO),
    pytest.param(lambda: cosyvoice(2), True, id="CosyVoice 2", marks=AUDIO),
    pytest.param(lambda: cosyvoice(3), True, id="CosyVoice 3", marks=AUDIO),
    pytest.param(csm, True, id="CSM", marks=AUDIO),
    pytest.param(lambda: chatterbox("Llama"), True, id="Chatterbox", marks=AUDIO),
    pytest.param(lambda: chatterbox("GPT-2"), True, id="Chatterbox Turbo", marks=AUDIO),
    pytest.param(qwen3tts, False, id="Qwen3-TTS", marks=AUDIO),
    pytest.param(plain_example, False, id="your_own_model.py"),
    pytest.param(example, True, id="your_own_model.py with packing"),
    pytest.param(prefixed_example, True, id="StylePrefix on your_own_model.py"),
    pytest.param(lambda: prefixed(lambda: causal("Llama")), True, id="StylePrefix on Llama", marks=AUDIO),
    pytest.param(miniature, False, id="miniature"),
    pytest.param(lambda: (Toy(), ragged_prompts(timbre=True, codes=10), 10, None), False, id="GRU"),
    pytest.param(lambda: (built(TwoBookLSTM), ragged_prompts(), CODES, 2), False, id="two-book LSTM"),
    pytest.param(lambda: (built(EncoderDecoder), ragged_prompts(), CODES, None), False, id="encoder-decoder"),
]


def batches(backbone, prompts, codes, books):
    """Pairs, and triplets where the backbone can tell style from timbre; the policy is not at the reference."""
    g = torch.Generator().manual_seed(7)

    def row(size: int) -> torch.Tensor:
        return torch.randint(codes, (size,) if books is None else (size, books), generator=g)

    def moved(rows) -> tuple[torch.Tensor, ...]:
        return tuple(values + 0.3 * torch.randn(values.shape, generator=g) for values in rows)

    pairs = [Pair(str(i), p, row(9 - 3 * i), row(4 + i), (True, i > 0)) for i, p in enumerate(prompts)]
    made = [replace(p, reference=moved(p.reference)) for p in pair_logps(backbone, pairs, progress=False)]
    yield DPO, PairBatch.of(made)
    if {"style", "timbre"} <= set(backbone.features):
        styled = [p for p in prompts if p.style is not None]
        triplets = [
            Triplet(str(i), p, row(8 - i), row(11), row(1 + i), (True, False, True)) for i, p in enumerate(styled)
        ]
        scored = reference_logps(backbone, triplets, styled=True, progress=False)
        both = [{mode: moved(rows) for mode, rows in t.reference.items()} for t in scored]
        yield DGSA, TripletBatch.of([replace(t, reference=b) for t, b in zip(scored, both, strict=True)])


def graded(kind, backbone, batch, **settings):
    module = kind(backbone, **settings)
    loss, _ = module.loss(batch)
    loss.backward()
    return float(loss.detach()), {n.removeprefix("inner."): p.grad for n, p in backbone.named_parameters()}


@pytest.mark.parametrize(("make", "packed"), ADAPTERS)
def test_losses_and_gradients_are_those_of_rows_scored_one_by_one(make, packed):
    backbone, prompts, codes, books = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert backbone.packs(prompts) == packed
        cases = list(batches(backbone, prompts, codes, books))
    for kind, batch in cases:
        for settings in [{}] if kind is DPO else [{"alpha": 0.8}, {"alpha": 0.8, "styled_stability": True}]:
            settings |= {"sft_weight": 0.1}
            one, other = copy.deepcopy(backbone), Alone(copy.deepcopy(backbone))
            with warnings.catch_warnings():
                warnings.simplefilter("error" if packed else "ignore")
                loss, grads = graded(kind, one, batch, **settings)
            want, expected = graded(kind, other, batch, **settings)
            assert abs(loss - want) <= 1e-5 * abs(want), (kind, settings)
            whole = sum(float(grad.norm()) ** 2 for grad in expected.values() if grad is not None) ** 0.5
            assert whole > 0.01
            for name, grad in expected.items():
                assert (grad is None) == (grads[name] is None), name
                if grad is not None:
                    apart = float((grads[name] - grad).norm())
                    assert apart <= 1e-4 * max(float(grad.norm()), 1e-3 * whole), (kind, name)
