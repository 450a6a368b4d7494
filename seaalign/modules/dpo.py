"""DPO: preference alignment on pairs from anywhere, mined here or labelled by people."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from seaalign.backbones.base import Backbone
from seaalign.data.batches import PairBatch
from seaalign.data.pairs import PairData
from seaalign.modules.losses import pair_objective, policy_and_reference, preference_loss
from seaalign.modules.optimizer import Schedule
from seaalign.modules.preference import Preference


class DPO(Preference):
    """Direct preference optimisation of the chosen over the rejected answer of each pair.

    The pairs come by `PairData`: from `pairs.mine`, from people who listened, from another code base. Both answers are
    scored given the pair's own prompt, so any backbone will do. The reference policy is data, stored log-probs; or,
    with LoRA and `PairData(reference="disabled_adapter")`, the policy without its LoRA layers.

    Under several processes losses are means over the pairs of all of them; `accumulate_grad_batches` averages the
    batches' means. See `SFT` for `ddp_find_unused_parameters_true`. Logs under train/ and val/: loss, rewards/margins,
    rewards/accuracies, logps/chosen, logps/drift_chosen (policy minus reference; falling means forgetting). Train logs
    are those of process 0; val logs are of all.

    Args:
        backbone: the policy, at the start the reference.
        beta: strength of the tie to the reference. 0.1 is for sums.
        lr: peak learning rate.
        betas: of AdamW.
        weight_decay: of AdamW.
        warmup_steps: optimizer steps of linear warm-up.
        schedule: after the warm-up "constant", or "cosine" down to 0 at the end of the run.
        loss: "dpo" or "ipo".
        label_smoothing: above 0 makes "dpo" conservative DPO: the share of pairs whose label is believed wrong.
        reduction: "sum" scores log pi(y|x); "mean" scores per token, and then beta must be about L times larger for L
            tokens a row.
        sft_weight: weight of the mean negative log-prob per token of the chosen answers, added to the loss.
        tolerance: how far policy and reference may be apart at the first step, mean nats per token. Default 0.005, and
            0.05 in 16 bit.

    Raises:
        ValueError: an unknown loss, or a weight below 0.

    Source: Rafailov et al. 2023, "Direct Preference Optimization", eq. 7; Geng et al. 2026, eq. 18-19.

    Example:
        >>> from seaalign.data.pairs import PairData
        >>> # Trainer(max_steps=500).fit(DPO(backbone), PairData("pairs.parquet", scored="scored.parquet"))
    """

    trains_on = PairData

    def __init__(
        self,
        backbone: Backbone,
        beta: float = 0.1,
        lr: float = 1e-6,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.01,
        warmup_steps: int = 0,
        schedule: Schedule = "constant",
        loss: Literal["dpo", "ipo"] = "dpo",
        label_smoothing: float = 0.0,
        reduction: Literal["sum", "mean"] = "sum",
        sft_weight: float = 0.0,
        tolerance: float | None = None,
    ) -> None:
        super().__init__()
        if sft_weight < 0:
            raise ValueError(f"sft_weight must be >= 0, got {sft_weight}")
        self.save_hyperparameters(ignore=["backbone"])
        self.backbone = backbone
        self.pair_loss = pair_objective(loss, beta, label_smoothing)

    def loss(self, batch: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Preference loss and the SFT anchor, and what to log."""
        rows = batch.prompts, batch.speech, batch.reference, batch.ids
        logps, reference = policy_and_reference(self.backbone, *rows)
        self.require_start(logps, reference, batch.speech.scored)
        settings = (self.hparams[name] for name in ("beta", "reduction", "sft_weight"))
        return preference_loss(logps, reference, batch, self.pair_loss, *settings)
