"""One row without padding against padded rows: attention, features, scores and gradients."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from examples.your_own_model import CODES as OWN_CODES
from examples.your_own_model import MyAdapter, MySpeechLM
from seaalign import Prompt, Speech
from seaalign.backbones.packing import Packing, attend


def slow(query, key, value, packing, scale):
    """By the definition: every pair of positions asked whether one may see the other, then a softmax."""
    piece = [i for i, size in enumerate(packing.sizes) for _ in range(size)]
    ratio = query.shape[1] // key.shape[1]
    out = []
    for h in range(query.shape[1]):
        q, k, v = query[0, h], key[0, h // ratio], value[0, h // ratio]
        rows = []
        for a in range(len(piece)):
            seen = [b for b in range(a + 1) if piece[b] in (piece[a], packing.prompts[piece[a]])]
            rows.append(torch.softmax((k[seen] @ q[a]) * scale, 0) @ v[seen])
        out.append(torch.stack(rows))
    return torch.stack(out)[None]


@given(
    st.lists(st.tuples(st.integers(1, 4), st.lists(st.integers(0, 5), max_size=3)), min_size=1, max_size=3),
    st.sampled_from([(2, 2), (4, 2), (4, 1)]),
    st.sampled_from([None, 0.3]),
)
@settings(max_examples=40, deadline=None)
def test_attention_agrees_with_its_definition_in_value_and_gradient(groups, heads, scale):
    owners = [p for p, (_, tails) in enumerate(groups) for _ in tails]
    if not owners:
        return
    packing, _ = Packing.of([head for head, _ in groups], [t for _, tails in groups for t in tails], owners)
    g = torch.Generator().manual_seed(0)
    made = [
        torch.randn(1, count, sum(packing.sizes), 8, generator=g, dtype=torch.double, requires_grad=True)
        for count in (heads[0], heads[1], heads[1])
    ]
    weights = torch.randn(made[0].shape, generator=g, dtype=torch.double)
    got, want = attend(*made, packing, scale), slow(*made, packing, scale or 8**-0.5)
    torch.testing.assert_close(got, want)
    for one, other in zip(*(torch.autograd.grad((x * weights).sum(), made) for x in (got, want)), strict=True):
        torch.testing.assert_close(one, other)


def test_positions_of_an_answer_go_on_where_its_prompt_ends():
    packing, order = Packing.of([2, 9, 3], [2, 1, 0, 3], [2, 0, 2, 0])
    assert order == [
        0,
        4,
        6,
        2,
        3,
        5,
    ]  # prompt 0, rows 1 and 3; prompt 2, rows 0 and 2; 1 has none
    assert packing.sizes == (2, 1, 3, 3, 2, 0) and packing.prompts == (0, 0, 0, 3, 3, 3)
    assert packing.positions("cpu").tolist() == [[0, 1, 2, 2, 3, 4, 0, 1, 2, 3, 4]]
    assert packing.starts == [0, 2, 3, 6, 9, 11]


# -- adapters ----------------------------------------------------------------------------------------------------------


def prompts_of(texts):
    g = torch.Generator().manual_seed(4)
    return [Prompt(torch.randint(20, (size,), generator=g)) for size in texts]


def answers(codes, *sizes, owners, ended=None):
    g = torch.Generator().manual_seed(3)
    return Speech.pack([torch.randint(codes, (size,), generator=g) for size in sizes], ended, owners)


def graded(backbone, prompts, speech):
    """Scores and gradients of a weighted sum of them."""
    backbone.zero_grad()
    scores = backbone(prompts, speech)
    (scores * torch.linspace(-1, 2, scores.numel()).view_as(scores)).sum().backward()
    return scores.detach(), {name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None}


def same_as_padded(backbone, prompts, speech):
    """The plain path and the packed one; returns how many positions each of them read."""
    read = []
    original = backbone._call_body

    def counting(x, *args, **kwargs):
        read.append(x.shape[0] * x.shape[1])
        return original(x, *args, **kwargs)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone(prompts, speech)
    backbone._call_body = counting
    packed, grads = graded(backbone, prompts, speech)
    backbone._packs = lambda like: False
    padded, expected = graded(backbone, prompts, speech)
    del backbone._packs, backbone._call_body
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=1e-5)
    assert grads.keys() == expected.keys()
    whole = sum(float(g.norm()) ** 2 for g in expected.values()) ** 0.5
    for name, grad in expected.items():
        assert float((grads[name] - grad).norm()) <= 1e-4 * max(float(grad.norm()), 1e-2 * whole), name
    return read


class Packable(MyAdapter):
    """The example's model, whose attention is told which positions belong together."""

    def body(self, inputs_embeds, attention_mask, position_ids, past_key_values, use_cache, packing=None):
        if packing is None:
            return super().body(inputs_embeds, attention_mask, position_ids, past_key_values, use_cache)
        x = inputs_embeds + self.model.positions(position_ids)
        for layer in self.model.layers:
            parts = layer.qkv(layer.norm1(x)).chunk(3, dim=-1)
            q, k, v = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in parts)
            x = x + layer.out(attend(q, k, v, packing).transpose(1, 2).flatten(2))
            x = x + layer.mlp(layer.norm2(x))
        return x, None


