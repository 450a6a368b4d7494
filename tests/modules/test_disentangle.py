"""The disentangler as a LightningModule: what each objective trains, what it refuses, what it gives back."""

from __future__ import annotations

import warnings

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from seaalign import Disentangler, Prompt, ProsodyData, Recording, SpeechData, Utterance
from seaalign.backbones import hidden_states
from seaalign.data.prosody import ProsodyBatch
from seaalign.functional import fsq_values
from seaalign.modules.disentangle import WEIGHTS

quiet = dict(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
SMALL = dict(dim=16, timbre_size=8, levels=(3, 3))


def batch(rows: int = 4, frames: int = 25, size: int = 6, seed: int = 0) -> ProsodyBatch:
    g = torch.Generator().manual_seed(seed)
    prosody = torch.randn(rows, frames, 3, generator=g)
    prosody[..., 1] = (prosody[..., 1] > 0).float()
    lengths = torch.tensor([frames - 2 * i for i in range(rows)])
    return ProsodyBatch(
        torch.randn(rows, frames, size, generator=g), lengths, prosody, torch.randn(rows, 40, generator=g),
        torch.randn(rows, 4, generator=g), torch.arange(rows) % 2, torch.randn(rows, 11, size, generator=g),
        torch.full((rows,), 11), torch.ones(rows, dtype=torch.bool),
    )  # fmt: skip


def features(**kwargs: object) -> Disentangler:
    torch.manual_seed(0)
    return Disentangler("features", 6, speakers=("ann", "ben"), **{**SMALL, **kwargs})


def moved(module: Disentangler, name: str, part: str) -> bool:
    """Does this objective alone send a gradient to this part?"""
    module.zero_grad()
    module.prosody_encoder.out.weight.data.mul_(10)  # noise, averaged over a step, would hardly move the ids
    module.objectives(batch())[name].backward()
    grads = [p.grad for p in getattr(module, part).parameters() if p.grad is not None]
    return any(bool(g.abs().sum() > 0) for g in grads)


EVERYTHING = {**WEIGHTS, "vclub": 0.1, "hsic": 1.0, "distance": 0.1}
PARTS = ("prosody_encoder", "timbre_encoder", "decoder", "speaker_reader", "statistics_reader", "dependence")


@pytest.mark.parametrize(
    ("objective", "parts"),
    [
        ("reconstruction", PARTS[:3]),
        ("cross", PARTS[:3]),
        ("spectrum", PARTS[1:3]),
        ("speaker", (PARTS[0], PARTS[3])),
        ("statistics", (PARTS[1], PARTS[4])),
        ("vclub", PARTS[:2]),
        ("likelihood", PARTS[5:]),
        ("hsic", PARTS[:2]),
        ("distance", PARTS[:2]),
    ],
)
def test_each_objective_trains_its_own_networks_and_no_others(objective, parts):
    module = features(weights=EVERYTHING)
    assert {part for part in PARTS if moved(module, objective, part)} == set(parts)


def test_the_weight_of_an_adversary_is_in_the_reversal():
    def gradients(weight: float) -> tuple[torch.Tensor, torch.Tensor]:
        module = features(weights={"speaker": weight})
        module.objectives(batch())["speaker"].backward()
        return module.speaker_reader.head[-1].weight.grad, module.prosody_encoder.out.weight.grad

    (reader, code), (reader_half, code_half) = gradients(1.0), gradients(0.5)
    torch.testing.assert_close(reader, reader_half)
    torch.testing.assert_close(code, 2 * code_half)


def test_objectives_that_are_off_are_not_computed_and_the_sum_is_as_told():
    module = features(weights={name: 0.0 for name in WEIGHTS} | {"reconstruction": 2.0, "spectrum": 3.0})
    found = module.objectives(batch())
    assert set(found) == {"reconstruction", "spectrum"}
    loss, logs = module.loss(batch())
    assert loss.item() == pytest.approx(2 * found["reconstruction"].item() + 3 * found["spectrum"].item(), rel=1e-3)
    assert logs["loss"] is loss


def test_cross_reconstruction_counts_pairs_alone():
    module, one = features().eval(), batch()
    one.paired[:] = False
    assert module.objectives(one)["cross"].item() == 0
    one.paired[0] = True
    before = module.objectives(one)["cross"].item()
    one.partners[1:] += 3.0  # the partners of rows that have none
    assert module.objectives(one)["cross"].item() == pytest.approx(before) and before > 0


@pytest.mark.parametrize("kind", ["features", "tokens", "books"])
def test_a_row_gives_the_same_alone_and_in_company(kind):
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(1)
    if kind == "features":
        module, inputs = features(), [torch.randn(n, 6, generator=g) for n in (31, 7, 20)]
    else:
        books = 2 if kind == "books" else 1
        module = Disentangler("tokens", 9, books, weights={"speaker": 0.0}, **SMALL)
        inputs = [torch.randint(9, (n, 2) if books == 2 else (n,), generator=g) for n in (31, 7, 20)]
    codes, timbres = module.prosody(inputs), module.timbre(inputs)
    assert [len(ids) for ids in codes] == [4, 1, 2]
    for row, ids, timbre in zip(inputs, codes, timbres, strict=True):
        assert torch.equal(module.prosody([row])[0], ids)
        torch.testing.assert_close(module.timbre([row])[0], timbre, atol=1e-5, rtol=1e-4)
        assert 0 <= int(ids.min()) <= int(ids.max()) < 9


def test_the_code_does_not_see_what_stays_the_same():
    module = features()
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(2))
    shifted = x + torch.tensor([5.0, -3.0, 0.0, 1.0, 9.0, 2.0])
    assert torch.equal(module.prosody([x])[0], module.prosody([shifted])[0])
    assert not torch.allclose(module.timbre([x]), module.timbre([shifted]), atol=0.05)


