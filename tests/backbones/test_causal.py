"""CausalLM on small random models of the real classes: the contract, the numbers, LoRA, files, and what it refuses."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch

from seaalign import Prompt, Speech, Style
from seaalign.testing import check_backbone

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft", exc_type=ImportError)
pytestmark = pytest.mark.audio  # not for sound: transformers itself imports torchaudio where it finds it installed

from torch._dynamo.testing import CompileCounterWithBackend  # noqa: E402

from seaalign.backbones import CausalLM, compile_blocks  # noqa: E402
from seaalign.backbones.layouts import LAYOUTS, Layout  # noqa: E402
from seaalign.backbones.lora import adapters_off, add_lora, has_adapters  # noqa: E402
from seaalign.backbones.lora_files import load_adapters  # noqa: E402
from tests.backbones.tiny_hf import CODES, SMALL, model_for, prompts_for, rows, tiny, tokenizer_for  # noqa: E402

FAMILIES = [
    *(("orpheus", "Llama"), ("spark", "Qwen2"), ("llasa", "Qwen3")),
    *(("neutts", "Qwen2"), ("cosyvoice2-hf", "Qwen2")),
]


def backbone_for(name, family="Llama", **settings) -> CausalLM:
    model, layout, tokenizer = model_for(name, family)
    return CausalLM(model, layout, tokenizer, **settings)


def unzeroed(backbone):
    """LoRA that does something: B is no longer 0."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(5)
        for name, parameter in backbone.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05)
    return backbone


def checked(backbone, **settings):
    report = check_backbone(backbone, prompts_for(backbone.spec), Speech.pack(rows(12, 8, 5)), **settings)
    skipped = [rule for rule, outcome in report if outcome != "passed"]
    assert skipped == ([] if backbone.spec.styled else ["style changes the score"])


@pytest.mark.parametrize(("name", "family"), FAMILIES)
def test_the_contract_holds(name, family):
    checked(backbone_for(name, family))


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("name", "family"), FAMILIES[:3])
def test_the_contract_holds_in_bfloat16_with_lora_and_checkpointing(name, family, lora, checkpointing):
    backbone = backbone_for(name, family, gradient_checkpointing=checkpointing)
    checked(unzeroed(add_lora(backbone, r=4)) if lora else backbone)
    checked(backbone.bfloat16(), draws=600)


def by_hand(backbone, prompt, row, ended=True):
    """The plain model's own logits, one row at a time, with nothing of ours but the ids in order."""
    layout, tokenizer = backbone.spec, backbone.tokenizer
    spelled = layout.speech.format(0) if isinstance(layout.speech, str) else layout.speech
    first, *ends = (
        tokenizer.convert_tokens_to_ids(mark) if isinstance(mark, str) else mark
        for mark in (spelled, layout.end, *layout.also)
    )
    support = [*range(first, first + layout.codes), *ends]
    head = backbone.prompt_ids(prompt).tolist()
    target = [support.index(first + t) for t in row.tolist()] + [layout.codes] * ended
    logits = backbone.model(torch.tensor([[*head, *(first + t for t in row.tolist())]])).logits[0, len(head) - 1 :]
    return logits[: len(target), support].log_softmax(-1)[range(len(target)), target]


@pytest.mark.parametrize(("name", "family"), FAMILIES)
def test_log_probs_and_gradients_are_those_of_the_plain_model_s_logits(name, family):
    backbone = backbone_for(name, family)
    prompts, spoken = prompts_for(backbone.spec), rows(12, 8, 5)
    ended = [True, False, True]
    got = backbone(prompts, Speech.pack(spoken, ended))
    want = [by_hand(backbone, *each) for each in zip(prompts, spoken, ended, strict=True)]
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one[: len(other)], other, atol=1e-5, rtol=0)
        assert not one[len(other) :].any()
    parameters = list(backbone.parameters())
    grads = torch.autograd.grad(got.sum(), parameters, retain_graph=True)
    expected = torch.autograd.grad(sum(row.sum() for row in want), parameters)
    for one, other in zip(grads, expected, strict=True):
        assert float((one - other).norm()) <= 1e-5 * float(other.norm()) + 1e-7


