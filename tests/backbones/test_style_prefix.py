"""A style prefix around Hugging Face models and users' own: what is read, what is trained, what is written."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from seaalign import DGSA, DecoderOnly, Prompt, Speech, Style, StylePrefix, TripletData, Unsupported, Utterance
from seaalign.backbones.style_map import ProsodyMap
from seaalign.functional.fsq import fsq_values
from seaalign.sampling import require_separation
from seaalign.storage import layout_of
from seaalign.testing import check_backbone
from tests.backbones.test_packing import Packable, own
from tests.backbones.user_models import TwoBookLSTM, built, tokens

LEVELS, TIMBRE, K = (4, 3), 6, 3
AUDIO = pytest.mark.audio  # not for sound: transformers itself imports torchaudio where it finds it installed


class Mixed(Packable):
    """The example's model as it would be without a control: its tokens alone say how and who."""

    features = frozenset({"decode"})
    context = 90

    def decode(self, speech, timbres):
        self.told = list(timbres)
        return [row.float() for row in speech.rows()]


def wrapped(frozen=False, **settings) -> StylePrefix:
    return StylePrefix(own(Mixed), LEVELS, TIMBRE, vectors=K, hidden=16, frozen=frozen, **settings)


def prompts(text: int = 20) -> list[Prompt]:
    g = torch.Generator().manual_seed(5)

    def ids(high: int, size: int) -> torch.Tensor:
        return torch.randint(high, (size,), generator=g)

    styles = Style(ids(12, 9), ids(text, 2)), Style(ids(12, 1)), None
    return [Prompt(ids(text, 4 + 3 * i), style, torch.randn(TIMBRE, generator=g)) for i, style in enumerate(styles)]


def hugging_face(name: str, family: str = "Llama", **settings) -> StylePrefix:
    pytest.importorskip("transformers")
    from seaalign.backbones import CausalLM
    from tests.backbones.tiny_hf import model_for

    return StylePrefix(CausalLM(*model_for(name, family), **settings), LEVELS, TIMBRE, vectors=K, hidden=16)


def csm() -> StylePrefix:
    pytest.importorskip("transformers")
    from tests.backbones import test_csm

    return StylePrefix(test_csm.csm(), LEVELS, TIMBRE, vectors=K, hidden=16)


WRAPPED = [
    pytest.param(wrapped, {}, id="your own"),
    pytest.param(lambda: hugging_face("orpheus"), {}, id="Orpheus, frozen", marks=AUDIO),
    pytest.param(lambda: hugging_face("llasa", "Qwen3"), {}, id="Llasa, frozen", marks=AUDIO),
    pytest.param(lambda: hugging_face("neutts", gradient_checkpointing=True), {}, id="checkpointing", marks=AUDIO),
    pytest.param(csm, {"books": 4}, id="CSM, frozen", marks=AUDIO),
]


@pytest.mark.parametrize(("make", "kind"), WRAPPED)
def test_a_wrapped_backbone_keeps_the_contract(make, kind):
    backbone = make()
    if kind:
        from tests.backbones import test_csm

        speech = Speech.pack(tokens(9, 7, 5, high=test_csm.CODES, books=test_csm.K))
    else:
        speech = Speech.pack(tokens(14, 9, 5))
    report = dict(check_backbone(backbone, prompts(), speech))
    assert report["style changes the score"] == "passed"
    assert report["gradient flows, through real tokens only"] == "passed"
    require_separation(backbone, "DGSA")
    with pytest.raises(Unsupported, match="seaalign.StylePrefix adds both"):
        require_separation(backbone.backbone, "DGSA")


