"""Backbones with one fault each: `check_backbone` names it."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from seaalign import Prompt, Speech
from seaalign.testing import BackboneError, check_backbone
from tests.backbones.user_models import (
    CODES,
    Around,
    EncoderDecoder,
    TwoBookLSTM,
    built,
    example,
    ragged_prompts,
    tokens,
)

EXAMPLE = example()


def everywhere(inner, prompts, speech):
    """Scores of all columns, the padding's too."""
    full = torch.full_like(speech.lengths, speech.tokens.shape[1])
    return inner(prompts, Speech(speech.tokens, full, prompt=speech.prompt))


def rolled(scores, mask, by):
    """Scores of the scored columns moved by some columns, round the corner within a row."""
    moved = torch.zeros_like(scores)
    for row, kept in enumerate(mask):
        moved[row, kept] = scores[row, kept].roll(by)
    return moved


class Scoring(Around):
    """EncoderDecoder, scored in a broken way."""

    def __init__(self):
        super().__init__(EncoderDecoder())


class InvertedMask(Scoring):
    def forward(self, prompts, speech):
        return everywhere(self.inner, prompts, speech).masked_fill(speech.scored, 0.0)


class NoMask(Scoring):
    def forward(self, prompts, speech):
        return everywhere(self.inner, prompts, speech)


class MaskTooLong(Scoring):
    def forward(self, prompts, speech):
        column = torch.arange(speech.tokens.shape[1] + 1)
        scores = everywhere(self.inner, prompts, speech)
        return scores.where(column <= (speech.lengths + speech.ended)[:, None], 0.0)


class MaskTooShort(Scoring):
    def forward(self, prompts, speech):
        column = torch.arange(speech.tokens.shape[1] + 1)
        return self.inner(prompts, speech).where(column < speech.lengths[:, None], 0.0)


class ShiftedLeft(Scoring):
    def forward(self, prompts, speech):
        return rolled(self.inner(prompts, speech), speech.scored, -1)


class ShiftedRight(Scoring):
    def forward(self, prompts, speech):
        return F.pad(self.inner(prompts, speech), (1, 0))[:, :-1].where(speech.scored, 0.0)


class EndScoredWhereCut(Scoring):
    def forward(self, prompts, speech):
        return self.inner(prompts, Speech(speech.tokens, speech.lengths, prompt=speech.prompt))


class AlwaysTokenZero(Scoring):
    def forward(self, prompts, speech):
        zeros = Speech(torch.zeros_like(speech.tokens), speech.lengths, speech.ended, speech.prompt)
        return self.inner(prompts, zeros)


class RandomLayout(Scoring):
    def forward(self, prompts, speech):
        if torch.rand(()) < 0.5:
            prompts = [Prompt(prompt.text.flip(0), prompt.style) for prompt in prompts]
        return self.inner(prompts, speech)


class FunctionalDropout(Scoring):
    def forward(self, prompts, speech):
        return F.dropout(self.inner(prompts, speech), 0.1, training=True)


class DividedByPaddedLength(Scoring):
    def forward(self, prompts, speech):
        return self.inner(prompts, speech) / (1 + speech.tokens.shape[1])


class RowsInOrder(Scoring):
    def forward(self, prompts, speech):
        return self.inner(prompts, Speech(speech.tokens, speech.lengths, speech.ended))


class RowsInTurn(Scoring):
    def forward(self, prompts, speech):
        owner = torch.arange(len(speech)) % len(prompts)
        return self.inner(prompts, Speech(speech.tokens, speech.lengths, speech.ended, owner))


class SharedDetached(Scoring):
    """A prompt that rows share is encoded once, without gradient."""

    def forward(self, prompts, speech):
        scores = self.inner(prompts, speech)
        many = (speech.prompt[:, None] == speech.prompt).sum(-1) > 1
        return torch.where(many[:, None], scores.detach() + 0 * scores, scores)


class StyleIgnored(Scoring):
    def forward(self, prompts, speech):
        return self.inner([prompt.plain() for prompt in prompts], speech)


class Detached(Scoring):
    def forward(self, prompts, speech):
        return self.inner(prompts, speech).detach()


class GradientThroughPadding(Scoring):
    def forward(self, prompts, speech):
        leak = self.inner.speech(speech.tokens).sum()
        return self.inner(prompts, speech) + torch.where(speech.scored, leak - leak.detach(), 0.0)


