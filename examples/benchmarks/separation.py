"""Does `Disentangler` separate prosody from timbre? Measured, one objective at a time.

Two worlds. The embedded voice: six people who do not exist, whose F0 contour, level and pace are known because they
were chosen. The Free Spoken Digit Dataset: six people who do, spliced into strings of three digits.

A disentangler is trained on some utterances; probes then look at others. They are split by text, and no recording is on
both sides. Of the prosody code: who speaks (from which ids occur and follow each other, and from statistics of the
values), and the F0 contour about the utterance's mean (from three neighbouring steps). In the embedded voice also
level, and rhythm: which share of a step lies within a word. Of the timbre: who speaks, and how lively the utterance is
within one speaker. Decoded: the absolute F0 of utterance A from its code and the timbre of another utterance of its
speaker. `length` probes the mere number of steps, which no bottleneck hides. The contrast is the same probe on tokens
that mix both (k-means over log mel and F0). What makes a voice, length of the vocal tract and tilt of the source, is
asked of code and timbre for 24 people nobody has trained on, each probed by what the others taught.

    python examples/benchmarks/separation.py --world voice --seeds 3 --out separation
    python examples/benchmarks/separation.py --world fsdd --fsdd PATH --arms full,no-speaker --out separation

Writes OUT/WORLD.json after every run (runs that are there are not repeated) and OUT/WORLD.png.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer, seed_everything
from torch import Tensor

from seaalign import Disentangler, ProsodyData, Recording
from seaalign.audit import probe_labels, probe_values
from seaalign.audit.features import token_features
from seaalign.data.hearing import REFERENCE, hear
from seaalign.functional import fsq_values
from seaalign.functional.prosody import semitones
from seaalign.miniature.fsdd import JUDGE, TRAIN, Fsdd, splice
from seaalign.miniature.spoken import HOP, RATE, Spoken
from seaalign.miniature.voice import JUDGE_SPEAKERS, SPEAKERS, say

ARMS: dict[str, dict[str, Any]] = {
    "full": {},
    "no-cross": {"weights": {"cross": 0.0}},
    "no-speaker": {"weights": {"speaker": 0.0}},
    "no-statistics": {"weights": {"statistics": 0.0}},
    "no-spectrum": {"weights": {"spectrum": 0.0}},
    "reconstruction-only": {"weights": {"cross": 0.0, "speaker": 0.0, "statistics": 0.0, "spectrum": 0.0}},
    "vclub": {"weights": {"vclub": 0.1}},
    "hsic": {"weights": {"hsic": 10.0}},
    "distance": {"weights": {"distance": 0.3}},
    "spread": {"spread": True},
    "speaker-5": {"weights": {"speaker": 5.0}},
    "speaker-5-spread": {"weights": {"speaker": 5.0}, "spread": True},
}
"""What each run changes from the defaults of `Disentangler`."""
PEOPLE = 6
_KEYS = ("speaker_code", "contour_code", "contour_decoded", "speaker_timbre", "liveliness_timbre")


def voice_world(seed: int, texts: int = 140, words: int = 3) -> tuple[list[Spoken], list[Spoken]]:
    """Every text said once by everybody, expressively; the first 60 texts are for training."""
    generator = torch.Generator().manual_seed(seed)
    said = []
    for _ in range(texts):
        text = tuple(torch.randint(10, (words,), generator=generator).tolist())
        said.append([say(text, person, True, generator) for person in SPEAKERS])
    return sum(said[:60], []), sum(said[60:], [])


def fsdd_world(path: str, seed: int) -> tuple[list[Spoken], list[Spoken]]:
    """Strings of three recordings, each recording in one string; takes 5-24 for training, 25-49 for probes."""
    corpus, generator = Fsdd(path, [*TRAIN, *JUDGE]), torch.Generator().manual_seed(seed)
    worlds = []
    for takes in (TRAIN, JUDGE):
        said = []
        for take in takes:
            order = torch.randperm(10, generator=generator).tolist()
            for words in (order[:3], order[3:6], order[6:9]):
                for person in corpus.speakers:
                    found = [corpus.words.get((word, person, take)) for word in words]
                    if all(w is not None for w in found):
                        said.append(splice(words, [w for w in found if w is not None], person, "real", generator))
        worlds.append(said)
    return worlds[0], worlds[1]


def recordings(spoken: list[Spoken], name: str) -> list[Recording]:
    """As `ProsodyData` wants them."""
    return [Recording(f"{name}-{i}", s.text, (s.waveform, s.rate), speaker=s.speaker) for i, s in enumerate(spoken)]


def contours(spoken: list[Spoken]) -> list[Tensor]:
    """F0 in semitones above 100 Hz (T,), NaN where unvoiced: the one that was chosen, or else measured."""
    rows = []
    for s, heard in zip(spoken, hear([s.waveform for s in spoken], RATE, RATE), strict=True):
        frames = heard.frames
        if s.f0 is None:
            rows.append(torch.where(frames[:, 1] > 0, frames[:, 0], torch.nan))
        else:
            known = s.f0[: len(frames)]
            rows.append(torch.where(known > 0, semitones(known, REFERENCE), torch.nan))
    return rows


def value_features(values: list[Tensor]) -> Tensor:
    """Of each code (M, C): mean, spread, movement, and how often each channel takes which value."""
    rows = []
    for v in values:
        steps = (v[1:] - v[:-1]).abs() if len(v) > 1 else torch.zeros(1, v.shape[1])
        turns = ((v[2:] - v[1:-1]) * (v[1:-1] - v[:-2]) < 0).float().mean(0) if len(v) > 2 else torch.zeros(v.shape[1])
        shares = torch.cat([((v * 2).round() == level).float().mean(0) for level in range(-2, 3)])
        rows.append(torch.cat([v.mean(0), v.std(0, correction=0), steps.mean(0), steps.amax(0), turns, shares]))
    return torch.stack(rows)


def step_rows(values: list[Tensor], curves: list[Tensor], texts: list[str], stride: int) -> tuple[Tensor, Tensor, list]:
    """Three neighbouring steps (N, 3 C), mean F0 of the middle one about the utterance's mean (N,), its text."""
    features, targets, groups = [], [], []
    for v, curve, text in zip(values, curves, texts, strict=True):
        around = torch.cat([torch.nn.functional.pad(v, (0, 0, 1, 1))[i : i + len(v)] for i in range(3)], 1)
        padded = torch.nn.functional.pad(curve, (0, len(v) * stride - len(curve)), value=torch.nan)
        middle = padded.view(-1, stride).nanmean(1) - curve.nanmean()
        keep = middle.isfinite()
        features.append(around[keep])
        targets.append(middle[keep])
        groups += [text] * int(keep.sum())
    return torch.cat(features), torch.cat(targets), groups


