"""DGSA: Disentanglement-Guided Self-Alignment, preference alignment on what a style toggle says differently."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from seaalign.audit.watch import warn_before_training
from seaalign.backbones.base import Backbone
from seaalign.data.batches import TripletBatch
from seaalign.data.triplets import TripletData
from seaalign.functional.likelihood import sequence_logp
from seaalign.modules.averages import global_mean
from seaalign.modules.losses import pair_objective, policy_and_reference
from seaalign.modules.objectives import balance, pairs, reward_logs, rows_to_score
from seaalign.modules.optimizer import Schedule
from seaalign.modules.preference import Preference
from seaalign.sampling import require_separation


class DGSA(Preference):
    """Two preference objectives on triplets (real, expressive, stable), weighted by the synthetic share of the data.

    Stability prefers real over expressive (which may mispronounce), expressivity prefers real over stable (which is
    flat). The paper's arms are arguments:

    ==============================  =======================================================================
    DGSA                            the defaults
    standard DPO                    `weights=(0, 1)`: the expressivity objective alone
    no expressivity objective       `weights=(1, 0)`
    fixed weights                   `weights=(0.5, 0.5)`
    random speaker pairing          `TripletData(pairing="shuffled")`
    LoRA, nothing stored            `TripletData(reference="disabled_adapter")` and a backbone of `add_lora`
    with an SFT anchor              `sft_weight=0.1`, or what the drift of the chosen log-prob asks for
    ==============================  =======================================================================

    Under several processes losses are means over the pairs of all of them; `accumulate_grad_batches` averages the
    batches' means. See `SFT` for `ddp_find_unused_parameters_true`. Logs under train/ and val/: loss, rewards/margins
    (and /stability, /expressivity), rewards/accuracies, logps/chosen, logps/drift_chosen (policy minus reference;
    falling means forgetting), weights/expressivity. Train logs are those of process 0; val logs are of all.

    Args:
        backbone: the policy, at the start the frozen SFT checkpoint; needs the features "style" and "timbre".
        alpha: synthetic share of its training data, 0..1.
        critical: share at which erosion begins (alpha* of eq. 13); see `functional.critical_ratio`.
        beta: strength of the tie to the reference. 0.1 is for sums.
        lr: peak learning rate.
        betas: of AdamW.
        weight_decay: of AdamW.
        warmup_steps: optimizer steps of linear warm-up.
        schedule: after the warm-up "constant", or "cosine" down to 0 at the end of the run.
        weights: (stability, expressivity) instead of eq. 13-14.
        loss: "dpo" (eq. 11) or "ipo".
        label_smoothing: above 0 makes "dpo" conservative DPO.
        reduction: "sum" scores log pi(y|x); "mean" scores per token, and then beta must be about L times larger for L
            tokens a row.
        sft_weight: weight of the mean negative log-prob per token of the real speech, added to the loss.
        styled_stability: score (real, expressive) given the style prefix rather than the text alone; needs
            `TripletData(styled=True)` where the reference is stored.
        below_critical: what alpha <= critical means. "stability": eq. 13-14 as they stand, weights (1, 0). "sft": no
            preference loss, SFT on the real speech alone, as the text of sec. 5.3 says. The equations are the default:
            they are continuous in alpha.
        tolerance: how far policy and reference may be apart at the first step, mean nats per token. Default
            0.005, and 0.05 in 16 bit.

    Source: Geng et al. 2026, eq. 8-14.
    """

    trains_on = TripletData

    def __init__(
        self,
        backbone: Backbone,
        alpha: float,
        critical: float = 0.5,
        beta: float = 0.1,
        lr: float = 1e-6,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.01,
        warmup_steps: int = 0,
        schedule: Schedule = "constant",
        weights: tuple[float, float] | None = None,
        loss: Literal["dpo", "ipo"] = "dpo",
        label_smoothing: float = 0.0,
        reduction: Literal["sum", "mean"] = "sum",
        sft_weight: float = 0.0,
        styled_stability: bool = False,
        below_critical: Literal["stability", "sft"] = "stability",
        tolerance: float | None = None,
    ) -> None:
        super().__init__()
        require_separation(backbone, "DGSA")
        self.save_hyperparameters(ignore=["backbone"])
        self.backbone = backbone
        self.weights, self.sft_weight = balance(alpha, critical, weights, sft_weight, below_critical)
        self.pair_loss = pair_objective(loss, beta, label_smoothing)

    def on_train_start(self) -> None:
        """As every preference module; and a look at whether the style tokens identify the speaker."""
        super().on_train_start()
        warn_before_training(self.trainer, self.backbone)

    def loss(self, batch: TripletBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted preference losses and the SFT anchor (eq. 10), and what to log."""
        count, rows = len(batch), rows_to_score(batch, self.hparams["styled_stability"])
        logps, reference = policy_and_reference(self.backbone, *rows[:3], batch.ids)
        self.require_start(logps, reference, rows.speech.scored)
        two = pairs(rows, logps, reference, count, self.hparams["reduction"])
        per_pair = [w * self.pair_loss(*pair) for w, pair in zip(self.weights, two.values(), strict=True)]
        preference = torch.stack(per_pair).sum()
        scored = rows.speech.scored[:count]
        surprise, tokens = -sequence_logp(logps[:count], scored).sum(), scored.sum()
        loss = global_mean(preference, count) + self.sft_weight * global_mean(surprise, tokens)
        logs = reward_logs(two, self.weights, self.hparams["beta"])
        return loss, {"loss": (preference / count + self.sft_weight * surprise / tokens).detach(), **logs}
