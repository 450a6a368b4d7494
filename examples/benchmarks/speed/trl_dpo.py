"""The same steps by TRL's DPOTrainer, with an interpreter that has TRL; seaalign is not needed.

    python trl_dpo.py FOLDER VARIANT OUT

Variants: "default", what `DPOConfig()` does: a live reference and gradient checkpointing; "best", reference log-probs
computed once before the training (`precompute_ref_log_probs`), no checkpointing, and where the release still has it
`use_logits_to_keep`. `padding_free` is left out: 1.16 warns and ignores it, and in 0.28 without flash attention a step
takes twice as long, and fails together with `use_logits_to_keep`.

What is set besides, and why: batch size and order, so that a step sees the pairs of a step; no weight decay and a
constant learning rate, so that losses can be compared; no `max_length`, so that nothing is cut; float32 on the CPU,
where `DPOConfig()` asks for bfloat16. Left as they are: clipping of gradients at 1, logging every 10 steps, AdamW.
"""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import torch
import world
from meter import Meter
from world import Job


def tokenizer_of(job: Job) -> Any:
    """Writes id 17 as the word "w17": TRL takes texts, and ids must come back as they were."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(job.end)} | {"</s>": job.end}
    core = Tokenizer(models.WordLevel(words, unk_token="w0"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", pad_token="w0", unk_token="w0")


def dataset_of(job: Job, folder: Path) -> Any:
    """Texts; TRL adds the end itself."""
    from datasets import Dataset

    rows = [[" ".join(f"w{i}" for i in ids) for ids in pair] for pair in world.pairs(job, folder)]
    return Dataset.from_list([{"prompt": x, "chosen": " " + y, "rejected": " " + z} for x, y, z in rows])


def config_of(job: Job, folder: Path, variant: str) -> Any:
    from trl import DPOConfig

    known = {field.name for field in dataclasses.fields(DPOConfig)}
    settings: dict[str, Any] = {
        "output_dir": str(folder / "trl"),
        "per_device_train_batch_size": 2 * job.triplets,
        "max_steps": job.warm + job.steps,
        "learning_rate": job.lr,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "beta": job.beta,
        "max_length": None,
        "max_prompt_length": None,
        "bf16": job.device == "cuda",
        "use_cpu": job.device == "cpu",
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    if variant == "best":
        settings |= {"precompute_ref_log_probs": True, "gradient_checkpointing": False, "use_logits_to_keep": True}
    return DPOConfig(**{name: value for name, value in settings.items() if name in known})


def run(job: Job, folder: Path, variant: str, out: Path) -> dict[str, Any]:
    """See `training.run`."""
    from torch.utils.data import SequentialSampler
    from transformers import TrainerCallback
    from trl import DPOTrainer

    warnings.simplefilter("ignore", FutureWarning)
    losses, norms, meter = [], [], Meter(job.device)

    class InOrder(DPOTrainer):
        def _get_train_sampler(self, *ignored: Any) -> Any:
            return SequentialSampler(self.train_dataset)

        def compute_loss(self, *given: Any, **named: Any) -> Any:
            loss = super().compute_loss(*given, **named)
            losses.append(loss.detach())
            return loss

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if not norms:
                grads = [p.grad for p in model.parameters() if p.grad is not None]
                norms.append(torch.stack([grad.norm() for grad in grads]).norm())
                torch.save(world.gradient_sample(model), out.with_suffix(".grad"))

        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if state.global_step == job.warm:
                meter.start()
            elif state.global_step == job.warm + job.steps:
                found.update(meter.stop())

    found: dict[str, Any] = {}
    model = world.model_of(job, folder)
    meter.mark()
    given = {"args": config_of(job, folder, variant), "processing_class": tokenizer_of(job)}
    trainer = InOrder(model=model, train_dataset=dataset_of(job, folder), callbacks=[Watch()], **given)
    trainer.train()
    return found | {"losses": [float(loss) for loss in losses], "clipped_norm": float(norms[0])}


if __name__ == "__main__":
    world.work(run, ("trl",))