@pytest.mark.parametrize(("name", "family"), FAMILIES)
def test_greedy_is_generate(name, family):
    """`generate` with everything but speech and the end forbidden; it pads nothing, as one prompt goes at a time."""
    backbone = backbone_for(name, family)
    prompts = prompts_for(backbone.spec)
    drawn = backbone.sample(prompts, temperature=0.0, max_len=20)
    allowed = [*backbone.place.codes.tolist(), backbone.eos_id]
    for prompt, row, ended in zip(prompts, drawn.rows(), drawn.ended.tolist(), strict=True):
        ids = backbone.prompt_ids(prompt)[None]
        want = backbone.model.generate(
            ids, do_sample=False, max_new_tokens=20, attention_mask=torch.ones_like(ids), eos_token_id=backbone.eos_id,
            prefix_allowed_tokens_fn=lambda batch, sent: allowed,
        )  # fmt: skip
        assert [*backbone.speech_ids(row).tolist(), *[backbone.eos_id] * ended] == want[0, ids.shape[1] :].tolist()


def test_prompts_are_laid_out_as_their_sources_say():
    timbre = torch.tensor([3, 0])
    for name, prompt, text in (
        ("spark", Prompt([72], Style([1, 2], [74]), timbre), "<|task_tts|><|start_content|>{1}{0}<|end_content|>"
         "<|start_global_token|><|bicodec_global_3|><|bicodec_global_0|><|end_global_token|><|start_semantic_token|>"
         "<|bicodec_semantic_1|><|bicodec_semantic_2|>"),
        ("neutts", Prompt([72], Style([4], [74])), "user: Convert the text to speech:<|TEXT_PROMPT_START|>{1} {0}"
         "<|TEXT_PROMPT_END|>\nassistant:<|SPEECH_GENERATION_START|><|speech_4|>"),
        ("neutts", Prompt([72]), "user: Convert the text to speech:<|TEXT_PROMPT_START|>{0}"
         "<|TEXT_PROMPT_END|>\nassistant:<|SPEECH_GENERATION_START|>"),
        ("cosyvoice2-hf", Prompt([72], Style([4], [74])), "<|sos|>{1}{0}<|task_id|><|s_4|>"),
    ):  # fmt: skip
        backbone = backbone_for(name)
        words = [backbone.tokenizer.decode([i]) for i in (72, 74)]
        assert backbone.tokenizer.decode(backbone.prompt_ids(prompt)) == text.format(*words)
    ids = backbone_for("orpheus").prompt_ids(Prompt([72, 73]))
    assert ids.tolist() == [303, 72, 73, 262, 304, 305, 301]