class HalfScores(Scoring):
    def forward(self, prompts, speech):
        return self.inner(prompts, speech).bfloat16()


class Sums(Scoring):
    def forward(self, prompts, speech):
        return self.inner(prompts, speech).sum(-1)


class Loss(Scoring):
    def forward(self, prompts, speech):
        return -self.inner(prompts, speech)


class Infinite(Scoring):
    def forward(self, prompts, speech):
        banned = F.pad(speech.tokens, (0, 1), value=-1) == 3
        return self.inner(prompts, speech).masked_fill(banned & speech.scored, -torch.inf)


class BatchNormed(Scoring):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(1)

    def forward(self, prompts, speech):
        scores = self.inner(prompts, speech)
        return scores + torch.where(speech.scored, self.norm(scores.sum(-1, keepdim=True)) - 5, 0.0)


class NoSourceMask(EncoderDecoder):
    """The encoder attends to the holes of short prompts."""

    def __init__(self):
        super().__init__()
        forward = self.net.forward
        self.net.forward = lambda *args, tgt_mask, **masks: forward(*args, tgt_mask=tgt_mask)


class MeanOverPadding(EncoderDecoder):
    def forward_logits(self, prompts, tokens):
        return super().forward_logits(prompts, tokens) + self.head(self.speech(tokens).sum(1, keepdim=True) / 10)


class TokenDropout(TwoBookLSTM):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.1)

    def logits(self, features):
        return super().logits(self.drop(features))

    def frame_score(self, features, frames):
        return super().frame_score(self.drop(features), frames)


class SecondBookForgotten(TwoBookLSTM):
    def frame_score(self, features, frames):
        return self.heads[0](features).log_softmax(-1).gather(-1, frames[:, :1]).squeeze(-1)


class HalfTheStateSelected(TwoBookLSTM):
    def select(self, state, rows):
        h, c = state
        return h.index_select(0, rows), c[: len(rows)] if len(rows) <= len(c) else c.index_select(0, rows)


class Decoder(EXAMPLE.MyAdapter):
    def __init__(self):
        super().__init__(EXAMPLE.MySpeechLM())


def shift_features(by):
    class Shifted(Decoder):
        def hidden(self, prompts, speech):
            heads = [self.embed_prompt(prompt) for prompt in prompts]
            rows = [
                torch.cat([heads[p], self.embed_speech(row[None], 0)[0]])
                for p, row in zip(speech.prompt, speech.rows(), strict=False)
            ]
            x = nn.utils.rnn.pad_sequence(rows, batch_first=True)
            output, _ = self.body(x, None, torch.arange(x.shape[1]).expand(len(x), -1), None, False)
            start = torch.tensor([len(heads[p]) - 1 + by for p in speech.prompt])
            index = (start[:, None] + torch.arange(speech.tokens.shape[1] + 1)).clamp(0, x.shape[1] - 1)
            return output.gather(1, index[..., None].expand(-1, -1, output.shape[-1]))

    return Shifted


class NotCausal(Decoder):
    def body(self, inputs_embeds, attention_mask, position_ids, past_key_values, use_cache):
        mask = torch.ones(inputs_embeds.shape[1], inputs_embeds.shape[1], dtype=torch.bool)
        return self.model.transformer(inputs_embeds, position_ids, mask, None)


class Peeking(EncoderDecoder):
    """Attends to the future, but not to the padding."""

    def forward(self, prompts, speech):
        self.lengths = speech.lengths
        return super().forward(prompts, speech)

    def forward_logits(self, prompts, tokens):
        real = torch.arange(tokens.shape[1]) < self.lengths[:, None]
        seen = (self.speech(tokens) * real[..., None]).sum(1, keepdim=True)
        return super().forward_logits(prompts, tokens) + self.head(seen / 10)


class LastColumnPrefill(Decoder):
    def prefill(self, prompts):
        _, state = super().prefill(prompts)
        x = nn.utils.rnn.pad_sequence([self.embed_prompt(prompt) for prompt in prompts], batch_first=True)
        output, _ = self.body(x, None, torch.arange(x.shape[1]).expand(len(x), -1), None, True)
        return output[:, -1], state


class HolesAttended(Decoder):
    def extend(self, state, tokens):
        return super().extend(state._replace(seen=torch.ones_like(state.seen)), tokens)