def decoded_r2(
    module: Disentangler, codes: list[Tensor], timbres: Tensor, curves: list[Tensor], who: list[str]
) -> float:
    """Of absolute F0 about the speaker's mean, from the code and the timbre of the speaker's next utterance."""
    places = {name: [i for i, w in enumerate(who) if w == name] for name in set(who)}
    after = {i: own[(k + 1) % len(own)] for own in places.values() for k, i in enumerate(own)}
    mean = {name: float(torch.cat([curves[i] for i in own]).nanmean()) for name, own in places.items()}
    out = module.resynthesise(codes, timbres[[after[i] for i in range(len(codes))]])
    wrong = base = 0.0
    for i, curve in enumerate(curves):
        voiced = curve.isfinite()
        wrong += float((out[i][: len(curve), 0] - curve)[voiced].square().sum())
        base += float((curve - mean[who[i]])[voiced].square().sum())
    return 1 - wrong / base


def best(features: Tensor, labels: list[str], texts: list[str]) -> dict[str, Any]:
    """The better of a linear probe and a small MLP."""
    found = [probe_labels(features, labels, texts, kind) for kind in ("linear", "mlp")]
    top = max(found, key=lambda probe: probe.value)
    return {"value": top.value, "low": top.low, "high": top.high, "chance": top.chance, "kind": top.kind}