def test_orpheus_at_its_own_size():
    layout = LAYOUTS["orpheus"]
    backbone = CausalLM(tiny("Llama", 156_940, hidden_size=16), layout)
    assert backbone.prompt_ids(Prompt([128000, 5])).tolist() == [128259, 128000, 5, 128009, 128260, 128261, 128257]
    assert backbone.speech_ids(torch.tensor([0, 28671])).tolist() == [128266, 156937]
    logits = backbone.logits(torch.ones(1, 16))
    assert logits.shape == (1, 28673)
    torch.testing.assert_close(logits[0, -1], backbone.model.lm_head.weight[128258].sum())
    drawn = backbone.sample([Prompt([5])], n=2, max_len=3, min_len=3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(backbone([Prompt([5])], drawn) < 0, drawn.scored)


def test_codes_that_do_not_follow_each_other_are_found_one_by_one():
    model, layout, tokenizer = model_for("llasa")
    shuffled = replace(layout, speech="<|s_{}|>", codes=3)
    backbone = CausalLM(model, shuffled, tokenizer)
    odd = copy.deepcopy(backbone)
    odd.place.codes = backbone.place.codes[[0, 2, 1]]  # as a tokenizer would give them that was trained elsewhere
    odd.place.span = None
    one = backbone([Prompt([5])], Speech.pack([[1, 0, 2]]))
    other = odd([Prompt([5])], Speech.pack([[2, 0, 1]]))
    torch.testing.assert_close(one, other)


def test_the_exported_cosyvoice_head_keeps_its_other_ends():
    """With them the log-probs are those of the original head; without, higher by -log(1 - p(eos2) - p(eos3))."""
    model, layout, tokenizer = model_for("cosyvoice2-hf", "Qwen2")
    prompt, row = prompts_for(layout)[:1], Speech.pack(rows(6))
    full, cut = (CausalLM(model, spec, tokenizer) for spec in (layout, replace(layout, also=())))
    features = full.hidden(prompt, row)[0]
    share = full.logits(features).softmax(-1)[:, -2:].sum(-1)
    torch.testing.assert_close(full(prompt, row)[0], cut(prompt, row)[0] + (1 - share).log(), atol=1e-5, rtol=0)
    drawn = full.sample(prompt, n=200, max_len=3, generator=torch.Generator().manual_seed(0))
    assert int(drawn.tokens.max()) < CODES  # scored, never drawn


# -- LoRA --------------------------------------------------------------------------------------------------------------


def test_lora_begins_at_the_reference_and_goes_back_to_it():
    backbone = backbone_for("spark", "Qwen2")
    prompts, speech = prompts_for(backbone.spec), Speech.pack(rows(12, 8, 5))
    before = backbone(prompts, speech).detach()
    add_lora(backbone, r=4)
    assert has_adapters(backbone)
    torch.testing.assert_close(backbone(prompts, speech).detach(), before, atol=1e-6, rtol=1e-6)
    trained = [name for name, p in backbone.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    unzeroed(backbone)
    assert float((backbone(prompts, speech) - before).abs().max()) > 0.01
    with adapters_off(backbone), torch.no_grad():
        torch.testing.assert_close(backbone(prompts, speech), before, atol=1e-6, rtol=1e-6)
    assert [name for name, p in backbone.named_parameters() if p.requires_grad] == trained
    assert float((backbone(prompts, speech) - before).abs().max()) > 0.01


def test_a_model_that_peft_wrapped_is_taken_as_it_is():
    model, layout, tokenizer = model_for("spark", "Qwen2")
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    backbone = CausalLM(wrapped, layout, tokenizer)
    assert type(backbone.model).__name__ == "Qwen2ForCausalLM" and has_adapters(backbone)
    checked(unzeroed(backbone))


def test_lora_refusals():
    backbone = backbone_for("orpheus")
    with pytest.raises(ValueError, match="no LoRA layers to switch off"), adapters_off(backbone):
        pass
    with pytest.raises(ValueError, match=r"modules_to_save=\['lm_head'\]"):
        add_lora(backbone, modules_to_save=["lm_head"])
    with pytest.raises(ValueError, match="has LoRA layers already"):
        add_lora(add_lora(backbone))


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_saved_is_what_their_own_code_loads(tmp_path, lora, tied):
    model, layout, tokenizer = model_for("spark", "Qwen2", tie_word_embeddings=tied)
    backbone = CausalLM(model, layout, tokenizer)
    if lora:
        unzeroed(add_lora(backbone, r=4))
    backbone.save(tmp_path / "out")
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert not any("lora" in name or "base_layer" in name for name in plain.state_dict())
    ids = torch.tensor([[1, 2, 300]])
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, backbone.model(ids).logits, atol=1e-5, rtol=1e-5)
    again = CausalLM(str(tmp_path / "out"), layout)  # with the tokenizer that lies in the folder
    prompts, speech = prompts_for(layout), Speech.pack(rows(5, 3, 4))
    torch.testing.assert_close(again(prompts, speech), backbone(prompts, speech), atol=1e-5, rtol=1e-5)
    other = tiny("Qwen2", len(plain.get_input_embeddings().weight), seed=3, tie_word_embeddings=tied)
    fresh = CausalLM(other, layout, tokenizer)
    fresh.load(tmp_path / "out")
    torch.testing.assert_close(fresh(prompts, speech), backbone(prompts, speech), atol=1e-5, rtol=1e-5)


def test_lora_layers_alone_are_peft_s_own_files(tmp_path):
    backbone = unzeroed(add_lora(backbone_for("spark", "Qwen2"), r=4, alpha=8))
    backbone.save(tmp_path / "lora", adapters_only=True)
    prompts, speech = prompts_for(backbone.spec), Speech.pack(rows(5, 3, 4))
    base = model_for("spark", "Qwen2")[0]
    theirs = peft.PeftModel.from_pretrained(base, str(tmp_path / "lora"))
    ids = torch.tensor([[1, 2, 300]])
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, backbone.model(ids).logits, atol=1e-6, rtol=1e-5)
    fresh = backbone_for("spark", "Qwen2")
    fresh.load(tmp_path / "lora")
    torch.testing.assert_close(fresh(prompts, speech), backbone(prompts, speech), atol=1e-6, rtol=1e-6)
    other = add_lora(backbone_for("spark", "Qwen2"), r=2)
    with pytest.raises(ValueError, match="have r=4, those of the model r=2"):
        load_adapters(other, tmp_path / "lora")