def test_the_sequence_is_timbre_code_and_the_backbone_s_own_prompt():
    backbone, (styled, *_) = wrapped(), prompts()
    inner, prefix = backbone.backbone, backbone.prefix
    front = [prefix["timbre"](styled.timbre[None]), prefix["prosody"]([styled.style.tokens])[0]]
    plain = inner.embed_prompt(Prompt(styled.text))
    assert torch.equal(backbone.embed_prompt(styled), torch.cat([*front, plain]))
    assert torch.equal(backbone.embed_prompt(styled.plain()), torch.cat([front[0], plain]))
    row = torch.tensor([7, 3, 5])
    x = torch.cat([*front, plain, inner.model.speech(row)])
    mask = torch.ones(len(x), len(x), dtype=torch.bool).tril()
    features, _ = inner.model.transformer(x[None], torch.arange(len(x))[None], mask, None)
    logps = inner.model.head(features[0, -4:]).log_softmax(-1)
    want = logps[range(4), [*row.tolist(), inner.eos]]
    torch.testing.assert_close(backbone([styled], Speech.pack([row]))[0], want)


def test_vectors_are_as_large_as_the_embeddings_beside_them():
    inner = own(Mixed)
    with torch.no_grad():
        inner.model.speech.weight.mul_(0.02)
    made = StylePrefix(inner, LEVELS, TIMBRE).prefixes(prompts())
    size = float(inner.model.speech.weight.square().mean().sqrt())
    for front in made:
        torch.testing.assert_close(front.square().mean(-1).sqrt(), torch.full((len(front),), size), rtol=1e-3, atol=0)


def test_the_map_is_what_its_definition_says():
    """One query and one frame at a time."""
    to_vectors, code = built(lambda: ProsodyMap(LEVELS, K, 8, 0.5, hidden=16)), torch.tensor([3, 0, 11, 7])
    got = to_vectors([torch.tensor([5]), code])[1]
    size, inputs = len(code), []
    for i, values in enumerate(fsq_values(code, LEVELS)):
        angles = [2 * math.pi * i / period for period in (4, 16, 64, 256)]
        waves = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        inputs.append([*values.tolist(), *waves, math.log(size) / 4, (i + 0.5) / size])
    heard = to_vectors.read(torch.tensor(inputs).T[None])[0].T
    for k in range(K):
        fits = []
        for i in range(size):
            far = ((i + 0.5) / size - float(to_vectors.centres[k])) * math.exp(float(to_vectors.narrow[k]))
            fits.append(float(to_vectors.queries[k] @ heard[i]) / 4 - far**2 / 2)
        share = torch.tensor(fits).softmax(0)
        torch.testing.assert_close(got[k], to_vectors.write(share @ heard + to_vectors.slots[k]))


def test_only_the_prefix_is_trained_and_it_can_be_all():
    backbone = wrapped(frozen=True)
    trained = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert trained and all(name.startswith("prefix.") for name in trained)
    assert all(p.requires_grad for p in wrapped(frozen=False).parameters())


def test_layout_and_weights_tell_codes_apart():
    layouts = {layout_of(StylePrefix(own(Mixed), levels, TIMBRE)) for levels in ((4, 3), (3, 4))}
    layouts |= {layout_of(StylePrefix(own(Packable), (4, 3), TIMBRE)) for _ in range(1)}
    layouts |= {layout_of(StylePrefix(own(Mixed), (4, 3), *sizes)) for sizes in ((TIMBRE, 4), (7, 8))}
    assert len(layouts) == 5


