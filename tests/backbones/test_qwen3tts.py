"""Qwen3-TTS: tiny random instances of the real class where it is installed, and of a stand-in with its attributes."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from seaalign import Prompt, Speech, Style, Unsupported
from seaalign.backbones import qwen3tts_parts as parts
from seaalign.backbones.lora import add_lora
from seaalign.backbones.qwen3tts import Qwen3TTS
from seaalign.testing import check_backbone
from tests.backbones.qwen3tts_standin import (
    BOOKS,
    CODES,
    MARKS,
    RATE,
    ROLE,
    SPECIAL,
    WIDTH,
    Codec,
    Processor,
    made,
    prompts,
)

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.audio  # transformers imports torchaudio

both = pytest.mark.parametrize("which", ["real", "stand-in"])
EOS = SPECIAL["codec_eos_token_id"]


def rows(*sizes):
    g = torch.Generator().manual_seed(11)
    return [torch.randint(CODES, (size, BOOKS), generator=g) for size in sizes]


def adapter(which, width=WIDTH, kind="base", **options):
    return Qwen3TTS(made(which, width, kind), role=ROLE, **options)


def sequence(model, prompt, row, text_first, tags=("codec_nothink_id", "codec_think_bos_id", "codec_think_eos_id")):
    """What the talker reads, position by position: (1, L, D), and how much of it is the prompt."""
    talker, positions = model.talker, []

    def words(i):
        return talker.text_projection(talker.model.text_embedding.weight[i])

    def code(name):
        return talker.model.codec_embedding.weight[name if isinstance(name, int) else SPECIAL[name]]

    def frame(codes):
        tables = [talker.model.codec_embedding, *talker.code_predictor.model.codec_embedding]
        return sum(table.weight[int(i)] for table, i in zip(tables, codes, strict=True))

    pad, bos, end = (words(MARKS[f"tts_{name}_token_id"]) for name in ("pad", "bos", "eos"))
    positions += [words(i) for i in ROLE]
    lead = [*map(code, tags), prompt.timbre, code("codec_pad_id")]
    positions += [pad + x for x in lead[:-1]] + [bos + lead[-1]]
    said = [] if prompt.style is None else prompt.style.text.tolist()
    text = [words(i) for i in [*said, *prompt.text.tolist()]] + [end]
    frames = [code("codec_bos_id")] + [frame(f) for f in (prompt.style.tokens if prompt.style else [])]
    before = len(frames)
    frames += [frame(f) for f in row]
    if text_first:
        positions += [x + code("codec_pad_id") for x in text]
        text = []
    spoken = [x + (text[t] if t < len(text) else pad) for t, x in enumerate(frames)]
    return torch.stack(positions + spoken)[None], len(positions) + before


def first_book(model, prompt, row, text_first):
    """Talker features (T+1, D), and log-probs (T+1, V+1) of codes and end."""
    x, length = sequence(model, prompt, row, text_first)
    hidden = model.talker.model(inputs_embeds=x, use_cache=False).last_hidden_state[0, length - 1 :]
    scores = model.talker.codec_head(hidden)
    return hidden, torch.cat([scores[:, :CODES], scores[:, EOS, None]], -1).log_softmax(-1)


def other_books(model, feature, frame):
    """Log-probs (K-1, V) of books 1.. of one frame, each read anew."""
    talker, predictor, found = model.talker, model.talker.code_predictor, []
    x = [feature, talker.model.codec_embedding.weight[frame[0]]]
    for book, head in enumerate(predictor.lm_head):
        read = predictor.small_to_mtp_projection(torch.stack(x)[None])
        found.append(
            head(predictor.model(inputs_embeds=read, use_cache=False).last_hidden_state[0, -1]).log_softmax(-1)
        )
        if book + 1 < len(frame):
            x.append(predictor.model.codec_embedding[book].weight[frame[book + 1]])
    return torch.stack(found)


def by_hand(model, prompt, row, text_first, books="all"):
    features, logp = first_book(model, prompt, row, text_first)
    terms = [logp[t, row[t, 0]] for t in range(len(row))] + [logp[-1, CODES]]
    if books == "all":
        rest = [other_books(model, features[t], row[t]).gather(-1, row[t, 1:, None]).sum() for t in range(len(row))]
        terms = [a + b for a, b in zip(terms, [*rest, torch.zeros(())], strict=True)]
    return torch.stack(terms)


@both
@pytest.mark.parametrize("how", ["along", "first", "bf16", "lora", "checkpointing", "lora and checkpointing", "narrow"])
def test_the_contract_holds(which, how):
    options = {"gradient_checkpointing": "checkpointing" in how, "text_first": how == "first"}
    if "lora" in how:
        pytest.importorskip("peft", reason="peft is not installed")
        options["lora"] = {"r": 4}
    torch.manual_seed(0)  # the layers' weights would depend on which tests ran before
    backbone = adapter(which, 16 if how == "narrow" else WIDTH, **options)
    for name, value in backbone.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(value, std=0.1)  # zero at first: the layers would add nothing
    backbone = backbone.bfloat16() if how == "bf16" else backbone
    report = check_backbone(backbone, prompts(), Speech.pack(rows(12, 8, 5)), draws=700)
    left_out = {rule for rule, outcome in report if outcome != "passed"}
    assert left_out == {"one-token answers sum to 1", "sample: frequencies follow the model"}  # one book only


@both
@pytest.mark.parametrize("text_first", [False, True])
@pytest.mark.parametrize("books", ["all", "first"])
def test_scores_and_gradients_are_those_of_the_plain_modules(which, text_first, books):
    backbone = adapter(which, text_first=text_first, score_books=books)
    learned = [p for p in backbone.parameters() if p.requires_grad]
    for prompt, row in zip(prompts(), rows(9, 6, 4), strict=True):
        want = by_hand(backbone.model, prompt, row, text_first, books)
        got = backbone([prompt], Speech.pack([row]))[0]
        torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
        grads = [torch.autograd.grad(score.sum(), learned, allow_unused=True) for score in (got, want)]
        for one, other in zip(*grads, strict=True):
            one, other = (torch.zeros(()) if g is None else g for g in (one, other))
            assert (one - other).norm() <= 1e-5 * other.norm().clamp_min(1e-2)


@both
@pytest.mark.parametrize("text_first", [False, True])
def test_greedy_is_the_loop_without_a_cache(which, text_first):
    backbone = adapter(which, text_first=text_first)
    drawn = backbone.sample(prompts(), temperature=0.0, max_len=9).rows()
    assert len({tuple(frame) for row in drawn for frame in row.tolist()}) > 1
    for prompt, got in zip(prompts(), drawn, strict=True):
        row = torch.zeros(0, BOOKS, dtype=torch.long)
        with torch.no_grad():
            for _ in range(9):
                features, logp = first_book(backbone.model, prompt, row, text_first)
                frame = [int(logp[-1].argmax())]
                if frame[0] == CODES:
                    break
                for book in range(BOOKS - 1):
                    frame.append(int(other_books(backbone.model, features[-1], torch.tensor(frame))[book].argmax()))
                row = torch.cat([row, torch.tensor([frame])])
        assert got.tolist() == row.tolist()


def asked(prompt, style):
    """A prompt as upstream's `generate` takes it."""
    said = [torch.tensor([[*ROLE, *prompt.text, 4, 3, *ROLE]])]
    voice = {"ref_spk_embedding": [prompt.timbre], "x_vector_only_mode": [not style], "icl_mode": [style]}
    if not style:
        return {"input_ids": said, "voice_clone_prompt": {**voice, "ref_code": [None]}}
    reference = [torch.tensor([[*ROLE, *prompt.style.text, 4, 3]])]
    return {
        "input_ids": said,
        "ref_ids": reference,
        "voice_clone_prompt": {**voice, "ref_code": [prompt.style.tokens]},
    }