def test_lora_layers_in_a_pickle_are_read_as_tensors_alone(tmp_path):
    """Older releases of peft wrote adapter_model.bin."""
    from safetensors.torch import load_file

    made = unzeroed(add_lora(backbone_for("spark", "Qwen2"), r=4))
    made.save(tmp_path / "lora", adapters_only=True)
    file = tmp_path / "lora" / "adapter_model.safetensors"
    state = load_file(file)
    file.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no weights in .*lora.*adapter_model\.safetensors.*adapter_model\.bin"
    ):
        backbone_for("spark", "Qwen2").load(tmp_path / "lora")
    torch.save(state, tmp_path / "lora" / "adapter_model.bin")
    fresh = backbone_for("spark", "Qwen2")
    fresh.load(tmp_path / "lora")
    batch = prompts_for(made.spec), Speech.pack(rows(5, 3, 4))
    torch.testing.assert_close(fresh(*batch), made(*batch))

    torch.save({**state, "note": tmp_path}, tmp_path / "lora" / "adapter_model.bin")
    untouched = backbone_for("spark", "Qwen2")
    with pytest.raises(ValueError, match=r"adapter_model\.bin holds more than tensors.*unsafe=True"):
        untouched.load(tmp_path / "lora")
    assert not has_adapters(untouched)
    untouched.load(tmp_path / "lora", unsafe=True)
    torch.testing.assert_close(untouched(*batch), made(*batch))


def test_full_weights_go_below_the_lora_layers(tmp_path):
    trained = backbone_for("spark", "Qwen2")
    with torch.no_grad():
        trained.model.model.layers[0].self_attn.q_proj.weight.mul_(1.5)
    trained.save(tmp_path / "full")
    backbone = add_lora(backbone_for("spark", "Qwen2"), r=4)
    backbone.load(tmp_path / "full")
    prompts, speech = prompts_for(backbone.spec), Speech.pack(rows(5, 3, 4))
    torch.testing.assert_close(backbone(prompts, speech), trained(prompts, speech), atol=1e-6, rtol=1e-6)


def test_a_failed_save_leaves_the_old_folder(tmp_path, monkeypatch):
    backbone = backbone_for("spark", "Qwen2")
    backbone.save(tmp_path / "out")
    before = sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "out").iterdir())
    monkeypatch.setattr(type(backbone.tokenizer), "save_pretrained", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        backbone.save(tmp_path / "out")
    assert sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "out").iterdir()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_what_does_not_belong_together_is_refused(tmp_path):
    model, layout, tokenizer = model_for("spark", "Qwen2")
    with pytest.raises(ValueError, match=r"id 156937, and the input embedding of LlamaForCausalLM has 340 rows"):
        CausalLM(tiny("Llama", 340), "orpheus")
    with pytest.raises(ValueError, match=r"does not match the layout 'llasa': it has no token '<\|begin_of_text"):
        CausalLM(model, SMALL["llasa"], tokenizer)
    with pytest.raises(ValueError, match="layout 'spark' names tokens by their text.*pass tokenizer="):
        CausalLM(model, layout)
    with pytest.raises(ValueError, match="no layout 'sparc'; did you mean 'spark'"):
        CausalLM(model, "sparc")
    with pytest.raises(ValueError, match="no model could be loaded from"):
        CausalLM(str(tmp_path / "nowhere"), layout, tokenizer)
    with pytest.raises(ValueError, match="dtype must name a type of torch.*'float33'"):
        CausalLM(str(tmp_path), layout, tokenizer, dtype="float33")