class Sum(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.table = torch.nn.Embedding(12, width)

    def forward(self, codes):
        return torch.stack([self.table(code).sum(0, keepdim=True) for code in codes])


def test_the_network_is_the_user_s_to_change():
    class Mine(StylePrefix):
        def mapping(self, width, scale):
            return Sum(width)

    backbone = Mine(own(Mixed), LEVELS, TIMBRE, vectors=1)
    assert (
        backbone.embed_prompt(prompts()[0]).shape[0]
        == 2 + backbone.backbone.embed_prompt(prompts()[0].plain()).shape[0]
    )
    check_backbone(backbone, prompts(), Speech.pack(tokens(14, 9, 5)))


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("style", "timbre", "message"),
    [
        (Style([3, 12]), torch.zeros(TIMBRE), r"ids 3..12, and a prosody code of levels \(4, 3\) .* 0..11.*restyle"),
        (Style([[3, 1]]), torch.zeros(TIMBRE), r"shape \(1, 2\)"),
        (Style([]), torch.zeros(TIMBRE), "hold no ids"),
        (None, None, r"timbre is NoneType, and the prefix reads a floating-point vector \(6,\)"),
        (None, torch.zeros(5), r"timbre is torch.float32 \(5,\)"),
        (None, torch.zeros(TIMBRE).long(), r"timbre is torch.int64 \(6,\)"),
        (None, {"inner": torch.zeros(TIMBRE)}, "timbre is NoneType"),
    ],
)
def test_a_prompt_that_is_no_code_or_voice_is_refused(style, timbre, message):
    with pytest.raises(ValueError, match=message):
        wrapped()([Prompt([1], style, timbre)], Speech.pack([[1, 2]]))


def test_too_long_is_refused_and_sampling_is_cut():
    backbone, prompt = wrapped(), prompts()[0]
    with pytest.raises(ValueError, match="prompt and speech take 10.* can read 90"):
        backbone([prompt], Speech.pack(tokens(90)))
    drawn = backbone.sample([prompt], 2, max_len=500, min_len=80, generator=torch.Generator().manual_seed(0))
    assert drawn.tokens.shape[1] == 90 - len(backbone.embed_prompt(prompt)) and not drawn.ended.any()
    with pytest.raises(ValueError, match="100 vectors do not fit: Mixed can read 90"):
        StylePrefix(own(Mixed), LEVELS, TIMBRE, vectors=100)


def test_what_cannot_be_wrapped_is_refused():
    with pytest.raises(TypeError, match="TwoBookLSTM is none: write an adapter on DecoderOnly"):
        StylePrefix(built(TwoBookLSTM), LEVELS, TIMBRE)
    with pytest.raises(TypeError, match="has a StylePrefix already"):
        StylePrefix(wrapped(), LEVELS, TIMBRE)
    with pytest.warns(UserWarning, match="Packable keeps style and timbre apart by itself"):
        StylePrefix(own(), LEVELS, TIMBRE)

    class Twisted(Mixed):
        def extend(self, state, tokens):
            return super().extend(state, tokens)

    with pytest.raises(Unsupported, match=r"Twisted has its own extend\(\)"):
        StylePrefix(own(Twisted), LEVELS, TIMBRE)
    assert "extend" in vars(DecoderOnly)  # what the refusal compares with


def test_the_backbone_decodes_with_its_own_part_of_the_timbre():
    backbone, voice = wrapped(), torch.ones(TIMBRE)
    speech = Speech.pack([[1], [2], [3]])
    backbone.decode(speech, [voice, {"prefix": voice, "inner": 7}, {"prefix": voice}])
    assert backbone.backbone.told == [None, 7, None]
    assert backbone.features == {"decode", "style", "timbre"}
    both = Prompt([1, 2], timbre={"prefix": voice, "inner": 7})
    assert torch.equal(backbone.embed_prompt(both), backbone.embed_prompt(Prompt([1, 2], timbre=voice)))
    with pytest.raises(AttributeError, match="sample_rate"):
        backbone.sample_rate  # noqa: B018
    backbone.backbone.sample_rate = 8000
    assert backbone.sample_rate == 8000


# -- training and files ------------------------------------------------------------------------------------------------


def speech_for(name: str, count: int = 12) -> list[Utterance]:
    """Real speech keeps to the lower half of the codes."""
    g = torch.Generator().manual_seed(0)
    voices = torch.randn(3, TIMBRE, generator=g)
    return [
        Utterance(
            f"{name}{i}",
            Prompt(torch.randint(20, (4,), generator=g), Style(torch.randint(12, (5,), generator=g)), voices[i % 3]),
            torch.randint(6, (6 + i % 5,), generator=g),
        )
        for i in range(count)
    ]


