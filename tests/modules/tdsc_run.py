"""A small TDSC run for the tests: a toy policy, a judge that reads tokens and keeps a diary, and one way to fit."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from seaalign import SFT, TDSC, Prompt, Sentence, SpeechData, TextData
from seaalign.functional import edit_distance
from seaalign.judges import Criterion, Duration, Judge, Repetition
from seaalign.records import Verdict
from seaalign.storage import read_pairs, read_utterances
from tests.toy import VOCAB, Toy, quiet, speech


def sentences(count: int = 12, seed: int = 5) -> list[Sentence]:
    g = torch.Generator().manual_seed(seed)
    made = {}
    while len(made) < count:
        text = tuple(torch.randint(20, (int(torch.randint(2, 4, (), generator=g)),), generator=g).tolist())
        made.setdefault(text, Sentence(f"s{len(made)}", " ".join(map(str, text)), Prompt(text, None, torch.zeros(1))))
    return list(made.values())


def start() -> Toy:
    """A policy that is sometimes right."""
    toy = Toy()
    quiet(max_steps=400, max_epochs=-1).fit(SFT(toy, lr=1e-2, weight_decay=0.0), SpeechData(speech(300, styled=False)))
    return toy.eval()


class Reads(Criterion):
    """Word errors without a recogniser: runs of equal tokens against the text, and a line for each look."""

    name = "intelligibility"
    needs_audio = False

    def __init__(self, diary: Path | None = None) -> None:
        self.diary = diary

    @property
    def fingerprint(self) -> str:
        return "Reads"

    def __call__(self, candidates):
        if self.diary is not None:
            with open(self.diary, "ab") as file:
                names = [f"{c.name}|{c.temperature:.2f}|{c.tokens.tolist()}\n" for c in candidates]
                file.write("".join(names).encode())
        return [self.read(candidate) for candidate in candidates]

    def read(self, candidate) -> Verdict:
        heard = [str(token) for token in torch.unique_consecutive(candidate.tokens).tolist()]
        wanted = [str(word % VOCAB) for word in candidate.sentence.prompt.text.tolist()]
        error = edit_distance(heard, wanted) / len(wanted)
        scores = {"error": error}
        return Verdict.accept(scores) if error < 0.4 else Verdict.reject(self.name, scores=scores)


def judge(diary: Path | None = None) -> Judge:
    return Judge(Repetition(0.5, k=4), Duration(0.2, 3.0, unit="token", per_unit=2.0), Reads(diary), batch=8)


SETTINGS = {
    "iterations": 3, "n": 2, "batch": 3, "frames_per_symbol": 6.0, "sft_steps": 6, "dpo_steps": 5, "lr": 3e-3,
    "dpo_lr": 1e-3, "weight_decay": 0.0,
}  # fmt: skip


def module(policy: Toy, work: Path, diary: Path | None = None, **changes) -> TDSC:
    judges = changes.pop("judge_", judge(diary))
    return TDSC(policy, judges, work / "tdsc", **{**SETTINGS, **changes})


def data(**changes) -> TextData:
    return TextData(
        sentences(), **{"sft": speech(40, seed=1, styled=False), "replay": 0.3, "max_frames": 60, **changes}
    )


def fit(policy: Toy, folder: Path, diary: Path | None = None, every: int | None = 4, callbacks=(), **changes) -> TDSC:
    """Run, or go on where an earlier run of this folder was cut."""
    warnings.simplefilter("ignore")
    made = module(policy, folder, diary, **changes)
    saves = [ModelCheckpoint(folder / "checkpoints", "epoch-{epoch}", save_last=True, save_top_k=-1)]
    if every:
        saves.append(ModelCheckpoint(folder / "checkpoints", "{step}", every_n_train_steps=every, save_top_k=-1))
    trainer = quiet(enable_checkpointing=True, callbacks=[*saves, *callbacks])
    trainer.fit(made, data(), ckpt_path="last" if any((folder / "checkpoints").glob("last*.ckpt")) else None)
    return made


def tables(folder: Path) -> dict[str, object]:
    """All that a run leaves and that a clock has no part in."""
    found: dict[str, object] = {}
    for place in sorted((folder / "tdsc").glob("round-*")):
        stats = json.loads((place / "round.json").read_text())
        found[f"{place.name} stats"] = {name: stats[name] for name in stats if name not in ("seconds", "bytes")}
        found[f"{place.name} accepted"] = [
            (u.id, u.tokens.tolist()) for u in read_utterances(place / "accepted.parquet")
        ]
        pairs = read_pairs(place / "reference.parquet")
        found[f"{place.name} pairs"] = [(p.id, *(x.tolist() for x in (*p.completions(), *p.reference))) for p in pairs]
    rows = json.loads((folder / "tdsc" / "dashboard.json").read_text())
    clocks = ("seconds", "disk")
    found["dashboard"] = [{k: v for k, v in row.items() if not k.startswith(clocks)} for row in rows]
    return found


def result(made: TDSC) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in made.backbone.state_dict().items()}


if __name__ == "__main__":  # two processes, see test_tdsc.py
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder = Path(os.environ["TDSC_FOLDER"])
    policy = Toy()
    policy.load_state_dict(torch.load(folder / "start.pt", weights_only=True))
    made = module(policy, folder)
    trainer = quiet(devices=2, strategy="ddp")
    trainer.fit(made, data())
    if trainer.is_global_zero:
        torch.save(made.backbone.state_dict(), folder / "end.pt")