@pytest.mark.parametrize("style", [True, False])
@pytest.mark.parametrize("text_first", [False, True])
@pytest.mark.parametrize("language", ["auto", "english"])
def test_greedy_is_upstream_s_generate(style, text_first, language):
    backbone = adapter("real", text_first=text_first, language=language)
    greedy = {"do_sample": False, "subtalker_dosample": False, "repetition_penalty": 1.0, "max_new_tokens": 9}
    for prompt in prompts()[:2]:
        prompt = prompt if style else prompt.plain()
        got = backbone.sample([prompt], temperature=0.0, max_len=8, min_len=2).rows()[0]
        codes, _ = backbone.model.generate(
            **asked(prompt, style), languages=[language], non_streaming_mode=text_first, **greedy
        )
        assert got.tolist() == codes[0][:8].tolist()


def test_scores_are_those_of_upstream_s_own_parts():
    """The talker's forward reads the whole sequence at once; its fine-tuning head scores the other books."""
    backbone, (prompt, *_), (row,) = adapter("real"), prompts(), rows(9)
    talker = backbone.model.talker
    x, length = sequence(backbone.model, prompt, row, False)
    out = talker(inputs_embeds=x, output_hidden_states=True)
    features = out.hidden_states[0][-1][0, length - 1 :]
    allowed = [*range(CODES), EOS]
    first = out.logits[0, length - 1 :, allowed].log_softmax(-1)
    logits, _ = talker.forward_sub_talker_finetune(row, features[:-1])
    rest = logits.log_softmax(-1).gather(-1, row[:, 1:, None]).sum((-1, -2))
    want = first.gather(-1, torch.cat([row[:, 0], torch.tensor([CODES])])[:, None])[:, 0] + nn.functional.pad(
        rest, (0, 1)
    )
    torch.testing.assert_close(backbone([prompt], Speech.pack([row]))[0], want, atol=1e-5, rtol=0)