def own(kind=Packable):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(MySpeechLM())


def test_a_body_of_one_s_own_that_takes_packing():
    speech = answers(OWN_CODES, 9, 4, 0, 7, 12, owners=[2, 0, 2, 0, 0], ended=[True, False, True, True, False])
    packed, padded = same_as_padded(own(), prompts_of([5, 8, 3]), speech)
    # marks are 2 positions: 7 + 23 for prompt 0, 5 + 9 for prompt 2, nothing for prompt 1; padded 5 x (7 + 12)
    assert (packed, padded) == (7 + 23 + 5 + 9, 5 * 19)


def test_one_that_does_not_is_scored_row_by_row_and_says_so_once():
    backbone = own(MyAdapter)
    asked = prompts_of([5]), answers(OWN_CODES, 9, 4, owners=[0, 0])
    said = r"MyAdapter scores row by row, padded: .* no argument `packing`.* \(slower, not wrong; docs/speed\.md\)"
    with pytest.warns(UserWarning, match=said):
        backbone(*asked)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone(*asked)


def test_one_that_takes_packing_and_does_not_heed_it_is_found_out():
    class Deaf(MyAdapter):
        def body(self, inputs_embeds, attention_mask, position_ids, past_key_values, use_cache, packing=None):
            return super().body(inputs_embeds, None, position_ids, past_key_values, use_cache)

    speech = answers(OWN_CODES, 9, 4, owners=[0, 0])
    with pytest.warns(UserWarning, match=r"packed, its features are 0\.\d+ \(of the largest\) from those of separate"):
        scores = own(Deaf)(prompts_of([5]), speech)
    torch.testing.assert_close(scores, own()(prompts_of([5]), speech))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_hundredth_is_found_out_where_numbers_are_exact(dtype):
    class Nearly(Packable):
        def body(self, inputs_embeds, attention_mask, position_ids, past_key_values, use_cache, packing=None):
            given = inputs_embeds, attention_mask, position_ids, past_key_values, use_cache
            made, cache = super().body(*given, packing=packing)
            return made if packing is None else made * 1.01, cache

    with pytest.warns(UserWarning, match=r"packed, its features are 0\.01"):
        own(Nearly).to(dtype)(prompts_of([5]), answers(OWN_CODES, 9, 4, owners=[0, 0]))


def test_one_that_fails_when_it_is_packed_is_scored_row_by_row():
    class Failing(MyAdapter):
        def body(self, inputs_embeds, attention_mask, position_ids, past_key_values, use_cache, packing=None):
            assert packing is None, "no packing here"
            return super().body(inputs_embeds, None, position_ids, past_key_values, use_cache)

    with pytest.warns(UserWarning, match="AssertionError: no packing here"):
        own(Failing)(prompts_of([5]), answers(OWN_CODES, 9, 4, owners=[0, 0]))


def test_what_is_longer_than_the_context_is_refused_as_before():
    backbone = own()
    backbone.context = 15
    with pytest.raises(ValueError, match="prompt and speech take 16 positions, Packable can read 15"):
        backbone(prompts_of([5]), answers(OWN_CODES, 4, 9, owners=[0, 0]))


# -- Hugging Face models -----------------------------------------------------------------------------------------------


def causal(family, **settings):
    pytest.importorskip("transformers")
    pytest.importorskip("peft", exc_type=ImportError)
    from seaalign.backbones import CausalLM
    from tests.backbones.tiny_hf import model_for

    name = {"Llama": "orpheus", "Qwen2": "spark", "Qwen3": "llasa", "Mistral": "neutts"}[family]
    config = {key: settings.pop(key) for key in list(settings) if key in ("attention_dropout", "tie_word_embeddings")}
    config |= {"sliding_window": None} if family == "Mistral" else {}
    model, layout, tokenizer = model_for(name, family, **config)
    return CausalLM(model, layout, tokenizer, **settings)


