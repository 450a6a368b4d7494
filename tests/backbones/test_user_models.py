"""Backbones that users could have written pass, and `check_backbone` leaves them as they were."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from seaalign import Speech, cli
from seaalign.backbones import add_lora
from seaalign.testing import check_backbone
from tests.backbones.user_models import (
    CODES,
    EncoderDecoder,
    Recurrent,
    TwoBookLSTM,
    built,
    example,
    ragged_prompts,
    tokens,
)

EXAMPLE = example()


def decoder():
    return EXAMPLE.MyAdapter(EXAMPLE.MySpeechLM())


CASES = {
    "decoder": (decoder, lambda: ragged_prompts(True, EXAMPLE.TEXT, EXAMPLE.CODES), {"high": EXAMPLE.CODES}, set()),
    "two-book lstm": (TwoBookLSTM, ragged_prompts, {"books": 2}, {"one-token", "style", "frequencies"}),
    "encoder-decoder": (EncoderDecoder, ragged_prompts, {}, set()),
    "plain backbone": (Recurrent, ragged_prompts, {}, {"one-token", "stepwise", "style", "frequencies"}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_user_s_backbone_passes(case):
    make, prompts, kind, skipped = CASES[case]
    report = check_backbone(built(make), prompts(), Speech.pack(tokens(14, 9, 5, **kind)))
    assert len(report) == 18
    for rule, outcome in report:
        expected = any(word in rule for word in skipped)
        assert outcome.startswith("skipped: ") == expected, (rule, outcome)
        assert rule in str(report)


def test_half_precision_passes_with_its_own_tolerance():
    backbone = built(decoder).bfloat16()
    prompts = [type(p)(p.text, p.style, p.timbre.bfloat16()) for p in CASES["decoder"][1]()]
    report = check_backbone(backbone, prompts, Speech.pack(tokens(14, 9, 5, high=EXAMPLE.CODES)))
    assert dict(report)["batch == single"] == "passed"


def test_a_check_leaves_everything_as_it_was():
    backbone = built(TwoBookLSTM)
    backbone.lstm.eval()  # a part that its user froze on purpose
    backbone.register_buffer("calls", torch.zeros(()))
    kept = torch.full_like(backbone.heads[0].bias, 3.0)
    backbone.heads[0].bias.grad = kept
    modes = [module.training for module in backbone.modules()]
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    check_backbone(backbone, ragged_prompts(), Speech.pack(tokens(14, 9, 5, books=2)))
    assert [module.training for module in backbone.modules()] == modes
    assert backbone.heads[0].bias.grad is kept and bool((kept == 3).all())
    assert all(p.grad is None for name, p in backbone.named_parameters() if name != "heads.0.bias")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1] and np.random.get_state()[1].tolist() == before[2]


def test_one_prompt_and_one_row_suffice():
    report = dict(check_backbone(built(EncoderDecoder), ragged_prompts()[1:2], Speech.pack(tokens(8))))
    assert report["style changes the score"].startswith("skipped: no prompt has a style")
    assert report["sample: independent of batch composition"].startswith("skipped: one prompt")


@pytest.mark.parametrize(
    ("prompts", "speech", "message"),
    [
        (slice(0, 0), Speech.pack(tokens(8)), "prompts is empty"),
        (slice(0, 1), Speech.pack(tokens(8), prompt=[2]), r"must lie in 0..0, got \[2\]"),
        (slice(0, 1), Speech.pack(tokens(3)), "longest row of speech has 3 frames"),
        (slice(0, 1), Speech.pack([]), "longest row of speech has 0 frames"),
    ],
)
def test_data_that_cannot_show_anything_is_refused(prompts, speech, message):
    with pytest.raises(ValueError, match=message):
        check_backbone(built(EncoderDecoder), ragged_prompts()[prompts], speech)


def test_a_single_token_id_is_said_to_be_too_little():
    report = dict(check_backbone(built(EncoderDecoder), ragged_prompts(), Speech.pack([[3, 3, 3, 3, 3]])))
    assert report["column t scores token t from tokens before t"].startswith("skipped: speech holds a single token id")


def test_a_large_vocabulary_is_not_enumerated():
    report = dict(
        check_backbone(built(EncoderDecoder), ragged_prompts(), Speech.pack(tokens(8)), enumerate_up_to=CODES)
    )
    assert report["one-token answers sum to 1"] == f"skipped: {CODES + 1} ids are more than enumerate_up_to={CODES}"


def test_the_example_runs(capsys):
    EXAMPLE.main()
    printed = capsys.readouterr().out
    assert printed.count("passed") == 18 and "style on:" in printed and "style off:" in printed


def test_the_example_s_adapter_is_short():
    source = (EXAMPLE.__loader__.get_source("your_own_model")).split("class MyAdapter")[1].split("# -- Part 3")[0]
    assert len([line for line in source.splitlines() if line.strip()]) <= 60


@pytest.mark.parametrize("lora", [False, True])
def test_the_example_s_files_are_those_of_its_own_code(tmp_path, lora):
    backbone = built(decoder)
    if lora:
        pytest.importorskip("peft", exc_type=ImportError)  # as when torchaudio does not load
        backbone.lora_defaults = {"targets": ["qkv", "out"]}
        add_lora(backbone, r=2)
    with torch.no_grad():
        for parameter in filter(lambda one: one.requires_grad, backbone.parameters()):
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    prompts = ragged_prompts(True, EXAMPLE.TEXT, EXAMPLE.CODES)
    speech = Speech.pack(tokens(9, 7, 5, high=EXAMPLE.CODES))
    want = backbone(prompts, speech)

    backbone.save(tmp_path / "model.pt")
    model = EXAMPLE.MySpeechLM()
    model.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), strict=True)
    torch.testing.assert_close(EXAMPLE.MyAdapter(model)(prompts, speech), want, atol=1e-4, rtol=0)
    again = decoder()
    again.load(tmp_path / "model.pt")
    torch.testing.assert_close(again(prompts, speech), want, atol=1e-4, rtol=0)
    if lora:
        backbone.save(tmp_path / "lora", adapters_only=True)
        apart = built(decoder)
        apart.load(tmp_path / "lora")
        torch.testing.assert_close(apart(prompts, speech), want)


def test_the_example_is_exported(tmp_path, monkeypatch):
    """As the guide says it, by the shell: from the model's own checkpoint to one."""
    monkeypatch.chdir(tmp_path)
    torch.save(EXAMPLE.MySpeechLM().state_dict(), "my_lm.pt")
    model = {"class_path": "examples.your_own_model.MySpeechLM"}
    backbone = {"class_path": "examples.your_own_model.MyAdapter", "init_args": {"model": model}}
    Path("my.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"backbone": backbone}}}))
    assert cli.main(["export", "--config=my.yaml", "--weights=my_lm.pt", "--output=no/such/same.pt"]) == 0
    first, same = (torch.load(name, weights_only=True) for name in ("my_lm.pt", "no/such/same.pt"))
    assert first.keys() == same.keys() and all(torch.equal(first[name], same[name]) for name in first)
