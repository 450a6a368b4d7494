"""Chatterbox: tiny random instances of the real T3 where it is installed, and of a stand-in with its attributes."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from seaalign import Prompt, Speech, Style, Unsupported
from seaalign.backbones.chatterbox import Chatterbox
from seaalign.backbones.chatterbox_sound import open_folder
from seaalign.backbones.lora import adapters_off, add_lora
from seaalign.testing import check_backbone
from tests.backbones.chatterbox_standin import CODES, FIRST_WORD, LAST_WORD, RATE, SPEAKER, STOP, made, prompts, whole

pytest.importorskip("transformers")
peft_missing = "peft is not installed"
pytestmark = pytest.mark.audio  # transformers imports torchaudio

KINDS = ["real Llama", "real GPT-2", "stand-in Llama", "stand-in GPT-2"]
every_kind = pytest.mark.parametrize("kind", KINDS)
real_llama = pytest.mark.parametrize("kind", ["real Llama"])


def rows(*sizes):
    g = torch.Generator().manual_seed(11)
    return [torch.randint(CODES, (size,), generator=g) for size in sizes]


def sequence(t3, prompt, row, starts, words=1.0):
    """What T3 reads, put together from its parts by hand: (1, L, D), and how much of it is the prompt."""
    llama, hp = not t3.is_gpt, t3.hp
    style = None if prompt.style is None else prompt.style.tokens[: hp.speech_cond_prompt_len]
    parts = [t3.cond_enc.spkr_enc(prompt.timbre["speaker_emb"][None])]
    if style is not None:
        x = t3.speech_emb(style)
        parts.append(t3.cond_enc.perceiver((x + t3.speech_pos_emb.emb.weight[: len(x)])[None])[0] if llama else x)
    parts += [t3.cond_enc.emotion_adv_fc(torch.tensor([[0.5]]))] if llama else []
    text = torch.tensor([FIRST_WORD, *prompt.text, LAST_WORD]) if llama else prompt.text
    parts.append(t3.text_emb(text) * words + (t3.text_pos_emb.emb.weight[: len(text)] if llama else 0))
    place = torch.tensor([0] * starts + list(range(1, len(row) + 1)))
    speech = t3.speech_emb(torch.cat([torch.tensor([hp.start_speech_token] * starts), row]))
    parts.append(speech + t3.speech_pos_emb.emb.weight[place] if llama else speech)
    return torch.cat(parts)[None], sum(map(len, parts)) - len(row)


def by_hand(t3, prompt, row, starts):
    """Log-probs (T+1,) of a row and its end, in one pass over the plain transformer."""
    x, prompt_length = sequence(t3, prompt, row, starts)
    logits = t3.speech_head(t3.tfmr(inputs_embeds=x).last_hidden_state[0, prompt_length - 1 :])
    return logits.log_softmax(-1).gather(-1, torch.cat([row, torch.tensor([STOP])])[:, None])[:, 0]


def by_steps(t3, prompt, starts, most, guidance=0.0):
    """The most probable token after the other, everything read anew for each."""
    row = torch.zeros(0, dtype=torch.long)
    for _ in range(most):
        logits, wordless = (
            t3.speech_head(t3.tfmr(inputs_embeds=sequence(t3, prompt, row, starts, words)[0]).last_hidden_state[0, -1])
            for words in (1.0, 0.0)
        )
        logits = logits + guidance * (logits - wordless)
        logits[[i for i in range(CODES, len(logits)) if i != STOP]] = -torch.inf
        token = logits.argmax()
        if token == STOP:
            break
        row = torch.cat([row, token[None]])
    return row


@every_kind
@pytest.mark.parametrize("how", ["plain", "bf16", "lora", "checkpointing", "lora and checkpointing", "guided"])
def test_the_contract_holds(kind, how):
    options = {"gradient_checkpointing": "checkpointing" in how, "guidance": 0.5 if how == "guided" else 0.0}
    if "lora" in how:
        pytest.importorskip("peft", reason=peft_missing)
        options["lora"] = {"r": 4}
    backbone = Chatterbox(made(kind), **options)
    for name, value in backbone.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(value, std=0.1)  # zero at first: the layers would add nothing
    backbone = backbone.bfloat16() if how == "bf16" else backbone
    report = check_backbone(backbone, prompts(), Speech.pack(rows(12, 8, 5)), draws=600)
    left_out = [rule for rule, outcome in report if outcome != "passed"]
    expected = ["sample: temperature", "sample: frequencies follow the model"] if how == "guided" else []
    assert left_out == expected


@every_kind
@pytest.mark.parametrize("starts", [1, 2])
def test_scores_and_gradients_are_those_of_the_plain_modules(kind, starts):
    t3, asked, spoken = made(kind), prompts(), rows(9, 6, 4)
    backbone = Chatterbox(t3, starts=starts)
    learned = [p for p in backbone.parameters() if p.requires_grad]
    for prompt, row in zip(asked, spoken, strict=True):
        want = by_hand(t3, prompt, row, starts)
        got = backbone([prompt], Speech.pack([row]))[0]
        torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
        grads = [torch.autograd.grad(score.sum(), learned, allow_unused=True) for score in (got, want)]
        for one, other in zip(*grads, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                assert (one - other).norm() <= 1e-5 * other.norm().clamp_min(1e-3)


@every_kind
@pytest.mark.parametrize("guidance", [0.0, 0.7])
def test_greedy_is_the_loop_without_a_cache(kind, guidance):
    t3 = made(kind)
    backbone = Chatterbox(t3, guidance=guidance)
    drawn = backbone.sample(prompts(), temperature=0.0, max_len=15).rows()
    with torch.no_grad():
        want = [by_steps(t3, prompt, backbone.starts, 15, guidance) for prompt in prompts()]
    assert [row.tolist() for row in drawn] == [row.tolist() for row in want]


def condition(prompt):
    """A prompt as upstream's conditioning record."""
    made_of = pytest.importorskip("chatterbox.models.t3.modules.cond_enc").T3Cond
    style = None if prompt.style is None else prompt.style.tokens[None, :6]
    voice = prompt.timbre["speaker_emb"][None]
    return made_of(speaker_emb=voice, cond_prompt_speech_tokens=style, emotion_adv=0.5 * torch.ones(1, 1, 1))