def test_prompts_that_do_not_fit_are_refused_by_name():
    spark = backbone_for("spark", "Qwen2")
    voice, speech = torch.tensor([1, 2]), Speech.pack([[1, 2]])
    for prompt, match in (
        (Prompt([5]), "needs Prompt.timbre as codes"),
        (Prompt([5], Style([1]), voice), "Style.text is None: give the text ids"),
        (Prompt([5], Style([CODES], [4]), voice), r"Style.tokens holds codes 12..12, layout 'spark' has 0..11"),
        (Prompt([5], None, torch.randn(4)), r"got torch.float32 \(4,\)"),
        (Prompt([4000], None, voice), "text id 4000, and Qwen2ForCausalLM has ids 0.."),
        (Prompt([5] * 300, None, voice), "prompt and speech take 3.. positions, CausalLM can read 256"),
    ):
        with pytest.raises(ValueError, match=match):
            spark([prompt], speech)
    with pytest.raises(ValueError, match="the prompt takes"):
        spark.sample([Prompt([5] * 300, None, voice)], max_len=3)


def test_sampling_is_cut_where_the_context_ends():
    backbone = backbone_for("orpheus")
    with torch.no_grad():
        backbone.model.lm_head.weight[backbone.eos_id] = 0
    prompts = [Prompt([5] * 240), Prompt([6] * 3)]
    drawn = backbone.sample(prompts, n=2, max_len=20, min_len=20, generator=torch.Generator().manual_seed(0))
    assert drawn.lengths.tolist() == [11, 11, 20, 20] and not drawn.ended.any()
    backbone(prompts, drawn)  # and what was drawn can be scored


def test_another_size_and_another_vocabulary_are_told_apart(tmp_path):
    backbone = backbone_for("spark", "Qwen2")
    wide = tiny("Qwen2", len(backbone.model.get_input_embeddings().weight), hidden_size=64)
    wide.save_pretrained(tmp_path / "wide")
    with pytest.raises(ValueError, match=r"embed_tokens.weight is \(\d+, 64\) in the file and .*, 32\).*another size"):
        backbone.load(tmp_path / "wide")
    tiny("Qwen2", 300).save_pretrained(tmp_path / "short")
    with pytest.raises(ValueError, match=r"is \(300, 32\) in the file and \(\d+, 32\).*The vocabulary is another one"):
        backbone.load(tmp_path / "short")


def test_logits_that_are_changed_after_the_head_are_refused():
    model, layout, tokenizer = model_for("spark", "Qwen2")
    model.config.logit_scale = 0.25
    with pytest.raises(ValueError, match=r"changes its logits after the head \({'logit_scale': 0.25}\)"):
        CausalLM(model, layout, tokenizer)
    head = model_for("spark", "Qwen2")[0]
    head.lm_head = torch.nn.Sequential(head.lm_head)
    with pytest.raises(NotImplementedError, match="is Sequential, and rows can only be taken from a plain"):
        CausalLM(head, layout, tokenizer)


SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
SIZES = (*SIZES, "num_key_value_heads", "max_position_embeddings", "initializer_range", "pad_token_id")


def seeing(**settings):
    """A model that sees too: its settings as one that speaks lie inside of others."""
    pytest.importorskip("transformers.models.gemma3", reason="this transformers has no Gemma 3")
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    sizes = {name: getattr(tiny("Llama", 340).config, name) for name in SIZES}
    speaks = {**sizes, "head_dim": 8, "query_pre_attn_scalar": 8, **settings}
    sees = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = Gemma3Config(text_config=speaks, vision_config=sees, mm_tokens_per_image=4)
        return Gemma3ForConditionalGeneration(config).eval()


def test_settings_of_a_model_that_sees_too_are_those_with_which_it_speaks():
    layout, tokenizer = SMALL["orpheus"], tokenizer_for(SMALL["orpheus"])
    window = {"sliding_window": 8, "layer_types": ["sliding_attention"] * 2}
    backbone = CausalLM(seeing(**window), layout, tokenizer)
    assert backbone.windowed and backbone.context == 256
    prompts = [Prompt([5, 6, 7]), Prompt(list(range(25)))]
    together = backbone.sample(prompts, temperature=0.0, max_len=20).rows()
    alone = [backbone.sample([prompt], temperature=0.0, max_len=20).rows()[0] for prompt in prompts]
    assert [row.tolist() for row in together] == [row.tolist() for row in alone]
    with pytest.raises(ValueError, match="can read 256"):
        backbone(prompts, Speech.pack(rows(240, 240)))
    with pytest.raises(ValueError, match=r"changes its logits after the head \({'final_logit_softcapping': 2.0}\)"):
        CausalLM(seeing(final_logit_softcapping=2.0), layout, tokenizer)


