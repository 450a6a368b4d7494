"""The self-critique loop: its losses by hand, its arms, its resumes, two processes, and what stops it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch

from seaalign import SFT, TDSC, Pair, Prompt, SpeechData, TemperatureCurriculum, TextData
from seaalign.backbones import Unsupported
from seaalign.critique import NothingAccepted
from seaalign.data import PairBatch
from seaalign.judges import Liveliness
from seaalign.records import Verdict
from seaalign.sampling import pair_logps
from seaalign.storage import read_metadata, read_pairs, weights_hash
from tests.modules.tdsc_run import Reads, data, fit, judge, module, result, sentences, start, tables
from tests.toy import Table, Toy, quiet, speech

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def weights():
    return start().state_dict()


@pytest.fixture
def policy(weights):
    toy = Toy()
    toy.load_state_dict(weights)
    return toy


def dashboard(folder: Path) -> list[dict]:
    return json.loads((folder / "tdsc" / "dashboard.json").read_text())


class Watch(L.Callback):
    """What each step saw."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, str, float, float]] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch is not None:
            self.steps.append(
                (batch_idx, type(batch).__name__, float(outputs["loss"]), trainer.optimizers[0].param_groups[0]["lr"])
            )


def test_golden_losses(tmp_path):
    """All ids have their log-prob: chosen [0, 1] ended, rejected [2] cut."""
    table = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    tdsc = TDSC(Table(table), None, tmp_path, beta=0.5, sft_weight=2.0)
    pair = Pair("p", Prompt([1]), torch.tensor([0, 1]), torch.tensor([2]), (True, False))
    reference = (torch.tensor([0.5, 0.5, 0.5]).log(), torch.tensor([0.25, 1.0]).log())
    batch = PairBatch.of([Pair(**{**vars(pair), "reference": reference})])
    loss, logs = tdsc.loss(batch)
    # log(.4 .3 .1 / .5^3) - log(.2 / .25) = log(.12): -log sigmoid(.5 log .12) + 2 x mean surprise of three tokens
    margin = torch.tensor(0.4 * 0.3 * 0.1 / 0.125 / (0.2 / 0.25)).log()
    anchor = -torch.tensor(0.4 * 0.3 * 0.1).log() / 3
    assert loss.item() == pytest.approx((-torch.nn.functional.logsigmoid(0.5 * margin) + 2 * anchor).item(), rel=1e-6)
    assert logs["rewards/margins"].item() == pytest.approx(0.5 * margin.item(), rel=1e-6)
    assert logs["logps/drift_chosen"].item() == pytest.approx(torch.tensor(0.012 / 0.125).log().item(), rel=1e-6)
    with pytest.raises(ValueError, match=r"pairs \['p'\] carry no reference"):
        PairBatch.of([pair])


def test_an_iteration_is_sft_then_dpo_that_begins_at_its_reference(tmp_path, policy):
    watch = Watch()
    made = fit(policy, tmp_path, callbacks=[watch])
    assert made.trainer.current_epoch == 3
    kinds = [kind for _, kind, _, _ in watch.steps]
    assert kinds == (["SpeechBatch"] * 6 + ["PairBatch"] * 5) * 3
    first = [loss for at, _, loss, _ in watch.steps if at == 6]
    assert first == pytest.approx([0.693147] * 3, abs=1e-5)  # ln 2: the policy is the reference
    assert {lr for _, kind, _, lr in watch.steps if kind == "PairBatch"} == {1e-3}
    assert {lr for _, kind, _, lr in watch.steps if kind == "SpeechBatch"} == {3e-3}
    rows = dashboard(tmp_path)
    assert [row["iteration"] for row in rows] == [1, 2, 3]
    assert rows[-1]["pass_rate"] > rows[0]["pass_rate"] and rows[-1]["error"] < rows[0]["error"]
    heats = [
        [t["temperature"] for t in json.loads(p.read_text())["temperatures"]]
        for p in sorted(tmp_path.glob("tdsc/*/round.json"))
    ]
    assert heats == [[0.7, 0.9, 1.0], [0.7, 1.0], [0.7, 1.0, 1.1]]  # T_max(2) = 1.0 is one of the fixed ones
    logged = made.trainer.callback_metrics
    assert logged["tdsc/pass_rate"] == pytest.approx(rows[-1]["pass_rate"]) and "train/dpo/rewards/margins" in logged