def test_resynthesis_moves_the_register_and_keeps_the_contour():
    module = features()
    codes = [torch.tensor([0, 8, 4, 2])]
    timbres = torch.randn(2, 8, generator=torch.Generator().manual_seed(3))
    a, b = (module.resynthesise(codes, t[None])[0] for t in timbres)
    assert a.shape == (40, 3)
    assert torch.corrcoef(torch.stack([a[:, 0], b[:, 0]]))[0, 1] > 0.999
    assert abs((a[:, 0].mean() - b[:, 0].mean()).item()) > 0.01
    torch.testing.assert_close(a[:, 1], b[:, 1])


def test_restyle_gives_prompts_that_carry_both():
    module = features()
    said = [Utterance(str(i), Prompt([1, 2]), [3, 4, 5]) for i in range(3)]
    inputs = [torch.randn(n, 6) for n in (30, 12, 25)]
    styled = module.restyle(said, inputs, speakers=["ann", "ben", "ann"])
    assert [u.id for u in styled] == ["0", "1", "2"] and torch.equal(styled[0].tokens, said[0].tokens)
    assert torch.equal(styled[1].prompt.style.tokens, module.prosody(inputs)[1])
    assert torch.equal(styled[0].prompt.timbre, styled[2].prompt.timbre)
    torch.testing.assert_close(styled[0].prompt.timbre, module.timbre(inputs)[[0, 2]].mean(0))
    torch.testing.assert_close(module.restyle(said, inputs)[0].prompt.timbre, module.timbre(inputs)[0])
    assert fsq_values(styled[0].prompt.style.tokens, module.levels).shape == (3, 2)
    with pytest.raises(ValueError, match="3 utterances, 2 inputs"):
        module.restyle(said, inputs[:2])


@pytest.mark.parametrize("speakers", [(), ("ann",)])
def test_without_two_speakers_the_adversary_is_left_out_and_said_so(speakers):
    with pytest.warns(UserWarning, match="cannot tell fewer than two apart"):
        module = Disentangler("features", 6, speakers=speakers, **SMALL)
    one = batch()
    one.speakers[:] = -1 if not speakers else 0
    found = module.objectives(one)
    assert "speaker" not in found and "cross" in found
    module.loss(one)[0].backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Disentangler("features", 6, weights={"speaker": 0.0}, **SMALL)


def test_one_row_alone_has_no_dependence_to_measure():
    loss, logs = features(weights=EVERYTHING).loss(batch(rows=1))
    assert torch.isfinite(loss) and not {"hsic", "distance", "vclub"} & set(logs)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: features(weights={"speakers": 1.0}), "unknown objectives"),
        (lambda: features(weights={"speaker": -1.0}), "0 or more"),
        (lambda: Disentangler("mel"), "'audio', 'tokens' or 'features'"),
        (lambda: Disentangler("tokens"), "too small"),
        (lambda: features().prosody([torch.zeros(4, 5)]), r"\(T, 6\)"),
        (lambda: features().prosody([torch.full((4, 6), float("nan"))]), "finite"),
        (lambda: features().timbre([torch.zeros(0, 6)]), "empty"),
        (lambda: Disentangler("tokens", 9, weights={"speaker": 0.0}).prosody([torch.tensor([9])]), r"0\.\.8"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


class _Less(Disentangler):
    """A subclass that changes one objective and one network."""

    def build(self) -> None:
        super().build()
        self.statistics_reader = torch.nn.Linear(self.timbre_size, 4)

    def objectives(self, batch: ProsodyBatch) -> dict[str, torch.Tensor]:
        found = super().objectives(batch)
        return {**found, "reconstruction": found["reconstruction"] * 0}


def test_a_subclass_overrides_one_method():
    module = _Less("features", 6, speakers=("a", "b"), **SMALL)
    loss, logs = module.loss(batch())
    assert logs["reconstruction"].item() == 0 and torch.isfinite(loss)


def voice_data(texts: int = 8, inputs: object = None) -> ProsodyData:
    from seaalign.miniature.voice import SPEAKERS, say

    g = torch.Generator().manual_seed(0)
    said = [say((i % 10, (3 * i) % 10), who, True, g) for i in range(texts) for who in list(SPEAKERS)[:3]]
    rows = [Recording(str(i), s.text, (s.waveform, s.rate), speaker=s.speaker) for i, s in enumerate(said)]
    return ProsodyData(rows[:-6], rows[-6:], inputs=inputs, sample_rate=8000, max_frames=2000)


@pytest.mark.audio
def test_training_logs_validates_and_comes_back(tmp_path):
    data = voice_data()
    torch.manual_seed(0)
    module = Disentangler(sample_rate=8000, speakers=data.speakers, weights=EVERYTHING, **SMALL)
    trainer = Trainer(max_epochs=3, default_root_dir=tmp_path, **quiet)
    trainer.fit(module, data)
    seen = trainer.callback_metrics
    names = [*EVERYTHING, "loss", "likelihood"]
    assert {f"{stage}/{name}" for stage in ("train", "val") for name in names} <= set(seen)
    assert all(torch.isfinite(value) for value in seen.values())
    path = tmp_path / "d.ckpt"
    trainer.save_checkpoint(path)
    loaded = Disentangler.load_from_checkpoint(path, weights_only=True)
    waves = [r.audio[0] for r in data.sources[1]]
    assert loaded.levels == (3, 3) and loaded.timbre_size == 8
    assert all(torch.equal(a, b) for a, b in zip(module.prosody(waves), loaded.prosody(waves), strict=True))
    torch.testing.assert_close(module.timbre(waves), loaded.timbre(waves))


@pytest.mark.audio
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path):
    def run(path: object = None) -> Disentangler:
        torch.manual_seed(0)
        data = voice_data()
        module = Disentangler(sample_rate=8000, speakers=data.speakers, **SMALL)
        saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
        trainer = Trainer(max_steps=6, max_epochs=-1, limit_val_batches=0, callbacks=[saving], **quiet)
        trainer.fit(module, data, ckpt_path=path, weights_only=True if path else None)
        return module

    whole, resumed = run(), run(tmp_path / "step=3.ckpt")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.audio