def test_triplets_are_made_and_a_few_steps_of_dgsa_move_the_margin(tmp_path):
    import lightning as L

    class Kept(L.Callback):
        margins: list = []  # noqa: RUF012

        def on_train_batch_end(self, trainer, *_):
            self.margins.append(float(trainer.callback_metrics["train/rewards/margins"]))

    data = TripletData(speech_for("u"), tmp_path / "t.parquet", val_fraction=0.0, max_frames=300, max_len=20)
    kept = Kept()
    runner = L.Trainer(
        accelerator="cpu", max_steps=20, max_epochs=-1, logger=False, enable_checkpointing=False, callbacks=[kept],
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    backbone = wrapped()
    runner.fit(DGSA(backbone, alpha=0.8, lr=2e-3), data)
    assert runner.global_step == 20 and kept.margins[-1] > kept.margins[0] + 0.02
    with pytest.raises(Unsupported, match="DGSA needs a backbone .* Mixed does not"):
        DGSA(backbone.backbone, alpha=0.8)


@AUDIO
def test_seaalign_fit_by_yaml(tmp_path, capsys):
    pytest.importorskip("peft", exc_type=ImportError)
    from seaalign import write_utterances
    from tests.backbones.test_fit import LORA, causal, rises, run

    write_utterances(tmp_path / "real.parquet", speech_for("u"))
    inner = causal("orpheus", "Llama", **LORA)(tmp_path / "model")
    settings = {"backbone": inner, "levels": list(LEVELS), "timbre_size": TIMBRE, "vectors": K}
    backbone = {"class_path": "seaalign.StylePrefix", "init_args": settings}
    made = {"utterances": str(tmp_path / "real.parquet"), "triplets": str(tmp_path / "t.parquet"), "val_fraction": 0.0}
    module = {"class_path": "DGSA", "init_args": {"alpha": 0.8, "lr": 5e-3, "backbone": backbone}}
    rows = run(tmp_path, module, {"class_path": "TripletData", "init_args": {**made, "max_frames": 300}})
    assert sum("train/rewards/margins" in row for row in rows) == 20 and rises(rows, "train/rewards/margins")


def moved(backbone):
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return backbone


def test_files_of_the_user_s_own_kind_and_beside_them_the_prefix(tmp_path):
    one, other, speech = moved(wrapped()), wrapped(seed=3), Speech.pack(tokens(9, 7, 5))
    one.save(tmp_path / "lm.pt")
    assert {path.name for path in tmp_path.iterdir()} == {"lm.pt", "lm.style_prefix.safetensors"}
    alone = own(Mixed)
    alone.load(tmp_path / "lm.pt")  # as the model's own code does
    other.load(tmp_path / "lm.pt")
    assert torch.equal(other(prompts(), speech), one(prompts(), speech))
    one.save(tmp_path / "prefix", adapters_only=True)
    apart = StylePrefix(alone, LEVELS, TIMBRE, vectors=K, hidden=16, seed=4)
    apart.load(tmp_path / "prefix")
    assert torch.equal(apart(prompts(), speech), one(prompts(), speech))


def test_a_prefix_that_does_not_fit_changes_nothing(tmp_path):
    one = moved(wrapped())
    one.save(tmp_path / "lm.pt")
    turned = StylePrefix(own(Mixed), LEVELS[::-1], TIMBRE, vectors=K, hidden=16)
    larger = StylePrefix(own(Mixed), LEVELS, TIMBRE, vectors=K + 1, hidden=16)
    for backbone, message in ((turned, r"levels \(4, 3\), here they are \(3, 4\)"), (larger, "does not fit")):
        before = copy.deepcopy(backbone.state_dict())
        with pytest.raises(ValueError, match=message):
            backbone.load(tmp_path / "lm.pt")
        assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    (tmp_path / "lm.pt").write_bytes(b"cut off")
    fresh = wrapped(seed=5)
    before = copy.deepcopy(fresh.state_dict())
    with pytest.raises(ValueError, match=r"lm\.pt"):
        fresh.load(tmp_path / "lm.pt")
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())
    (tmp_path / "lm.style_prefix.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"call \.backbone\.load\(\)"):
        fresh.load(tmp_path / "lm.pt")


@AUDIO
def test_lora_and_hugging_face_files(tmp_path):
    pytest.importorskip("peft", exc_type=ImportError)
    transformers = pytest.importorskip("transformers")
    speech = Speech.pack(tokens(9, 7, 5))
    one = hugging_face("orpheus", lora={"r": 2})
    trained = {name.split(".")[0] for name, p in one.named_parameters() if p.requires_grad}
    assert trained == {"prefix", "backbone"}
    assert all("lora_" in n or n.startswith("prefix.") for n, p in one.named_parameters() if p.requires_grad)
    with torch.no_grad():
        for name, parameter in one.named_parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
    want = one(prompts(), speech)
    one.save(tmp_path / "whole")
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    for again, folder, adapters_only in (
        (hugging_face("orpheus"), "whole", False),
        (hugging_face("orpheus", lora={"r": 2}), "lora", True),
    ):
        one.save(tmp_path / folder, adapters_only)
        one.save(tmp_path / folder, adapters_only)  # over what is there
        again.load(tmp_path / folder)
        torch.testing.assert_close(again(prompts(), speech), want, atol=1e-4, rtol=1e-4)


@AUDIO
def test_the_policy_without_lora_has_the_same_prefix():
    pytest.importorskip("peft", exc_type=ImportError)
    from seaalign.backbones import add_lora
    from seaalign.sampling.reference import adapterless_logps

    backbone, speech = hugging_face("orpheus"), Speech.pack(tokens(9, 7, 5))
    before = backbone(prompts(), speech).detach()
    add_lora(backbone, r=2)  # freezes the prefix too
    assert not any(p.requires_grad for p in backbone.prefix.parameters())
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "lora_" in name:
                parameter += 0.1
    assert not torch.allclose(backbone(prompts(), speech), before)
    torch.testing.assert_close(adapterless_logps(backbone, prompts(), speech), before)
    backbone.prefix.requires_grad_(True)
    with pytest.raises(ValueError, match=r"trained, first \['prefix\."):
        adapterless_logps(backbone, prompts(), speech)


@AUDIO
@pytest.mark.parametrize("packed", [True, False])
def test_checkpointing_and_autocast(packed):
    speech = Speech.pack(tokens(9, 7, 5), prompt=[0, 0, 1])
    grads = []
    for settings in ({}, {"gradient_checkpointing": True}):
        backbone = hugging_face("orpheus", **settings)
        if not packed:
            backbone._packs = lambda like: False
        backbone(prompts()[:2], speech).sum().backward()
        grads.append({name: p.grad for name, p in backbone.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys() and any(float(g.norm()) > 0.01 for g in grads[0].values())
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, atol=1e-5, rtol=1e-4)
    plain = backbone(prompts()[:2], speech)
    with torch.autocast("cpu", torch.bfloat16):
        rough = backbone(prompts()[:2], speech)
    assert rough.dtype == torch.float32 and float((rough - plain).abs().max()) < 0.2
    half = backbone.bfloat16()
    assert float((half(prompts()[:2], speech) - plain).abs().max()) < 0.2


@AUDIO
def test_a_model_with_channels_of_its_own_is_refused():
    pytest.importorskip("transformers")
    from seaalign.backbones import Chatterbox
    from tests.backbones import chatterbox_standin as where

    with pytest.raises(Unsupported, match="Chatterbox has its own prefill"):
        StylePrefix(Chatterbox(where.made("stand-in Llama")), LEVELS, TIMBRE)


def test_an_engine_gets_embeddings():
    backbone = wrapped()
    served = backbone.served_prompt(prompts()[0])
    assert torch.equal(served["prompt_embeds"], backbone.embed_prompt(prompts()[0]))