def test_candidates_of_finished_iterations_are_pruned(tmp_path, policy):
    fit(policy, tmp_path)
    assert [bool(list(p.glob("wave-*"))) for p in sorted(tmp_path.glob("tdsc/round-*"))] == [False, False, True]
    fit(policy, tmp_path / "all", keep="all")
    assert all(list(p.glob("wave-*")) for p in (tmp_path / "all").glob("tdsc/round-*"))


@pytest.mark.parametrize("reference", ["sft", "start", "initial"])
def test_the_reference_is_the_policy_that_it_says(tmp_path, policy, weights, reference):
    kept = {}

    class Keep(L.Callback):
        def on_train_epoch_start(self, trainer, module):
            kept["start"] = result(module)

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if batch_idx == 6:
                kept["sft"] = result(module)

    kept["initial"] = weights
    fit(policy, tmp_path, callbacks=[Keep()], reference=reference)
    scorer = Toy()
    scorer.load_state_dict(kept[reference])
    stored = read_pairs(tmp_path / "tdsc/round-03/reference.parquet")
    again = pair_logps(scorer, stored)
    assert all(
        torch.allclose(a, b, atol=1e-6)
        for x, y in zip(stored, again, strict=True)
        for a, b in zip(x.reference, y.reference, strict=True)
    )
    if reference != "start":
        assert read_metadata(tmp_path / "tdsc/round-03/reference.parquet")["weights"] == weights_hash(scorer)


def test_resumed_from_every_checkpoint_it_is_the_same_run(tmp_path, policy, weights):
    whole = fit(policy, tmp_path, every=2)
    want, wanted = result(whole), tables(tmp_path)
    places = [p for p in (tmp_path / "checkpoints").glob("*.ckpt") if not p.name.startswith("last")]
    assert len(places) >= 15
    for place in sorted(places)[::2]:
        toy = Toy()
        toy.load_state_dict(weights)
        made = module(toy, tmp_path)
        quiet(callbacks=[]).fit(made, data(), ckpt_path=place)
        assert all(torch.equal(want[name], value) for name, value in result(made).items()), place.name
    assert tables(tmp_path) == wanted


def test_dropout_does_not_break_the_resume(tmp_path, weights):
    def toy():
        made = Toy(dropout=0.3)
        made.load_state_dict(weights)
        return made

    want = result(fit(toy(), tmp_path, every=4))
    made = module(toy(), tmp_path)
    quiet().fit(made, data(), ckpt_path=tmp_path / "checkpoints" / "step=20.ckpt")
    assert all(torch.equal(want[name], value) for name, value in result(made).items())


def test_the_arms(tmp_path, policy, weights):
    made = fit(policy, tmp_path / "self", judge_=None, dpo_steps=0, temperatures=(1.0,), hottest=None)
    rows = dashboard(tmp_path / "self")
    assert all(row["pass_rate"] > 0.9 for row in rows) and made.trainer.global_step == 18
    watch = Watch()
    policy.load_state_dict(weights)
    fit(policy, tmp_path / "sft", dpo_steps=0, hottest=(1.3, 0.0), callbacks=[watch])
    assert {kind for _, kind, _, _ in watch.steps} == {"SpeechBatch"}
    for place in (tmp_path / "sft").glob("tdsc/*/round.json"):
        assert [row["temperature"] for row in json.loads(place.read_text())["temperatures"]] == [0.7, 1.0, 1.3]
    policy.load_state_dict(weights)
    watch = Watch()
    fit(policy, tmp_path / "dpo", sft_steps=0, callbacks=[watch])
    assert {kind for _, kind, _, _ in watch.steps} == {"PairBatch"}


