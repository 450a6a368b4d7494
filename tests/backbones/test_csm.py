"""CSM on the real transformers classes, small and random: scores, draws, the end frame, the codec, files."""

import itertools
import json
import math

import pytest
import torch

from seaalign import TDSC, Pair, Prompt, Speech, Style
from seaalign.backbones import Unsupported, add_lora
from seaalign.backbones.csm import CSM
from seaalign.backbones.lora import adapters_off, has_adapters
from seaalign.data import PairBatch
from seaalign.sampling.dual import require_separation
from seaalign.testing import check_backbone
from tests.backbones.user_models import built, tokens

transformers = pytest.importorskip("transformers", minversion="4.52")
pytestmark = pytest.mark.audio  # not for sound: transformers itself imports torchaudio where it finds it installed

K, CODES, TEXT, AUDIO, AUDIO_END, FRAME = 3, 8, 36, 38, 39, 1920  # FRAME: samples of a frame, at 24 kHz and 12.5 Hz


def tiny(spare: int = 0, codes: int = CODES, **settings):
    """`spare` more ids in the heads than Mimi has codes, as in the real one, which has 3."""
    sizes = {"vocab_size": codes + spare, "num_codebooks": K, "initializer_range": 0.2, "head_dim": 8}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
    depth = {**sizes, **layers, "hidden_size": 24, "backbone_hidden_size": 32, "max_position_embeddings": K + 1}
    codec = {
        **{"model_type": "mimi", "hidden_size": 16, "num_filters": 2, "codebook_size": codes, "codebook_dim": 8},
        **{"num_quantizers": K, "vector_quantization_hidden_dimension": 8, "upsample_groups": 16, "sliding_window": 10},
        **{"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 16},
    }
    ids = {"audio_token_id": AUDIO, "audio_eos_token_id": AUDIO_END, "pad_token_id": AUDIO, "bos_token_id": TEXT}
    config = transformers.CsmConfig(
        **{**sizes, **layers, **ids, "hidden_size": 32, "text_vocab_size": 40, "max_position_embeddings": 96},
        **{
            "codebook_pad_token_id": codes + spare - 1,
            "depth_decoder_config": depth,
            "codec_config": codec,
            **settings,
        },
    )
    model = transformers.CsmForConditionalGeneration(config)
    for name, buffer in model.codec_model.named_buffers():
        if name.endswith("embed_sum"):  # zeros in a new one, so that every sound has the same codes
            buffer.normal_()
    return model


def csm(spare: int = 0, seed: int = 0, codes: int = CODES, **options) -> CSM:
    return CSM(built(lambda: tiny(spare, codes), seed), **options)


def prompts(codes: int = CODES) -> list[Prompt]:
    ids, (style,) = tokens(7, 3, 5, high=TEXT), tokens(4, high=codes, books=K, seed=1)
    return [Prompt(ids[0], Style(style, ids[2])), *map(Prompt, ids[1:])]


def rows(*sizes: int, codes: int = CODES) -> list[torch.Tensor]:
    drawn = tokens(*sizes, high=codes, books=K, seed=3)
    for row in drawn:
        row[(row == 0).all(-1), 0] = 1  # else it would be the end
    return drawn


def stirred(backbone: CSM) -> CSM:
    """LoRA layers start with B = 0: give them something to say."""
    with torch.no_grad():
        for name, value in backbone.named_parameters():
            if "lora_B" in name:
                value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(len(name))) * 0.05)
    return backbone


@pytest.mark.parametrize(
    "dtype, lora, checkpointing",
    [
        (torch.float32, None, False),
        (torch.float32, None, True),
        (torch.float32, {"r": 4}, False),
        (torch.float32, {"r": 4}, True),
        (torch.bfloat16, None, False),
        (torch.bfloat16, {"r": 4}, True),
    ],
)
def test_the_contract_holds(dtype, lora, checkpointing):
    codes = 4  # 64 frames, so that 1500 draws meet nearly all of them
    backbone = stirred(csm(codes=codes, lora=lora, gradient_checkpointing=checkpointing)).to(dtype)
    report = check_backbone(backbone, prompts(codes), Speech.pack(rows(9, 6, 4, codes=codes)))
    skipped = {name for name, outcome in report if outcome != "passed"}
    assert skipped == {"one-token answers sum to 1", "sample: frequencies follow the model"}  # too many frames to list