@both
def test_a_language_and_a_named_speaker_are_tags(which):
    prompt, (row,) = prompts()[2], rows(5)
    tags = ("codec_think_id", "codec_think_bos_id", 33, "codec_think_eos_id")
    backbone = adapter(which, language="English", text_first=True)
    x, length = sequence(backbone.model, prompt, row, True, tags)
    torch.testing.assert_close(backbone.embed_prompt(prompt), x[0, :length])
    named = adapter(which, kind="custom_voice", speaker="tara")
    assert named.features == frozenset() and named.reader.text_first
    voice = named.model.talker.model.codec_embedding.weight[34].detach()
    other = Prompt(prompt.text, timbre=voice)
    torch.testing.assert_close(named.embed_prompt(Prompt(prompt.text)), named.embed_prompt(other))


@both
def test_style_off_keeps_the_voice(which):
    backbone, (prompt, *_) = adapter(which), prompts()
    assert backbone.features == {"style", "timbre"}
    on, off = backbone.embed_prompt(prompt), backbone.embed_prompt(prompt.plain())
    assert len(on) - len(off) == len(prompt.style.tokens)
    torch.testing.assert_close(on[: len(off) - 1], off[:-1])
    other = Prompt(prompt.text, prompt.style, -prompt.timbre)
    speech = Speech.pack(rows(5))
    with torch.no_grad():
        assert float((backbone([prompt], speech) - backbone([other], speech)).abs().max()) > 1e-3


@both
def test_what_is_saved_is_loaded(which, tmp_path):
    pytest.importorskip("peft", reason="peft is not installed")
    from safetensors.torch import load_file, save_file

    speech, backbone = Speech.pack(rows(9, 6, 4)), adapter(which, lora={"r": 4})
    for name, value in backbone.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(value, std=0.1)
    want = backbone(prompts(), speech)
    backbone.save(tmp_path / "whole")
    again = adapter(which, checkpoint=tmp_path / "whole")
    torch.testing.assert_close(again(prompts(), speech), want, atol=1e-5, rtol=1e-5)
    if which == "real":
        fresh = type(backbone.model)(type(backbone.model.config).from_pretrained(tmp_path / "whole"))
        fresh.load_state_dict(load_file(tmp_path / "whole" / "model.safetensors"))
        torch.testing.assert_close(Qwen3TTS(fresh, role=ROLE)(prompts(), speech), want, atol=1e-5, rtol=1e-5)
    backbone.save(tmp_path / "lora", adapters_only=True)
    apart = add_lora(adapter(which), r=4)
    apart.load(tmp_path / "lora")
    torch.testing.assert_close(apart(prompts(), speech), want, atol=1e-5, rtol=1e-5)
    state = load_file(tmp_path / "whole" / "model.safetensors")
    save_file({k: v for k, v in state.items() if not k.startswith("speaker_encoder")}, tmp_path / "sft.safetensors")
    again = adapter(which, checkpoint=tmp_path / "sft.safetensors")  # upstream's fine-tuning leaves the encoder out
    torch.testing.assert_close(again(prompts(), speech), want, atol=1e-5, rtol=1e-5)