def examine(module: Disentangler, spoken: list[Spoken]) -> dict[str, Any]:
    """All probes of one disentangler, on utterances that it was not trained on."""
    waves, who, texts = [s.waveform for s in spoken], [s.speaker for s in spoken], [s.text for s in spoken]
    codes, timbres, curves = module.prosody(waves), module.timbre(waves), contours(spoken)
    values = [fsq_values(ids, module.levels) for ids in codes]
    length = torch.tensor([[float(len(ids)), len(s.waveform) / 100] for ids, s in zip(codes, spoken, strict=True)])
    ids = best(token_features(codes)[:, :-3], who, texts)
    statistics = best(value_features(values), who, texts)
    x, y, groups = step_rows(values, curves, texts, module.hparams["stride"])
    lively = torch.tensor([[float(c[c.isfinite()].std(correction=0))] for c in curves])
    return {
        "speaker_code_ids": ids,
        "speaker_code_values": statistics,
        "speaker_code": max(ids, statistics, key=lambda probe: probe["value"]),
        "speaker_length": best(length, who, texts),
        "contour_code": max(probe_values(x, y, groups, kind).value for kind in ("linear", "mlp")),
        "contour_decoded": decoded_r2(module, codes, timbres, curves, who),
        "liveliness_code": probe_values(value_features(values), lively, texts, within=who).value,
        "speaker_timbre": best(timbres, who, texts),
        "liveliness_timbre": max(
            probe_values(timbres, lively, texts, kind, within=who).value for kind in ("linear", "mlp")
        ),
        "ids_used": len(torch.cat(codes).unique()),
    }


def parameters(module: Disentangler, spoken: list[Spoken]) -> dict[str, float]:
    """Level and rhythm of each step from three neighbouring steps of the code, as the F0 contour in `examine`."""
    waves, texts = [s.waveform for s in spoken], [s.text for s in spoken]
    values = [fsq_values(ids, module.levels) for ids in module.prosody(waves)]
    frames = [heard.frames for heard in hear(waves, RATE, RATE)]
    within = [torch.zeros(len(f)) for f in frames]
    for curve, s in zip(within, spoken, strict=True):
        for start, end in (s.boundaries // HOP).tolist():
            curve[start:end] = 1.0
    found = {}
    for name, curves in (("level_code", [f[:, 2] for f in frames]), ("rhythm_code", within)):
        x, y, groups = step_rows(values, curves, texts, module.hparams["stride"])
        found[name] = max(probe_values(x, y, groups, kind).value for kind in ("linear", "mlp"))
    return found


def strangers(module: Disentangler, seed: int, each: int = 10) -> dict[str, float]:
    """R2 of tract and tilt from timbre and from code, over people that neither module nor probe have learned from."""
    generator = torch.Generator().manual_seed(seed + 1000)
    texts = [tuple(torch.randint(10, (3,), generator=generator).tolist()) for _ in range(each)]
    who = [name for name in JUDGE_SPEAKERS for _ in texts]
    waves = [say(text, name, True, generator).waveform for name in JUDGE_SPEAKERS for text in texts]
    code = value_features([fsq_values(ids, module.levels) for ids in module.prosody(waves)])
    found = {}
    for trait in ("tract", "tilt"):
        true = torch.tensor([getattr(JUDGE_SPEAKERS[name], trait) for name in who])
        for name, x in (("timbre", module.timbre(waves)), ("code", code)):
            found[f"{trait}_{name}"] = max(probe_values(x, true, who, kind).value for kind in ("linear", "mlp"))
    return found


def mixed(train: list[Spoken], spoken: list[Spoken], size: int = 64, stride: int = 4) -> dict[str, Any]:
    """The same probe on tokens that mix prosody and timbre: k-means over log mel and F0, 25 a second."""

    def frames(those: list[Spoken]) -> list[Tensor]:
        return [h.frames[::stride] for h in hear([s.waveform for s in those], RATE, RATE)]

    rows = torch.cat(frames(train))
    mean, scale = rows.mean(0), rows.std(0)
    rows = (rows - mean) / scale
    centres = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:size]]
    for _ in range(25):
        nearest = torch.cdist(rows, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, rows)
        count = nearest.bincount(minlength=size)[:, None]
        centres = torch.where(count > 0, sums / count.clamp(min=1), centres)
    tokens = [torch.cdist((f - mean) / scale, centres).argmin(1) for f in frames(spoken)]
    features, who = token_features(tokens)[:, :-3], [s.speaker for s in spoken]
    return {"speaker_code": best(features, who, [s.text for s in spoken])}