def script(model, prompt: Prompt, row: torch.Tensor) -> torch.Tensor:
    """(T+1,) from nothing but what the model returns."""
    zeros = torch.zeros(1, K, dtype=torch.long)
    parts = [model.embed_text_tokens(prompt.text)]
    if prompt.style:
        frames = torch.cat([prompt.style.tokens, zeros])
        parts = [model.embed_text_tokens(prompt.style.text), model.backbone_model.embed_tokens(frames[None])[0], *parts]
    x = torch.cat([*parts, model.backbone_model.embed_tokens(row[None])[0]])[None]
    output = model(inputs_embeds=x, output_hidden_states=True)
    start, scores = x.shape[1] - len(row) - 1, []
    for t, frame in enumerate(torch.cat([row, zeros])):
        score = output.logits[0, start + t].log_softmax(-1)[frame[0]]
        ids, state = torch.cat([zeros[0, :1], frame[:-1]])[None], output.hidden_states[-1][:, start + t]
        depth = model.depth_decoder(input_ids=ids, backbone_last_hidden_state=state).logits[0].log_softmax(-1)
        scores.append(score + sum(depth[k, frame[k + 1]] for k in range(K - 1)))
    return torch.stack(scores)


@pytest.mark.parametrize("spare", [0, 3])
def test_scores_are_those_of_a_script(spare):
    backbone = csm(spare)
    answers = rows(6, 0, 2)  # 6 + 1, 1 and 2 + 1 columns: the last as many as there are books
    got = backbone(prompts(), Speech.pack([row.view(-1, K) for row in answers]))
    for prompt, row, scores in zip(prompts(), answers, got, strict=True):
        torch.testing.assert_close(scores[: len(row) + 1], script(backbone.model, prompt, row), atol=1e-5, rtol=1e-5)
        alone = backbone([prompt], Speech.pack([row]))
        torch.testing.assert_close(alone[0], scores[: len(row) + 1], atol=1e-5, rtol=1e-5)


def own_loss(model, context: list[int], target: list[int], waves: list[torch.Tensor]):
    """The model's own path: text with places for audio, waveforms, labels. It trains on ALL audio that it is shown."""
    ends = torch.tensor([[len(wave) for wave in waves]]).cumsum(-1)
    ids, labels = torch.tensor([context + target]), torch.tensor([[-100] * len(context) + target])
    return model(input_ids=ids, input_values=torch.cat(waves)[None, None], input_values_cutoffs=ends, labels=labels)


@pytest.mark.skipif(
    transformers.__version__.startswith("4.52"), reason="the loss of transformers 4.52 does not know the end frame"
)
def test_loss_and_gradient_are_the_model_s_own():
    """Its two means are over n frames and over n (K-1) ids, n counting the context too, and both end frames."""
    backbone = csm()
    waves = [torch.randn(n * FRAME, generator=torch.Generator().manual_seed(n)) for n in (3, 5)]
    speech = backbone.encode(waves, 24000)
    style, target = speech.rows()
    first, second = prompts()[2].text, prompts()[1].text
    context = [*first.tolist(), *[AUDIO] * len(style), AUDIO_END, *second.tolist()]
    output = own_loss(backbone.model, context, [*[AUDIO] * len(target), AUDIO_END], waves)
    want = (output.backbone_loss + output.depth_decoder_loss * (K - 1)) * (len(style) + 1 + len(target) + 1)
    got = -backbone([Prompt(first), Prompt(second, Style(style, first))], speech).sum()
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)

    learns = {name: p for name, p in backbone.model.named_parameters() if not name.startswith("codec")}
    want_grads, got_grads = (torch.autograd.grad(loss, learns.values()) for loss in (want, got))
    for name, a, b in zip(learns, got_grads, want_grads, strict=True):
        assert float((a - b).norm()) <= 1e-5 * float(b.norm()), name


def test_chunks_and_checkpointing_leave_the_gradient_alone():
    gradients = []
    for chunk, options in ((100, {}), (2, {"gradient_checkpointing": True})):
        backbone = csm(**options).train()
        backbone.chunk = chunk
        backbone(prompts(), Speech.pack(rows(6, 4, 5))).sum().backward()
        gradients.append({n: p.grad for n, p in backbone.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, want in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], want, atol=1e-5, rtol=1e-4)


