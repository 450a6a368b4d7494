"""TDSC: Temperature-Driven Self-Critique, a loop in which a model learns from what it says best at some temperature."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from seaalign.backbones.base import Backbone
from seaalign.backbones.context import naming
from seaalign.critique import Reference
from seaalign.data.batches import CandidateBatch, PairBatch, SentenceBatch, SpeechBatch
from seaalign.judges import Criterion, Judge
from seaalign.modules.critic import (
    Curriculum,
    begin_step,
    best_of,
    check_settings,
    judge_of,
    loop_of,
    plan_of,
    require_finite_gradients,
    temperatures_of,
)
from seaalign.modules.losses import likelihood_loss, pair_loss
from seaalign.modules.optimizer import adamw
from seaalign.pairs import Mined
from seaalign.records import Pair, Sentence


class TDSC(L.LightningModule):
    """Explore, judge, mine, fine-tune on what passed, prefer it to what did not; K times in one `trainer.fit`.

    An epoch is an iteration: `sft_steps` batches of accepted candidates, then `dpo_steps` batches of pairs. Everything
    in between is on disk in `work`, so a run that is killed at any moment and started again with
    `trainer.fit(..., ckpt_path="last")` goes on where it was. The paper's arms are arguments:

    ==============================  =======================================================================
    TDSC                            the defaults
    without DPO                     `dpo_steps=0`
    self-training                   `judge=None, dpo_steps=0, temperatures=(1.0,), hottest=None`
    T = 1 only                      `temperatures=(1.0,), hottest=None, n=12`
    without curriculum              `hottest=(1.3, 0.0)`
    without a filter                a judge without that criterion
    rejection sampling              `trainer.predict(module, data)` of the SFT policy: the best of N, no training
    ==============================  =======================================================================

    Logs train/sft/loss, train/dpo/{loss, rewards/margins, rewards/accuracies, logps/chosen, logps/drift_chosen}, and
    per iteration tdsc/*: pass_rate, error, entropy, repetition and frames at the temperature nearest to 1, mean scores
    of the judge, seconds per stage, disk_mb. The same numbers are in `work`/dashboard.json, and the funnel of each
    iteration in `work`/round-*/round.json.

    Args:
        backbone: the policy, at the start the SFT checkpoint.
        judge: accepts and rejects candidates: a `Judge`, a criterion or several; None accepts all that ended. To one
            that listens `Liveliness` is added, for the dashboard.
        work: folder for candidates, verdicts and pairs; one per run, seen by all processes.
        iterations: K.
        temperatures: explored in every iteration.
        hottest: (a, b) of the temperature T_max(k) = a + b k explored too; None for none. See `TemperatureCurriculum`.
        n: candidates per text and temperature.
        top_p: nucleus mass of the raw sampler.
        max_len: most frames of a candidate.
        frames_per_symbol: with L text ids, the limit is `frames_per_symbol` x L + 20 where that is less.
        batch: sentences per sampling call; rows in memory are that times the candidates per text.
        sft_steps: batches per iteration of the fine-tuning on accepted candidates.
        dpo_steps: batches per iteration of the preference optimisation.
        lr: learning rate of both; the moments of AdamW start anew with each phase.
        dpo_lr: learning rate of DPO; None: `lr`.
        betas: of AdamW.
        weight_decay: of AdamW.
        beta: of DPO; 0.1 is for sums.
        reduction: "sum" scores log pi(y|x), "mean" per token (then beta must grow by the length).
        sft_weight: weight of the negative log-prob per token of the chosen, added to the DPO loss.
        reference: pi_ref of DPO, which the paper leaves open. "sft": the policy after this iteration's SFT, so that DPO
            starts at its reference, as elsewhere; "start": at the start of the iteration; "initial": of the run.
        pairs_per_text: most pairs of a text.
        loser_reasons: names of the criteria that a loser may have been rejected by, and must have a score "error".
        judge_timeout: seconds that a criterion of a list may take for a batch of 32 candidates before the run stops; a
            `Judge` has its own.
        keep: "mined" drops candidates of finished iterations, "all" keeps them.
        seed: of draws and ties.

    Source: Geng et al. 2026, sec. 4, eq. 15-19; App. D.2.
    """

    def __init__(
        self,
        backbone: Backbone,
        judge: Judge | Criterion | Sequence[Criterion] | None,
        work: str | Path = "runs/tdsc",
        iterations: int = 5,
        temperatures: tuple[float, ...] = (0.7, 1.0),
        hottest: tuple[float, float] | None = (0.8, 0.1),
        n: int = 4,
        top_p: float = 0.9,
        max_len: int = 1024,
        frames_per_symbol: float | None = None,
        batch: int = 16,
        sft_steps: int = 100,
        dpo_steps: int = 40,
        lr: float = 1e-5,
        dpo_lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.01,
        beta: float = 0.1,
        reduction: Literal["sum", "mean"] = "sum",
        sft_weight: float = 0.0,
        reference: Reference = "sft",
        pairs_per_text: int = 1,
        loser_reasons: tuple[str, ...] = ("intelligibility",),
        judge_timeout: float | None = 1800.0,
        keep: Literal["mined", "all"] = "mined",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["backbone", "judge", "work"])
        check_settings(self.hparams)
        self.backbone, self.work = backbone, Path(work)
        self.judge = judge_of(judge, self.hparams)
        self.sft_steps, self.dpo_steps = sft_steps, dpo_steps
        self.curriculum: Curriculum | None = None
        self.iteration, self.begun = 0, time.monotonic()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Which iteration it was."""
        checkpoint["tdsc_iteration"] = self.iteration

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Which iteration it was; a checkpoint of `SFT` has none."""
        self.iteration = checkpoint.get("tdsc_iteration", 0)

    def setup(self, stage: str) -> None:
        """The Trainer runs K epochs, unless it was told another number."""
        if stage == "fit":
            self.loop = loop_of(self)

    def explore(self, iteration: int, sentences: Sequence[Sentence], begun: bool) -> Mined:
        """What iteration k trains on: explored, judged and mined, or read where that is done. The loader asks."""
        self.iteration, self.begun = iteration, time.monotonic()
        heats = temperatures_of(self.hparams, self.curriculum, iteration, self.loop.history(iteration))
        plan = plan_of(self.hparams, heats, sentences, iteration)
        with self.trainer.precision_plugin.forward_context():
            mined = self.loop.explore(self.backbone, iteration, sentences, plan, begun)
        if not mined.pairs and self.dpo_steps:
            rank_zero_info(f"iteration {iteration}: no pairs, so no DPO. {mined.funnel.texts}")
        rank_zero_info(f"iteration {iteration} of {self.hparams['iterations']}\n{mined.funnel}")
        self.begun = time.monotonic()
        return mined

    def score(self, iteration: int, pairs: Sequence[Pair], begun: bool) -> list[Pair]:
        """Pairs with the log-probs of the reference policy. The loader asks, between the two phases."""
        with self.trainer.precision_plugin.forward_context():
            return self.loop.score(self.backbone, iteration, pairs, begun)

    def loss(self, batch: SpeechBatch | PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Likelihood of accepted candidates (eq. 17), or preference of winners over losers (eq. 18-19)."""
        if isinstance(batch, SpeechBatch):
            with naming(batch.ids):
                logps = self.backbone(batch.prompts, batch.speech)
            return likelihood_loss(logps, batch)
        beta, reduction, sft_weight = (self.hparams[name] for name in ("beta", "reduction", "sft_weight"))
        return pair_loss(self.backbone, batch, beta, reduction, sft_weight)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """A fresh optimizer for each phase; randomness that depends on the step alone, so that a resume repeats it."""
        begin_step(self, batch_idx)

    def training_step(self, batch: SpeechBatch | PairBatch, batch_idx: int) -> Tensor:
        """Loss of one batch of either phase."""
        phase = "dpo" if isinstance(batch, PairBatch) else "sft"
        loss, logs = self.loss(batch)
        self.log_dict({f"train/{phase}/{name}": value for name, value in logs.items()}, batch_size=len(batch))
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """No step with a gradient that is not finite."""
        require_finite_gradients(self)

    def on_train_epoch_end(self) -> None:
        """The iteration's numbers, logged and written."""
        numbers = self.loop.numbers(self.iteration) | {"seconds/train": time.monotonic() - self.begun}
        self.log_dict({f"tdsc/{name}": value for name, value in numbers.items()}, rank_zero_only=True)
        if self.trainer.is_global_zero:
            self.loop.record(self.iteration, numbers)

    def predict_step(self, batch: SentenceBatch, batch_idx: int) -> CandidateBatch:
        """Rejection sampling: of 3 n candidates per sentence at temperature 1, the one that the judge ranks first."""
        return CandidateBatch(best_of(self, batch.sentences))

    def configure_optimizers(self) -> Any:
        """AdamW; override for another optimizer."""
        return adamw(self, self.hparams["lr"], self.hparams["betas"], self.hparams["weight_decay"], 0, "constant")[
            "optimizer"
        ]
