"""What goes wrong in a first adapter: the message gives the fault itself, and no guess that fits something else."""

import pytest
import torch
from torch import nn

from seaalign import DecoderOnly, Speech
from seaalign.backbones.caches import taken
from seaalign.testing import BackboneError, check_backbone
from tests.backbones.user_models import EncoderDecoder, built, example, ragged_prompts, tokens

EXAMPLE = example()
GUESS = "taken by row"  # fits shapes alone


class Decoder(EXAMPLE.MyAdapter):
    def __init__(self):
        super().__init__(EXAMPLE.MySpeechLM())


class NoEnd(Decoder):
    eos = None


class ListOfEnds(Decoder):
    eos = [EXAMPLE.CODES]  # as some tokenizers have it


class EndBeyondTheHead(Decoder):
    eos = EXAMPLE.CODES + 1


class BatchOfOne(Decoder):
    def embed_prompt(self, prompt):
        return super().embed_prompt(prompt)[None]


class NoTuple(Decoder):
    def body(self, *args, **kwargs):
        return super().body(*args, **kwargs)[0]


class NoCache(Decoder):
    def body(self, *args, **kwargs):
        return super().body(*args, **kwargs)[0], None


class WrongName(Decoder):
    def embed_prompt(self, prompt):
        return self.model.txt(prompt.text)


class ShortTable(Decoder):
    def __init__(self):
        super().__init__()
        self.model.text = nn.Embedding(10, EXAMPLE.WIDTH)


NAMED = {
    NoEnd: r"no end token: NoEnd\.eos is None, not an int",
    ListOfEnds: r"no end token: ListOfEnds\.eos is \[64\], not an int",
    EndBeyondTheHead: r"no end token: eos=65, but the head has 65 outputs, ids 0\.\.64",
    BatchOfOne: r"forward fails: .*\n  likely cause: embed_prompt returned \(1, \d+, 48\), not \(L, D\)",
    NoTuple: r"forward raises: TypeError: body\(\) returned a Tensor: return a tuple \(hidden \(B, S, D\), cache\)",
    NoCache: r"stepwise fails: ValueError: body\(\) returned no cache under use_cache=True; .* take LogitsBackbone",
    WrongName: r"forward raises: AttributeError: .*txt",
    ShortTable: r"forward meets an unknown id: IndexError: .*; text ids go up to 1\d, speech ids up to \d+",
}


def check(backbone):
    return check_backbone(backbone, ragged_prompts(True), Speech.pack(tokens(14, 9, 5)))


@pytest.mark.parametrize("make", NAMED, ids=lambda make: make.__name__)
def test_the_message_names_the_mistake(make):
    with pytest.raises(BackboneError, match=rf"^{NAMED[make]}") as caught:
        check(built(make))
    assert GUESS not in str(caught.value) and "\n  next step: " in str(caught.value)


def test_an_end_token_that_was_never_named():
    class Forgot(DecoderOnly):
        embed_prompt, embed_speech, body, logits = (
            getattr(EXAMPLE.MyAdapter, name) for name in ("embed_prompt", "embed_speech", "body", "logits")
        )

    with pytest.raises(BackboneError, match="^no end token: Forgot has no `eos`"):
        check(Forgot())


def test_what_is_no_backbone_is_sent_to_the_page_on_adapters():
    with pytest.raises(BackboneError, match=r"MySpeechLM is no Backbone: .* adapter, docs/your_own_model\.md"):
        check(EXAMPLE.MySpeechLM())
    with pytest.raises(BackboneError, match=r"Decoder is a class: give an object of it, Decoder\(\.\.\.\)"):
        check(Decoder)


def test_dropout_is_named_in_attention_too_and_the_rest_is_counted():
    class Dropping(EncoderDecoder):
        def __init__(self):
            super().__init__()
            self.heard = nn.MultiheadAttention(4, 2, dropout=0.25)
            self.drops = nn.ModuleList(nn.Dropout(0.5) for _ in range(5))

        def forward_logits(self, prompts, tokens):
            logits = super().forward_logits(prompts, tokens)
            for drop in self.drops:
                logits = drop(logits)
            return logits

    wanted = r"active dropout in heard\.dropout=0\.25, drops\.0, drops\.1, drops\.2 and 2 more\n"
    with pytest.raises(BackboneError, match=wanted):
        check(built(Dropping))


def test_a_body_may_leave_the_cache_out_where_none_is_asked_for():
    hidden = torch.zeros(1, 2, 3)
    assert taken((hidden,), "past_key_values", use_cache=False) == (hidden, None)
    with pytest.raises(ValueError, match="no cache under use_cache=True"):
        taken((hidden,), "past_key_values", use_cache=True)
