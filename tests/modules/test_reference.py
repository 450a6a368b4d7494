"""With LoRA the reference policy is the policy without its LoRA layers: no second model, no stored log-probs."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader

from seaalign import DGSA, LogitsBackbone, TripletData, Unsupported, Utterance, cli, read_triplets, write_utterances
from seaalign.backbones.base import evaluating
from seaalign.data import PairBatch, TripletBatch
from seaalign.data.pairs import PairData
from seaalign.modules.dpo import DPO
from seaalign.records import Pair, Prompt, Style, Triplet
from seaalign.sampling import dual_mode, pair_logps, reference_logps
from seaalign.sampling.reference import adapterless_logps
from seaalign.storage import read_metadata, weights_hash
from seaalign.storage.preferences import write_preferences
from tests.backbones.user_models import tokens
from tests.modules.test_distributed import both
from tests.modules.test_dpo import made_pairs
from tests.modules.test_resume import SaveEverywhere
from tests.modules.test_yaml import named
from tests.modules.two_processes import train
from tests.toy import Toy, quiet, speech

pytest.importorskip("peft", exc_type=ImportError)  # as when torchaudio does not load
from seaalign.backbones import CausalLM, CosyVoice  # noqa: E402
from seaalign.backbones.lora import add_lora, inject  # noqa: E402
from tests.backbones import cosyvoice_standin as standin  # noqa: E402
from tests.backbones.tiny_hf import CODES, model_for, prompts_for  # noqa: E402

pytestmark = pytest.mark.audio  # not for sound: peft imports transformers, and that imports torchaudio
BIT = math.log(2)


def adapted(seed: int = 0, r: int = 4, **kwargs) -> Toy:
    """A toy with LoRA on its embeddings and its head; the same layers for the same seed."""
    toy = Toy(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        return add_lora(toy, r=r, alpha=8, targets=["words", "codes", "head"], **kwargs)


def warm(toy: Toy, size: float = 0.3) -> Toy:
    """LoRA layers that have learned something."""
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in toy.parameters():
            if parameter.requires_grad:
                parameter.add_(size * torch.randn(parameter.shape, generator=g))
    return toy


class Line(LogitsBackbone):
    """Logits are the weights of a linear layer over the number 1: hand-made numbers, and a place for LoRA."""

    features = frozenset({"style", "timbre"})
    eos = 3

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(1, 4, bias=False)
        with torch.no_grad():
            self.q_proj.weight.copy_(torch.tensor([0.5, 0.25, 0.125, 0.125]).log()[:, None])

    def forward_logits(self, prompts, tokens):
        return self.q_proj(torch.ones(len(tokens), tokens.shape[1] + 1, 1))


def moved_line() -> Line:
    """Reference (1/2, 1/4, 1/8, 1/8), policy (1/4, 1/2, 1/8, 1/8): LoRA takes a bit from id 0 and gives it to id 1."""
    line = add_lora(Line(), r=1, alpha=1)
    with torch.no_grad():
        line.q_proj.lora_A["default"].weight.fill_(1.0)
        line.q_proj.lora_B["default"].weight.copy_(torch.tensor([-1.0, 1.0, 0.0, 0.0])[:, None] * BIT)
    return line


def test_golden_losses():
    """Of [0] the policy thinks one bit less than the reference, of [1] one bit more; the end costs both three."""
    pair = Pair("a", Prompt([1]), torch.tensor([1]), torch.tensor([0]))
    loss, logs = DPO(moved_line(), beta=1.0).loss(PairBatch.of([pair], stored=False))
    assert loss.item() == pytest.approx(math.log(1.25), rel=1e-6)  # margin 2 bits: log(1 + 2^-2)
    assert logs["rewards/margins"].item() == pytest.approx(2 * BIT, rel=1e-6)
    assert logs["logps/chosen"].item() == pytest.approx(-4 * BIT, rel=1e-6)
    assert logs["logps/drift_chosen"].item() == pytest.approx(BIT, rel=1e-6)
    one, other, third = torch.tensor([1]), torch.tensor([0]), torch.tensor([2])
    triplet = Triplet("a", Prompt([1], Style([2])), one, other, third)
    loss, logs = DGSA(moved_line(), alpha=0.8, beta=1.0).loss(TripletBatch.of([triplet], stored=False))
    # stability: margin 2 bits; expressivity: 1 bit, as both give [2] an eighth; weights 0.4 and 0.6
    assert loss.item() == pytest.approx(0.4 * math.log(1.25) + 0.6 * math.log(1.5), rel=1e-6)


def both_ways(module, stored, live) -> list[tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]]:
    found = []
    for batch in (stored, live):
        module.zero_grad()
        loss, logs = module.loss(batch)
        loss.backward()
        gradients = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
        found.append((loss.detach(), logs, gradients))
    return found


def assert_same(module, stored, live, moved: bool) -> None:
    (want, wanted, there), (got, logs, here) = both_ways(module, stored, live)
    assert got.item() == pytest.approx(want.item(), abs=1e-6)
    assert logs.keys() == wanted.keys() and there.keys() == here.keys()
    assert all(logs[name].item() == pytest.approx(wanted[name].item(), abs=2e-5) for name in logs)
    assert here and all("lora_" in name for name in here)
    for name in here:
        torch.testing.assert_close(here[name], there[name], atol=1e-6, rtol=1e-5)
    assert any(bool(g.abs().max() > 1e-4) for g in here.values())
    assert (abs(want.item() - BIT) > 1e-3) == moved


def trained(module, data) -> None:
    quiet(max_steps=5).fit(module, data)


@pytest.mark.parametrize("styled", [False, True])
def test_dgsa_is_the_same_both_ways_before_and_after_training(tmp_path, styled):
    toy = adapted()
    data = TripletData(speech(12), tmp_path / "t.parquet", val_fraction=0, styled=styled, max_frames=400)
    module = DGSA(toy, 0.8, lr=1e-2, styled_stability=styled)
    data.make(Toy())
    rows = read_triplets(tmp_path / "t.parquet")[:7]
    batches = TripletBatch.of(rows), TripletBatch.of(rows, stored=False)
    assert_same(module, *batches, moved=False)
    trained(module, data)
    assert_same(module, *batches, moved=True)


@pytest.mark.parametrize("settings", [{}, {"loss": "ipo", "reduction": "mean"}, {"sft_weight": 0.3}])
def test_dpo_is_the_same_both_ways_before_and_after_training(tmp_path, settings):
    toy, rows = adapted(), made_pairs(12)
    module = DPO(toy, lr=1e-2, **settings)
    batches = PairBatch.of(pair_logps(Toy(), rows[:7])), PairBatch.of(rows[:7], stored=False)
    first = both_ways(module, *batches)[0][0]
    both = [both_ways(module, *batches)]
    trained(module, PairData(rows, tmp_path / "s.parquet", val_fraction=0, max_frames=200))
    both.append(both_ways(module, *batches))
    assert abs(both[1][0][0] - first) > 1e-3
    for (want, _, there), (got, _, here) in both:
        assert got.item() == pytest.approx(want.item(), abs=1e-6 if "loss" not in settings else 1e-5)
        assert all(torch.allclose(here[name], there[name], atol=1e-6) for name in there)


def causal(**settings) -> CausalLM:
    model, layout, tokenizer = model_for("spark", "Qwen2")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return CausalLM(model, layout, tokenizer, lora={"r": 4}, **settings)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_transformer_of_hugging_face_is_the_same_both_ways(tmp_path, checkpointing):
    backbone, plain = causal(gradient_checkpointing=checkpointing), CausalLM(*model_for("spark", "Qwen2"))
    assert weights_hash(backbone) == weights_hash(plain)
    g = torch.Generator().manual_seed(0)
    prompts = [prompt for prompt in prompts_for(backbone.spec) if prompt.style]
    real = [Utterance(f"u{i}", p, torch.randint(CODES, (8,), generator=g)) for i, p in enumerate(prompts * 3)]
    module = DGSA(backbone, 0.8, lr=1e-2)
    triplets = dual_mode(plain, real)
    scored = reference_logps(plain, triplets)
    batches = TripletBatch.of(scored), TripletBatch.of(triplets, stored=False)
    assert_same(module, *batches, moved=False)
    backbone.train()
    trained(module, TripletData(real, tmp_path / "t.parquet", val_fraction=0, reference="disabled_adapter"))
    assert_same(module, *batches, moved=True)


def cosyvoice(version: int):
    three = {"tokenizer": standin.Tokenizer({"<|endofprompt|>": 300}), "instruct": [5, 6, 300]} if version == 3 else {}
    make = partial(CosyVoice, standin.tiny(version, codes=CODES, text_rows=320), **three)
    prompts = [Prompt([1, 2, 3], Style([4, 1], [7])), Prompt([5]), Prompt([6, 7])]
    return make, prompts, [tokens(6, 5, 4, high=CODES, seed=seed) for seed in (8, 9)]


def csm():
    pytest.importorskip("transformers", minversion="4.52")
    from tests.backbones import test_csm

    rows = test_csm.rows(5, 4, 3)
    return test_csm.csm, test_csm.prompts(), [rows, [row.flip(0) for row in rows]]


@pytest.mark.parametrize(
    "case", [partial(cosyvoice, 2), partial(cosyvoice, 3), csm], ids=["CosyVoice 2", "CosyVoice 3", "CSM"]
)
def test_an_adapter_is_the_same_both_ways(case):
    make, prompts, answers = case()
    rows = [Pair(str(i), *each) for i, each in enumerate(zip(prompts, *answers, strict=True))]
    stored = PairBatch.of(pair_logps(make(), rows))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = DPO(add_lora(make(), r=4))
    assert_same(module, stored, PairBatch.of(rows, stored=False), moved=False)
    warm(module.backbone, 0.05)
    assert_same(module, stored, PairBatch.of(rows, stored=False), moved=True)


@pytest.mark.parametrize("kind", ["dgsa", "dpo"])
def test_a_run_is_the_same_run_both_ways(tmp_path, kind):
    ends = []
    for reference in ("stored", "disabled_adapter"):
        toy = adapted()
        if kind == "dgsa":
            module = DGSA(toy, 0.8, lr=1e-2)
            data = TripletData(speech(12), tmp_path / "t.parquet", reference=reference, max_frames=300)
        else:
            module = DPO(toy, lr=1e-2)
            data = PairData(made_pairs(12), tmp_path / "s.parquet", reference=reference, max_frames=100)
        trainer = quiet(max_steps=8)
        trainer.fit(module, data)
        ends.append(({n: v.clone() for n, v in toy.state_dict().items()}, dict(trainer.callback_metrics)))
    (weights, logs), (others, again) = ends
    assert logs.keys() == again.keys() and any("val/" in name for name in logs)
    assert all(torch.allclose(weights[name], others[name], atol=1e-4) for name in weights)
    assert all(abs(float(logs[name] - again[name])) < 1e-3 for name in logs)
    assert logs["train/rewards/margins"] > 0.02
    base = Toy().state_dict()
    assert all(
        torch.equal(value, base[name.replace("base_layer.", "")])
        for name, value in others.items()
        if "lora_" not in name
    )


def test_the_reference_is_scored_without_dropout_and_leaves_everything_as_it_was():
    toy, plain = warm(adapted(dropout=0.5)), Toy()
    toy.dropout = 0.3
    toy.train()
    toy.body.eval()  # frozen on purpose
    modes = {name: child.training for name, child in toy.named_modules()}
    asked = {name: parameter.requires_grad for name, parameter in toy.named_parameters()}
    rows = made_pairs(5)
    batch = PairBatch.of(rows, stored=False)
    state = torch.random.get_rng_state()
    got = adapterless_logps(toy, batch.prompts, batch.speech)
    assert torch.equal(got, plain(batch.prompts, batch.speech)) and not got.requires_grad
    assert torch.equal(state, torch.random.get_rng_state())
    assert modes == {name: child.training for name, child in toy.named_modules()}
    assert asked == {name: parameter.requires_grad for name, parameter in toy.named_parameters()}
    with evaluating(toy):
        assert not torch.allclose(toy(batch.prompts, batch.speech), got, atol=1e-2)
    losses = {DPO(toy).loss(batch)[0].item() for _ in range(4)}
    assert len(losses) == 4  # of the policy dropout is part


def test_the_first_step_is_checked(tmp_path):
    def fit(*both):
        quiet(max_steps=1).fit(*both)

    data = {"reference": "disabled_adapter", "val_fraction": 0}
    fit(DPO(adapted(dropout=0.5)), PairData(made_pairs(8), **data))  # as long as B = 0 dropout changes nothing
    says = "must equal.*that of LoRA layers too, once they have been trained.*LoRA layers that were trained before"
    for toy in (warm(adapted()), warm(adapted(dropout=0.5))):
        with pytest.raises(RuntimeError, match=says):
            fit(DPO(toy), PairData(made_pairs(8), **data))
    with pytest.raises(RuntimeError, match=says):
        fit(DGSA(warm(adapted()), 0.8), TripletData(speech(8), tmp_path / "t.parquet", **data))
    toy = adapted()
    toy.dropout = 0.1
    with pytest.raises(RuntimeError, match="dropout active inside forward"):
        fit(DPO(toy), PairData(made_pairs(8), **data))


def test_without_lora_both_ways_out_are_named(tmp_path):
    says = "Toy has no LoRA layers.*reference='stored'.*pair_logps.*add_lora"
    rows = made_pairs(4)
    with pytest.raises(Unsupported, match=f"a batch without stored reference.*{says}"):
        DPO(Toy()).loss(PairBatch.of(rows, stored=False))
    with pytest.raises(Unsupported, match=says):
        DGSA(Toy(), 0.8).loss(TripletBatch.of(dual_mode(Toy(), speech(3)), stored=False))
    with pytest.raises(Unsupported, match=rf"PairData\(reference='disabled_adapter'\) needs.*{says}"):
        quiet(max_steps=1).fit(DPO(Toy()), PairData(rows, reference="disabled_adapter"))
    data = TripletData(speech(4), tmp_path / "t.parquet", reference="disabled_adapter")
    with pytest.raises(Unsupported, match=rf"TripletData\(reference='disabled_adapter'\) needs.*{says}"):
        quiet(max_steps=1).fit(DGSA(Toy(), 0.8), data)
    assert not list(tmp_path.iterdir())  # said before anything was sampled


def test_weights_trained_beside_the_lora_layers_are_refused():
    toy = adapted()
    toy.body.requires_grad_(True)
    with pytest.raises(
        ValueError, match=r"4 parameters outside the LoRA layers are trained, first \['body.weight_ih_l0'"
    ):
        DPO(toy).loss(PairBatch.of(made_pairs(4), stored=False))
    DPO(toy).loss(PairBatch.of(pair_logps(toy, made_pairs(4))))  # a stored reference stays where it was
    assert toy.body.weight_ih_l0.requires_grad


def test_triplets_are_sampled_and_not_scored(tmp_path):
    path, rows = tmp_path / "t.parquet", speech(8)
    live = {"reference": "disabled_adapter"}
    quiet(max_steps=1).fit(DGSA(adapted(), 0.8), TripletData(rows, path, **live))
    assert all(triplet.reference is None for triplet in read_triplets(path))
    assert read_metadata(path)["weights"] == weights_hash(Toy())
    with pytest.raises(ValueError, match="reference: here stored, file without log-probs(?s:.)*delete the file"):
        quiet(max_steps=1).fit(DGSA(Toy(), 0.8), TripletData(rows, path))
    with pytest.raises(ValueError, match="data: here"):  # everything else is looked at as ever
        quiet(max_steps=1).fit(DGSA(adapted(), 0.8), TripletData(rows[1:], path, **live))
    with pytest.raises(ValueError, match="weights: here"):
        quiet(max_steps=1).fit(DGSA(adapted(1), 0.8), TripletData(rows, path, **live))
    full = tmp_path / "full.parquet"
    TripletData(rows, full, styled=True).make(Toy())
    data = TripletData(rows, full, **live)  # log-probs that are there are of no consequence
    quiet(max_steps=1).fit(DGSA(adapted(), 0.8, styled_stability=True), data)
    assert data.train[0].reference and next(iter(data.train_dataloader())).plain is None


@pytest.mark.parametrize("kind", ["dgsa", "dpo"])
def test_a_resumed_run_is_the_same_run(tmp_path, kind):
    def run(checkpoint=None, callbacks=(), base=0):
        toy = adapted(base)
        if kind == "dgsa":
            module = DGSA(toy, 0.8, lr=1e-2)
            data = TripletData(speech(12), tmp_path / "t.parquet", reference="disabled_adapter", max_frames=300)
        else:
            module, data = DPO(toy, lr=1e-2), PairData(made_pairs(12), reference="disabled_adapter", max_frames=80)
        trainer = quiet(max_steps=6, callbacks=list(callbacks))
        trainer.fit(module, data, ckpt_path=checkpoint)
        return {name: value.clone() for name, value in toy.state_dict().items()}

    want = run(callbacks=[SaveEverywhere(tmp_path)])
    for place in sorted(tmp_path.glob("0[2-5]-batch.ckpt"))[::2]:
        got = run(place, base=3)  # of another base: the checkpoint's count
        assert all(torch.equal(want[name], got[name]) for name in want), place.name


def test_a_live_run_goes_on_live_on_the_same_pairs_alone(tmp_path):
    rows, path = made_pairs(8), tmp_path / "s.parquet"
    trainer = quiet(max_steps=1)
    trainer.fit(DPO(adapted()), PairData(rows, reference="disabled_adapter"))
    trainer.save_checkpoint(tmp_path / "live.ckpt")
    stored = quiet(max_steps=1)
    stored.fit(DPO(adapted()), PairData(rows, path))
    stored.save_checkpoint(tmp_path / "stored.ckpt")

    def go_on(name, data):
        quiet(max_steps=2).fit(DPO(adapted()), data, ckpt_path=tmp_path / name)

    go_on("live.ckpt", PairData(rows, reference="disabled_adapter"))
    go_on("stored.ckpt", PairData(rows, reference="disabled_adapter"))  # the same function
    with pytest.raises(ValueError, match="not the pairs that the checkpoint was trained on"):
        go_on("live.ckpt", PairData(rows[1:], reference="disabled_adapter"))
    # the file may be of any weights: nothing says that they were the reference of the run
    with pytest.raises(ValueError, match="weights: checkpoint None, file"):
        go_on("live.ckpt", PairData(rows, path))


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_in_16_bit_too(tmp_path, precision):
    """Autocast keeps 16-bit copies of weights that a pass without gradient has made; none of them may be used again."""
    found = []
    for reference in ("stored", "disabled_adapter"):
        module, got = DPO(adapted(), lr=1e-2), {}
        module.on_before_optimizer_step = lambda _, m=module, g=got: g.update(
            {n: p.grad.clone() for n, p in m.named_parameters() if p.grad is not None}
        )
        data = PairData(
            made_pairs(8), tmp_path / f"{precision}.parquet", val_fraction=0, max_frames=10_000, reference=reference
        )
        quiet(max_steps=1, precision=precision).fit(module, data)
        found.append(got)
    assert found[0].keys() == found[1].keys() == {n for n, p in module.named_parameters() if p.requires_grad}
    flat = [torch.cat([g.flatten().float() for g in got.values()]) for got in found]
    assert flat[0].norm() > 0.01 and torch.nn.functional.cosine_similarity(*flat, dim=0) > 0.999


class TestFingerprint:
    def test_lora_that_adds_nothing_is_not_seen(self):
        plain = weights_hash(Toy())
        assert weights_hash(adapted()) == weights_hash(adapted(r=2)) == plain
        with torch.random.fork_rng():
            torch.manual_seed(99)  # other random halves
            assert weights_hash(add_lora(Toy(), r=4, targets=["words", "codes", "head"])) == plain
        assert weights_hash(adapted(1)) == weights_hash(Toy(1)) != plain

    def test_lora_that_adds_something_is_seen(self):
        plain, toy = weights_hash(Toy()), adapted()
        for name, parameter in toy.named_parameters():
            idle = [part for part in ("lora_B", "lora_embedding_A") if part in name]  # those that start at 0
            if idle:
                with torch.no_grad():
                    parameter.view(-1)[-1] = 1e-9
                assert weights_hash(toy) != plain, name
                with torch.no_grad():
                    parameter.zero_()
                assert weights_hash(toy) == plain, name
        with torch.no_grad():
            toy.head.base_layer.weight[0, 0] += 1e-3
        assert weights_hash(toy) != plain

    @pytest.mark.parametrize(
        "settings", [{"use_dora": True}, {"init_lora_weights": False}, {"init_lora_weights": "pissa"}]
    )
    def test_what_is_not_the_base_model_bit_for_bit_is_seen(self, settings):
        from peft import LoraConfig

        toy = Toy()
        inject(toy, LoraConfig(r=2, target_modules=["head"], **settings))  # add_lora refuses some of them
        assert weights_hash(toy) != weights_hash(Toy())

    def test_the_same_matrices_under_another_alpha_are_seen(self):
        hashes = set()
        for alpha in (8, 64):
            toy = add_lora(Toy(), r=2, alpha=alpha, targets=["head"])
            with torch.no_grad():
                for name, parameter in toy.named_parameters():
                    if "lora_" in name:
                        parameter.fill_(0.5)
            hashes.add(weights_hash(toy))
        assert len(hashes) == 2

    def test_a_bias_of_its_own_is_seen_once_it_is_not_zero(self):
        toy = add_lora(Toy(), r=2, targets=["head"], lora_bias=True)
        assert weights_hash(toy) == weights_hash(Toy())
        with torch.no_grad():
            toy.head.lora_B["default"].bias[0] = 1.0
        assert weights_hash(toy) != weights_hash(Toy())

    def test_a_base_layer_of_the_user_s_own_keeps_its_name(self):
        linear = nn.Linear(1, 1)
        under = nn.ModuleDict({"outer": nn.ModuleDict({"base_layer": linear})})
        assert weights_hash(under) != weights_hash(nn.ModuleDict({"outer": linear}))

    def test_triplets_of_the_full_model_serve_lora(self, tmp_path):
        path = tmp_path / "t.parquet"
        TripletData(speech(8), path).make(Toy())
        before = path.read_bytes()
        for reference in ("stored", "disabled_adapter"):
            data = TripletData(speech(8), path, reference=reference)
            quiet(max_steps=1).fit(DGSA(adapted(), 0.8), data)
        assert path.read_bytes() == before
        with pytest.raises(ValueError, match="weights: here"):
            quiet(max_steps=1).fit(DGSA(warm(adapted()), 0.8), TripletData(speech(8), path))


@pytest.mark.parametrize("kind", ["dgsa", "dpo"])
def test_from_a_yaml_file(tmp_path, kind):
    model, layout, tokenizer = model_for("spark", "Qwen2")
    for one in (model, tokenizer):
        one.save_pretrained(tmp_path / "model")
    fields = ("name", "prompt", "speech", "codes", "end", "also", "timbre", "timbre_codes")
    spec = json.loads(json.dumps({field: getattr(layout, field) for field in fields}))
    backbone = {"model": str(tmp_path / "model"), "layout": spec, "lora": {"r": 4}, "gradient_checkpointing": True}
    g = torch.Generator().manual_seed(0)
    prompts = [prompt for prompt in prompts_for(layout) if prompt.style] * 3
    answers = torch.randint(CODES, (2, len(prompts), 8), generator=g)
    if kind == "dgsa":
        write_utterances(tmp_path / "d.parquet", [Utterance(f"u{i}", p, answers[0, i]) for i, p in enumerate(prompts)])
        module = named(DGSA, alpha=0.8, lr=5e-3, backbone=named(CausalLM, **backbone))
        data = named(TripletData, utterances=str(tmp_path / "d.parquet"), triplets=str(tmp_path / "t.parquet"))
    else:
        pairs = [Pair(f"p{i}", p, answers[0, i], answers[1, i]) for i, p in enumerate(prompts)]
        write_preferences(tmp_path / "d.jsonl", pairs, CausalLM(model, layout, tokenizer))
        module = named(DPO, lr=5e-3, backbone=named(CausalLM, **backbone))
        data = named(PairData, pairs=str(tmp_path / "d.jsonl"))
    data["init_args"] |= {"reference": "disabled_adapter", "val_fraction": 0.3}
    trainer = {"accelerator": "cpu", "max_steps": 4, "logger": False, "enable_progress_bar": False}
    config = {"model": module, "data": data, "trainer": {**trainer, "default_root_dir": str(tmp_path)}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    assert cli.main(["fit", "--config", str(tmp_path / "run.yaml")]) == 0
    state = torch.load(next(tmp_path.rglob("*.ckpt")), weights_only=True)
    moved = {name for name, value in state["state_dict"].items() if "lora_B" in name and bool(value.count_nonzero())}
    assert moved and not list(tmp_path.rglob("scored*"))


LIVE = {"reference": "disabled_adapter", "max_frames": 60, "val_fraction": 0.3}


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """DDP hooks are on the module's forward; the backbone is called twice inside it."""
    clean = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_PORT")}
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run(
        [sys.executable, "-m", "tests.modules.test_reference", str(tmp_path)],
        env={**clean, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        cwd=root,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    two = torch.load(tmp_path / "DPO.pt", weights_only=True)
    data, module = PairData(made_pairs(15), **LIVE), DPO(adapted(), lr=1e-2)
    data.setup("fit")
    frames = [2 * max(map(len, pair.completions())) for pair in data.train]
    batches = both(frames, 60, data.train_dataloader().collate)
    start = {name: value.clone() for name, value in module.state_dict().items()}
    trainer = quiet(max_steps=len(batches), max_epochs=1)
    trainer.fit(module, DataLoader(batches, batch_size=None), data.val_dataloader())
    assert two["steps"] == len(batches)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(two["weights"][name], value, atol=2e-5, rtol=1e-4)
        assert torch.equal(value, start[name]) == ("lora_" not in name)
    for name in (key for key in trainer.callback_metrics if key.startswith("val/")):
        torch.testing.assert_close(two["logs"][name], trainer.callback_metrics[name], atol=1e-4, rtol=1e-3, msg=name)


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(DPO(adapted(), lr=1e-2), PairData(made_pairs(15), **LIVE), Path(sys.argv[1]), 2)
