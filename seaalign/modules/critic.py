"""What `TDSC` asks once per iteration, phase or step, apart from its losses."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from seaalign.backbones.base import Backbone, Unsupported, evaluating
from seaalign.critique import Loop, Plan, decoded
from seaalign.data.texts import TextData
from seaalign.functional.sampling import content_key
from seaalign.judges import Criterion, Judge, Liveliness
from seaalign.judges.given import as_judge, who_listens
from seaalign.records import Candidate, Sentence, Verdict
from seaalign.sampling import explore, frame_limits, temperature_gradient

if TYPE_CHECKING:
    from seaalign.modules.tdsc import TDSC

Curriculum = Callable[[int, Sequence[dict[str, Any]]], Sequence[float]]
_UNSET = 1000
"""Lightning's max_epochs where neither it nor max_steps was given."""


def check_settings(settings: Any) -> None:
    """Refuse what cannot work, by name and value.

    Raises:
        ValueError: with the value and the range.
    """
    least = {"iterations": 1, "n": 1, "batch": 1, "max_len": 1, "sft_steps": 0, "dpo_steps": 0, "pairs_per_text": 1}
    wrong = {name: settings[name] for name, low in least.items() if settings[name] < low}
    if wrong:
        raise ValueError(f"TDSC got {wrong}; the least values are { {name: least[name] for name in wrong} }")
    if settings["sft_steps"] + settings["dpo_steps"] < 1:
        raise ValueError("TDSC with sft_steps=0 and dpo_steps=0 trains nothing: give one of them a number")
    if settings["keep"] not in ("mined", "all"):
        raise ValueError(f"keep must be 'mined' or 'all', got {settings['keep']!r}")
    slope = settings["frames_per_symbol"]
    if slope is not None and not slope > 0:
        raise ValueError(f"frames_per_symbol must be above 0, or None for max_len alone; got {slope}")
    if not settings["temperatures"] and settings["hottest"] is None:
        raise ValueError("TDSC has no temperature to explore: give temperatures, or hottest=(start, step)")
    if settings["reference"] not in ("sft", "start", "initial") or settings["reduction"] not in ("sum", "mean"):
        raise ValueError(
            f"reference must be 'sft', 'start' or 'initial' and reduction 'sum' or 'mean', got "
            f"{settings['reference']!r} and {settings['reduction']!r}"
        )


def loop_of(module: TDSC) -> Loop:
    """The module's loop under its Trainer, which is told to run K epochs where it was not told anything else.

    Raises:
        Unsupported: weights are spread over processes, so that none of them can sample alone.
    """
    trainer = module.trainer
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        raise Unsupported(
            f"TDSC samples on each process by itself, which {type(trainer.strategy).__name__} does not allow: use one "
            "device, or strategy='ddp'"
        )
    if trainer.accumulate_grad_batches != 1:
        raise ValueError(
            "TDSC changes phase by batch: raise TextData(max_frames=...) instead of accumulate_grad_batches"
        )
    if trainer.max_epochs in (None, -1, _UNSET):
        trainer.fit_loop.max_epochs = module.hparams["iterations"]
    keep, reference = module.hparams["keep"], module.hparams["reference"]
    require_partners(module)
    barrier, work = trainer.strategy.barrier, module.work
    if getattr(trainer, "fast_dev_run", False):  # a rehearsal stays out of the real run's folder
        work = work.with_name(f"{work.name}.fast_dev_run")
        if trainer.is_global_zero:
            shutil.rmtree(work, ignore_errors=True)
        barrier()
    return Loop(work, module.judge, reference, keep, trainer.global_rank, trainer.world_size, barrier)


def judge_of(judge: Judge | Criterion | Sequence[Criterion] | None, settings: Any) -> Judge | None:
    """A judge as it is, or made of criteria; one that listens also measures the spread of F0, for the dashboard.

    Raises:
        ValueError: no criterion of the judge can make a loser, so that DPO would have no pairs.
    """
    if judge is None:
        return None
    made = copy.copy(as_judge(judge, timeout=settings["judge_timeout"]))
    names, losers = [criterion.name for criterion in made.criteria], settings["loser_reasons"]
    if settings["dpo_steps"] and set(losers).isdisjoint(names):
        raise ValueError(
            f"losers are candidates rejected for {list(losers)} alone, and no criterion of the judge is called that: "
            f"{names}. Name the one that ranks by loser_reasons=(...), or set dpo_steps=0"
        )
    if any(c.needs_audio for c in made.criteria) and not any(isinstance(c, Liveliness) for c in made.criteria):
        extra = Liveliness()
        extra.by_default = True
        made.criteria = (*made.criteria, extra)
    return made


