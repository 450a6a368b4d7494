"""From mixed tokens to DGSA, over seeds: examples/disentangle_your_backbone.py again and again, as one table.

    python examples/benchmarks/end_to_end_separation.py --seeds 3

Each run makes `FOLDER/SEED/numbers.json` in three to six minutes of a core; runs that are there are not repeated.
DGSA begins twice at one model: on its own pairs, and on pairs of strangers (the paper's "random speaker pairing").

With `--separated`, two minutes more a seed, also the same speech, steps, DGSA and questions for a model that needs no
help: its tokens are spectrum and F0 relative to a speaker's, its decoder is told who speaks, its style is the speech
tokens of another utterance (`seaalign.miniature.lm.TextSpeechLM`). Then how much of the way DGSA goes is printed for
both, seed by seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).resolve().parent.parent / "disentangle_your_backbone.py"
ARMS = ["--pairing", "paired", "shuffled"]


def share(start: float, now: float, goal: float) -> float:
    """How much of the way from `start` to `goal` has been gone; NaN where there is no way to go.

    >>> share(1.0, 1.5, 3.0)
    0.25
    """
    return (now - start) / (goal - start) if goal != start else float("nan")


def following(spoken: Sequence[Any]) -> list[int]:
    """For each utterance the next one of its speaker and source, the first after the last: whose style it is told."""
    groups: dict[tuple[str, str], list[int]] = {}
    for i, one in enumerate(spoken):
        groups.setdefault((one.speaker, one.source), []).append(i)
    after = {i: j for rows in groups.values() for i, j in zip(rows, [*rows[1:], rows[0]], strict=True)}
    return [after[i] for i in range(len(spoken))]


def separated(options: list[str]) -> None:
    """The counterpart whose tokens keep prosody and timbre apart, and what the recordings are in both alphabets."""
    import torch

    sys.path.insert(0, str(EXAMPLE.parent))
    import disentangle_your_backbone as example

    from seaalign import SFT, Prompt, SpeechData, Style, Utterance
    from seaalign.functional import entropy_at, f0
    from seaalign.miniature import codec_fit
    from seaalign.miniature.analysis import analyse, timbre
    from seaalign.miniature.codec import Codec
    from seaalign.miniature.lm import TextSpeechLM
    from seaalign.miniature.mixed import MixedCodec
    from seaalign.miniature.spoken import RATE, f0_std

    args = example.settings(options)
    tell = example.begin(args)
    spoken = example.say(2000, True, args.seed) + example.say(2000, False, args.seed + 1)
    frames = analyse([one.waveform for one in spoken], f0=[one.f0 for one in spoken])
    few, heard = spoken[:500] + spoken[-100:], frames[:500] + frames[-100:]
    voices = {n: timbre([f for f, one in zip(heard, few, strict=True) if one.speaker == n]) for n in example.VOICES}
    codec, mixed, nobody = Codec(codes=150, frame_rate=25), MixedCodec(), torch.zeros(len(few), 41)
    codec_fit.fit(codec, heard, torch.stack([voices[one.speaker] for one in few]), 250, seed=args.seed)
    codec_fit.fit(mixed, heard, nobody, 250, seed=args.seed)
    tell("codecs: relative to a speaker, and absolute")

    def bits(rows: list[torch.Tensor]) -> dict[str, float]:  # spelled as the mixed model's: spectrum, pitch, ...
        said, pause = torch.cat(rows), codec.pause
        spelled = torch.cat([codec.content(said), codec.codes + 1 + codec.prosody(said[said != pause])])
        return example.diversity([spelled]) | {"H_p of frames": float(entropy_at(torch.bincount(said), 750))}

    new = example.say(120, True, args.seed + 199)
    measured = analyse([one.waveform for one in new], f0=[one.f0 for one in new])
    own = torch.stack([voices[one.speaker] for one in new])
    rows = {c: [c.tokenize(frame, row) for frame, row in zip(measured, own, strict=True)] for c in (codec, mixed)}
    found = {
        name: {
            "recordings": {
                "F0 std": example.mean([f0_std(track) for track in f0(c.decode(rows[c], own), RATE)]),
                **(bits(rows[c]) if c is codec else example.diversity([mixed.flat(row) for row in rows[c]])),
            }
        }
        for name, c in (("recordings", codec), ("recordings, mixed tokens", mixed))
    }

    tokens = [codec.tokenize(frame, voices[one.speaker]) for frame, one in zip(frames, spoken, strict=True)]
    styled = [
        Utterance(
            f"u{i}",
            Prompt(list(one.words), Style(tokens[after]), voices[one.speaker]),
            tokens[i],
            "real" if one.source == "expressive" else "flat",
        )
        for i, (one, after) in enumerate(zip(spoken, following(spoken), strict=True))
    ]
    model = TextSpeechLM(codec.vocabulary, codec.pause, dim=96, layers=2, seed=args.seed, codec=codec)
    plain = [Utterance(row.id, row.prompt.plain(), row.tokens, row.source) for row in styled]
    example.fit(SFT(model, lr=3e-3, warmup_steps=20), SpeechData(plain, max_frames=400), 100)
    speech = SpeechData(styled, max_frames=400, plain_fraction=0.2)  # some 45 words, as there
    example.fit(SFT(model, lr=4e-3, warmup_steps=40, schedule="cosine"), speech, args.steps)
    tell("a language model on separate tokens, trained with style dropout")

    class References:
        """Answers in the place of a `Disentangler`: what the speaker says next is the style."""

        def prosody(self, waves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
            whose = torch.stack([voices[example.VOICES[i % 3]] for i in range(len(waves))])
            made = codec.encode(waves, timbres=whose)
            return made[3:] + made[:3]

    ears, centres = example.judges(few)

    def measure(policy: Any) -> dict[str, dict[str, float]]:
        return example.every(policy, References(), voices, ears, centres, args.seed, bits)

    found |= example.repair(model, styled, measure, args, tell, frames=1500)
    (args.out / "separated.json").write_text(json.dumps(found, indent=1) + "\n")


def compare(mixed: list[dict], native: list[dict]) -> None:
    """Print shares of two ways, to the model's own style and to the recordings: mean, and seed by seed."""
    measures = ["F0 std", "H_p", "H_p of frames"]
    print(f"\n| style off, by DGSA | of the way to | {' | '.join(measures)} | SIM moves by |\n|" + "---|" * 6)
    for title, runs, key in (("mixed", mixed, "recordings, mixed tokens"), ("separated", native, "recordings")):
        for arm in [arm for arm in runs[0] if arm.startswith("DGSA")]:
            before, after = ([run[which]["style off"] for run in runs] for which in ("SFT", arm))
            moved = [f"{now['SIM'] - was['SIM']:+.3f}" for was, now in zip(before, after, strict=True)]
            for way, goals in (
                ("style on", [run["SFT"]["style on"] for run in runs]),
                ("recordings", [run[key]["recordings"] for run in native]),
            ):
                cells = []
                for name in measures:
                    rows = [row for row in zip(before, after, goals, strict=True) if name in row[0]]
                    gone = [share(was[name], now[name], goal[name]) for was, now, goal in rows]
                    each = ", ".join(f"{x:.2f}" for x in gone)
                    cells.append(f"{statistics.mean(gone):.2f} ({each})" if gone else "")
                print(f"| {title}, {arm[6:]} | {way} | {' | '.join(cells)} | {', '.join(moved)} |")


