"""Sampling fixed prompts at fixed moments without a trace in training: the base of the callbacks beside this file.

Numbers that are compared over a run must come from the same prompts and the same seeds each time, and looking must not
change what is looked at. Both are settled here once; a subclass says only what to measure and what to do with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from seaalign.backbones.base import Unsupported, calls, evaluating
from seaalign.data import load_utterances
from seaalign.records import Prompt, Speech

Prompts = Sequence[Prompt] | Sequence[Sequence[int]] | str | Path
Finder = str | Callable[[LightningModule], Any]


def find_backbone(finder: Finder, module: LightningModule, who: str) -> Any:
    """The backbone inside a LightningModule.

    Args:
        finder: a dotted attribute path, or a function from module to backbone.
        module: where it is.
        who: wants it, for the message.

    Raises:
        AttributeError: there is nothing at that path.
    """
    if not isinstance(finder, str):
        return finder(module)
    try:
        return attrgetter(finder)(module)
    except AttributeError as error:
        found = [name for name, _ in module.named_children()]
        ways = [f"backbone={name!r}" for name in found[:3]] + ["backbone=lambda module: MyAdapter(module.net)"]
        raise AttributeError(
            f"{type(module).__name__} has no attribute {finder!r} (its submodules: {', '.join(found) or 'none'}); tell "
            f"{who} where it is: {' or '.join(ways)}"
        ) from error


def _as_prompt(given: Any, place: int) -> Prompt:
    if isinstance(given, int):
        raise TypeError(f"prompt {place} must be a Prompt or a list of text ids, got {given}: give [Prompt(text ids)]")
    return given if isinstance(given, Prompt) else Prompt(given)


class PromptedCallback(Callback):
    """Calls `measure` before the first step and then every so often, with the same prompts and seeds each time.

    Override `measure` (what to compute; under DDP on rank 0 alone) and `report` (what to do with it; on every rank).
    Inside `measure` the backbone is in eval mode without gradient, and the random state of the process is put back
    afterwards, so training goes on bit for bit as if the callback were not there.

    Args:
        prompts: prompts, or lists of text ids, or the path of a Parquet or JSONL file of utterances.
        every_n_epochs: measure in every n-th epoch: at each of its validations, so that checkpoints can monitor the
            values (with `val_check_interval` below 1 that is several times an epoch), and after it where its end is not
            validated.
        every_n_steps: measure every n optimizer steps instead; works without a validation loop.
        n: answers per prompt.
        max_len: frames; answers that reach it are cut.
        temperature: 0 = greedy.
        top_p: nucleus mass.
        seed: of the sampling, the same at every measurement.
        backbone: where the LightningModule keeps it: a dotted attribute path, or a function from module to backbone.
        batch_size: prompts per call of `backbone.sample`; changes memory, not results.
        limit: how many prompts to take from a file.
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
        backbone: Finder = "backbone",
        batch_size: int = 64,
        limit: int = 32,
    ) -> None:
        sizes = {"every_n_epochs": every_n_epochs, "every_n_steps": every_n_steps, "n": n, "max_len": max_len}
        for name, value in {**sizes, "batch_size": batch_size, "limit": limit}.items():
            if value is not None and value < 1:
                raise ValueError(f"{type(self).__name__}({name}={value}): must be at least 1")
        self._given = prompts
        self.prompts: list[Prompt] = []
        self.file_ids: list[str] = []
        if not isinstance(prompts, str | Path):
            self.prompts = [_as_prompt(p, place) for place, p in enumerate(prompts)]
        self.every_n_epochs, self.every_n_steps = every_n_epochs, every_n_steps
        self.n, self.max_len, self.temperature, self.top_p, self.seed = n, max_len, temperature, top_p, seed
        self.backbone, self.batch_size, self.limit = backbone, batch_size, limit
        self.last_step: int | None = None

    def measure(self, backbone: Any, trainer: Trainer, module: LightningModule) -> Any:
        """Whatever is worth knowing; use `self.draw` to sample."""
        raise NotImplementedError(
            f"{type(self).__name__} does not say what to measure: write its method measure(self, backbone, trainer, "
            "module); its result goes to report()"
        )

    def report(self, measured: Any, trainer: Trainer, module: LightningModule) -> None:
        """Log or write what `measure` returned; it is None on the ranks that did not measure."""
        raise NotImplementedError(
            f"{type(self).__name__} does not say what to do with what it measured: write its method report(self, "
            "measured, trainer, module), such as module.log(...)"
        )

    def check(self, backbone: Any) -> None:
        """Refuse, before training starts, a backbone that cannot give what `measure` needs."""
        if not callable(getattr(backbone, "sample", None)):
            raise Unsupported(
                f"{type(self).__name__} needs a backbone that can sample, got {type(backbone).__name__}; pass "
                "backbone='path.to.it' or a function from your LightningModule to a seaalign.Backbone"
            )

    def find(self, module: LightningModule) -> Any:
        """The backbone inside a LightningModule."""
        return find_backbone(self.backbone, module, type(self).__name__)

    def draw(self, backbone: Any, prompts: Sequence[Prompt]) -> Speech:
        """`n` answers to each prompt, always the same ones for the same weights; `batch_size` prompts at a time."""
        answers: list[list[tuple[torch.Tensor, bool]]] = [[] for _ in prompts]
        how = {"temperature": self.temperature, "top_p": self.top_p, "max_len": self.max_len}
        done, said = 0, time.monotonic()
        for part, turn in calls(prompts, self.batch_size):
            generator = torch.Generator().manual_seed(self.seed + turn)
            speech = backbone.sample([prompts[i] for i in part], n=self.n, generator=generator, **how)
            for k, answer in enumerate(zip(speech.rows(), speech.ended.tolist(), strict=True)):
                answers[part[k // self.n]].append(answer)
            done += len(part)
            if time.monotonic() - said > 2 and done < len(prompts):
                said = time.monotonic()
                _say(f"{type(self).__name__}: {done} of {len(prompts)} prompts sampled")
        rows, ended = ([pair[k] for of_one in answers for pair in of_one] for k in (0, 1))
        return Speech.pack(rows, ended, torch.arange(len(prompts)).repeat_interleave(self.n))

    @contextmanager
    def undisturbed(self, trainer: Trainer, module: LightningModule, backbone: Any) -> Iterator[None]:
        """Inside: eval mode, no gradient, the trainer's precision, a random state of its own. Outside: as before."""
        with ExitStack() as stack:
            stack.enter_context(isolate_rng())
            # tensors that a model caches in inference mode could not be used in training afterwards
            stack.enter_context(torch.inference_mode(False))
            for part in (module, backbone):  # an adapter made on the spot need not be a part of the module
                if isinstance(part, nn.Module):
                    stack.enter_context(evaluating(part))
            stack.enter_context(trainer.precision_plugin.forward_context())
            # decoders take no generator: where one draws noise of its own, it should be the same noise each time
            torch.manual_seed(self.seed)
            yield

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the prompts where a file was given, and refuse early what cannot work."""
        if isinstance(self._given, str | Path) and not self.prompts:
            utterances = load_utterances(self._given)[: self.limit]
            self.prompts = [utterance.prompt for utterance in utterances]
            self.file_ids = [utterance.id for utterance in utterances]
        if not self.prompts:
            raise ValueError(f"{type(self).__name__} has no prompts (given: {self._given!r}); pass at least one")
        self.check(self.find(pl_module))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The baseline: what the policy does before it has learned anything. Not repeated on resume."""
        if self.last_step is None or trainer.global_step == 0:
            self._run(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """`every_n_steps`. Counts multiples passed: with several optimizers the step advances by more than one."""
        every, last = self.every_n_steps, self.last_step or 0
        if every is not None and trainer.global_step // every > last // every:
            self._run(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """`every_n_epochs` where the trainer validates; also under `trainer.validate`."""
        alone = trainer.state.fn != "fit"
        if not trainer.sanity_checking and (alone or self._epoch_due(trainer)):
            self._run(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """`every_n_epochs` where the epoch did not end with a validation."""
        if self._epoch_due(trainer) and self.last_step != trainer.global_step:
            self._run(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"last_step": self.last_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where the saved run was."""
        self.last_step = state_dict["last_step"]

    def _epoch_due(self, trainer: Trainer) -> bool:
        return self.every_n_steps is None and (trainer.current_epoch + 1) % self.every_n_epochs == 0

    def _run(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.state.fn == "fit":
            self.last_step = trainer.global_step
        backbone, measured, begun = self.find(module), None, time.monotonic()
        if trainer.is_global_zero or not _whole_on_each_rank(trainer):
            with self.undisturbed(trainer, module, backbone):
                measured = self.measure(backbone, trainer, module)
        self.report(measured, trainer, module)
        if trainer.is_global_zero and time.monotonic() - begun > 2:
            _say(f"{type(self).__name__}: step {trainer.global_step} measured in {time.monotonic() - begun:.1f} s")

    def _moved(self, module: LightningModule) -> list[Prompt]:
        return [prompt.to(module.device) for prompt in self.prompts]


def _whole_on_each_rank(trainer: Trainer) -> bool:
    """Can one rank run the model alone? Not where weights are spread over ranks (FSDP, DeepSpeed): there all must."""
    return type(trainer.strategy) in (SingleDeviceStrategy, DDPStrategy)


def _say(line: str) -> None:
    from rich.console import Console

    Console(stderr=True).print(line, highlight=False, markup=False)