@pytest.mark.audio
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "Mistral"])
def test_hugging_face_families(family, lora, checkpointing):
    torch.manual_seed(1)
    backbone = causal(family, lora={"r": 4} if lora else None, gradient_checkpointing=checkpointing)
    for name, value in backbone.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(value, std=0.1)
    from tests.backbones.tiny_hf import prompts_for

    speech = answers(12, 9, 4, 0, 7, 12, 6, owners=[2, 0, 2, 0, 1, 0], ended=[True, False, True, True, False, True])
    packed, padded = same_as_padded(backbone, [p.plain() for p in prompts_for(backbone.spec)], speech)
    assert packed < 0.7 * padded


def plainly(backbone, prompt, row):
    """Log-probs (T + 1,) of a row with its end, by the model alone on its own ids."""
    ids = torch.cat([backbone.prompt_ids(prompt), backbone.speech_ids(row)])
    said = torch.cat([row, torch.tensor([backbone.eos])])
    with torch.no_grad():
        logits = backbone.model(ids[None]).logits[0, -len(said) :].float()
    rows = torch.cat([backbone.place.codes, backbone.place.ends])
    return logits[:, rows].log_softmax(-1).gather(-1, said[:, None])[:, 0]


WINDOWS = {
    "Mistral": {},
    "Qwen2Moe": {
        "use_sliding_window": True,
        "layer_types": ["sliding_attention"] * 2,
        "num_experts": 2,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "Phimoe": {"num_local_experts": 2},
}


@pytest.mark.audio
@pytest.mark.parametrize("family", WINDOWS)
def test_families_that_see_a_window_are_scored_as_they_see(family):
    """Some have the window in their mask alone, and attention is told nothing of it."""
    transformers = pytest.importorskip("transformers")
    from seaalign.backbones import CausalLM
    from tests.backbones.tiny_hf import SMALL, prompts_for, tiny, tokenizer_for

    if not hasattr(transformers, f"{family}Config"):
        pytest.skip(f"this transformers has no {family}")
    layout = SMALL["llasa"]
    model = tiny(family, 340, sliding_window=12, **WINDOWS[family])
    backbone, prompts = CausalLM(model, layout, tokenizer_for(layout)), prompts_for(layout)
    speech = answers(12, 25, 9, 30, owners=[0, 1, 2])
    with pytest.warns(UserWarning, match="some of its layers see less than all that is before"):
        found = backbone(prompts, speech)
    assert backbone.windowed
    for scores, prompt, row in zip(found, prompts, speech.rows(), strict=True):
        torch.testing.assert_close(
            scores[: len(row) + 1].detach(), plainly(backbone, prompt, row), atol=1e-4, rtol=1e-4
        )


@pytest.mark.audio
def test_the_user_s_model_is_left_as_it_was(tmp_path):
    """Its own forward, its generation and what is saved of it do not change."""
    backbone = causal("Qwen2")
    from tests.backbones.tiny_hf import prompts_for

    ids = torch.randint(200, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[0, 0, *[1] * 7], [1] * 9])

    def results():
        generated = backbone.model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=8)
        return backbone.model(ids, attention_mask=mask).logits[mask.bool()], generated

    before = results()
    backbone(prompts_for(backbone.spec), answers(12, 9, 4, owners=[0, 0]))
    after = results()
    torch.testing.assert_close(after[0], before[0], atol=1e-5, rtol=1e-5)
    assert torch.equal(after[1], before[1])
    backbone.save(tmp_path / "m")
    assert "packed" not in (tmp_path / "m" / "config.json").read_text()


@pytest.mark.audio
def test_a_pickled_copy_does_not_count_on_what_its_process_knows():
    backbone = causal("Llama")
    asked = prompts_of([5]), answers(12, 9, 4, owners=[0, 0])
    scores = backbone(*asked)
    assert backbone.model.config._attn_implementation == "seaalign_packed"
    for copied in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert copied.model.config._attn_implementation == "sdpa"
        torch.testing.assert_close(copied(*asked), scores)
        assert copied.model.config._attn_implementation == "seaalign_packed"