def test_a_curriculum_of_ones_own_sees_the_history(tmp_path, policy):
    seen = []

    class Own(TemperatureCurriculum):
        def temperatures(self, iteration, history):
            seen.append((iteration, [row["iteration"] for row in history]))
            return (0.5, 0.5 + 0.1 * iteration)

    fit(policy, tmp_path, callbacks=[Own()])
    assert seen == [(1, []), (2, [1]), (3, [1, 2])]
    stats = json.loads((tmp_path / "tdsc/round-03/round.json").read_text())
    assert [row["temperature"] for row in stats["temperatures"]] == [0.5, 0.8]
    with pytest.raises(TypeError, match="belongs to TDSC; SFT explores nothing"):
        quiet(max_steps=1, callbacks=[TemperatureCurriculum()]).fit(SFT(Toy()), SpeechData(speech()))


def test_predict_is_rejection_sampling(tmp_path, policy):
    made = module(policy, tmp_path, n=4)
    before = weights_hash(policy)
    best = [c for batch in quiet().predict(made, data()) for c in batch]
    assert [c.sentence.id for c in best] == [s.id for s in sentences()] and weights_hash(policy) == before
    reads, one = Reads(), {c.sentence.id: c for c in best}
    single = policy.sample([s.prompt for s in sentences()], 1, 1.0, 0.9, 40, generator=torch.Generator().manual_seed(0))
    plain = [reads.read(type(best[0])(s, t)).scores["error"] for s, t in zip(sentences(), single.rows(), strict=True)]
    chosen = [reads.read(one[s.id]).scores["error"] for s in sentences()]
    assert sum(chosen) < sum(plain)


class Listens(Reads):
    name = "intelligibility"
    needs_audio = True


class Speaking(Toy):
    """Decodes each token to 20 ms of a tone."""

    sample_rate = 8000

    def decode(self, speech, timbres):
        time = torch.arange(160) / 8000
        return [
            torch.cat([torch.sin(6.2832 * (100 + 20 * token) * time) for token in row.tolist()])
            for row in speech.rows()
        ]


def test_a_judge_that_listens_also_measures_f0(tmp_path, weights):
    toy = Speaking()
    toy.load_state_dict(weights)
    given = judge()
    given.criteria = (*given.criteria[:2], Listens())
    fit(toy, tmp_path, judge_=given, iterations=1)
    assert dashboard(tmp_path)[0]["f0_std"] > 0.5 and dashboard(tmp_path)[0]["seconds/decode"] > 0
    assert len(given.criteria) == 3  # what was passed in is left as it was
    assert [c.name for c in module(toy, tmp_path).judge.criteria] == ["repetition", "length", "intelligibility"]


class Deaf(Reads):
    name = "intelligibility"

    def read(self, candidate):
        verdict = super().read(candidate)
        return type(verdict).reject(self.name, scores={"error": 1.0})


def test_nothing_accepted_says_what_to_loosen(tmp_path, policy):
    with pytest.raises(NothingAccepted, match="none of 72 candidates was accepted") as told:
        fit(policy, tmp_path, judge_=[Deaf()])
    assert "max_error" in str(told.value) and "0.70" in str(told.value) and "round-01" in str(told.value)
    with pytest.raises(NothingAccepted):  # started again, it says so again
        fit(policy, tmp_path, judge_=[Deaf()])


class Kind(Reads):
    def read(self, candidate):
        return type(super().read(candidate)).accept({"error": 0.0})


