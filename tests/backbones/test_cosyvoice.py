"""CosyVoice 2 and 3, on a stand-in with upstream's class and attribute names around a real, small Qwen2."""

import copy
import logging
import random

import numpy as np
import pytest
import torch

from seaalign import Prompt, Speech, Style, Unsupported
from seaalign.testing import check_backbone
from tests.backbones import cosyvoice_standin as standin
from tests.backbones.user_models import tokens

pytest.importorskip("transformers")
pytestmark = pytest.mark.audio  # not for sound: transformers itself imports torchaudio where it finds it installed

from seaalign.backbones.context import naming  # noqa: E402
from seaalign.backbones.cosyvoice import CosyVoice  # noqa: E402

CODES, MARK = 24, 300
VERSIONS = pytest.mark.parametrize("version", [2, 3])


def tokenizer():
    return standin.Tokenizer({"<|endofprompt|>": MARK})


def adapter(version=2, model=None, **settings):
    """Version 3 with a tokenizer in which <|endofprompt|> is 300: small enough to be quick."""
    if version == 3:
        settings = {"tokenizer": tokenizer(), "instruct": [5, 6, MARK], **settings}
    return CosyVoice(standin.tiny(version, codes=CODES, text_rows=320) if model is None else model, **settings)


def prompts():
    text, style = tokens(7, 3, 11, 5, high=250), tokens(6, high=CODES, seed=1)
    return [Prompt(text[0], Style(style[0], text[3])), Prompt(text[1]), Prompt(text[2])]


def speech():
    return Speech.pack(tokens(12, 8, 5, high=CODES, seed=2), ended=[True, False, True])


def sequence(lm, prompt, row):
    """[sos, (instruction,) (style text,) text, task, (style tokens,) row] as embeddings, from the plain model."""
    marks = lm.llm_embedding.weight if hasattr(lm, "llm_embedding") else lm.speech_embedding.weight
    text, said = prompt.text, row
    if prompt.style is not None:
        text, said = torch.cat([prompt.style.text, text]), torch.cat([prompt.style.tokens, row])
    if not hasattr(lm, "llm_embedding"):
        text = torch.cat([torch.tensor([5, 6, MARK]), text])
    read = lm.llm.model.get_input_embeddings()(text)
    return torch.cat([marks[lm.sos][None], read, marks[lm.task_id][None], lm.speech_embedding(said)])


def log_probs(lm, prompt, row, ended):
    """Log p of each token, and of the end where the row ended, from the plain model's logits."""
    x = sequence(lm, prompt, row)
    hidden = lm.llm.model(inputs_embeds=x[None], output_hidden_states=True).hidden_states[-1][0]
    logp = lm.llm_decoder(hidden[len(x) - len(row) - 1 :]).log_softmax(-1)
    said = torch.cat([row, torch.tensor([lm.eos_token])])[: len(row) + ended]
    return logp[torch.arange(len(said)), said]


def stirred(backbone):
    """LoRA layers start with B = 0, which would be no LoRA at all: give them something to say."""
    g = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for name, value in backbone.named_parameters():
            if "lora_B" in name:
                value.copy_(0.1 * torch.randn(value.shape, generator=g))
    return backbone


@VERSIONS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_the_contract_holds(version, dtype, checkpointed, lora):
    if lora:
        pytest.importorskip("peft")
    torch.manual_seed(version)  # layers of LoRA are drawn: in bfloat16 two ids may tie at the edge of the nucleus
    backbone = stirred(adapter(version, lora={"r": 4} if lora else None)).to(dtype)
    if checkpointed:
        backbone.lm.llm.model.model.gradient_checkpointing_enable()  # as users write it: with reentry, where that is
    report = check_backbone(backbone, prompts(), speech(), draws=300)
    assert [outcome for _, outcome in report] == ["passed"] * 18