def test_layouts_refuse_nonsense():
    good = {"name": "mine", "prompt": (7, "{text}"), "speech": 10, "codes": 6, "end": 9}
    for change, match in (
        ({"prompt": (7,)}, "needs the slot '{text}' once"),
        ({"prompt": ("{text}", "{style.txt}")}, r"unknown slots \['{style.txt}'\]"),
        ({"prompt": ("{text}", "{timbre}")}, "go together"),
    ):
        with pytest.raises(ValueError, match=match):
            Layout(**{**good, **change})
    with pytest.raises(ValueError, match="share an id"):
        CausalLM(tiny("Llama", 64), Layout(**{**good, "end": 12}))


def test_texts_go_through_the_layout_s_tokenizer():
    backbone = backbone_for("spark", "Qwen2")
    assert backbone.tokenizer.decode(backbone.tokenize("ສະບາຍດີ")) == "ສະບາຍດີ"
    model, layout, tokenizer = model_for("orpheus")
    named = CausalLM(model, layout, tokenizer, voice="dan")
    assert tokenizer.decode(named.tokenize("hello")) == "dan: hello"
    with pytest.raises(NotImplementedError, match="no tokenizer: pass tokenizer="):
        CausalLM(model, layout).tokenize("hello")


def test_tokenizer_of_a_layout_is_what_it_says():
    assert len(tokenizer_for(SMALL["llasa"])) > 256 + CODES


def test_float16_that_overflows_says_so():
    backbone = backbone_for("orpheus").half()
    prompts, speech = prompts_for(backbone.spec), Speech.pack(rows(5, 3, 4))
    with torch.no_grad():
        backbone(prompts, speech)
        backbone.model.model.layers[0].mlp.down_proj.weight.mul_(3e4)
    with pytest.raises(ValueError, match=r"not finite; the features at row 0, column 0.*float16 ends at 65504"):
        backbone(prompts, speech)
    with pytest.raises(ValueError, match=r"logits of row 0 are NaN or infinite at step 0: float16 ends at 65504"):
        backbone.sample(prompts, max_len=2)
    head = backbone_for("orpheus").half()
    with torch.no_grad():
        head.model.lm_head.weight.mul_(1e5)  # the logits alone, and to infinity rather than NaN
    with pytest.raises(ValueError, match=r"not finite; the logits at row 0"):
        head(prompts, speech)
    with pytest.raises(ValueError, match=r"logits of row 0 are NaN or infinite at step 0: float16 ends at 65504"):
        head.sample(prompts, max_len=2, temperature=0.0)


@pytest.mark.parametrize(
    ("settings", "rename", "said"),
    [
        ({"num_hidden_layers": 4, "layer_types": None}, "", r"it lacks model\.layers\.2\.input_layer"),
        (
            {"num_hidden_layers": 1, "layer_types": None},
            "",
            r"the model has no model\.layers\.1\.input_layer",
        ),
        (
            {"hidden_size": 64, "head_dim": 8},
            "",
            r"lm_head\.weight is \(\d+, 32\) in the file and \(\d+, 64\) by the",
        ),
        ({}, "module.", r"it lacks lm_head\.weight.*the model has no module\.lm_head\.weight"),
    ],
    ids=["deeper", "shallower", "wider", "prefix"],
)
def test_a_folder_whose_weights_and_config_differ_is_refused(tmp_path, settings, rename, said):
    """transformers would go on with random numbers in the place of what is missing."""
    from safetensors.torch import load_file, save_file

    backbone_for("spark", "Qwen2").save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **settings}))
    weights = {rename + name: value for name, value in load_file(tmp_path / "model.safetensors").items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=said) as caught:
        CausalLM(str(tmp_path), SMALL["spark"])
    assert "belong to another config.json, or were saved under another prefix" in str(caught.value)


def test_lora_is_float32_on_a_model_of_16_bits_and_frequencies_stay():
    backbone = add_lora(backbone_for("orpheus").bfloat16(), r=2)
    kinds = {name: p.dtype for name, p in backbone.named_parameters()}
    assert {kind for name, kind in kinds.items() if "lora_" in name} == {torch.float32}
    assert {kind for name, kind in kinds.items() if "lora_" not in name} == {torch.bfloat16}
    assert {b.dtype for name, b in backbone.named_buffers() if "inv_freq" in name} == {torch.float32}


