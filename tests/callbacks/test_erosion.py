"""ErosionMonitor: fixed numbers, no trace in training, resume, decisions, and modules it has never seen."""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from seaalign import ErosionMonitor, LogitsBackbone, Prompt, Speech
from seaalign.callbacks import PromptedCallback
from tests.callbacks.strangers import VOCAB, ListLogger, Stranger, TinyBackbone, policy_of, prompts

KEYS = {"entropy", "entropy_corrected", "tokens", "repetition", "tokens_per_word", "cut", "f0_std", "voiced"}


def monitor(**kwargs: Any) -> ErosionMonitor:
    return ErosionMonitor(prompts(), **({"backbone": "inner.policy", "max_len": 20, "n": 4} | kwargs))


def weights(module: Stranger) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def slow_entropy(rows: list[list[int]]) -> float:
    counts = Counter(token for row in rows for token in row)
    total = sum(counts.values())
    return -sum(c / total * math.log2(c / total) for c in counts.values())


@pytest.mark.parametrize("when", [{"every_n_epochs": 1}, {"every_n_steps": 3}])
@pytest.mark.parametrize("validate", [True, False])
def test_training_goes_on_bit_for_bit_as_without_it(quiet_trainer: Any, when: dict[str, int], validate: bool) -> None:
    trained, states = [], []
    for callbacks in ([], [monitor(**when)]):
        trainer, module = quiet_trainer(callbacks=callbacks), Stranger(validate=validate)
        trainer.fit(module)
        trained.append(weights(module))
        states.append((torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()))
    assert torch.equal(*trained)
    assert torch.equal(states[0][0], states[1][0]) and states[0][1:] == states[1][1:]
    assert not torch.equal(trained[0], weights(Stranger()))  # it did train
    assert len(callbacks[0].history) == (3 if "every_n_epochs" in when else 1 + 8 // 3)


def test_baseline_and_curve_agree_with_a_slow_count(quiet_trainer: Any, listener: ListLogger) -> None:
    watch, module = monitor(every_n_steps=2), Stranger()
    module.inner["policy"].eval()
    rows = policy_of(module).sample(
        [prompt.plain() for prompt in prompts()], n=4, max_len=20, generator=torch.Generator().manual_seed(0)
    )
    module.train()
    quiet_trainer(callbacks=[watch], logger=listener, max_epochs=1).fit(module)
    first = watch.history[0]
    spoken = [row.tolist() for row in rows.rows()]
    assert first["step"] == 0 and first["tokens"] == sum(map(len, spoken))
    assert first["entropy"] == pytest.approx(slow_entropy(spoken), abs=1e-9)
    assert first["tokens_per_word"] == pytest.approx(sum(map(len, spoken)) / (4 * (2 + 3)))
    assert first["cut"] == pytest.approx(sum(not ended for ended in rows.ended.tolist()) / 8)
    assert set(first) == KEYS | {"step", "epoch"} and first["voiced"] > 0 and first["f0_std"] > 0
    assert listener.curve("val/erosion/entropy") == {int(m["step"]): m["entropy"] for m in watch.history}
    assert sorted(listener.curve("val/erosion/entropy")) == [0, 2, 4]


def test_measuring_twice_gives_the_same_numbers_however_the_prompts_are_cut(quiet_trainer: Any) -> None:
    results = []
    for size in (64, 1):
        watch = monitor(batch_size=size)
        trainer = quiet_trainer(callbacks=[watch], max_epochs=1)
        trainer.fit(Stranger())
        results.append(watch.history[0])
        assert trainer.callback_metrics["val/erosion/entropy"] == pytest.approx(watch.history[-1]["entropy"], rel=1e-6)
    assert results[0] == results[1]


def test_validate_returns_the_numbers_and_leaves_the_curve_alone(quiet_trainer: Any) -> None:
    watch = monitor()
    (values,) = quiet_trainer(callbacks=[watch]).validate(Stranger(), verbose=False)
    assert {f"val/erosion/{key}" for key in KEYS} <= set(values) and watch.history == []


def test_units_first_codebook_and_silence() -> None:
    watch = ErosionMonitor([[1, 2, 3], [4]], units=[1, 1])
    two_books = Speech.pack([torch.tensor([[1, 9], [2, 9]]), torch.tensor([[1, 9], [2, 8]])])
    values = watch.statistics(two_books, watch.prompts)
    assert (values["entropy"], values["tokens"], values["tokens_per_word"]) == (1.0, 4, 2.0)
    silent = watch.statistics(Speech.pack([[], []], ended=[True, True]), watch.prompts)
    assert (silent["entropy"], silent["tokens"], silent["repetition"]) == (0.0, 0, 0.0)


def test_a_checkpoint_can_monitor_it_and_a_resumed_run_continues_the_curve(quiet_trainer: Any, tmp_path: Path) -> None:
    def run(epochs: int, ckpt: str | None = None) -> tuple[ErosionMonitor, ModelCheckpoint]:
        best = ModelCheckpoint(tmp_path, monitor="val/erosion/entropy", mode="max", save_last=True, save_top_k=-1)
        watch = monitor()
        trainer = quiet_trainer(callbacks=[watch, best], enable_checkpointing=True, max_epochs=epochs)
        trainer.fit(Stranger(), ckpt_path=ckpt)
        return watch, best

    whole, best = run(3)
    assert best.best_model_score == pytest.approx(max(m["entropy"] for m in whole.history[1:]), rel=1e-6)
    half, saved = run(1)
    resumed, _ = run(3, saved.last_model_path)
    assert resumed.history[: len(half.history)] == half.history and half.history == whole.history[:2]
    assert [m["step"] for m in resumed.history] == [m["step"] for m in whole.history] == [0, 4, 8, 12]


def test_two_monitors_keep_two_curves(quiet_trainer: Any, listener: ListLogger) -> None:
    pair = [monitor(prefix="val/a"), monitor(prefix="val/b", temperature=0.1)]
    trainer = quiet_trainer(callbacks=pair, logger=listener, max_epochs=1)
    trainer.fit(Stranger())
    assert listener.curve("val/a/entropy") != listener.curve("val/b/entropy")
    assert len({callback.state_key for callback in pair}) == 2
    assert all(
        isinstance(json.dumps(callback.state_dict()), str) for callback in pair
    )  # plain values: weights_only loads it


class Peaked(LogitsBackbone):
    """Speaks from a flat distribution that a test sharpens: erosion to order."""

    eos = VOCAB

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.sharp = 0.0

    def forward_logits(self, given: Any, tokens: torch.Tensor) -> torch.Tensor:
        logits = self.scale * torch.zeros(len(tokens), tokens.shape[1] + 1, VOCAB + 1)
        logits[..., 0] += self.sharp
        logits[..., self.eos] = -3.0
        return logits


class Sharpen(Callback):
    """Makes the policy flat from step 3 on."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        policy_of(pl_module).sharp = max(0.0, 2.0 * (trainer.global_step - 2))


class Careless(torch.nn.Module):
    """No Backbone: samples from the global generator, never thinks of eval mode, keeps a tensor for later."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.drop, self.kept = torch.nn.Parameter(torch.ones(4)), torch.nn.Dropout(0.5), None
        self.drop.eval()  # frozen on purpose
        self.seen: list[tuple[bool, bool]] = []

    def sample(self, given: Any, n: int, max_len: int, generator: torch.Generator, **how: Any) -> Speech:
        self.kept = torch.ones(4)
        self.seen.append((self.training, torch.is_grad_enabled()))
        return Speech.pack(torch.randint(0, VOCAB, (len(given) * n, max_len)))

    def forward(self, given: Any, speech: Speech) -> torch.Tensor:
        weight = self.weight if self.kept is None else self.weight * self.kept
        return weight[speech.tokens % 4]


def test_a_careless_policy_is_put_in_eval_mode_seeded_and_given_back_as_it_was(quiet_trainer: Any) -> None:
    watch, policy = monitor(every_n_epochs=1), Careless()
    quiet_trainer(callbacks=[watch], max_epochs=2).fit(Stranger(policy))
    assert set(policy.seen) == {(False, False)} and len(policy.seen) == 3
    assert policy.training and not policy.drop.training
    assert len({json.dumps({key: m[key] for key in ("entropy", "repetition")}) for m in watch.history}) == 1


def test_what_a_policy_keeps_from_trainer_validate_can_still_be_trained_with(quiet_trainer: Any) -> None:
    module = Stranger(Careless())
    quiet_trainer(callbacks=[monitor()]).validate(module, verbose=False)  # Lightning does this in inference mode
    quiet_trainer(max_epochs=1).fit(module)
    assert not torch.equal(module.inner["policy"].weight, torch.ones(4))


@pytest.mark.parametrize("stop", [True, False])
def test_a_decline_after_the_peak_is_flagged_with_its_values_and_can_stop(quiet_trainer: Any, stop: bool) -> None:
    watch = ErosionMonitor(
        [[1, 2, 3]] * 1, backbone=policy_of, every_n_steps=1, n=40, max_len=20, tolerance=0.5, patience=2, stop=stop
    )
    trainer = quiet_trainer(callbacks=[watch, Sharpen()], max_epochs=4)
    with pytest.warns(UserWarning, match="Synthetic Erosion") as caught:
        trainer.fit(Stranger(Peaked(), validate=False))
    messages = [str(w.message) for w in caught if "Synthetic Erosion" in str(w.message)]
    assert len(messages) == 1  # said once, not at every later measurement
    top = watch.peak
    assert top is not None and f"{top['entropy_corrected']:.3f} bits at step {top['step']:.0f}" in messages[0]
    low = [m["step"] for m in watch.history if m["entropy_corrected"] < top["entropy_corrected"] - 0.5]
    assert trainer.global_step == (low[1] if stop else 16) and low[0] >= 3


def test_the_decision_is_one_method() -> None:
    def entry(bits: float) -> dict[str, float]:
        return {"step": 0, "entropy_corrected": bits}

    watch = ErosionMonitor([[1]], tolerance=0.1, patience=2)
    assert not watch.eroding([entry(5.0)])
    assert not watch.eroding([entry(5.0), entry(4.8)])  # once is noise
    assert watch.eroding([entry(5.0), entry(4.8), entry(4.85)])
    assert not watch.eroding([entry(5.0), entry(4.8), entry(4.95)])  # recovered
    assert not watch.eroding([entry(4.0), entry(4.5), entry(5.0)])  # rising

    class Never(ErosionMonitor):
        def eroding(self, history: list[dict[str, float]]) -> bool:
            return False

    assert not Never([[1]]).eroding([entry(5.0), entry(1.0), entry(1.0)])


@pytest.mark.parametrize(
    ("kwargs", "error", "says"),
    [
        (
            {"backbone": "policy"},
            AttributeError,
            "(its submodules: inner); tell ErosionMonitor where it is: backbone='inner' or backbone=lambda",
        ),
        ({"backbone": lambda module: module.inner}, TypeError, "can sample, got ModuleDict"),
        ({"units": [1]}, ValueError, "1 unit counts for 2 prompts"),
    ],
)
def test_what_cannot_work_is_refused_before_training(quiet_trainer: Any, kwargs: Any, error: type, says: str) -> None:
    error = NotImplementedError if error is TypeError else error  # Unsupported
    with pytest.raises(error, match=re.escape(says)):
        quiet_trainer(callbacks=[monitor(**kwargs)]).fit(Stranger())


@pytest.mark.parametrize("missing", ["measure", "report"])
def test_a_callback_without_its_two_methods_is_told_which(quiet_trainer: Any, missing: str) -> None:
    other = ({"measure", "report"} - {missing}).pop()
    mine = type("Mine", (PromptedCallback,), {other: lambda self, *_: None})
    with pytest.raises(NotImplementedError, match=rf"Mine .*write its method {missing}\(self, "):
        quiet_trainer(callbacks=[mine([[1]], backbone=policy_of)]).fit(Stranger())


def test_a_decoder_of_unknown_rate_asks_for_it(quiet_trainer: Any) -> None:
    class NoRate(TinyBackbone):
        sample_rate = None  # type: ignore[assignment]

    with pytest.raises(ValueError, match="sample_rate=24000"):
        quiet_trainer(callbacks=[monitor()]).fit(Stranger(NoRate()))
    quiet_trainer(callbacks=[monitor(pitch=False)], fast_dev_run=True).fit(Stranger(NoRate()))


@pytest.mark.parametrize("bad", [{"n": 0}, {"max_len": 0}, {"every_n_steps": 0}, {"patience": 0}, {"tolerance": -1.0}])
def test_bad_arguments_are_refused_with_their_value(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(bad.values())))):
        monitor(**bad)


