"""Real Hugging Face bodies, small and random: the same hooks, their own cache, ragged prompts."""

import pytest
import torch

from seaalign import DecoderOnly, Prompt, Speech, Style
from seaalign.testing import check_backbone
from tests.backbones.user_models import built, tokens

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.audio  # not for sound: transformers itself imports torchaudio where it finds it installed

VOCAB, EOS, START = 40, 39, 38  # one vocabulary for text and speech, as in Llasa or Orpheus


class Causal(DecoderOnly):
    eos, features = EOS, frozenset({"style"})

    def __init__(self, lm):
        super().__init__()
        self.lm = lm
        self.body = lm.model

    def embed_prompt(self, prompt):
        style = prompt.style.tokens if prompt.style else prompt.text[:0]
        return self.lm.model.embed_tokens(torch.cat([prompt.text, torch.tensor([START]), style]))

    def embed_speech(self, tokens, start):
        return self.lm.model.embed_tokens(tokens)

    def logits(self, features):
        return self.lm.lm_head(features)


def causal(family):
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,  # the usual 0.02 makes a random model nearly uniform: nothing to tell apart
    }
    config = getattr(transformers, f"{family}Config")(**sizes, bos_token_id=None, eos_token_id=EOS, pad_token_id=0)
    return Causal(getattr(transformers, f"{family}ForCausalLM")(config))


@pytest.fixture(params=["Llama", "Qwen2"])
def backbone(request):
    return built(lambda: causal(request.param))


def prompts():
    ids, (style,) = tokens(7, 3, 11, high=20), tokens(4, high=20, seed=1)
    return [Prompt(ids[0], Style(style)), *map(Prompt, ids[1:])]


def test_the_contract_holds(backbone):
    report = check_backbone(backbone, prompts(), Speech.pack(tokens(12, 8, 5, high=20)))
    assert [outcome for _, outcome in report] == ["passed"] * 18


def test_greedy_is_generate(backbone):
    backbone.eval()
    drawn = backbone.sample(prompts(), temperature=0.0, max_len=20)
    for prompt, row, ended in zip(prompts(), drawn.rows(), drawn.ended.tolist(), strict=True):
        style = prompt.style.tokens if prompt.style else prompt.text[:0]
        ids = torch.cat([prompt.text, torch.tensor([START]), style])[None]
        want = backbone.lm.generate(ids, do_sample=False, max_new_tokens=20, attention_mask=torch.ones_like(ids))
        want = want[0, ids.shape[1] :].tolist()
        assert row.tolist() + [EOS] * ended == want


def test_scores_are_the_model_s_own_loss(backbone):
    """Labels -100 on the prompt, the way everybody trains them: the mean negative log-prob of the completion."""
    prompt, (row,) = prompts()[1], tokens(9, high=20)
    ids = torch.cat([prompt.text, torch.tensor([START]), row, torch.tensor([EOS])])[None]
    labels = ids.clone()
    labels[0, : len(prompt.text) + 1] = -100
    loss = backbone.lm(ids, labels=labels).loss
    got = -backbone([prompt], Speech.pack([row])).sum() / (len(row) + 1)
    torch.testing.assert_close(got, loss, atol=1e-5, rtol=1e-5)