def test_settings_that_would_move_the_reference_are_refused():
    for settings, match in (
        ({"init_lora_weights": "pissa"}, "changes the weights below the layers"),
        ({"trainable_token_indices": [1]}, "part of no reference"),
    ):
        with pytest.raises(ValueError, match=match):
            add_lora(backbone_for("orpheus"), **settings)
    model, layout, tokenizer = model_for("spark", "Qwen2", tie_word_embeddings=True)
    with pytest.raises(ValueError, match="embed_tokens is tied to another layer"):
        add_lora(CausalLM(model, layout, tokenizer), targets=["q_proj", "embed_tokens"])


def test_lora_of_another_alpha_is_refused_and_a_misfit_leaves_nothing_behind(tmp_path):
    made = unzeroed(add_lora(backbone_for("spark", "Qwen2"), r=4, alpha=64))
    made.save(tmp_path / "lora", adapters_only=True)
    with pytest.raises(ValueError, match="lora_alpha=64, those of the model lora_alpha=8"):
        add_lora(backbone_for("spark", "Qwen2"), r=4, alpha=8).load(tmp_path / "lora")
    layout, tokenizer = SMALL["spark"], tokenizer_for(SMALL["spark"])
    wide = CausalLM(tiny("Qwen2", 340, hidden_size=64), layout, tokenizer)
    before = {name: p.requires_grad for name, p in wide.named_parameters()}
    with pytest.raises(ValueError, match="belong to a model of another size"):
        wide.load(tmp_path / "lora")
    assert not has_adapters(wide) and {name: p.requires_grad for name, p in wide.named_parameters()} == before
    add_lora(wide, r=2)


def test_adapters_of_another_name_are_saved(tmp_path):
    model, layout, tokenizer = model_for("spark", "Qwen2")
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]), adapter_name="thai")
    CausalLM(wrapped, layout, tokenizer).save(tmp_path / "lora", adapters_only=True)
    peft.PeftModel.from_pretrained(model_for("spark", "Qwen2")[0], str(tmp_path / "lora"))
    whole = peft.get_peft_model(
        model_for("spark", "Qwen2")[0], peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    )
    with pytest.raises(ValueError, match="layers that peft trains whole"):
        CausalLM(whole, layout, tokenizer).save(tmp_path / "out")


def test_saving_keeps_its_hands_off_other_folders(tmp_path):
    backbone = backbone_for("spark", "Qwen2")
    (tmp_path / "runs" / "ckpts").mkdir(parents=True)
    with pytest.raises(ValueError, match="runs holds something else than a model, which would be lost"):
        backbone.save(tmp_path / "runs")
    assert (tmp_path / "runs" / "ckpts").is_dir()


def test_a_head_of_its_own_does_not_go_into_a_tied_embedding(tmp_path):
    untied, layout, tokenizer = model_for("spark", "Qwen2")
    CausalLM(untied, layout, tokenizer).save(tmp_path / "out")
    tied = CausalLM(model_for("spark", "Qwen2", tie_word_embeddings=True)[0], layout, tokenizer)
    before = tied.model.get_input_embeddings().weight.detach().clone()
    with pytest.raises(ValueError, match=r"which are one tensor in the model.*tie_word_embeddings=False"):
        tied.load(tmp_path / "out")
    assert torch.equal(tied.model.get_input_embeddings().weight, before)


def test_the_layout_s_fingerprint_does_not_depend_on_how_tensors_print():
    first = backbone_for("spark", "Qwen2").layout
    options = torch._tensor_str.PRINT_OPTS
    kept = (options.linewidth, options.threshold)
    try:
        torch.set_printoptions(linewidth=200, threshold=3)
        assert backbone_for("spark", "Qwen2").layout == first
    finally:
        torch.set_printoptions(linewidth=kept[0], threshold=kept[1])