def test_the_contract_holds_for_upstream_s_own_number_of_the_mark():
    backbone = CosyVoice(standin.tiny(3), instruct=[5, standin.END_OF_PROMPT], gradient_checkpointing=True)
    report = check_backbone(backbone, prompts(), speech(), draws=300)
    assert [outcome for _, outcome in report] == ["passed"] * 18


@VERSIONS
def test_scores_are_those_of_the_plain_model_s_logits(version):
    backbone = adapter(version)
    assert backbone.eos == {2: CODES, 3: CODES + 1}[version] and backbone.vocab_size == CODES
    got = backbone(prompts(), speech())
    for row, prompt, tokens_, ended in zip(got, prompts(), speech().rows(), speech().ended.tolist(), strict=True):
        want = log_probs(backbone.lm, prompt, tokens_, int(ended))
        torch.testing.assert_close(row[: len(want)], want, atol=1e-5, rtol=0)


@VERSIONS
def test_gradients_are_those_of_the_plain_model_s_logits(version):
    def gradients(score):
        lm.zero_grad()
        score().backward()
        return {name: p.grad.clone() for name, p in lm.named_parameters() if p.grad is not None}

    backbone = adapter(version, gradient_checkpointing=True).train()
    lm, rows = backbone.lm, speech()
    got = gradients(lambda: backbone(prompts(), rows).sum())
    plain = zip(prompts(), rows.rows(), rows.ended.tolist(), strict=True)
    want = gradients(lambda: sum(log_probs(lm, p, row, int(ended)).sum() for p, row, ended in plain))
    assert got.keys() == want.keys()
    for name, gradient in want.items():
        assert (got[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-8, name


@VERSIONS
def test_greedy_is_a_plain_loop_without_cache(version):
    backbone = adapter(version).eval()
    lm, drawn = backbone.lm, backbone.sample(prompts(), temperature=0.0, max_len=20)
    for prompt, row, ended in zip(prompts(), drawn.rows(), drawn.ended.tolist(), strict=True):
        said = []
        while len(said) < 20:
            x = sequence(lm, prompt, torch.tensor(said, dtype=torch.long))
            logits = lm.llm_decoder(lm.llm.model.model(inputs_embeds=x[None]).last_hidden_state[0, -1])
            said.append(int(logits[[*range(CODES), lm.eos_token]].argmax()))  # of speech tokens and the end alone
            if said[-1] == CODES:
                break
        assert row.tolist() + [CODES] * ended == said


def test_checkouts_before_version_3_have_fewer_names():
    older = standin.tiny(codes=CODES, text_rows=320)
    del older.sos, older.eos_token
    older.sos_eos, older.fill_token = 0, 2
    assert torch.equal(adapter(model=older)(prompts(), speech()), adapter()(prompts(), speech()))


@VERSIONS
def test_other_special_ids_have_probability_and_are_never_drawn(version):
    backbone = adapter(version)
    with torch.no_grad():  # a special id, neither code nor end, takes nearly everything
        backbone.lm.llm_decoder.weight[CODES + 2] = 0
        others = [i for i in range(backbone.lm.llm_decoder.out_features) if i != CODES + 2]
        backbone.lm.llm_decoder.weight[others] *= 0.01
        backbone.lm.llm_decoder.weight[others] -= 1.0 * backbone.prefill(prompts()[1:2])[0].sign()
    one = Speech.pack([[i] for i in range(CODES)], ended=[False] * CODES, prompt=[0] * CODES)
    assert backbone(prompts()[1:2], one)[:, 0].exp().sum() < 0.01
    assert backbone.sample(prompts(), n=20, max_len=5).tokens.max() < CODES


@VERSIONS
def test_style_off_is_a_prompt_without_it_and_timbre_never_counts(version):
    backbone, (styled, *_), rows = adapter(version), prompts(), speech().select([0])
    voice = {"embedding": torch.ones(192)}
    spoken = Prompt(styled.text, styled.style, voice)
    assert torch.equal(backbone([spoken], rows), backbone([styled], rows))
    assert torch.equal(backbone([spoken.plain()], rows), backbone([Prompt(styled.text)], rows))
    assert not torch.allclose(backbone([spoken.plain()], rows), backbone([spoken], rows))


def test_the_instruction_comes_first_wherever_it_was_written():
    said, (text,) = speech().select([0]), tokens(4, high=250)
    style = Style(tokens(5, high=CODES)[0], [1, 2])
    mine, given = adapter(3, instruct=None), adapter(3, instruct=[9, MARK])
    want = given([Prompt(text, style)], said)
    in_text = Prompt(torch.cat([torch.tensor([9, MARK]), text]), style)
    in_style = Prompt(text, Style(style.tokens, [9, MARK, 1, 2]))
    in_both = Prompt(in_text.text, Style(style.tokens, [8, 8, MARK, 1, 2]))
    for prompt in (in_text, in_style, in_both):
        assert torch.equal(mine([prompt], said), want)
    assert torch.equal(given([in_text.plain()], said), mine([in_text.plain()], said))


def test_what_is_trained_takes_part_and_flow_and_vocoder_do_not():
    for tied in (True, False):
        whole = standin.tiny_cosyvoice2(tied=tied)
        backbone = CosyVoice(whole)
        backbone(prompts(), speech()).sum().backward()
        trained = {name for name, p in backbone.named_parameters() if p.requires_grad}
        assert trained == {name for name, p in backbone.named_parameters() if p.grad is not None}
        assert ("lm.llm.model.lm_head.weight" in dict(backbone.named_parameters())) == (not tied)
        assert all(name.startswith("lm.") for name in [*backbone.state_dict(), *trained])
    moved = backbone.to(torch.float64)
    assert next(whole.model.flow.parameters()).dtype == torch.float32
    assert copy.deepcopy(moved).sound is backbone.sound  # what is not trained is shared


# -- sound -------------------------------------------------------------------------------------------------------------


def voice(frames=3, seed=0):
    made = torch.Generator().manual_seed(seed)
    return {
        "token": torch.randint(CODES, (frames,), generator=made),
        "feat": torch.randn(2 * frames, 80, generator=made),
        "embedding": torch.randn(192, generator=made),
    }


def whole(version=2, **settings):
    kind = standin.tiny_cosyvoice2 if version == 2 else standin.tiny_cosyvoice3
    built = kind(codes=CODES, text_rows=320)
    built.frontend.tokenizer = tokenizer()
    return CosyVoice(built, **settings)


@VERSIONS
def test_the_decoder_hears_the_same_timbre_in_both_modes(version):
    backbone, timbre = whole(version, instruct=[5, MARK]), voice()
    prompt = Prompt([1, 2, 3], Style([4, 5], [6]), timbre)
    for asked in (prompt, prompt.plain()):
        (waveform,) = backbone.decode(Speech.pack([[4, 0, 7, 7]]), [asked.timbre])
        assert waveform.shape == (4 * 960,)
    on, off = backbone.sound.model.flow.heard
    for name in ("prompt_token", "prompt_feat", "embedding"):
        assert torch.equal(on[name], off[name])
        assert torch.equal(on[name][0].float(), timbre[name.removeprefix("prompt_")].float())
    assert on["token"].tolist() == [[4, 0, 7, 7]]
    assert backbone.sample_rate == 24_000 and {"decode", "encode"} < backbone.features


@VERSIONS
def test_decoding_repeats_and_leaves_no_trace(version):
    backbone = whole(version, instruct=[5, MARK])
    flow = backbone.sound.model.flow.train()  # its dropout must not be heard
    rows, before = Speech.pack([[4, 0, 7], [9, 9]], ended=[True, False]), torch.get_rng_state()
    first, _ = backbone.decode(rows, [voice(), voice()])
    again = backbone.decode(rows.select([1, 0]), [voice(), voice()])[1]
    assert torch.equal(first, again) and not first.is_inference() and flow.training and flow.dropout.training
    assert torch.equal(before, torch.get_rng_state()) and not backbone.sound.model.hift_cache_dict
    alone = backbone.decode(rows, [{"embedding": torch.ones(192)}] * 2)[1]  # no reference recording: inference_sft
    assert alone.shape == (2 * 960,) and flow.heard[-1]["prompt_feat"].shape == (1, 0, 80)


def test_an_empty_row_is_no_sound():
    assert whole().decode(Speech.pack([[]]), [voice()])[0].shape == (0,)


def test_of_a_long_silence_five_tokens_are_heard_in_version_3():
    row = [1, 2, 1, 2, 1, 2, 1, 7, 1, 1, 2]  # 1 and 2 are the stand-in's silent tokens
    three, two = whole(3, instruct=[5, MARK]), whole(2)
    for backbone in (two, three):
        backbone.decode(Speech.pack([row]), [voice()])
    assert three.sound.model.flow.heard[0]["token"].tolist() == [[1, 2, 1, 2, 1, 7, 1, 1, 2]]
    assert two.sound.model.flow.heard[0]["token"].tolist() == [row]


@pytest.mark.parametrize(
    ("timbre", "named"),
    [
        (None, "got NoneType"),
        ({"token": [1], "embedding": torch.ones(192)}, r"got \['embedding', 'token'\]"),
        ({**voice(), "feat": torch.zeros(5, 80)}, r"'token': \(3,\), 'feat': \(5, 80\)"),
        ({**voice(), "embedding": torch.zeros(1, 192)}, r"'embedding': \(1, 192\)"),
    ],
)
def test_a_timbre_that_does_not_fit_is_named(timbre, named):
    with pytest.raises(ValueError, match=f"row 1: .*{named}.*backbone.timbre"):
        whole().decode(Speech.pack([[1], [2]]), [voice(), timbre])


def test_decoding_what_is_no_speech_token():
    with pytest.raises(ValueError, match="frame 1 holds id 24, which is no speech token"):
        whole().decode(Speech.pack([[1, 24]]), [voice()])


@pytest.mark.parametrize("older", [False, True])
def test_timbre_and_tokens_of_a_recording(older):
    backbone = whole()
    if older:
        backbone.sound.frontend = standin.OlderFrontEnd(CODES)
    reader, waveform = standin.load_wav, torch.linspace(0, 0.4501, 16_000)
    timbre = backbone.timbre(waveform, 16_000)
    encoded = backbone.encode([waveform, waveform[:6_400]], 16_000)
    assert encoded.lengths.tolist() == [25, 10] and standin.load_wav is reader
    # 25 tokens a second, each the mean level in thousandths of its 640 samples, the middle one being 640 k + 319.5
    assert encoded.rows()[0].tolist() == [int(450.1 * (640 * k + 319.5) / 15_999) % CODES for k in range(25)]
    count = 16 if older else 25  # the older stand-in has 33 mel frames of 480 samples at 16 kHz
    assert torch.equal(timbre["token"], encoded.rows()[0][:count])
    assert timbre["feat"].shape == (2 * count, 80) and timbre["embedding"].shape == (192,)
    backbone.decode(Speech.pack([[1]]), [timbre])


@pytest.mark.parametrize(("seconds", "rate"), [(31, 16_000), (1, 8_000)])
def test_recordings_that_upstream_refuses(seconds, rate):
    with pytest.raises(ValueError, match=f"a recording of {seconds}.0 s at {rate} Hz"):
        whole().timbre(torch.zeros(seconds * rate), rate)


def test_the_language_model_alone_has_no_sound():
    backbone = adapter()
    assert backbone.features == {"style", "timbre"} and backbone.sample_rate is None
    for call in (
        lambda: backbone.decode(Speech.pack([[1]]), [voice()]),
        lambda: backbone.encode([torch.zeros(9)], 16_000),
        lambda: backbone.timbre(torch.zeros(9), 16_000),
        lambda: backbone.tokenize("a"),
    ):
        with pytest.raises(Unsupported):
            call()


def test_text_as_inference_and_as_training_make_it():
    assert whole().tokenize(" a 5") == list(b"a five")
    assert whole(text_frontend=False).tokenize(" a 5") == list(b" a 5")
    assert adapter(3).tokenize("b<|endofprompt|>a") == [98, MARK, 97]
    assert whole(3, instruct="b<|endofprompt|>").layout == f"cosyvoice3 unistream 98 {MARK}"
    assert adapter(2).layout == "cosyvoice2 unistream"


# -- files -------------------------------------------------------------------------------------------------------------


@VERSIONS
def test_what_is_saved_loads_strictly_and_what_upstream_saved_loads_here(version, tmp_path):
    backbone, other = adapter(version), standin.tiny(version, seed=1, codes=CODES, text_rows=320)
    backbone.save(tmp_path / "exp")  # a folder
    state = torch.load(tmp_path / "exp" / "llm.pt", weights_only=True)
    assert list(state) == list(other.state_dict())
    other.load_state_dict(state, strict=True)
    assert torch.equal(adapter(version, other)(prompts(), speech()), backbone(prompts(), speech()))
    assert state["llm.model.lm_head.weight"].data_ptr() == state["llm.model.model.embed_tokens.weight"].data_ptr()

    trained = standin.tiny(version, seed=2, codes=CODES, text_rows=320)
    torch.save({**trained.state_dict(), "epoch": 3, "step": 700}, tmp_path / "epoch_3.pt")
    again = adapter(version, checkpoint=tmp_path / "epoch_3.pt")
    assert torch.equal(again(prompts(), speech()), adapter(version, trained)(prompts(), speech()))


def test_lora_is_merged_into_what_is_saved_or_written_alone(tmp_path):
    peft = pytest.importorskip("peft")
    backbone = stirred(adapter(lora={"r": 4}))
    assert all(value.requires_grad == ("lora_" in name) for name, value in backbone.named_parameters())
    want = backbone(prompts(), speech())
    assert not torch.allclose(want, adapter()(prompts(), speech()), atol=1e-2)

    backbone.save(tmp_path / "llm.pt")
    merged = standin.tiny(seed=5, codes=CODES, text_rows=320)
    merged.load_state_dict(torch.load(tmp_path / "llm.pt", weights_only=True), strict=True)
    torch.testing.assert_close(adapter(model=merged)(prompts(), speech()), want, atol=1e-4, rtol=0)

    backbone.save(tmp_path / "adapters", adapters_only=True)
    again = adapter()
    again.load(tmp_path / "adapters")
    torch.testing.assert_close(again(prompts(), speech()), want)
    plain = standin.tiny(codes=CODES, text_rows=320)  # upstream's inference, by peft alone
    plain.llm.model = peft.PeftModel.from_pretrained(plain.llm.model, tmp_path / "adapters").merge_and_unload()
    torch.testing.assert_close(adapter(model=plain)(prompts(), speech()), want, atol=1e-4, rtol=0)


def refused(tmp_path, state, version=2):
    torch.save(state, tmp_path / "other.pt")
    backbone = adapter(version)
    before = backbone(prompts(), speech())
    with pytest.raises(ValueError) as caught:
        backbone.load(tmp_path / "other.pt")
    assert torch.equal(backbone(prompts(), speech()), before)
    return str(caught.value)


def test_a_checkpoint_of_another_model_is_named(tmp_path):
    def small(version, **sizes):
        return standin.tiny(version, **{"codes": CODES, "text_rows": 320, **sizes}).state_dict()

    said = refused(tmp_path, small(3))
    assert "head with 224 rows, no llm_embedding: a CosyVoice 3 checkpoint, the model is CosyVoice 2" in said
    assert "llm_decoder.weight is (224, 32) in the file and (27, 32) in the model" in said
    assert "a CosyVoice 2 checkpoint, the model is CosyVoice 3" in refused(tmp_path, small(2), version=3)
    assert "It knows 30 speech tokens and the model 24" in refused(tmp_path, small(2, codes=30))
    assert "It has 330 text ids and the model 320" in refused(tmp_path, small(2, text_rows=330))
    assert "The model has another size" in refused(tmp_path, small(2, width=16))
    for prefix, cause in (("module.", "DistributedDataParallel"), ("input_embedding.", "flow.pt")):
        assert cause in refused(tmp_path, {prefix + "weight": torch.zeros(2)})
    first = {**small(2), "text_encoder.weight": torch.zeros(2)}
    assert "CosyVoice 1" in refused(tmp_path, first)


# -- what is given -----------------------------------------------------------------------------------------------------


@VERSIONS
def test_a_model_folder_is_built_by_the_checkout_and_nothing_else_is_touched(version, tmp_path):
    folder = standin.model_folder(tmp_path / "model", version, seed=4)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), logging.root.level
    settings = {"instruct": [5, standin.END_OF_PROMPT]} if version == 3 else {}
    with standin.installed(tmp_path / "checkout"):
        backbone = CosyVoice(str(folder), **settings)
    assert states == (
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.get_rng_state().tolist(),
        logging.root.level,
    )
    assert type(backbone.lm).__name__ == {2: "Qwen2LM", 3: "CosyVoice3LM"}[version] and "decode" in backbone.features
    want = CosyVoice(standin.tiny(version, seed=4), **settings)
    assert torch.equal(backbone(prompts(), speech()), want(prompts(), speech()))


def test_a_folder_that_cannot_be_opened(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not there; give the folder"):
        CosyVoice(str(tmp_path / "nowhere"))
    (tmp_path / "cosyvoice.yaml").touch()
    with pytest.raises(FileNotFoundError, match="holds no cosyvoice2.yaml or cosyvoice3.yaml: CosyVoice 1"):
        CosyVoice(tmp_path)
    (tmp_path / "cosyvoice2.yaml").touch()
    with pytest.raises(ImportError, match="No module named 'cosyvoice'.*PYTHONPATH=/path/to/CosyVoice:.*Matcha-TTS"):
        CosyVoice(tmp_path)


def test_objects_that_are_no_cosyvoice_2_or_3():
    with pytest.raises(TypeError, match="Linear is no language model of CosyVoice 2 or 3; give cosyvoice.llm"):
        CosyVoice(torch.nn.Linear(1, 1))
    first = torch.nn.Module()
    first.text_encoder = torch.nn.Identity()
    with pytest.raises(TypeError, match="CosyVoice 1 has another language model"):
        CosyVoice(first)
    served = standin.tiny()
    del served.llm.model.model.layers
    with pytest.raises(ValueError, match="layers of Qwen2LM are gone: load_vllm=True deletes them"):
        CosyVoice(served)


def test_a_model_inside_peft_s_wrapper_is_refused():
    peft = pytest.importorskip("peft")
    wrapped = standin.tiny()
    wrapped.llm.model = peft.get_peft_model(wrapped.llm.model, peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(TypeError, match="rather than by get_peft_model"):
        CosyVoice(wrapped)


def test_prompts_that_cannot_be_read():
    two, three, one = adapter(2), adapter(3, instruct=None), Speech.pack([[1]])
    for backbone, prompt, message in (
        (two, Prompt([1], Style([1])), r"Style.text is None: .*transcript.*plain\(\)"),
        (two, Prompt([1, 320]), "text id 320, and the text embedding has 320 rows: a tokenizer that does not match"),
        (two, Prompt([1, -3]), "text id -3"),
        (two, Prompt([1], Style([1, CODES], [1])), r"hold ids 1..24: speech tokens of CosyVoice are \(Ts,\), in 0..23"),
        (two, Prompt([1], Style(torch.zeros(2, 2, dtype=torch.long), [1])), r"shape \(2, 2\)"),
        (three, Prompt([1]), r"no <\|endofprompt\|> \(id 300\), which CosyVoice 3 asks for.*instruct="),
        (three, Prompt([1, MARK]), "nothing to say after it"),
    ):
        with pytest.raises(ValueError, match=message):
            backbone([prompt], one)
        with pytest.raises(ValueError, match=message):
            backbone.sample([prompt], max_len=2)


def test_what_is_longer_than_the_context():
    backbone = adapter(model=standin.tiny(codes=CODES, context=20))
    prompt = Prompt([1] * 9, Style([2] * 8, [3] * 2))
    with pytest.raises(
        ValueError, match="with 11 text ids and 8 style tokens takes 21 positions, and the model reads 20"
    ):
        backbone.sample([prompt], max_len=2)
    with pytest.raises(ValueError, match="'b': a prompt with 11 text ids"), naming(["a", "b"]):
        backbone.sample([Prompt([1]), prompt], max_len=2)
    fits = Prompt([1] * 8, prompt.style)
    backbone([fits], Speech.pack([[]]))
    with pytest.raises(ValueError, match="prompt and speech take 21 positions, CosyVoice can read 20"):
        backbone([fits], Speech.pack([[5]]))


def test_tokenizer_and_instruction_that_are_not_of_version_3():
    with pytest.raises(ValueError, match=r"cuts <\|endofprompt\|> into 15 ids .*version=\"cosyvoice3\""):
        adapter(3, tokenizer=standin.Tokenizer({}))
    with pytest.raises(ValueError, match=r"instruct ends with id 6: .* it has to end with <\|endofprompt\|> \(300\)"):
        adapter(3, instruct=[MARK, 6])


# -- engines -----------------------------------------------------------------------------------------------------------


def test_an_engine_samples_in_its_place():
    class Engine:
        sampler = "elsewhere"

        def sample(self, *given):
            self.given = given
            return Speech.pack([[1]])

    engine, generator = Engine(), torch.Generator()
    backbone = adapter(engine=engine)
    assert backbone.sample(prompts(), 3, 0.7, 0.8, 9, 2, generator).rows()[0].tolist() == [1]
    assert engine.given[0] is backbone and engine.given[2:] == (3, 0.7, 0.8, 9, 2, generator)
    assert backbone.sampler == "elsewhere" and adapter().sampler == "nucleus"


@VERSIONS
def test_a_plain_qwen2_with_the_served_weights_is_the_same_model(version):
    """vLLM's view: the speech embedding is the vocabulary, `llm_decoder` the head, the prompt arrives as embeddings."""
    from transformers import Qwen2ForCausalLM

    backbone = adapter(version)
    config = copy.deepcopy(backbone.lm.llm.model.config)
    config.vocab_size, config.tie_word_embeddings = backbone.lm.llm_decoder.out_features, False
    served = Qwen2ForCausalLM(config)
    served.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=version == 2)
    served.load_state_dict(dict(backbone.served_weights()), strict=True)
    codes, end = backbone.served_ids()
    assert codes == list(range(CODES)) and end == backbone.eos

    prompt, (row, *_) = prompts()[0], speech().rows()
    said = torch.cat([row, torch.tensor([end])])
    x = torch.cat([backbone.served_prompt(prompt)["prompt_embeds"], served.get_input_embeddings()(row)])
    logp = served(inputs_embeds=x[None]).logits[0, -len(said) :].log_softmax(-1)
    want = backbone([prompt], Speech.pack([row]))[0]
    torch.testing.assert_close(logp[torch.arange(len(said)), said], want, atol=1e-5, rtol=0)