def temperatures_of(
    settings: Any, curriculum: Curriculum | None, iteration: int, history: Sequence[dict[str, Any]]
) -> tuple[float, ...]:
    """What is explored in iteration k, from 1: what the curriculum says, or else the module's own rule."""
    if curriculum is not None:
        return tuple(float(heat) for heat in curriculum(iteration, history))
    fixed, hottest = settings["temperatures"], settings["hottest"]
    return temperature_gradient(iteration, fixed, *hottest) if hottest else tuple(fixed)


def require_partners(module: TDSC) -> None:
    """Refuse, before anything is sampled, data or a backbone that cannot do what the run needs.

    Raises:
        Unsupported: a criterion listens, and the backbone cannot decode or does not say its sample rate.
        TypeError: the data module is no `TextData`.
    """
    data, backbone = module.trainer.datamodule, module.backbone  # type: ignore[attr-defined]
    if not isinstance(data, TextData):
        raise TypeError(f"TDSC trains on TextData, which has texts and no recordings, not on {type(data).__name__}")
    ears, remedy = who_listens(module.judge)
    lacks = ["decode()"] if type(backbone).decode is Backbone.decode else []
    lacks += [] if getattr(backbone, "sample_rate", None) else ["attribute sample_rate (Hz)"]
    if ears and lacks:
        both = f"neither {' nor '.join(lacks)}" if len(lacks) == 2 else f"no {lacks[0]}"
        raise Unsupported(f"{ears}, and {type(backbone).__name__} has {both}: give it what is missing{remedy}")


def plan_of(settings: Any, temperatures: Sequence[float], sentences: Sequence[Sentence], iteration: int) -> Plan:
    """What an iteration explores: n candidates at each temperature, seeded by the iteration."""
    most, slope = settings["max_len"], settings["frames_per_symbol"]
    limits = tuple(frame_limits(sentences, most, slope)) if slope else most
    return Plan(
        tuple(float(heat) for heat in temperatures for _ in range(settings["n"])),
        settings["top_p"],
        limits,
        settings["batch"],
        settings["seed"] + 7919 * iteration,
        tuple(settings["loser_reasons"]),
        settings["pairs_per_text"],
    )


def begin_step(module: TDSC, batch_idx: int) -> None:
    """Fresh moments and the phase's learning rate where a phase begins; seeded dropout at every step."""
    settings, trainer = module.hparams, module.trainer
    if batch_idx in (0, settings["sft_steps"]):
        dpo = batch_idx == settings["sft_steps"]
        for optimizer in trainer.optimizers:
            optimizer.state.clear()
            for group in optimizer.param_groups:
                group["lr"] = settings["dpo_lr"] if dpo and settings["dpo_lr"] is not None else settings["lr"]
    place = torch.tensor([settings["seed"], module.iteration, batch_idx, trainer.global_rank])
    torch.manual_seed(content_key([place], 0) % (1 << 63))


def require_finite_gradients(module: TDSC) -> None:
    """Stop before a step that would ruin the weights, and with them the next checkpoint.

    Under 16-mixed precision the gradient scaler looks after that itself.

    Raises:
        ValueError: says where.
    """
    if module.trainer.precision == "16-mixed":
        return
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    if gradients and not bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients))):
        raise ValueError(
            f"a gradient is not finite in iteration {module.iteration}, step {module.trainer.global_step}. No step was "
            "made with it, and the last checkpoint is untouched: lower lr or dpo_lr"
        )


def best_of(module: TDSC, sentences: Sequence[Sentence]) -> list[Candidate]:
    """For each sentence the candidate that the judge ranks first: accepted ones, then by error.

    Source: Geng et al. 2026, tables 3-4 (rejection sampling).
    """
    plan = plan_of(module.hparams, [1.0] * 3, sentences, 0)
    with evaluating(module.backbone):
        made = explore(
            module.backbone, sentences, plan.temperatures, top_p=plan.top_p, max_len=plan.max_len, batch=plan.batch,
            seed=plan.seed,
        )  # fmt: skip
        candidates = [candidate for _, wave in made for candidate in wave]
        judge = module.judge
        verdicts = (
            judge(candidates, lambda batch: decoded(batch, module.backbone))
            if judge
            else [Verdict.accept() for _ in candidates]
        )
    best: dict[str, tuple[tuple[bool, float], Candidate]] = {}
    for candidate, verdict in zip(candidates, verdicts, strict=True):
        rank = (not verdict.ok, verdict.scores.get("error", float("inf")))
        if candidate.sentence.id not in best or rank < best[candidate.sentence.id][0]:
            best[candidate.sentence.id] = (rank, candidate)
    return [best[sentence.id][1] for sentence in sentences]