def test_a_saved_folder_is_read_by_upstream_s_loader(tmp_path):
    """With a small random codec of the real class, its feature extractor, and a tokenizer of letters."""
    model = made("real")
    upstream, whole = pytest.importorskip("qwen_tts"), real_codec_and_processor(model)
    backbone, speech = Qwen3TTS(whole, role=ROLE), Speech.pack(rows(9, 6, 4))
    wave = torch.rand(24_000, generator=torch.Generator().manual_seed(0)) - 0.5
    heard = backbone.encode([wave, wave[:9000]], RATE)
    assert heard.tokens.shape == (2, 13, BOOKS) and heard.lengths.tolist() == [13, 5]
    assert [len(spoken) for spoken in backbone.decode(heard, [None, None])] == [13 * 1920, 5 * 1920]
    assert backbone.timbre(wave, RATE).shape == (WIDTH,)
    backbone.save(tmp_path / "model")
    opened = upstream.Qwen3TTSModel.from_pretrained(str(tmp_path / "model"), dtype=torch.float32)
    assert opened.generate_defaults == {"top_k": 50} and opened.model.speech_tokenizer is not None
    text, begin = "Sawasdee", whole.processor(text="<|im_start|>assistant\n", return_tensors="pt")["input_ids"][0]
    spelled = parts.text_ids(opened.processor, text, begin.tolist())
    assert opened.processor.decode(spelled) == text
    again = Qwen3TTS(opened, role=ROLE)
    torch.testing.assert_close(again(prompts(), speech), backbone(prompts(), speech))


def real_codec_and_processor(model):
    import tokenizers as tk

    upstream, core = pytest.importorskip("qwen_tts"), pytest.importorskip("qwen_tts.core")
    small = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 8,
    }
    small |= {"num_key_value_heads": 2, "codebook_size": CODES, "codebook_dim": 8, "num_quantizers": BOOKS}
    ears = {"num_filters": 2, "num_semantic_quantizers": 1, "vector_quantization_hidden_dimension": 8}
    config = core.Qwen3TTSTokenizerV2Config(
        {**small, **ears, "upsample_groups": 16}, {**small, "latent_dim": 16, "decoder_dim": 32}, BOOKS
    )
    codec = upstream.Qwen3TTSTokenizer()
    codec.model, codec.config, codec.device = core.Qwen3TTSTokenizerV2Model(config).eval(), config, torch.device("cpu")
    codec.feature_extractor = transformers.EncodecFeatureExtractor(sampling_rate=RATE)
    model.speech_tokenizer, model.generate_config = codec, {"top_k": 50}
    letters = sorted(tk.pre_tokenizers.ByteLevel.alphabet())
    spelling = tk.Tokenizer(tk.models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    spelling.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=False)
    spelling.decoder = tk.decoders.ByteLevel()
    tokenizer = transformers.Qwen2TokenizerFast(tokenizer_object=spelling)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    processor = pytest.importorskip("qwen_tts.core.models").Qwen3TTSProcessor(tokenizer)
    return upstream.Qwen3TTSModel(model, processor)


VOICE = torch.zeros(WIDTH)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (Prompt([9]), r"needs the speaker's x-vector: Prompt.timbre is a tensor \(32,\), got None"),
        (Prompt([9], None, torch.zeros(5)), r"got shape \(5,\)"),
        (Prompt([9], None, {"speaker": VOICE}), "got a dict"),
        (Prompt([9, 50], None, VOICE), "text id 50, and the model has 0..49"),
        (Prompt([9], Style(rows(3)[0]), VOICE), "Style.text is None"),
        (Prompt([9], Style([1, 2], [9]), VOICE), r"are \(frames, 3\), one column per codebook, got shape \(2,\)"),
        (Prompt([9], Style([[1, 2, CODES]], [9]), VOICE), "style's frame 0, codebook 2 holds id 4: .* 0..3,"),
    ],
)
def test_prompts_that_cannot_be_read_are_refused(prompt, message):
    with pytest.raises(ValueError, match=message):
        adapter("stand-in")([prompt], Speech.pack(rows(3)))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([[1, 2, 3], [CODES, 0, 0]], "row 0, frame 1, codebook 0 holds id 4"),
        ([[1, 2, -1]], "row 0, frame 0, codebook 2 holds id -1"),
        ([[1, 2]], r"got shape \(1, 2\)"),
    ],
)
def test_speech_that_is_none_is_refused(row, message):
    with pytest.raises(ValueError, match=message):
        adapter("stand-in")(prompts()[2:], Speech.pack([row]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"language": "thai"}, "no language 'thai'; it has english"),
        ({"speaker": "vivian"}, "no speaker 'vivian'; it has tara"),
        ({"score_books": "some"}, "'all' or 'first', got 'some'"),
        ({"role": (151644, 77091, 198)}, "text ids 0..49, and 151644"),
    ],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Qwen3TTS(made("stand-in"), **{"role": ROLE, **options})