def test_no_prompts_is_an_error(quiet_trainer: Any) -> None:
    with pytest.raises(ValueError, match="no prompts"):
        quiet_trainer(callbacks=[ErosionMonitor([], backbone=policy_of)]).fit(Stranger())


class Diary(Callback):
    """Each process writes down its own curve and whether it sampled."""

    def __init__(self, folder: Path, watch: Counting) -> None:
        self.folder, self.watch = folder, watch

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        line = {"history": self.watch.history, "sampled": self.watch.sampled}
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(line))


class Counting(ErosionMonitor):
    sampled = 0

    def draw(self, backbone: Any, given: Any) -> Speech:
        self.sampled += 1
        return super().draw(backbone, given)


@pytest.mark.skipif(torch.cuda.is_initialized(), reason="a process that has used CUDA cannot fork")
def test_two_processes_sample_once_and_agree(quiet_trainer: Any, tmp_path: Path) -> None:
    watch = Counting(prompts(), backbone="inner.policy", n=2, max_len=10, every_n_steps=2)
    trainer = quiet_trainer(callbacks=[watch, Diary(tmp_path, watch)], devices=2, strategy="ddp_fork", max_epochs=1)
    trainer.fit(Stranger())
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["history"] == second["history"] and [m["step"] for m in first["history"]] == [0, 2]
    assert (first["sampled"], second["sampled"]) == (2, 0)