@real_llama
def test_scores_are_those_of_upstream_s_forward(kind):
    t3, (row,) = made(kind), rows(9)
    for prompt in prompts():
        text = torch.tensor([[FIRST_WORD, *prompt.text, LAST_WORD]])
        speech = torch.cat([torch.tensor([t3.hp.start_speech_token]), row])[None]
        sizes = {"text_token_lens": torch.tensor([text.shape[1]]), "speech_token_lens": torch.tensor([speech.shape[1]])}
        out = t3(t3_cond=condition(prompt), text_tokens=text, speech_tokens=speech, **sizes)
        targets = torch.cat([row, torch.tensor([STOP])])[:, None]
        want = out.speech_logits[0].log_softmax(-1).gather(-1, targets)[:, 0]
        got = Chatterbox(t3, starts=1)([prompt], Speech.pack([row]))[0]
        torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def speech_alone(t3):
    """Ids that are neither speech nor the stop made improbable: upstream would draw them, and the adapter does not."""
    others = [i for i in range(CODES, t3.speech_head.out_features) if i != STOP]
    with torch.no_grad():
        t3.speech_head.weight[others] = 0.0
        if t3.speech_head.bias is not None:
            t3.speech_head.bias[others] = -9.0
    return t3


@real_llama
@pytest.mark.parametrize("guidance", [0.0, 0.5])
def test_greedy_is_upstream_s_inference(kind, guidance):
    t3, prompt = speech_alone(made(kind)), prompts()[0]
    backbone = Chatterbox(t3, guidance=guidance)
    got = backbone.sample([prompt], temperature=0.0, max_len=15).rows()[0].tolist()
    text = torch.tensor([[FIRST_WORD, *prompt.text, LAST_WORD]] * 2)
    greedy = {"temperature": 1.0, "top_p": 1e-6, "min_p": 0.0, "repetition_penalty": 1.0}
    want = t3.inference(t3_cond=condition(prompt), text_tokens=text, max_new_tokens=15, cfg_weight=guidance, **greedy)
    assert got == [i for i in want[0].tolist() if i != STOP]
    assert len(set(got)) > 1