def test_strangers_are_refused():
    with pytest.raises(TypeError, match="got Linear"):
        Qwen3TTS(nn.Linear(2, 2))


def test_codec_processor_and_speaker_encoder_are_called_as_upstream_does():
    model = made("stand-in")
    model.speech_tokenizer = Codec()
    backbone = Qwen3TTS(SimpleNamespace(model=model, processor=Processor()), role=ROLE)
    assert backbone.features == {"style", "timbre", "decode", "encode"} and backbone.sample_rate == RATE
    wave = torch.rand(16_000) - 0.5
    speech = backbone.encode([wave, wave[:6400]], 16_000)
    assert speech.lengths.tolist() == [12, 5] and speech.tokens.shape[2] == BOOKS
    assert [len(w) for w in backbone.decode(speech, [None, None])] == [12 * 1920, 5 * 1920]
    assert len(backbone.decode(Speech.pack(rows(0)), [None])[0]) == 0
    voice = backbone.timbre(wave, RATE)
    torch.testing.assert_close(voice, model.speaker_encoder(wave[:3]).detach())
    assert backbone.tokenize("abc") == [10, 11, 12]
    backbone(
        [Prompt(backbone.tokenize("abc"), Style(speech.rows()[1], [9]), voice)], speech.select([0])
    ).sum().backward()
    assert model.speaker_encoder.weight.grad is None
    with pytest.raises(ValueError, match=r"begins a text with \[1, 2, 3\]"):
        Qwen3TTS(SimpleNamespace(model=model, processor=Processor()), role=(1, 3, 2)).tokenize("a")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b: b.decode(Speech.pack(rows(2)), [None]), r"decode\(\) needs the codec"),
        (lambda b: b.encode([torch.zeros(9)], 16_000), r"encode\(\) needs the codec"),
        (lambda b: b.tokenize("a"), r"tokenize\(\) needs the processor"),
        (lambda b: b.timbre(torch.zeros(9), 16_000), "'custom_voice' model has no speaker encoder"),
    ],
)
def test_what_is_missing_is_said(call, message):
    with pytest.raises(Unsupported, match=message):
        call(adapter("stand-in", kind="custom_voice", speaker="tara"))


def test_models_are_opened_by_upstream_s_loader(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "qwen_tts", None)
    with pytest.raises(ImportError, match=r"pip install qwen-tts==0.1.1, which needs transformers 4.57.3"):
        Qwen3TTS(str(tmp_path))
    opened, fake = [], ModuleType("qwen_tts")

    def from_pretrained(name, dtype):
        opened.append((name, dtype))
        return SimpleNamespace(model=made("stand-in"), processor=None)

    fake.Qwen3TTSModel = SimpleNamespace(from_pretrained=from_pretrained)
    monkeypatch.setitem(sys.modules, "qwen_tts", fake)
    Qwen3TTS(str(tmp_path), role=ROLE)
    Qwen3TTS(tmp_path, role=ROLE, dtype="bfloat16")
    assert opened == [(str(tmp_path), torch.float32), (str(tmp_path), torch.bfloat16)]


def test_checkpointing_is_really_on():
    backbone = adapter("stand-in", gradient_checkpointing=True)
    assert backbone.model.talker.model.net.training and backbone.model.talker.model.net.layers[0].gradient_checkpointing
    assert not adapter("stand-in").training  # as it came
