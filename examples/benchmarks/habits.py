"""Do codes of `Habits` hide who speaks, and keep the contour? On the worlds, and with the probes, of `separation.py`.

Three ways to learn habits. `everybody`: one for all, as if nobody had any. `kept`: each speaker's from the utterances
of training (takes 5-24 of the digits), for utterances never seen (takes 25-49). `at hand`: each corpus by the habits
of its own utterances, as when a corpus is given codes by `restyle`.

Who speaks is read by a linear probe and a small network, each from which ids occur and follow each other, from
statistics of the values, and from the numbers of the first window with their squares and sizes; the best of the six
counts. Inside the corpus, in five folds by text; and `across`, which is what counts for `at hand`, where a probe learns
on one corpus and is examined on the other: inside a corpus whose means are zero by construction, those of some folds
give away those of the rest, and mislead a probe to below chance. `halves` is `across` between two halves, by text, of
the second corpus, each coded by its own habits, so that both are of the same sessions.

Decoded by the speaker's habits, over the true length: R2 of F0 (voiced frames) and of level, each about the
utterance's mean; of the logarithm of the duration, about the speaker's mean. `alone`: R2 of F0 in twenty
places read off the numbers by a linear probe that is not told who speaks.

    python examples/benchmarks/habits.py --world fsdd --fsdd PATH
    python examples/benchmarks/habits.py --world voice
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence

import separation as study
import torch
from torch import Tensor

from seaalign.audit import probe_labels, probe_values
from seaalign.audit.features import token_features
from seaalign.audit.readers import linear, mlp
from seaalign.audit.splits import together
from seaalign.data.hearing import hear
from seaalign.functional import fsq_values
from seaalign.miniature.spoken import RATE, Spoken
from seaalign.modules.habits import Habits, bridged

READERS = {"linear": linear, "mlp": mlp}


def features(codes: Sequence[Tensor], habits: Habits) -> dict[str, Tensor]:
    """What probes are given, by name."""
    values = [fsq_values(ids, habits.levels) for ids in codes]
    first = torch.stack([v.flatten()[: habits.numbers] for v in values])
    return {
        "ids": token_features(list(codes))[:, :-3],
        "statistics": study.value_features(values),
        "numbers": torch.cat([first, first.square(), first.abs()], 1),
    }


def inside(found: dict[str, Tensor], spoken: list[Spoken]) -> float:
    """The best probe's accuracy, in five folds by text."""
    who, texts = [s.speaker for s in spoken], [s.text for s in spoken]
    return max(probe_labels(x, who, texts, kind).value for x in found.values() for kind in ("linear", "mlp"))


def across(codes: list[list[Tensor]], corpora: list[list[Spoken]], habits: Habits) -> float:
    """The best accuracy of a reader that learns on the first corpus and is examined on the second."""
    cut, names = len(codes[0]), sorted({s.speaker for s in corpora[0]})
    labels = torch.tensor([names.index(s.speaker) for corpus in corpora for s in corpus])
    groups = torch.tensor(together([s.text for s in corpora[0]]))
    wanted, best = torch.nn.functional.one_hot(labels).double(), 0.0
    for x in features(codes[0] + codes[1], habits).values():
        for reader in READERS.values():
            said = reader(x[:cut].double(), wanted[:cut], groups, labels[:cut], 0)(x[cut:].double())
            best = max(best, float((said.argmax(1) == labels[cut:]).double().mean()))
    return best


def halves(habits: Habits, spoken: list[Spoken]) -> float:
    """`across` between two halves by text, there and back, each coded by the habits of its own utterances."""
    texts = list(dict.fromkeys(s.text for s in spoken))
    parts = [[s for s in spoken if texts.index(s.text) % 2 == k] for k in (0, 1)]
    codes = []
    for part in parts:
        waves, names = [s.waveform for s in part], [s.speaker for s in part]
        codes.append(habits.meet(waves, names).prosody(waves, names))
    return (across(codes, parts, habits) + across(codes[::-1], parts[::-1], habits)) / 2