def test_prompts_of_different_length_share_a_batch_under_a_sliding_window():
    layout, tokenizer = SMALL["orpheus"], tokenizer_for(SMALL["orpheus"])
    backbone = CausalLM(tiny("Mistral", 340, sliding_window=8), layout, tokenizer)
    assert backbone.windowed
    prompts = [Prompt([5, 6, 7]), Prompt(list(range(25)))]
    together = backbone.sample(prompts, temperature=0.0, max_len=20).rows()
    alone = [backbone.sample([prompt], temperature=0.0, max_len=20).rows()[0] for prompt in prompts]
    assert [row.tolist() for row in together] == [row.tolist() for row in alone]
    check_backbone(backbone, prompts, Speech.pack(rows(14, 9)))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_checkpointing_is_at_work_in_a_model_that_was_loaded(tmp_path, checkpointing):
    backbone_for("spark", "Qwen2").save(tmp_path / "m")
    backbone = CausalLM(str(tmp_path / "m"), SMALL["spark"], gradient_checkpointing=checkpointing)
    backbone(prompts_for(backbone.spec), Speech.pack(rows(5, 3, 4)))  # tries whether rows can be packed
    passes = []
    backbone.model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: passes.append(1))
    backbone(prompts_for(backbone.spec), Speech.pack(rows(5, 3, 4))).sum().backward()
    assert len(passes) == 1 + checkpointing  # the second one recomputes what was not kept


def test_peft_s_own_names_and_kinds_are_told_apart(tmp_path):
    for settings, match in (
        ({"lora_alpha": 16}, r"not lora_alpha \(here alpha\)"),
        ({"rank": 8}, r"not rank \(here r\)"),
        ({"nonsense": 1}, "not nonsense"),
    ):
        with pytest.raises(ValueError, match=match):
            add_lora(backbone_for("orpheus"), **settings)
    model, layout, tokenizer = model_for("spark", "Qwen2")
    tuned = peft.get_peft_model(model, peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match="prompt tuning of peft puts vectors before the ids"):
        CausalLM(tuned, layout, tokenizer)
    made = add_lora(backbone_for("spark", "Qwen2"))
    with pytest.raises(ValueError, match="is named like one file: name a folder"):
        made.save(tmp_path / "lora.pt", adapters_only=True)
    made.save(tmp_path / "lora", adapters_only=True)
    with pytest.raises(ValueError, match="holds LoRA layers alone: give the model below"):
        CausalLM(str(tmp_path / "lora"), layout, tokenizer)
    with pytest.raises(ValueError, match="has no place for a style prefix: pass prompt.plain"):
        backbone_for("orpheus")([Prompt([5], Style([1]))], Speech.pack([[1]]))


def test_weights_of_another_depth_are_named_so(tmp_path):
    backbone_for("spark", "Qwen2").save(tmp_path / "two")
    model, layout, tokenizer = model_for("spark", "Qwen2", num_hidden_layers=3)
    with pytest.raises(ValueError, match=r"The depth is another one: 2 layers in the file, 3 in the model"):
        CausalLM(model, layout, tokenizer).load(tmp_path / "two")


def test_two_tokens_of_one_log_prob_are_no_fault():
    """By chance, in 16 bits: what is exchanged for the first token is as likely as that."""
    backbone, first = backbone_for("spark", "Qwen2"), rows(12, 8, 5)[0]
    with torch.no_grad():
        head, start = backbone.model.lm_head.weight, int(backbone.place.codes[0])
        for code in range(CODES):
            head[start + code] = head[start + code % 2 + 2]  # half of all pairs of codes are tied
    assert len(set(first.tolist())) > 4
    checked(backbone)


@pytest.mark.parametrize("settings", [{}, {"lora": {"r": 4}}])
def test_compiled_blocks_give_the_same_scores_and_gradients_and_are_compiled_once(settings):
    torch._dynamo.reset()
    backbone = unzeroed(backbone_for("spark", "Qwen2", **settings)).train()
    plain, counter, compiled = copy.deepcopy(backbone), CompileCounterWithBackend("aot_eager"), []
    compile_blocks(backbone, backend=counter)
    for seed, sizes in enumerate([(12, 8, 5), (3, 9, 20)]):
        speech, made = Speech.pack(rows(*sizes, seed=seed)), []
        for one in (backbone, plain):
            one.zero_grad()
            one(prompts_for(one.spec), speech).square().sum().backward()
            made.append([p.grad for p in one.parameters() if p.grad is not None])
        for one, other in zip(*made, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5 * float(other.abs().max()), rtol=1e-4)
        compiled.append(counter.frame_count)
    assert 0 < compiled[0] == compiled[1]
    torch._dynamo.reset()


def test_compiling_under_gradient_checkpointing_is_refused():
    with pytest.raises(ValueError, match="inside which PyTorch compiles nothing"):
        compile_blocks(backbone_for("spark", "Qwen2", gradient_checkpointing=True))