def main() -> None:
    """Run what is missing, and print mean and standard deviation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="0..SEEDS-1")
    parser.add_argument("--folder", type=Path, default=Path("runs/end_to_end"), help="where runs are kept")
    parser.add_argument("--separated", action="store_true", help="the counterpart with separate tokens, and compare")
    args, options = parser.parse_known_args()
    runs, native = [], []
    for seed in range(args.seeds):
        out = args.folder / str(seed)
        here = ["--seed", str(seed), "--out", str(out), *ARMS, *options]
        if not (out / "numbers.json").exists():
            subprocess.run([sys.executable, str(EXAMPLE), *here], check=True)
        runs.append(json.loads((out / "numbers.json").read_text()))
        if args.separated:
            if not (out / "separated.json").exists():
                separated(here)
            native.append(json.loads((out / "separated.json").read_text()))
    table(runs)
    if native:
        table([{name: arm for name, arm in run.items() if not name.startswith("rec")} for run in native])
        compare(runs, native)


def table(runs: list[dict]) -> None:
    """Print mean and standard deviation of everything."""
    names = list(runs[0]["SFT"]["style on"])
    print(f"| {len(runs)} seeds | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 1))
    for arm, modes in runs[0].items():
        for mode in modes:
            rows = [[run[arm][mode][name] for run in runs] for name in names]
            cells = [f"{statistics.mean(row):.2f} ± {statistics.stdev(row) if row[1:] else 0:.2f}" for row in rows]
            print(f"| {arm}, {mode} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