@pytest.mark.parametrize("kind", ["real GPT-2"])
def test_greedy_is_upstream_s_turbo_inference(kind):
    t3 = speech_alone(made(kind))
    for prompt in prompts()[:2]:
        got = Chatterbox(t3).sample([prompt], temperature=0.0, max_len=15).rows()[0].tolist()
        want = t3.inference_turbo(condition(prompt), prompt.text[None], top_k=1, repetition_penalty=1.0, max_gen_len=14)
        assert got == want[0].tolist()


@every_kind
def test_style_off_keeps_the_voice_and_drops_the_style(kind):
    backbone, (prompt, *_), speech = Chatterbox(made(kind)), prompts(), Speech.pack(rows(6))
    read = backbone.embed_prompt(prompt), backbone.embed_prompt(prompt.plain())
    dropped = len(prompt.style.tokens) if kind.endswith("GPT-2") else 4
    assert len(read[0]) - len(read[1]) == dropped
    torch.testing.assert_close(read[0][0], read[1][0])
    other = Prompt(prompt.text, prompt.style, {"speaker_emb": -prompt.timbre["speaker_emb"]})
    with torch.no_grad():
        assert float((backbone([prompt], speech) - backbone([other], speech)).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", ["stand-in Llama"])
def test_emotion_and_starts_are_part_of_the_layout(kind):
    speech, (prompt, *_) = Speech.pack(rows(6)), prompts()
    calm, excited = Chatterbox(made(kind)), Chatterbox(made(kind), exaggeration=2.0, starts=1)
    assert (calm.layout, excited.layout) == ("chatterbox emotion=0.5 starts=2", "chatterbox emotion=2 starts=1")
    with torch.no_grad():
        assert float((calm([prompt], speech) - excited([prompt], speech)).abs().max()) > 1e-3


@every_kind
def test_nothing_drops_out_in_train_mode_and_the_text_head_rests(kind):
    t3 = made(kind)
    backbone = Chatterbox(t3).train()
    assert backbone.training and t3.tfmr.training and not t3.cond_enc.training
    assert not any(m.training for m in t3.modules() if isinstance(m, nn.Dropout))
    assert not any(p.requires_grad for p in t3.text_head.parameters())
    assert not Chatterbox(made(kind)).t3.tfmr.training  # as it came


@every_kind
def test_what_is_saved_is_read_strictly_by_upstream(kind, tmp_path):
    from safetensors.torch import load_file

    pytest.importorskip("peft", reason=peft_missing)
    t3, speech = made(kind), Speech.pack(rows(9, 6, 4))
    plain = {name: value.clone() for name, value in t3.state_dict().items()}
    backbone = Chatterbox(t3, lora={"r": 4})
    for name, value in backbone.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(value, std=0.1)
    if kind == "real Llama":  # its inference leaves a second name for parts of the model in it
        text = torch.tensor([[FIRST_WORD, 3, LAST_WORD]] * 2)
        t3.inference(t3_cond=condition(prompts()[0]), text_tokens=text, max_new_tokens=2)
    if kind.endswith("GPT-2"):
        del t3.tfmr.wte  # as upstream does once it is loaded
    want = backbone(prompts(), speech)
    backbone.save(tmp_path)
    (file,) = tmp_path.iterdir()
    assert file.name == ("t3_turbo_v1.safetensors" if kind.endswith("GPT-2") else "t3_cfg.safetensors")
    fresh = made(kind)
    fresh.load_state_dict(load_file(file))
    torch.testing.assert_close(Chatterbox(fresh)(prompts(), speech), want, atol=1e-5, rtol=1e-5)
    again = Chatterbox(made(kind), checkpoint=tmp_path)
    torch.testing.assert_close(again(prompts(), speech), want, atol=1e-5, rtol=1e-5)
    with adapters_off(backbone):
        backbone.save(tmp_path / "lora", adapters_only=True)
    apart = made(kind)
    apart.load_state_dict(plain)
    apart = add_lora(Chatterbox(apart, starts=backbone.starts), r=4)
    apart.load(tmp_path / "lora")
    torch.testing.assert_close(apart(prompts(), speech), want, atol=1e-5, rtol=1e-5)


@every_kind
def test_lora_put_in_afterwards_is_that_of_the_argument(kind):
    pytest.importorskip("peft", reason=peft_missing)
    one, other = Chatterbox(made(kind), lora={"r": 4}), add_lora(Chatterbox(made(kind)), r=4)
    trained = [{name for name, value in each.named_parameters() if value.requires_grad} for each in (one, other)]
    assert trained[0] == trained[1] and any("lora_B" in name for name in trained[0])
    narrow = add_lora(Chatterbox(made(kind)), r=4, targets=["c_attn" if kind.endswith("GPT-2") else "q_proj"])
    assert {name for name, value in narrow.named_parameters() if value.requires_grad} < trained[0]


def test_a_training_script_s_prefix_is_taken_off(tmp_path):
    from safetensors.torch import save_file

    state = {f"t3.{name}": value for name, value in made("stand-in Llama").state_dict().items()}
    save_file(state, tmp_path / "fine-tune.safetensors")
    other = Chatterbox(made("stand-in Llama"))
    nn.init.zeros_(other.t3.speech_head.weight)
    other.load(tmp_path / "fine-tune.safetensors")
    assert torch.equal(other.t3.speech_head.weight, state["t3.speech_head.weight"])


def test_an_extended_vocabulary_is_named(tmp_path):
    bigger = made("stand-in Llama")
    bigger.text_emb, bigger.text_head = nn.Embedding(25, 32), nn.Linear(32, 25, bias=False)
    Chatterbox(bigger).save(tmp_path)
    with pytest.raises(ValueError, match=r"text_emb.weight is \(25, 32\) in the file and \(20, 32\).*dict_size=25"):
        Chatterbox(made("stand-in Llama"), checkpoint=tmp_path)


VOICE = {"speaker_emb": torch.zeros(SPEAKER)}


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (Prompt([3]), r'timbre is \{"speaker_emb": \(8,\), ...\}, got NoneType without it'),
        (Prompt([3], None, {"speaker_emb": torch.zeros(5)}), "got one of 5 numbers"),
        (Prompt([3, 25], None, VOICE), r"text holds id 25: text ids lie in 0..19, and the marks \[19, 0\]"),
        (Prompt([FIRST_WORD, 3], None, VOICE), "text holds id 19"),
        (Prompt([3] * 31, None, VOICE), "text takes 33 positions, and T3 has 32"),
        (Prompt([3], Style([1, CODES]), VOICE), r"in 0..11, got shape \(2,\), from 1 to 12"),
        (Prompt([3], Style([[1, 2]]), VOICE), r"got shape \(1, 2\)"),
        (Prompt([3], Style([]), VOICE), r"got shape \(0,\); backbone"),
    ],
)
def test_prompts_that_t3_cannot_read_are_refused(prompt, message):
    with pytest.raises(ValueError, match=message):
        Chatterbox(made("stand-in Llama"))([prompt], Speech.pack(rows(3)))