def leaning(seed: int) -> CSM:
    """Id 0 is more likely in every book, so that some greedy answers end."""
    backbone = csm(seed=seed).eval()
    with torch.no_grad():
        backbone.model.lm_head.weight[0] *= 3
        backbone.model.depth_decoder.codebooks_head.weight[:, :, 0] *= 3
    return backbone


def as_generated(speech: Speech, row: int) -> list[list[int]]:
    """With the end frame, as `generate` returns it; which stops at zeros in all books but the last."""
    frames = speech.rows()[row].tolist() + [[0] * K] * bool(speech.ended[row])
    stop = next((t for t, frame in enumerate(frames) if not any(frame[:-1])), len(frames))
    return frames[: stop + 1]


GREEDY = {"do_sample": False, "depth_decoder_do_sample": False, "max_new_tokens": 12}


def test_greedy_is_generate():
    ended = []
    for seed in range(5):
        backbone = leaning(seed)
        drawn = backbone.sample(prompts()[1:], temperature=0.0, max_len=12)
        for row, prompt in enumerate(prompts()[1:]):
            want = backbone.model.generate(prompt.text[None], **GREEDY)[0]
            assert as_generated(drawn, row) == want.tolist()
            ended.append(want[-1].tolist() == [0] * K)
    assert any(ended) and not all(ended)


def test_greedy_with_a_style_is_generate_with_context():
    backbone = csm().eval()
    wave = torch.randn(3 * FRAME, generator=torch.Generator().manual_seed(3))
    (style,) = backbone.encode([wave], 24000).rows()
    prompt = Prompt(prompts()[1].text, Style(style, prompts()[2].text))
    ids = torch.tensor([[*prompt.style.text, *[AUDIO] * len(style), AUDIO_END, *prompt.text]])
    audio = {"input_values": wave[None, None], "input_values_cutoffs": torch.tensor([[len(wave)]])}
    # without a mask the audio would be taken for padding, whose id it shares
    want = backbone.model.generate(ids, attention_mask=torch.ones_like(ids), **audio, **GREEDY)[0]
    drawn = backbone.sample([prompt], temperature=0.0, max_len=12)
    assert as_generated(drawn, 0) == want.tolist() and len(want) > 1


def test_the_end_is_the_frame_of_zeros_and_has_all_its_terms():
    """Heads of zeros make every id as likely as every other: a frame, and the end, has log-prob -K log V."""
    backbone = csm(spare=3)
    with torch.no_grad():
        backbone.model.lm_head.weight.zero_()
        backbone.model.depth_decoder.codebooks_head.weight.zero_()
    row = torch.tensor([[0, 4, 2], [0, 0, 7], [5, 0, 0]])  # book 0 holds the end's id and yet this is speech
    scores = backbone(prompts()[1:2], Speech.pack([row]))
    torch.testing.assert_close(scores, torch.full((1, 4), -K * math.log(CODES + 3)))
    cut = backbone(prompts()[1:2], Speech.pack([row], ended=[False]))
    assert cut[0, 3] == 0 and torch.equal(cut[0, :3], scores[0, :3])


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    """All frames but the one of zeros, (V^K - 1, 1, K)."""
    return torch.tensor(list(itertools.product(range(CODES), repeat=K))[1:])[:, None]


def first_frames(backbone: CSM, frames: torch.Tensor) -> torch.Tensor:
    """Probabilities of every first frame (V^K,), the end first."""
    ones, zeros = torch.ones(len(frames)), torch.zeros(len(frames))
    with torch.no_grad():
        spoken = backbone(prompts()[1:2], Speech(frames, ones, zeros, zeros))[:, 0]
        end = backbone(prompts()[1:2], Speech(frames[:1], [0]))[0, :1]
    return torch.cat([end, spoken]).double().exp()