def test_a_mended_judge_goes_on_with_the_candidates_that_are_there(tmp_path, policy, weights):
    with pytest.raises(NothingAccepted, match="just start again"):
        fit(policy, tmp_path, judge_=[Deaf()])
    waves = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("tdsc/round-01/wave-*")}
    fit(policy, tmp_path, iterations=1)
    assert waves and waves == {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("tdsc/round-01/wave-*")}
    policy.load_state_dict(weights)
    with pytest.raises(ValueError, match="differs in\n  judge: here"):  # but not once it was trained on
        quiet().fit(module(policy, tmp_path, judge_=[Kind()]), data())


def test_what_cannot_work_is_refused_before_anything_is_sampled(tmp_path, policy):
    with pytest.raises(ValueError, match=r"rejected for \['inteligibility'\] alone, and no criterion"):
        module(policy, tmp_path, loser_reasons=("inteligibility",))
    with pytest.raises(TypeError, match="TDSC trains on TextData, .* not on SpeechData"):
        quiet().fit(module(policy, tmp_path), SpeechData(speech()))
    with pytest.raises(
        Unsupported,
        match=r"'intelligibility' listens \(so does 'liveliness', which TDSC adds .* Toy has neither decode\(\) "
        r"nor attribute sample_rate \(Hz\): give it what is missing$",
    ):
        quiet().fit(module(policy, tmp_path, judge_=[Listens()]), data())
    with torch.no_grad():
        policy.head.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="the logits of row 0 are NaN or infinite at step 0"):
        quiet().fit(module(policy, tmp_path), data())


def test_one_criterion_or_function_is_a_judge(tmp_path):
    policy = Toy()

    def forgot(candidates):
        return [Verdict.accept() for _ in candidates]

    assert [c.name for c in module(policy, tmp_path, judge_=Reads()).judge.criteria] == ["intelligibility"]
    deaf = module(policy, tmp_path, judge_=forgot, dpo_steps=0)
    assert deaf.judge.timeout == 1800.0
    with pytest.raises(Unsupported, match=r"'forgot' listens .*; or set forgot.needs_audio = False if it reads tokens"):
        quiet().fit(deaf, data())
    given = module(policy, tmp_path, judge_=[Liveliness(), forgot], dpo_steps=0)
    with pytest.raises(Unsupported, match="criteria 'liveliness' and 'forgot' listen, and Toy"):
        quiet().fit(given, data())
    forgot.needs_audio = False
    assert [c.name for c in module(policy, tmp_path, judge_=forgot, dpo_steps=0).judge.criteria] == ["forgot"]
    for wrong in (7, "forgot"):
        with pytest.raises(TypeError, match=f"{wrong!r} is no criterion: pass one, or a function"):
            module(policy, tmp_path, judge_=wrong)


def test_no_pairs_means_no_dpo_and_no_crash(tmp_path, policy):
    watch = Watch()
    made = module(policy, tmp_path, judge_=[Kind()])
    quiet(max_steps=1000, max_epochs=-1, callbacks=[watch]).fit(made, data())  # steps that are left out do not count
    assert {kind for _, kind, _, _ in watch.steps} == {"SpeechBatch"} and made.trainer.current_epoch == 3
    assert all(row["pairs"] == 0 and row["no_loser"] > 0 for row in dashboard(tmp_path))