def test_speech_beyond_the_learned_positions():
    backbone, prompt = Chatterbox(made("stand-in Llama")), prompts()[0]
    with torch.no_grad():
        backbone.t3.speech_head.weight[STOP] = 0.0
    drawn = backbone.sample([prompt], max_len=60, min_len=60, generator=torch.Generator().manual_seed(0))
    assert drawn.lengths.tolist() == [43] and drawn.ended.tolist() == [False]  # 44 positions, one for the mark
    backbone([prompt], drawn)
    with pytest.raises(ValueError, match="44 speech tokens, and T3 has positions for 43"):
        backbone([prompt], Speech.pack(rows(44)))


def timbre(tokens=5):
    return {"token": torch.arange(tokens), "feat": torch.ones(2 * tokens, 80), "embedding": torch.ones(6)}


def test_s3gen_speaks_each_row_with_its_timbre():
    backbone = Chatterbox(whole(made("stand-in Llama")))
    assert backbone.features == {"style", "timbre", "decode", "encode"} and backbone.sample_rate == RATE
    speech, voices = Speech.pack(rows(4, 0, 2)), [timbre(), timbre(), timbre(3)]
    before = torch.get_rng_state()
    waves = backbone.decode(speech, voices)
    assert [len(wave) for wave in waves] == [3840, 0, 1920]
    again = backbone.decode(speech, voices)
    assert all(map(torch.equal, waves, again)) and torch.equal(torch.get_rng_state(), before)
    assert voices[0]["token"].dtype == torch.long  # upstream casts in place, but not ours
    assert backbone.sound.whole.s3gen.training  # as it was
    assert not any("s3gen" in name for name in backbone.state_dict())
    waves[0].requires_grad_()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"token": torch.arange(5)}, r"got \{'token': \(5,\)\}"),
        ({**timbre(), "feat": torch.ones(9, 80)}, r"'feat': \(9, 80\)"),
        (None, "row 1: .* got NoneType"),
    ],
)
def test_timbres_that_s3gen_cannot_use_are_refused(broken, message):
    with pytest.raises(ValueError, match=message):
        Chatterbox(whole(made("stand-in Llama"))).decode(Speech.pack(rows(4, 2)), [timbre(), broken])