def test_the_corrected_entropy_is_capped_by_the_vocabulary_and_not_by_the_largest_id_sampled() -> None:
    watch = ErosionMonitor([[1]])
    five = Speech.pack([[0, 1, 2, 3, 3]])  # each of three codes once, one twice
    assert watch.statistics(five, watch.prompts)["entropy_corrected"] == pytest.approx(3.0324, abs=1e-4)
    assert watch.statistics(five, watch.prompts, 4)["entropy_corrected"] == 2.0
    assert watch.statistics(five, watch.prompts, 5)["entropy_corrected"] == pytest.approx(math.log2(5))
    assert watch.statistics(five, watch.prompts)["entropy"] == pytest.approx(slow_entropy([[0, 1, 2, 3, 3]]))


def test_the_vocabulary_is_the_one_of_the_backbone(quiet_trainer: Any) -> None:
    values = []
    for size in (None, VOCAB):
        policy = TinyBackbone()
        policy.vocab_size = size
        watch = monitor(n=1, max_len=6, pitch=False)
        (logged,) = quiet_trainer(callbacks=[watch]).validate(Stranger(policy), verbose=False)
        values.append(logged["val/erosion/entropy_corrected"])
    assert values[0] > values[1] == pytest.approx(math.log2(VOCAB))


@pytest.mark.parametrize("kind", [str, Path])
def test_prompts_may_be_a_path_in_either_form(quiet_trainer: Any, tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "real.jsonl"
    path.write_text('{"id": "a", "text": [1, 2], "tokens": [1]}\n{"id": "b", "text": [3], "tokens": [1]}\n')
    watch = ErosionMonitor(kind(path), backbone=policy_of, max_len=5)
    quiet_trainer(callbacks=[watch]).validate(Stranger(), verbose=False)
    assert watch.file_ids == ["a", "b"] and [p.text.tolist() for p in watch.prompts] == [[1, 2], [3]]


def test_every_n_epochs_means_every_validation_of_those_epochs(quiet_trainer: Any) -> None:
    watch = monitor(every_n_epochs=2, n=1, max_len=5, pitch=False)
    quiet_trainer(callbacks=[watch], max_epochs=4, val_check_interval=0.5).fit(Stranger())  # 4 steps per epoch
    assert [m["step"] for m in watch.history] == [0, 6, 8, 14, 16]
    assert "at each of its validations" in " ".join((PromptedCallback.__doc__ or "").split())


def test_the_flag_stays_up_and_the_warning_comes_once_though_the_curve_recovers(quiet_trainer: Any) -> None:
    class Wavering(ErosionMonitor):
        def eroding(self, history: list[dict[str, float]]) -> bool:
            return len(history) in (2, 4)

    watch = Wavering([[1]], backbone=policy_of, every_n_steps=1, max_len=5)
    with pytest.warns(UserWarning, match="Synthetic Erosion") as caught:
        quiet_trainer(callbacks=[watch], max_epochs=1).fit(Stranger(validate=False))
    assert len(watch.history) == 5 and watch.flagged
    assert sum("Synthetic Erosion" in str(w.message) for w in caught) == 1


def test_prompts_may_be_text_ids() -> None:
    watch = ErosionMonitor([[1, 2], [3]])
    assert [p.text.tolist() for p in watch.prompts] == [[1, 2], [3]] and isinstance(watch.prompts[0], Prompt)


def test_ids_where_prompts_are_wanted_are_refused_by_what_they_are() -> None:
    with pytest.raises(TypeError, match=r"prompt 0 must be a Prompt or a list of text ids, got 1: give \[Prompt"):
        ErosionMonitor([1, 2, 3])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="tokenise first"):
        ErosionMonitor(["hello"])