def test_nan_stops_names_the_rows_and_keeps_the_checkpoint(tmp_path, policy):
    class Poison(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.global_step == 13:
                with torch.no_grad():
                    module.backbone.head.bias.fill_(float("nan"))

    with pytest.raises(ValueError, match=r"row 0 of the batch, of '(u\d+|s\d+#\d)', has nan at token 0\. No step"):
        fit(policy, tmp_path, callbacks=[Poison()])
    kept = torch.load(tmp_path / "checkpoints" / "step=12.ckpt", weights_only=False)
    assert all(torch.isfinite(value).all() for value in kept["state_dict"].values())


def test_a_gradient_that_overflows_stops_before_the_step(tmp_path, policy):
    class Spoil(L.Callback):
        def on_after_backward(self, trainer, module):
            if trainer.global_step == 8:
                module.backbone.head.bias.grad[0] = float("inf")

    with pytest.raises(ValueError, match="a gradient is not finite in iteration 1, step 8"):
        fit(policy, tmp_path, callbacks=[Spoil()])
    assert all(torch.isfinite(value).all() for value in policy.state_dict().values())


def test_a_folder_of_another_run_is_refused(tmp_path, policy, weights):
    fit(policy, tmp_path, iterations=1, every=None)
    with pytest.raises(ValueError, match=r"begun by another run. It differs in\n  weights: here"):
        quiet().fit(module(policy, tmp_path), data())  # the trained policy, from the start
    policy.load_state_dict(weights)
    with pytest.raises(ValueError, match=r"plan: here .*'top_p': 0.5"):
        quiet().fit(module(policy, tmp_path, top_p=0.5), data())


def test_a_rehearsal_is_short_and_leaves_the_run_alone(tmp_path, policy):
    made = module(policy, tmp_path)
    quiet(fast_dev_run=True).fit(made, data())
    assert made.trainer.global_step == 1 and not (tmp_path / "tdsc").exists()
    stats = json.loads((tmp_path / "tdsc.fast_dev_run" / "round-01" / "round.json").read_text())
    assert stats["texts"]["texts"] == 8 and stats["sampler"] == "nucleus"


def test_texts_that_were_in_the_sft_data(tmp_path):
    known = speech(4)
    from seaalign import Sentence

    with pytest.warns(UserWarning, match="1 of 2 sentences have texts that the SFT policy was trained on"):
        TextData([Sentence("a", "x", known[0].prompt), Sentence("b", "y", Prompt([1, 1, 1, 1]))], sft=known).setup()
    with pytest.raises(ValueError, match="unique ids"):
        TextData([Sentence("a", "x", Prompt([1])), Sentence("a", "y", Prompt([2]))]).setup()
    with pytest.raises(ValueError, match="replay=0.3 needs sft="):
        TextData([], replay=0.3)


def test_wrong_settings(tmp_path, policy):
    for wrong, told in (
        ({"n": 0}, r"TDSC got \{'n': 0\}"),
        ({"sft_steps": 0, "dpo_steps": 0}, "trains nothing"),
        ({"temperatures": (), "hottest": None}, "no temperature to explore"),
        ({"reference": "ema"}, "reference must be"),
        ({"keep": "some"}, "keep must be"),
        ({"frames_per_symbol": 0.0}, "frames_per_symbol must be above 0"),
    ):
        with pytest.raises(ValueError, match=told):
            TDSC(policy, judge(), tmp_path, **wrong)
    with pytest.raises(ValueError, match="instead of accumulate_grad_batches"):
        quiet(accumulate_grad_batches=2).fit(module(policy, tmp_path), data())
    with pytest.raises(TypeError, match="SFT trains on SpeechData, not on TextData"):
        quiet().fit(SFT(policy), data())


@pytest.mark.slow
def test_two_processes_find_the_same_pairs(tmp_path, policy, weights):
    one, two = tmp_path / "one", tmp_path / "two"
    two.mkdir()
    torch.save(weights, two / "start.pt")
    clean = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_PORT")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.modules.tdsc_run"],
        env={**clean, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TDSC_FOLDER": str(two)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    fit(policy, one, iterations=1)
    first, second = (tables(place) for place in (one, two))
    assert second["round-01 stats"] == first["round-01 stats"]
    assert second["round-01 accepted"] == first["round-01 accepted"]
    assert [row[:3] for row in second["round-01 pairs"]] == [row[:3] for row in first["round-01 pairs"]]
    assert len(dashboard(two)) == 3
    shared = {path.name for path in (two / "tdsc/round-03").glob("verdicts-*")}
    assert shared == {"verdicts-0.jsonl", "verdicts-1.jsonl"}  # both judged