def test_recordings_become_tokens_styles_and_timbres():
    backbone = Chatterbox(whole(made("stand-in Llama")))
    wave = torch.rand(16_000, generator=torch.Generator().manual_seed(0)) - 0.5
    speech = backbone.encode([wave, wave[:6400]], 16_000)
    assert speech.lengths.tolist() == [25, 10]
    style = backbone.style(wave, 16_000)
    assert torch.equal(style.tokens, speech.rows()[0][:6])
    made_of = backbone.timbre(wave, 16_000)
    assert {name: tuple(value.shape) for name, value in made_of.items()} == {
        **{"speaker_emb": (SPEAKER,), "token": (25,), "feat": (50, 80), "embedding": (6,)}
    }
    torch.testing.assert_close(made_of["speaker_emb"], wave[: 3 * SPEAKER].view(3, -1).mean(0))
    prompt = Prompt(backbone.tokenize("bad"), style, made_of)
    assert backbone([prompt], speech.select([0]))[0].isfinite().all()
    assert len(backbone.decode(speech.select([1]), [made_of])[0]) == 10 * 960


def test_text_becomes_ids_with_the_language_in_front():
    plain, tagged = (Chatterbox(whole(made("stand-in Llama")), language=tag) for tag in (None, "fr"))
    assert plain.tokenize("bad") == [2, 1, 4] and tagged.tokenize("bad") == [17, 2, 1, 4]
    with pytest.raises(ValueError, match="no token for 2 of 3 pieces of 'bäö'"):
        plain.tokenize("bäö")


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda b: b.decode(Speech.pack(rows(2)), [timbre()]), "decode"),
        (lambda b: b.encode([torch.zeros(9)], 16_000), "encode"),
        (lambda b: b.tokenize("a"), "tokenize"),
        (lambda b: b.style(torch.zeros(9), 16_000), "style"),
        (lambda b: b.timbre(torch.zeros(9), 16_000), "timbre"),
    ],
)
def test_t3_alone_says_what_it_lacks(call, what):
    backbone = Chatterbox(made("stand-in Llama"))
    assert backbone.features == {"style", "timbre"} and backbone.sample_rate is None
    with pytest.raises(Unsupported, match=rf"{what}\(\) needs S3Gen.*whole ChatterboxTTS"):
        call(backbone)


