"""Watching Synthetic Erosion while it happens: diversity, repetition, pace and melody of fixed prompts over the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from seaalign.backbones.sound import rate_of, sound
from seaalign.callbacks.prompted import PromptedCallback, Prompts
from seaalign.functional.entropy import count_entropy
from seaalign.functional.pitch import f0
from seaalign.functional.prosody import f0_std
from seaalign.functional.repetition import repetition_rate
from seaalign.functional.tokens import token_counts, tokens_per_unit
from seaalign.records import Prompt, Speech

Measurement = dict[str, float]

# Codes to assume where the backbone does not say how many it has. The corrected entropy is capped at log2 of this
# number, and a cap by the largest id that happened to be sampled would cut away the very codes it infers; 2^20 is more
# than speech tokenizers have, so it does not cap.
_MANY_CODES = 1 << 20


class ErosionMonitor(PromptedCallback):
    """Samples fixed prompts, logs how diverse the speech is, and says when that has peaked and declined.

    Logged under `prefix` (and to `trainer.callback_metrics`, so checkpoints can monitor it):

    - `entropy`: prosodic entropy H_p, bits, plug-in (eq. 3), and `tokens`, the count it comes from. A model that says
      nothing has 0 bits. `entropy_corrected`: the same, corrected for that count (Chao, Wang and Jost 2013), because
      answers get longer and shorter during training; decisions use this one. At most log2 of the backbone's
      `vocab_size`, where it has one.
    - `repetition`: share of positions in runs of `k` + 1 equal tokens (eq. 25).
    - `tokens_per_word`: speech tokens per text unit; `cut`: share of answers cut at `max_len`.
    - `f0_std`: semitones, mean over the answers with enough voiced frames, and `voiced`, the share of those; where the
      backbone decodes and every prompt has a timbre.

    What to make of the curve is one method, `eroding`:

        >>> class Repeats(ErosionMonitor):
        ...     def eroding(self, history):
        ...         return history[-1]["repetition"] > 0.1
        >>> Repeats([[1, 2]], stop=True).eroding([{"step": 0, "repetition": 0.2}])
        True

    Args:
        prompts: see `PromptedCallback`, which also describes the arguments up to `limit`.
        every_n_epochs: measure in every n-th epoch, at each of its validations or at its end.
        every_n_steps: measure every n optimizer steps instead.
        n: answers per prompt.
        max_len: frames.
        temperature: 0 = greedy.
        top_p: nucleus mass.
        seed: of the sampling.
        backbone: attribute path, or a function from the LightningModule to a backbone.
        batch_size: prompts per call of `sample`.
        limit: how many prompts to take from a file.
        style: keep the style prefix of the prompts. Off by default: the plain mode is the one that erodes.
        units: text units (words, syllables) per prompt; default: the number of text ids.
        k: see `seaalign.functional.repetition_rate`.
        pitch: measure F0 where it is possible; off saves the decoding.
        sample_rate: of the decoded waveforms, Hz; default: `backbone.sample_rate`.
        tolerance: bits below the peak that are still noise.
        patience: how many measurements in a row must lie lower than that.
        stop: end training when `eroding` says so.
        prefix: of the log keys; two monitors in one trainer need two prefixes.

    Source: Geng et al. 2026, eq. 3, eq. 25, table 1.
    """

    def __init__(
        self,
        prompts: Prompts,
        every_n_epochs: int = 1,
        every_n_steps: int | None = None,
        n: int = 1,
        max_len: int = 1024,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
        backbone: Any = "backbone",
        batch_size: int = 64,
        limit: int = 32,
        style: bool = False,
        units: Sequence[int] | None = None,
        k: int = 4,
        pitch: bool = True,
        sample_rate: int | None = None,
        tolerance: float = 0.1,
        patience: int = 2,
        stop: bool = False,
        prefix: str = "val/erosion",
    ) -> None:
        super().__init__(
            prompts, every_n_epochs, every_n_steps, n, max_len, temperature, top_p, seed, backbone, batch_size, limit
        )
        if tolerance < 0 or patience < 1:
            raise ValueError(f"tolerance must be >= 0 bits and patience >= 1, got {tolerance} and {patience}")
        self.style, self.units, self.k, self.pitch, self.sample_rate = style, units, k, pitch, sample_rate
        self.tolerance, self.patience, self.stop, self.prefix = tolerance, patience, stop, prefix.rstrip("/")
        self.history: list[Measurement] = []
        self.flagged = False

    def eroding(self, history: list[Measurement]) -> bool:
        """Has diversity peaked and declined? Override this; called after every measurement, the newest last.

        Args:
            history: one dict per measurement, the baseline first: "step", "epoch" and what is logged, without prefix.
        """
        peak = max(entry["entropy_corrected"] for entry in history)
        recent = [entry["entropy_corrected"] for entry in history[-self.patience :]]
        return len(recent) == self.patience and max(recent) < peak - self.tolerance

    @property
    def peak(self) -> Measurement | None:
        """The measurement with the highest corrected entropy so far."""
        return max(self.history, key=lambda entry: entry["entropy_corrected"], default=None)

    @property
    def state_key(self) -> str:
        """Two monitors with different prefixes keep different curves."""
        return self._generate_state_key(prefix=self.prefix)

    def check(self, backbone: Any) -> None:
        """See `PromptedCallback.check`; also what F0 needs, and the number of units."""
        super().check(backbone)
        if self.units is not None and len(self.units) != len(self.prompts):
            raise ValueError(f"{len(self.units)} unit counts for {len(self.prompts)} prompts: pass one per prompt")
        if self._audible(backbone):
            rate_of(backbone, self.sample_rate)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The baseline; a new run starts a new curve."""
        if trainer.global_step == 0:
            self.history, self.flagged = [], False
        super().on_train_start(trainer, pl_module)

    def measure(self, backbone: Any, trainer: Trainer, module: LightningModule) -> Measurement:
        """Sample the prompts and compute the statistics."""
        prompts = [prompt if self.style else prompt.plain() for prompt in self._moved(module)]
        speech = self.draw(backbone, prompts)
        values = self.statistics(speech, prompts, getattr(backbone, "vocab_size", None))
        if self._audible(backbone):
            rate = rate_of(backbone, self.sample_rate)
            values |= self._melody(sound(backbone, speech, prompts), rate, len(speech))
        return values

    def statistics(self, speech: Speech, prompts: Sequence[Prompt], vocab_size: int | None = None) -> Measurement:
        """What the tokens alone tell. With K codebooks: the first one.

        Args:
            speech: the answers.
            prompts: what they answer.
            vocab_size: number of codes, the ceiling (log2) of the corrected entropy; None: no ceiling that matters.
        """
        rows = [row if row.dim() == 1 else row[:, 0] for row in speech.rows()]
        units = torch.tensor(self.units if self.units is not None else [len(prompt.text) for prompt in prompts])
        count = int(speech.lengths.sum())
        bits = {"entropy": 0.0, "entropy_corrected": 0.0}
        if count:
            seen = 1 + max(int(row.max()) for row in rows if len(row))
            counts = token_counts(rows, vocab_size=max(seen, vocab_size or _MANY_CODES))
            bits["entropy"] = float(count_entropy(counts))
            bits["entropy_corrected"] = float(count_entropy(counts, "chao-wang-jost"))
        return bits | {
            "tokens": float(count),
            "repetition": float(repetition_rate(rows, k=self.k).rate),
            "tokens_per_word": float(tokens_per_unit(speech.lengths.cpu(), units[speech.prompt.cpu()])),
            "cut": float((~speech.ended).float().mean()),
        }

    def report(self, measured: Any, trainer: Trainer, module: LightningModule) -> None:
        """Log, remember, decide; every rank gets the numbers of rank 0, so that all decide alike."""
        values: Measurement = trainer.strategy.broadcast(measured)
        logged = {f"{self.prefix}/{name}": value for name, value in values.items()}
        if trainer.state.fn != "fit":
            module.log_dict(logged, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
            return
        # straight to the loggers: `module.log` in a training hook reaches them only every `log_every_n_steps`
        for logger in trainer.loggers:
            logger.log_metrics(logged | {"epoch": trainer.current_epoch}, step=trainer.global_step)
            logger.save()
        self._publish(logged, trainer, module)
        self.history.append({"step": trainer.global_step, "epoch": trainer.current_epoch, **values})
        self._decide(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The curve so far."""
        return super().state_dict() | {"history": self.history, "flagged": self.flagged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the curve of the saved run."""
        super().load_state_dict(state_dict)
        self.history, self.flagged = [dict(entry) for entry in state_dict["history"]], state_dict["flagged"]

    def _publish(self, logged: Measurement, trainer: Trainer, module: LightningModule) -> None:
        """To `trainer.callback_metrics`, for callbacks that monitor them."""
        if not trainer.global_step:  # logged before the first epoch, the baseline would overwrite that epoch's value
            return
        stepwise = self.every_n_steps is not None
        module.log_dict(
            logged, logger=False, on_step=stepwise, on_epoch=not stepwise, sync_dist=not stepwise, batch_size=1
        )

    def _decide(self, trainer: Trainer) -> None:
        eroding = bool(self.eroding(self.history))
        if eroding and not self.flagged:
            rank_zero_warn(self._verdict())
        self.flagged = self.flagged or eroding  # a run that recovers has still been through it
        if eroding and self.stop:
            trainer.should_stop = True

    def _verdict(self) -> str:
        top, now = self.peak or self.history[-1], self.history[-1]
        return (
            f"Synthetic Erosion: H_p was {top['entropy_corrected']:.3f} bits at step {top['step']:.0f} and is "
            f"{now['entropy_corrected']:.3f} bits at step {now['step']:.0f} ({now['tokens']:.0f} tokens, "
            f"repetition {100 * now['repetition']:.1f} %). "
            f"{'Training stops here.' if self.stop else 'Training goes on; pass stop=True to end it here.'} "
            f"The checkpoint nearest step {top['step']:.0f} is the most diverse one; "
            "where a later one is needed for its pronunciation, DGSA on real speech brings diversity back."
        )

    def _audible(self, backbone: Any) -> bool:
        able = self.pitch and "decode" in getattr(backbone, "features", ())
        return able and all(prompt.timbre is not None for prompt in self.prompts)

    def _melody(self, waveforms: dict[int, Tensor], rate: int, answers: int) -> Measurement:
        usable = [waveform for waveform in waveforms.values() if waveform.numel() and bool(waveform.isfinite().all())]
        measured = [f0_std(contour) for contour in (f0(usable, rate) if usable else [])]
        values = [float(spread.value) for spread in measured if spread.defined]
        mean = {"f0_std": sum(values) / len(values)} if values else {}
        return mean | {"voiced": len(values) / answers}