def explained(said: list[Tensor], true: list[Tensor], middle: list[float] | None = None) -> float:
    """R2 over all finite frames, of both about their means over the utterance, or about the given middles."""
    wrong = base = 0.0
    for i, (a, b) in enumerate(zip(said, true, strict=True)):
        keep = b.isfinite()
        a, b = a[keep], b[keep]
        a, b = (a - a.mean(), b - b.mean()) if middle is None else (a - middle[i], b - middle[i])
        wrong, base = wrong + float((a - b).square().sum()), base + float(b.square().sum())
    return 1 - wrong / base


def kept(habits: Habits, codes: list[Tensor], names: list[str], spoken: list[Spoken]) -> dict[str, float]:
    """What is decoded, against what was chosen or measured."""
    frames = [h.frames for h in hear([s.waveform for s in spoken], RATE, RATE)]
    curves = [curve[: len(f)] for curve, f in zip(study.contours(spoken), frames, strict=True)]
    out = habits.resynthesise(codes, names, [len(f) for f in frames])
    free = [torch.tensor([float(len(o))]).log() for o in habits.resynthesise(codes, names)]
    true = [torch.tensor([float(len(f))]).log() for f in frames]
    middle = {
        name: float(torch.cat([t for t, n in zip(true, names, strict=True) if n == name]).mean()) for name in names
    }
    return {
        "contour": explained([o[: len(c), 0] for o, c in zip(out, curves, strict=True)], curves),
        "level": explained([o[:, 2] for o in out], [f[:, 2] for f in frames]),
        "duration": explained(free, true, [middle[name] for name in names]),
        "alone": alone(habits, codes, curves, [s.text for s in spoken]),
    }


def alone(habits: Habits, codes: list[Tensor], curves: list[Tensor], texts: list[str]) -> float:
    """R2 of a linear probe of the F0 contour in twenty places from the numbers of the first window."""
    numbers, targets = features(codes, habits)["numbers"][:, : habits.numbers], []
    for curve in curves:
        voiced = curve.isfinite().to(curve)
        line = bridged(torch.stack([curve.nan_to_num(), voiced, voiced], 1))[:, 0]
        targets.append(torch.stack([part.mean() for part in line.tensor_split(20)]) - line.mean())
    return probe_values(numbers, torch.stack(targets), texts).value


def run(heard: list[Spoken], probed: list[Spoken], numbers: int) -> dict[str, dict[str, float]]:
    """All three ways."""
    waves = [[s.waveform for s in corpus] for corpus in (heard, probed)]
    names = [[s.speaker for s in corpus] for corpus in (heard, probed)]
    results = {}
    for way in ("everybody", "kept", "at hand"):
        called = [["all"] * len(n) if way == "everybody" else n for n in names]
        habits = Habits(RATE, numbers=numbers).fit(waves[0], called[0])
        first = habits.prosody(waves[0], called[0])
        if way == "at hand":
            habits.meet(waves[1], called[1])
        codes = habits.prosody(waves[1], called[1])
        found = {
            "inside": inside(features(codes, habits), probed),
            "across": across([first, codes], [heard, probed], habits),
        }
        windows = torch.tensor([len(ids) * len(habits.levels) // numbers for ids in codes])
        if way == "at hand":
            found["halves"] = halves(habits, probed)
            habits.meet(waves[1], called[1])
        results[way] = found | kept(habits, codes, called[1], probed) | {"windows": float(windows.double().mean())}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=("voice", "fsdd"), default="fsdd", help="which speech")
    parser.add_argument("--fsdd", default="fsdd", help="folder of the Free Spoken Digit Dataset")
    parser.add_argument("--seeds", type=int, default=3, help="each draws its own world")
    parser.add_argument("--numbers", type=int, default=16, help="of a window")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    for seed in range(args.seeds):
        heard, probed = study.voice_world(seed) if args.world == "voice" else study.fsdd_world(args.fsdd, seed)
        for way, found in run(heard, probed, args.numbers).items():
            print(f"{args.world}:{seed} {way}", json.dumps({k: round(v, 3) for k, v in found.items()}), flush=True)


if __name__ == "__main__":
    main()