def test_all_first_frames_and_the_end_sum_to_one(frames):
    assert float(first_frames(csm(), frames).sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("spare, least", [(0, 0), (3, 0), (0, 1)])
def test_draws_follow_the_scores(frames, spare, least):
    """Ids past the codes are left out book by book; before min_len so are frames that begin with id 0."""
    from scipy import stats

    backbone, draws = csm(spare), 3000
    share = first_frames(backbone, frames)
    if spare:  # the same without the head's spare rows, so that they are in no softmax
        model = backbone.model
        head, books = model.lm_head.weight, model.depth_decoder.codebooks_head.weight
        kept = head[:CODES].clone(), books[..., :CODES].clone()
        with torch.no_grad():
            model.lm_head.weight = torch.nn.Parameter(kept[0])
            model.depth_decoder.codebooks_head.weight = torch.nn.Parameter(kept[1])
        alone = first_frames(backbone, frames)
        assert float(share.sum()) < 0.8 and float(alone.sum()) == pytest.approx(1, abs=1e-5)
        backbone, share = csm(spare), alone
    if least:
        share[: CODES ** (K - 1)] = 0
        share /= share.sum()
    drawn = backbone.sample(
        prompts()[1:2], n=draws, max_len=1, min_len=least, generator=torch.Generator().manual_seed(5)
    )
    place = torch.tensor([CODES**2, CODES, 1])
    ids = (torch.stack([row.view(-1, K).sum(0) for row in drawn.rows()]) * place).sum(-1)  # the end is the frame 0
    assert int(ids.max()) < CODES**K and torch.equal(ids == 0, drawn.ended)
    counts, expected = torch.bincount(ids, minlength=len(share)).double(), share * draws
    big = expected >= 5
    assert counts[share == 0].sum() == 0
    pooled = [torch.cat([v[big], v[~big].sum()[None]]) for v in (counts, expected)]
    assert stats.chisquare(pooled[0].numpy(), pooled[1].numpy() / pooled[1].sum() * draws).pvalue > 1e-3


def test_the_first_book_alone():
    """Its terms are those of the head; the depth decoder reads and draws, and learns nothing."""
    backbone = csm(score_books="first")
    speech = Speech.pack(rows(5), prompt=[0])
    scores = backbone(prompts()[1:2], speech)
    whole = csm()
    features = whole.hidden(prompts()[1:2], speech)[0]
    ids = torch.cat([speech.tokens[0, :, 0], torch.tensor([0])])
    torch.testing.assert_close(scores[0], whole.model.lm_head(features).log_softmax(-1)[torch.arange(6), ids])
    scores.sum().backward()
    assert backbone.model.depth_decoder.codebooks_head.weight.grad is None
    assert backbone.layout != whole.layout  # stored log-probs of the one are none of the other
    assert backbone.sample(prompts(), max_len=3).tokens.shape == (3, 3, K)


def test_decode_is_what_generate_plays():
    backbone = csm(seed=2).eval()
    speech = backbone.sample(prompts()[1:2], temperature=0.0, max_len=5)
    (want,) = backbone.model.generate(prompts()[1].text[None], **{**GREEDY, "max_new_tokens": 5}, output_audio=True)
    (got,) = backbone.decode(speech, [None])
    assert got.shape == (5 * FRAME,) and float(got.std()) > 0 and backbone.sample_rate == 24000
    torch.testing.assert_close(got, want)
    silent, spoken = backbone.decode(Speech(speech.tokens.repeat(2, 1, 1), [0, 5]), [None, None])
    assert silent.shape == (0,) and torch.equal(spoken, got)


def test_encode_makes_a_frame_of_80_ms():
    backbone = csm()
    waves = [torch.randn(n * FRAME, generator=torch.Generator().manual_seed(n)) for n in (4, 2)]
    speech = backbone.encode(waves, 24000)
    assert speech.lengths.tolist() == [4, 2] and speech.tokens.shape == (2, 4, K)
    want = backbone.model.codec_model.encode(waves[1][None, None]).audio_codes[0].T
    assert torch.equal(speech.rows()[1], want) and len(speech.tokens.unique()) > 2
    assert backbone.encode([waves[0][::2]], 12000).lengths.tolist() == [4]  # resampled
    with pytest.raises(ValueError, match="waveform 1 holds 0 samples"):
        backbone.encode([waves[0], waves[0][:0]], 24000)


def test_tokenize_writes_a_segment_as_the_chat_template_does(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<unk>": 0, "<b>": 1, "<e>": 2, "[": 3, "]": 4, "0": 5, "1": 6, "hello": 7}
    raw = Tokenizer(models.WordLevel(words, "<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<b>", eos_token="<e>")
    backbone = csm(tokenizer=fast)
    template = "{% for m in messages %}{{ '<b>[' + m.role + ']' + m.content + '<e>' }}{% endfor %}"
    want = fast.apply_chat_template(
        [{"role": "1", "content": "hello"}], chat_template=template, tokenize=True, return_dict=True
    )
    assert backbone.tokenize("hello", speaker=1) == list(want["input_ids"]) == [1, 3, 6, 4, 7, 2]
    assert backbone.tokenize("hello") == [1, 3, 5, 4, 7, 2]
    backbone.save(tmp_path / "model")
    again = CSM(str(tmp_path / "model"), tokenizer=str(tmp_path / "model"))
    assert again.tokenize("hello") == backbone.tokenize("hello")
    with pytest.raises(Unsupported, match="no tokenizer"):
        csm().tokenize("hello")


def test_lora_spares_the_codec_and_its_absence_is_the_reference():
    backbone, speech = csm(), Speech.pack(rows(5, 3, 4))
    before = backbone(prompts(), speech)
    add_lora(backbone, r=4)
    assert not has_adapters(backbone.model.codec_model)
    assert has_adapters(backbone.model.depth_decoder) and has_adapters(backbone.model.backbone_model)
    assert not torch.allclose(stirred(backbone)(prompts(), speech), before, atol=1e-3)
    with adapters_off(backbone):
        assert torch.equal(backbone(prompts(), speech), before)


@pytest.mark.parametrize("lora", [None, {"r": 4}], ids=["full", "lora"])
def test_what_is_saved_is_what_transformers_loads(tmp_path, lora):
    backbone, speech = stirred(csm(spare=3, seed=4, lora=lora)), Speech.pack(rows(5, 3, 4))
    want = backbone(prompts(), speech)
    backbone.save(tmp_path / "model")
    plain = transformers.CsmForConditionalGeneration.from_pretrained(tmp_path / "model")
    wave = torch.randn(2 * FRAME)
    for again in (CSM(plain), CSM(str(tmp_path / "model")), csm(spare=3, seed=5)):
        again.load(tmp_path / "model")
        torch.testing.assert_close(again(prompts(), speech), want, atol=1e-5, rtol=1e-5)
    assert torch.equal(CSM(plain).encode([wave], 24000).tokens, backbone.encode([wave], 24000).tokens)
    torch.save({"state_dict": plain.state_dict(), "epoch": 3}, tmp_path / "last.ckpt")
    again = csm(spare=3, seed=5)
    again.load(tmp_path / "last.ckpt")
    torch.testing.assert_close(again(prompts(), speech), want, atol=1e-5, rtol=1e-5)


def test_lora_alone_travels(tmp_path):
    peft = pytest.importorskip("peft")
    backbone, speech = stirred(csm(lora={"r": 4})), Speech.pack(rows(5, 3, 4))
    backbone.save(tmp_path / "lora", adapters_only=True)
    want = backbone(prompts(), speech)
    again = csm()
    again.load(tmp_path / "lora")
    torch.testing.assert_close(again(prompts(), speech), want)
    wrapped = CSM(peft.PeftModel.from_pretrained(built(tiny), tmp_path / "lora"))
    torch.testing.assert_close(wrapped(prompts(), speech), want)
    assert not has_adapters(wrapped.model.codec_model)
    wrapped.save(tmp_path / "again", adapters_only=True)
    settings = [json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("lora", "again")]
    add_lora(csm(), r=4).save(tmp_path / "after", adapters_only=True)  # put in afterwards, it spares the codec too
    settings.append(json.loads((tmp_path / "after" / "adapter_config.json").read_text()))
    assert {each["exclude_modules"] for each in settings} == {r"codec_model\..*"}
    again = csm()
    again.load(tmp_path / "again")
    torch.testing.assert_close(again(prompts(), speech), want)
    with pytest.raises(ValueError, match="has no LoRA layers"):
        csm().save(tmp_path / "none", adapters_only=True)


def test_a_checkpoint_of_another_size_is_named(tmp_path):
    csm(spare=3).save(tmp_path / "model")
    backbone = csm()
    before = backbone.model.lm_head.weight.clone()
    with pytest.raises(ValueError, match=r"lm_head.weight is \(11, 32\) in the file and \(8, 32\) in the model"):
        backbone.load(tmp_path / "model")
    assert torch.equal(backbone.model.lm_head.weight, before)


@pytest.mark.parametrize(
    "row, message",
    [
        ([[1, 2, 3], [1, 2, 8]], "row 0, frame 1 holds id 8 in codebook 2; codes lie in 0..7"),
        ([[1, -1, 3]], "row 0, frame 0 holds id -1 in codebook 1"),
        ([[1, 2, 3], [0, 0, 0]], r"frame 1 holds the end \(0 in every codebook\), which is never stored"),
        ([[1, 2]], r"row 0 has shape \(1, 2\), not \(frames, 3\)"),
        ([[1], [2]], r"row 0 has shape \(2, 1\), not"),
        ([1, 2, 3], r"row 0 has shape \(3,\), not"),
    ],
)
def test_strange_speech_is_refused(row, message):
    with pytest.raises(ValueError, match=message):
        csm()(prompts()[1:2], Speech.pack([row]))
    with pytest.raises(ValueError, match=message):
        csm().decode(Speech.pack([row]), [None])


@pytest.mark.parametrize(
    "prompt, message",
    [
        (Prompt([3, 40]), "text id 40: text ids lie in 0..39"),
        (Prompt([3, AUDIO]), f"text id {AUDIO}: .* keep places for audio"),
        (Prompt([3], Style([[1, 2, 3]])), "Style.text is None"),
        (Prompt([3], Style([[1, 2, 9]], [4])), "Style.tokens, frame 0 holds id 9 in codebook 2"),
        (Prompt([3], Style([[1, 2, 3], [0, 0, 0]], [4])), "Style.tokens, frame 1 holds the end"),
        (Prompt([3] * 96), "prompt and speech take 98 positions"),
    ],
)
def test_strange_prompts_are_refused(prompt, message):
    with pytest.raises(ValueError, match=message):
        csm()([prompt], Speech.pack(rows(2)))


def test_other_models_and_options_are_refused():
    with pytest.raises(TypeError, match="holds a CsmForConditionalGeneration of transformers, got Linear"):
        CSM(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="score_books must be 'all' or 'first', got 'some'"):
        csm(score_books="some")
    with pytest.raises(ValueError, match=f"codebook_eos_token_id is {CODES}, and the end must be a code"):
        CSM(tiny(spare=3, codebook_eos_token_id=CODES))


def test_there_is_no_timbre_for_dgsa_and_tdsc_prefers_what_it_is_told(tmp_path):
    """20 steps on one pair of frames (T, K): the margin rises, the codec stays."""
    backbone = csm()
    with pytest.raises(Unsupported, match=r"CSM does not declare \['timbre'\]"):
        require_separation(backbone, "DGSA")
    chosen, rejected = rows(6, 5)
    with torch.no_grad():
        reference = backbone(prompts()[1:2], Speech.pack([chosen, rejected], prompt=[0, 0]))
    pair = Pair("a", prompts()[1], chosen, rejected, reference=(reference[0], reference[1, :6]))
    tdsc, codec = TDSC(backbone, None, tmp_path), [p.clone() for p in backbone.model.codec_model.parameters()]
    optimizer, margins = torch.optim.AdamW(backbone.parameters(), lr=1e-3, weight_decay=0.1), []
    for _ in range(20):
        loss, logs = tdsc.loss(PairBatch.of([pair]))
        margins.append(float(logs["rewards/margins"]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # what is trained gets a gradient, all of it, as training on several devices wants it
    assert all(p.requires_grad == (p.grad is not None) for p in backbone.parameters())
    assert margins[0] == pytest.approx(0, abs=1e-4) and margins[-1] > 0.5
    assert all(map(torch.equal, codec, backbone.model.codec_model.parameters()))


def test_a_folder_whose_weights_have_another_prefix_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    tiny().save_pretrained(tmp_path)
    weights = {"module." + name: value for name, value in load_file(tmp_path / "model.safetensors").items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"it lacks .*the model has no module\."):
        CSM(str(tmp_path))
