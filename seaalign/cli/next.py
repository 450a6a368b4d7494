"""What `seaalign mine` leaves for people: the funnel, and the training that comes next as files and commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from seaalign.stages.mining import funnel_of
from seaalign.storage.columns import whole_or_nothing

_OF_TDSC = ("callbacks", "default_root_dir", "max_epochs", "max_steps", "enable_checkpointing")


def write_configs(out: Path, written: str, result: dict[str, Any]) -> list[str]:
    """Files for `seaalign fit` with the backbone and the settings of this one, in `out`.

    SFT on what was accepted, then DPO. Its reference is what the file's TDSC says: "sft", the policy after that SFT,
    which `fit` scores the pairs with before it trains; otherwise the policy that explored, whose log-probs they carry.

    Args:
        out: the folder of mining.
        written: the settings in force, as YAML.
        result: of mining.

    Returns:
        The commands, in order.
    """
    given = yaml.safe_load(written)
    tdsc, texts = given["model"]["init_args"], given["data"]["init_args"]
    common = {name: tdsc[name] for name in ("backbone", "lr", "betas", "weight_decay") if name in tdsc}
    batches = {name: texts[name] for name in ("max_frames", "seed", "vocab_size") if name in texts}
    weights, commands = given.get("weights"), []
    if tdsc["sft_steps"]:
        rows = out / ("sft.parquet" if (out / "sft.parquet").is_file() else "accepted.parquet")
        data = {"class_path": "SpeechData", "init_args": {"train": str(rows), **batches}}
        model = {"class_path": "SFT", "init_args": common}
        _write(out, "sft", given, model, data, tdsc["sft_steps"])
        commands.append(_command(out, "sft", weights))
        weights = str(out / "sft" / "last.ckpt")
    if tdsc["dpo_steps"] and result["texts"]["pairs"]:
        anew = tdsc["reference"] == "sft"
        pairs: dict[str, Any] = {
            "pairs": str(out / ("mined.parquet" if anew else "pairs.parquet")),
            "val_fraction": 0.0,
        }
        pairs |= {"scored": str(out / "dpo" / "scored.parquet")} if anew else {}
        settings = {**common, **{name: tdsc[name] for name in ("beta", "reduction", "sft_weight") if name in tdsc}}
        settings |= {"lr": tdsc["dpo_lr"]} if tdsc.get("dpo_lr") else {}
        settings |= {} if anew else {"tolerance": 1000.0}  # the policy has moved since: that is meant
        data = {"class_path": "PairData", "init_args": {**pairs, **batches}}
        _write(out, "dpo", given, {"class_path": "DPO", "init_args": settings}, data, tdsc["dpo_steps"])
        commands.append(_command(out, "dpo", weights))
    return commands


def report(out: Path, result: dict[str, Any], commands: Sequence[str]) -> None:
    """The funnel, what lies where, and the commands."""
    console = Console()
    size = sum(result["bytes"].values()) / 1e6
    pairs = "pairs.parquet (with log-probs of the policy that explored), " if result["texts"]["pairs"] else ""
    console.print(f"Iteration {result['iteration']}\n{funnel_of(result)}", highlight=False, soft_wrap=True)
    console.print(
        f"{out} has accepted.parquet, {pairs}round.json. The shards in candidates/, judged/ and reference/, {size:.1f} "
        "MB, may be deleted now.\nNext:",
        highlight=False,
        soft_wrap=True,
    )
    for command in commands:
        console.print(f"  {command}", highlight=False, soft_wrap=True)


def _write(out: Path, name: str, given: dict[str, Any], model: Any, data: Any, steps: int) -> None:
    saves = {"dirpath": str(out / name), "save_last": True, "save_top_k": 0}
    trainer = {key: value for key, value in given["trainer"].items() if key not in _OF_TDSC}
    trainer |= {"max_steps": steps, "default_root_dir": str(out / name)}
    trainer["callbacks"] = [{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": saves}]
    text = yaml.safe_dump({"trainer": trainer, "model": model, "data": data}, sort_keys=False)
    with whole_or_nothing(out / f"{name}.yaml") as file:
        file.write(text.encode())


def _command(out: Path, name: str, weights: str | None) -> str:
    return f"seaalign fit --config {out / name}.yaml" + (f" --weights {weights}" if weights else "")