@pytest.mark.audio
def test_another_kind_of_attention_is_named():
    backbone = causal("Llama")
    backbone.model.config._attn_implementation = "eager"
    with pytest.warns(UserWarning, match="its attention is 'eager': load the model with attn_implementation='sdpa'"):
        backbone(prompts_of([5]), answers(12, 9, 4, owners=[0, 0]))


def adapter_of(name):
    """An adapter on a small model of its own, prompts for it, and rows: two of the prompts have several."""
    pytest.importorskip("transformers")
    owners, ended = [2, 0, 2, 0, 1, 0], [True, False, True, True, False, True]
    sizes = (9, 4, 1, 7, 12, 6)
    if name.startswith("CosyVoice"):
        from tests.backbones import test_cosyvoice as cosyvoice

        backbone, prompts = cosyvoice.adapter(int(name[-1])), cosyvoice.prompts()
        rows = answers(cosyvoice.CODES, *sizes, owners=owners).rows()
    elif name == "CSM":
        from tests.backbones import test_csm as csm

        backbone, prompts, rows = csm.csm(), csm.prompts(), csm.rows(*sizes)
    else:
        from seaalign.backbones import Chatterbox
        from tests.backbones import chatterbox_standin as chatterbox

        backbone, prompts = Chatterbox(chatterbox.made("stand-in Llama")), chatterbox.prompts()
        rows = answers(chatterbox.CODES, *sizes, owners=owners).rows()
    return backbone, prompts, Speech.pack(rows, ended, owners)


@pytest.mark.audio
@pytest.mark.parametrize("name", ["CosyVoice 2", "CosyVoice 3", "CSM", "Chatterbox"])
def test_every_adapter_that_is_packed_has_the_numbers_of_padded_rows(name):
    packed, padded = same_as_padded(*adapter_of(name))
    assert packed < 0.7 * padded


@pytest.mark.audio
def test_dropout_of_attention_is_at_work_in_training_alone():
    backbone = causal("Qwen2", attention_dropout=0.5)
    from tests.backbones.tiny_hf import prompts_for

    asked = prompts_for(backbone.spec), answers(12, 9, 4, 6, owners=[0, 0, 1])
    still = backbone(*asked)
    backbone.train()
    torch.manual_seed(0)
    one, other = backbone(*asked), backbone(*asked)
    assert float((one - other).abs().max()) > 0.01 < float((one - still).abs().max())
    torch.testing.assert_close(backbone.eval()(*asked), still)


@pytest.mark.audio
def test_reentrant_checkpointing_recomputes_the_packed_pass():
    """In the backward pass the layers are run again, long after the call that packed."""
    backbone = causal("Llama")
    backbone.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    backbone.train()
    same_as_padded(backbone, prompts_of([5, 7]), answers(12, 9, 4, 6, owners=[0, 0, 1]))


def test_chunked_scores_make_no_tensor_of_all_logits():
    """The largest tensor that a backward pass keeps or makes is a chunk of logits, not (positions, V)."""
    sizes = []
    backbone = own()
    backbone.chunk = 8
    original = backbone.model.head.forward
    backbone.model.head.forward = lambda x: sizes.append(len(x)) or original(x)
    backbone(prompts_of([5]), answers(OWN_CODES, 30, 29, owners=[0, 0])).sum().backward()
    assert max(sizes) == 8 and sum(sizes) == 2 * 61  # each position twice: the second time in the backward pass


@pytest.mark.audio
@pytest.mark.parametrize("name", ["Llama", "Qwen2", "Llama, tied", "Qwen2, tied", "CosyVoice 2", "CosyVoice 3"])
def test_the_head_in_parts_is_the_head(name, monkeypatch):
    """By `linear_head`, a chunk at a time, against `logits` on all positions: values and gradients."""
    if name.startswith("CosyVoice"):
        backbone, *asked = adapter_of(name)
    else:
        from tests.backbones.tiny_hf import prompts_for

        backbone = causal(name.split(",")[0], tie_word_embeddings="tied" in name)
        asked = prompts_for(backbone.spec), answers(12, 9, 4, 6, owners=[0, 0, 1])
    backbone.chunk = 4
    ours, grads = graded(backbone, *asked)
    asked_for = []
    logits = type(backbone).logits
    monkeypatch.setattr(type(backbone), "linear_head", lambda self: None)
    monkeypatch.setattr(type(backbone), "logits", lambda self, x: asked_for.append(len(x)) or logits(self, x))
    theirs, expected = graded(backbone, *asked)
    assert asked_for and grads.keys() == expected.keys()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.audio
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["Llama", "Qwen2"])  # codes and end apart in the vocabulary, and side by side
def test_a_table_has_one_gradient_of_its_size(family, tied):
    """Look-ups and a tied head are added up in place, twice: the second time over a gradient that is there already."""
    from tests.backbones.tiny_hf import prompts_for

    backbone = causal(family, tie_word_embeddings=tied)
    table, head = backbone.model.get_input_embeddings().weight, backbone.model.lm_head.weight
    assert (head is table) == tied
    grads = []
    for _ in range(2):
        total = backbone(prompts_for(backbone.spec), answers(12, 9, 4, 6, owners=[0, 0, 1])).sum()
        with torch.profiler.profile(profile_memory=True) as watched:
            total.backward()
        made = [event.name for event in watched.events() if event.self_cpu_memory_usage >= table.numel() * 4]
        assert len(made) == (1 if tied else 2), made
        assert {table.grad.layout, head.grad.layout} == {torch.strided}
        grads.append(table.grad.clone())
    torch.testing.assert_close(grads[1], 2 * grads[0])


