from __future__ import annotations

import math

import pytest
import torch
from torch.utils.data import DataLoader

from seaalign import SFT, SpeechData
from seaalign.data import SpeechBatch
from seaalign.modules.averages import global_mean
from seaalign.modules.optimizer import factor
from seaalign.records import Prompt, Speech
from tests.toy import Table, Toy, quiet, speech


def test_loss_is_the_mean_surprise_of_the_scored_tokens():
    """p = (1/2, 1/4, 1/8, 1/8), the last is the end: [0, 1] + end = 1 + 2 + 3 bits, [0] cut = 1 bit; 7 bits over 4."""
    table = Table(torch.tensor([0.5, 0.25, 0.125, 0.125]).log())
    batch = SpeechBatch([Prompt([1]), Prompt([2])], Speech.pack([[0, 1], [0]], ended=[True, False]))
    loss, logs = SFT(table).loss(batch)
    assert loss.item() == pytest.approx(7 / 4 * math.log(2), rel=1e-6) and logs["loss"].item() == loss.item()


def test_it_learns_and_reports_perplexity_per_token():
    rows, toy = speech(24), Toy()
    trainer = quiet(max_epochs=25)
    module = SFT(toy, lr=2e-2)
    trainer.fit(module, SpeechData(rows, rows, max_frames=60))
    logs = trainer.callback_metrics
    with torch.no_grad():
        batch = SpeechBatch([r.prompt for r in rows], Speech.pack([r.tokens for r in rows]))
        alone = -toy(batch.prompts, batch.speech).sum() / batch.speech.scored.sum()
    assert logs["val/loss"].item() == pytest.approx(alone.item(), rel=1e-5)  # weighed by tokens, not by batches
    assert logs["val/perplexity"].item() == pytest.approx(math.exp(alone.item()), rel=1e-5)
    assert alone < 1.3  # an untrained one is at ln 11 = 2.4


def test_rehearsal_and_loading(tmp_path):
    trainer = quiet(fast_dev_run=True)
    trainer.fit(SFT(Toy(), lr=1e-2), SpeechData(speech(4)))  # no validation data at all
    trainer = quiet(max_steps=2)
    module = SFT(Toy(), lr=1e-2, warmup_steps=1, schedule="cosine", betas=(0.8, 0.9))
    trainer.fit(module, SpeechData(speech(8), max_frames=20))
    trainer.save_checkpoint(tmp_path / "sft.ckpt")
    loaded = SFT.load_from_checkpoint(tmp_path / "sft.ckpt", backbone=Toy(1))
    assert loaded.hparams == module.hparams and "backbone" not in loaded.hparams
    assert all(torch.equal(v, module.state_dict()[k]) for k, v in loaded.state_dict().items())


def test_schedules():
    assert [factor(step, 4, math.inf) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert factor(10, 0, 10) == pytest.approx(0) and factor(5, 0, 10) == pytest.approx(0.5)
    module, rates = SFT(Toy(), lr=1.0, warmup_steps=2, schedule="cosine"), []
    module.on_train_batch_end = lambda *_: rates.append(module.optimizers().param_groups[0]["lr"])
    quiet(max_steps=6).fit(module, SpeechData(speech(4), max_frames=200))
    assert rates == pytest.approx([factor(step, 2, 6) for step in range(1, 7)])
    with pytest.raises(ValueError, match="schedule must be"):
        quiet(max_steps=1).fit(SFT(Toy(), schedule="linear"), SpeechData(speech(2)))
    with pytest.raises(ValueError, match="needs an end"):
        quiet(max_epochs=-1).fit(SFT(Toy(), schedule="cosine"), SpeechData(speech(2)))


def test_a_frozen_backbone_is_named():
    toy = Toy().requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter of the backbone asks for a gradient"):
        quiet(max_steps=1).fit(SFT(toy), SpeechData(speech(2)))


def test_accumulation_averages_the_means_of_the_batches():
    rows = speech(6)
    one = [SpeechBatch([r.prompt], Speech.pack([r.tokens])) for r in rows[:2]]
    toy = Toy()
    sum(SFT(toy).loss(batch)[0] / 2 for batch in one).backward()
    want = {name: p.grad.clone() for name, p in toy.named_parameters()}
    module, got = SFT(Toy()), {}
    module.on_before_optimizer_step = lambda _: got.update(
        {n: p.grad.clone() for n, p in module.backbone.named_parameters()}
    )
    quiet(max_steps=1, accumulate_grad_batches=2).fit(module, DataLoader(one, batch_size=None))
    assert all(torch.allclose(got[name], want[name], atol=1e-6) for name in want)


def test_a_mean_in_one_process_is_the_mean():
    assert global_mean(torch.tensor(6.0), torch.tensor(4)).item() == 1.5