SCORED = {
    InvertedMask: "inverted mask",
    NoMask: "padding is scored",
    MaskTooLong: "mask off by one, too long",
    MaskTooShort: "mask off by one, too short",
    ShiftedLeft: "mask off by one, shifted left",
    ShiftedRight: "mask off by one, shifted right",
    shift_features(1): "mask off by one, features late",
    shift_features(-1): "mask off by one, features early",
    EndScoredWhereCut: "end token scored where sampling was cut",
    AlwaysTokenZero: "scores ignore the tokens",
    RandomLayout: "random layout or dropout inside forward",
    FunctionalDropout: "random layout or dropout inside forward",
    TokenDropout: "random layout or dropout inside forward: .*\n  likely cause: active dropout in drop",
    BatchNormed: "forward changes the model: buffer 'norm.running_mean'",
    DividedByPaddedLength: "padding-dependent scores",
    MeanOverPadding: "padding-dependent scores",
    NotCausal: "score sees the future",
    Peeking: "score sees the future",
    NoSourceMask: "scores depend on the batch",
    RowsInOrder: "forward fails: IndexError",
    RowsInTurn: "shared prompt differs from separate prompts: shared against",
    SharedDetached: "shared prompt differs from separate prompts: the gradient of",
    StyleIgnored: "style is ignored",
    Detached: "no gradient",
    GradientThroughPadding: "gradient flows through padding",
    HalfScores: "scores are not fp32",
    Sums: r"wrong shape: forward returned \(4,\)",
    Loss: "log-prob above 0",
    Infinite: "scores are not finite",
    SecondBookForgotten: "a codebook is not scored: changing codebook 1",
    HalfTheStateSelected: "stepwise is not teacher forced, after select",
    LastColumnPrefill: "stepwise is not teacher forced, first token",
    HolesAttended: "stepwise is not teacher forced, later tokens",
}


def check(make):
    timbre = issubclass(make, Decoder)
    kind = {"books": 2} if issubclass(make, TwoBookLSTM) else {}
    speech = Speech.pack(tokens(14, 9, 5, **kind), prompt=[0, 1, 2])
    return check_backbone(built(make), ragged_prompts(timbre), speech)


@pytest.mark.parametrize("make", SCORED, ids=lambda make: make.__qualname__.split(".")[-1])
def test_a_fault_in_forward_is_named(make):
    with pytest.raises(BackboneError, match=rf"^({SCORED[make]})") as caught:
        check(make)
    assert re.search(r"\n  likely cause: .+\n  next step: .+", str(caught.value))


class Sampling(EncoderDecoder):
    """Good scores, broken sampling. `loop` is a plain batched sampler to be broken."""

    def next_logits(self, rows, prompts):
        return torch.stack(
            [
                self.forward_logits([prompt], torch.tensor([row], dtype=torch.long))[0, -1]
                for prompt, row in zip(prompts, rows, strict=True)
            ]
        )

    def loop(self, prompts, n, temperature, top_p, max_len, min_len, pick):
        prompts = [prompt for prompt in prompts for _ in range(n)]
        heat, most, least = (torch.as_tensor(v).expand(len(prompts)) for v in (temperature, max_len, min_len))
        rows, going = [[] for _ in prompts], [True] * len(prompts)
        with torch.no_grad():
            for step in range(int(most.max())):
                logits = self.next_logits(rows, prompts)
                logits[step < least, self.eos] = -torch.inf
                logits = logits / heat.clamp_min(1e-6)[:, None]
                ids = pick(logits).tolist()
                for b, token in enumerate(ids):
                    going[b] = going[b] and token != self.eos and step < most[b]
                    rows[b] += [token] if going[b] else []
        ended = [len(row) < m for row, m in zip(rows, most.tolist(), strict=True)]
        return Speech.pack(
            [torch.tensor(row, dtype=torch.long) for row in rows], ended, torch.arange(len(prompts)) // n
        )


class MultinomialOverBatch(Sampling):
    def sample(self, prompts, n=1, temperature=1.0, top_p=1.0, max_len=9, min_len=0, generator=None):
        def pick(logits):
            return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]

        return self.loop(prompts, n, temperature, top_p, max_len, min_len, pick)