@pytest.mark.audio
def test_a_subclass_with_logits_of_its_own_is_scored_by_them():
    backbone = causal("Llama")

    class Sharper(type(backbone)):
        def logits(self, features):
            return 2 * super().logits(features)

    asked = prompts_of([5]), answers(12, 9, owners=[0])
    plain = backbone(*asked)
    backbone.__class__ = Sharper
    assert float((backbone(*asked) - plain).detach().abs().max()) > 0.01
    backbone.linear_head = lambda: pytest.fail("the head without what the subclass does to it")
    backbone(*asked)


@pytest.mark.audio
@pytest.mark.parametrize("name", ["Llama", "Qwen2", "CosyVoice 2", "Chatterbox"])
def test_autocast_packs_too_and_leaves_the_exact_path_as_it_was(name):
    """Rotary positions leave queries in fp32 there. A trial in one type says nothing of another, nor undoes it."""
    if name in ("Llama", "Qwen2"):
        from tests.backbones.tiny_hf import prompts_for

        backbone = causal(name)
        asked = prompts_for(backbone.spec), answers(12, 9, 4, 6, owners=[0, 0, 1])
    else:
        backbone, *asked = adapter_of(name)
    backbone.eval()
    exact = backbone(*asked).detach()
    with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16):
        warnings.filterwarnings("error", message=".*row by row.*")
        half = backbone(*asked).detach()
    assert 0 < float((half - exact).abs().max()) < 0.2
    assert torch.equal(backbone(*asked).detach(), exact)


@pytest.mark.audio
def test_attention_that_is_set_back_is_set_again_or_heeded():
    """A model that other code has given its own attention again must not see packed rows as one."""
    backbone = causal("Llama")
    from tests.backbones.tiny_hf import prompts_for

    asked = prompts_for(backbone.spec), answers(12, 9, 4, 6, owners=[0, 0, 1])
    exact = backbone(*asked).detach()
    for kind in ("sdpa", "eager"):
        backbone.model.config._attn_implementation = kind
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            torch.testing.assert_close(backbone(*asked).detach(), exact, rtol=1e-5, atol=1e-5)
        said = [str(one.message) for one in told if "row by row" in str(one.message)]
        assert (kind == "eager") == bool(said), told


@pytest.mark.audio
def test_a_copy_of_the_adapter_on_the_same_model_changes_nothing():
    backbone = causal("Llama")
    from tests.backbones.tiny_hf import prompts_for

    asked = prompts_for(backbone.spec), answers(12, 9, 4, 6, owners=[0, 0, 1])
    exact = backbone(*asked).detach()
    other = copy.copy(backbone)
    assert torch.equal(backbone(*asked).detach(), exact) and torch.equal(other(*asked).detach(), exact)


@pytest.mark.audio
def test_an_object_with_logits_of_its_own_is_scored_by_them():
    backbone, *asked = adapter_of("CosyVoice 2")
    plain = backbone(*asked).detach()
    hook = backbone.lm.llm_decoder.register_forward_hook(lambda module, given, logits: 2 * logits)
    by_hook = backbone(*asked).detach()
    hook.remove()
    logits = backbone.logits
    backbone.logits = lambda features: 2 * logits(features)
    by_object = backbone(*asked).detach()
    assert float((by_hook - plain).abs().max()) > 0.01
    torch.testing.assert_close(by_hook, by_object)