def train(spoken: list[Spoken], arm: str, seed: int, steps: int) -> Disentangler:
    """A disentangler of one arm."""
    seed_everything(seed, verbose=False)
    data = ProsodyData(recordings(spoken, "train"), sample_rate=RATE, max_frames=3000, seed=seed)
    module = Disentangler(sample_rate=RATE, speakers=data.speakers, **ARMS[arm])
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "accelerator": "cpu"}
    Trainer(max_steps=steps, max_epochs=-1, enable_progress_bar=False, **quiet).fit(module, data)
    return module


def plot(results: dict[str, Any], path: Path) -> None:
    """One bar for each arm: leakage beside what is kept."""
    from matplotlib.figure import Figure

    arms = sorted({key.rsplit(":", 1)[0] for key in results}, key=[*ARMS, "mixed"].index)
    figure = Figure(figsize=(9, 6), layout="constrained")
    for axis, key in zip(
        figure.subplots(1, 3, sharey=True), ("speaker_code", "contour_code", "contour_decoded"), strict=True
    ):
        for i, arm in enumerate(arms):
            runs = [run[key] for name, run in results.items() if name.rsplit(":", 1)[0] == arm and key in run]
            axis.plot([r["value"] if isinstance(r, dict) else r for r in runs], [i] * len(runs), "o", color="tab:blue")
        axis.set(title=key.replace("_", ": "), yticks=range(len(arms)), yticklabels=arms, xlim=(0, 1))
        if key == "speaker_code":
            axis.axvline(1 / PEOPLE, color="grey", linestyle="--")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=("voice", "fsdd"), default="voice", help="which speech")
    parser.add_argument("--fsdd", default="fsdd", help="folder of the Free Spoken Digit Dataset")
    parser.add_argument("--arms", default=",".join(ARMS), help=f"some of {', '.join(ARMS)}")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each arm; each draws its own world")
    parser.add_argument("--steps", type=int, default=600, help="of training")
    parser.add_argument("--out", type=Path, default=Path("separation"), help="folder of results")
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=UserWarning)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"{args.world}.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    for seed in range(args.seeds):
        heard, probed = voice_world(seed) if args.world == "voice" else fsdd_world(args.fsdd, seed)
        for arm in ["mixed", *args.arms.split(",")]:
            if f"{arm}:{seed}" in results:
                continue
            start = time.perf_counter()
            module = None if arm == "mixed" else train(heard, arm, seed, args.steps)
            found = mixed(heard, probed) if module is None else examine(module, probed)
            if module is not None and args.world == "voice":
                found |= parameters(module, probed) | strangers(module, seed)
            results[f"{arm}:{seed}"] = {**found, "seconds": round(time.perf_counter() - start, 1)}
            file.write_text(json.dumps(results, indent=1))
            shown = {k: round(v["value"] if isinstance(v, dict) else v, 3) for k, v in results[f"{arm}:{seed}"].items()}
            print(f"{arm}:{seed}", json.dumps(shown), flush=True)
    plot(results, args.out / f"{args.world}.png")


if __name__ == "__main__":
    main()