def test_wrong_data_is_refused():
    data = voice_data(3)
    with pytest.raises(ValueError, match=r"pass data\.speakers"):
        Trainer(max_steps=1, enable_checkpointing=False, **quiet).fit(
            Disentangler(sample_rate=8000, speakers=("x", "y"), **SMALL), data
        )
    with pytest.raises(TypeError, match="ProsodyData"):
        Trainer(max_steps=1, enable_checkpointing=False, **quiet).fit(
            features(), SpeechData([Utterance("a", Prompt([1]), [2])])
        )


@pytest.mark.audio
def test_silence_noise_and_half_a_minute_have_codes():
    module = Disentangler(sample_rate=8000, weights={"speaker": 0.0}, **SMALL)
    noise = 0.1 * torch.randn(240_000, generator=torch.Generator().manual_seed(0))
    codes = module.prosody([torch.zeros(4000), noise[:4000], noise])
    assert [len(ids) for ids in codes] == [5, 5, 300]
    assert torch.isfinite(module.timbre([torch.zeros(4000), noise])).all()
    with pytest.raises(ValueError, match="NaN"):
        module.prosody([torch.full((4000,), float("nan"))])


@pytest.mark.audio
def test_utterances_without_voice_train_what_they_can():
    g = torch.Generator().manual_seed(0)
    rows = [Recording(str(i), "h", (0.1 * torch.randn(4000, generator=g), 8000), speaker="ab"[i % 2]) for i in range(4)]
    data = ProsodyData(rows, sample_rate=8000)
    module = Disentangler(sample_rate=8000, speakers=data.speakers, **SMALL)
    trainer = Trainer(max_epochs=1, enable_checkpointing=False, **quiet)
    trainer.fit(module, data)
    assert all(torch.isfinite(value) for value in trainer.callback_metrics.values())


@pytest.mark.audio
def test_hidden_states_of_a_backbone_are_inputs():
    from seaalign.miniature.lm import TextSpeechLM

    torch.manual_seed(0)
    backbone = TextSpeechLM(codes=13, pause=12, factor=6, dim=32, layers=2, heads=2)
    data = voice_data(4)
    said = [
        Utterance(r.id, Prompt([i % 10, 3], timbre=torch.zeros(41)), torch.randint(12, (len(r.audio[0]) // 320,)))
        for i, r in enumerate(data.sources[0] + data.sources[1])
    ]
    layer = next(
        name for name, child in backbone.named_modules() if name.endswith("layers.0") or name.endswith("blocks.0")
    )
    states = hidden_states(backbone, said, layer)
    assert [s.shape for s in states] == [(len(u.tokens), 32) for u in said]
    again = hidden_states(backbone, said[2:3], layer)[0]
    torch.testing.assert_close(again, states[2])
    data = voice_data(4, inputs=dict(zip([u.id for u in said], states, strict=True)))
    module = Disentangler("features", 32, speakers=data.speakers, stride=4, **SMALL)
    Trainer(max_epochs=1, enable_checkpointing=False, **quiet).fit(module, data)
    assert len(module.prosody(states[:1])[0]) == -(-len(said[0].tokens) // 4)
    with pytest.raises(ValueError, match="no layer 'nowhere'"):
        hidden_states(backbone, said[:1], "nowhere")