@pytest.mark.slow
def test_the_real_s3gen_takes_what_it_is_given():
    """Random weights of the full size: shapes and call contract only."""
    s3gen = pytest.importorskip("chatterbox.models.s3gen", reason="chatterbox-tts is not installed").S3Gen
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = whole(made("real Llama"))
        parts.s3gen = s3gen().eval()
    backbone, speech = Chatterbox(parts), Speech.pack(rows(7, 0, 3))
    wave = torch.rand(24_000, generator=torch.Generator().manual_seed(0)) - 0.5
    timbre = backbone.timbre(wave, RATE)
    assert {name: tuple(value.shape) for name, value in timbre.items()} == {
        **{"speaker_emb": (SPEAKER,), "token": (25,), "feat": (50, 80), "embedding": (192,)}
    }
    waves = backbone.decode(speech, [timbre] * 3)
    assert [len(wave) for wave in waves] == [7 * 960, 0, 3 * 960]
    assert all(map(torch.equal, waves, backbone.decode(speech, [timbre] * 3)))
    assert backbone.encode([wave], RATE).tokens.shape == (1, 25) and len(backbone.style(wave, RATE).tokens) == 6


def test_strangers_are_refused():
    with pytest.raises(TypeError, match="got Linear"):
        Chatterbox(nn.Linear(2, 2))


def test_hooks_of_upstream_s_analyser_are_named():
    t3 = made("stand-in Llama")
    t3.tfmr.layers[1].self_attn.register_forward_hook(lambda *_: None)
    t3.tfmr.config._attn_implementation, t3.tfmr.config.output_attentions = "eager", True
    with pytest.warns(UserWarning, match="leaves 1 hooks"):
        backbone = Chatterbox(t3)
    with torch.no_grad():
        for prompt, row in zip(prompts(), rows(9, 6, 4), strict=True):
            want = by_hand(made("stand-in Llama"), prompt, row, 2)
            torch.testing.assert_close(backbone([prompt], Speech.pack([row]))[0], want, atol=1e-5, rtol=0)


def test_folders_are_opened_by_upstream_s_loaders(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="holds none of t3_turbo_v1.safetensors"):
        open_folder(tmp_path, False)
    for name in ("t3_cfg.safetensors", "t3_mtl23ls_v2.safetensors"):
        (tmp_path / name).touch()
    monkeypatch.setitem(sys.modules, "chatterbox", None)
    monkeypatch.delitem(sys.modules, "chatterbox.tts", raising=False)
    with pytest.raises(ImportError, match="pip install --no-deps chatterbox-tts"):
        Chatterbox(str(tmp_path))
    opened = []
    for module, kind in (("tts", "ChatterboxTTS"), ("mtl_tts", "ChatterboxMultilingualTTS")):
        fake = ModuleType(f"chatterbox.{module}")

        def from_local(folder, device, kind=kind):
            opened.append((kind, folder, device))
            torch.rand(1)
            return whole(made("stand-in Llama"))

        setattr(fake, kind, SimpleNamespace(from_local=from_local))
        monkeypatch.setitem(sys.modules, fake.__name__, fake)
    monkeypatch.setitem(sys.modules, "chatterbox", ModuleType("chatterbox"))
    before = torch.get_rng_state()
    Chatterbox(str(tmp_path))
    Chatterbox(tmp_path, language="fr")
    assert opened == [("ChatterboxTTS", str(tmp_path), "cpu"), ("ChatterboxMultilingualTTS", str(tmp_path), "cpu")]
    assert torch.equal(torch.get_rng_state(), before)