class GlobalGenerator(Sampling):
    def sample(self, prompts, n=1, temperature=1.0, top_p=1.0, max_len=9, min_len=0, generator=None):
        def pick(logits):
            return torch.multinomial(logits.softmax(-1), 1)[:, 0]

        return self.loop(prompts, n, temperature, top_p, max_len, min_len, pick)


class Overriding(EncoderDecoder):
    """The library's sampler with some of its arguments or results changed."""

    def change(self, kwargs):
        return kwargs

    def sample(self, prompts, n=1, **kwargs):
        return super().sample(prompts, n, **self.change(kwargs))


class TemperatureIgnored(Overriding):
    def change(self, kwargs):
        return {**kwargs, "temperature": 1.0}


class GreedyOrOne(Overriding):
    """Reads temperature 0, and takes everything else for 1."""

    def change(self, kwargs):
        return {**kwargs, "temperature": (torch.as_tensor(kwargs.get("temperature", 1.0)) > 0).float()}


class TopPIgnored(Overriding):
    def change(self, kwargs):
        return {**kwargs, "top_p": 1.0}


class MinLenIgnored(Overriding):
    def change(self, kwargs):
        return {**kwargs, "min_len": 0}


class OwnSeed(Overriding):
    def change(self, kwargs):
        return {**kwargs, "generator": torch.Generator().manual_seed(5)}


class LeftInEval(Overriding):
    def change(self, kwargs):
        self.eval()
        return kwargs


class ReseedsTheWorld(Overriding):
    def change(self, kwargs):
        torch.manual_seed(0)
        return kwargs


class OrderedByDraw(Overriding):
    def sample(self, prompts, n=1, **kwargs):
        drawn = super().sample(prompts, n, **kwargs)
        return drawn.select(torch.arange(len(prompts) * n).view(-1, n).T.flatten())


class AlwaysEnded(Overriding):
    def sample(self, prompts, n=1, **kwargs):
        drawn = super().sample(prompts, n, **kwargs)
        return Speech(drawn.tokens, drawn.lengths, prompt=drawn.prompt)


class OtherLogits(EncoderDecoder):
    """Draws from logits that forward does not score."""

    def frame_draw(self, features, draw):
        return draw(features * 1.5)


DRAWN = {
    MultinomialOverBatch: "sampling depends on batch composition",
    GlobalGenerator: "sampling does not repeat",
    TemperatureIgnored: "temperature is ignored",
    GreedyOrOne: "sampled frequencies do not follow the model: at temperature 0.6",
    TopPIgnored: "sampled frequencies do not follow the model: at top_p 0.7, .* draws have probability 0",
    MinLenIgnored: "length limits are not kept",
    OwnSeed: "sampling ignores the generator",
    LeftInEval: "sampling changes the training mode",
    ReseedsTheWorld: r"sampling moves the global generator: the state of \['torch'\]",
    OrderedByDraw: "sample returns other rows",
    AlwaysEnded: "ended is wrong",
    OtherLogits: "sampled frequencies do not follow the model: at temperature 1,",
}


@pytest.mark.parametrize("make", DRAWN, ids=lambda make: make.__name__)
def test_a_fault_in_sample_is_named(make):
    with pytest.raises(BackboneError, match=rf"^({DRAWN[make]})"):
        check(make)


def test_draws_that_hang_on_the_batch_are_found_in_half_precision_too():
    """Rows of correct models differ there as well, after a few frames: first frames are compared, and most count."""
    with pytest.raises(BackboneError, match=r"^sampling depends on batch composition: .*of \d+ rows differ"):
        check_backbone(built(MultinomialOverBatch).bfloat16(), ragged_prompts(), Speech.pack(tokens(14, 9, 5)))


def test_another_sampler_may_leave_the_model():
    backbone = built(OtherLogits)
    backbone.sampler = "sharpened"
    report = dict(check_backbone(backbone, ragged_prompts(), Speech.pack(tokens(14, 9, 5))))
    assert report["sample: frequencies follow the model"].startswith("skipped: the sampler is 'sharpened'")


def test_a_fault_is_an_assertion_error_and_every_name_has_advice():
    from seaalign.testing.faults import FAULTS

    assert issubclass(BackboneError, AssertionError)
    assert all(len(advice) == 2 and all(advice) for advice in FAULTS.values())
    assert CODES == EncoderDecoder.eos
