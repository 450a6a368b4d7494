"""The separation audit on two backbones whose answer is known; docs/audit.md shows what it prints.

    python examples/benchmarks/audit_calibration.py --seeds 3 --figure docs/audit.png
    python examples/benchmarks/audit_calibration.py --seeds 3 --fsdd free-spoken-digit-dataset/recordings

Both are the miniature, trained alike on the same speech. "separated": tokens are sounds relative to the speaker's mean
x F0 relative to the median, and the decoder takes the voice from the timbre. "mixed": tokens are sounds and F0
relative to one mean for everybody, so that they hold the voice, and the decoder ignores the timbre. "prosody only" is
the separated one's style prefix with the sounds taken out, as a prosody code is: asked without sound. About two minutes
a seed on one core.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from seaalign import SFT, Prompt, Separation, SeparationAudit, SpeechData, Style, Utterance
from seaalign.audit import quick_audit
from seaalign.audit.effects import TOGGLE, VOICE
from seaalign.audit.questions import SPEECH, STYLE
from seaalign.demo import world
from seaalign.demo.train import SFT_LR, trainer
from seaalign.miniature import codec_fit
from seaalign.miniature.analysis import Frames, analyse, timbre
from seaalign.miniature.codec import Codec
from seaalign.miniature.lm import TextSpeechLM
from seaalign.miniature.speaker import Speakers
from seaalign.records import Triplet

SIZES = replace(world.Sizes(), real=240, flat=80, codec=240, lessons=480, tests=1, codec_steps=250, sft_steps=250)


class OneVoice(TextSpeechLM):
    """Decodes everything with one timbre: what differs between voices must then be in the tokens."""

    def __init__(self, voice: Tensor, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.voice = voice

    def decode(self, speech, timbres):
        return super().decode(speech, [self.voice] * len(timbres))


def build(folder: Path, mixed: bool, steps: int, seed: int) -> tuple[TextSpeechLM, list[Utterance], Codec]:
    """Tokenizer, decoder and language model on the folder's speech, and its expressive utterances."""
    parts = {kind: world.heard(folder, kind) for kind in ("codec", "real", "flat")}
    frames = {kind: analyse([s.waveform for s in rows], f0=[s.f0 for s in rows]) for kind, rows in parts.items()}
    heard: dict[str, list[Frames]] = {}
    for kind, rows in parts.items():
        for spoken, frame in zip(rows, frames[kind], strict=True):
            heard.setdefault(spoken.speaker, []).append(frame)
    voices = {name: timbre(rows) for name, rows in heard.items()}
    mean = torch.stack(list(voices.values())).mean(0)
    relative = dict.fromkeys(voices, mean) if mixed else voices
    codec = Codec()
    codec_rows = torch.stack([relative[s.speaker] for s in parts["codec"]])
    codec_fit.fit(codec, frames["codec"], codec_rows, SIZES.codec_steps, seed=seed)
    generator, made = torch.Generator().manual_seed(seed), {}
    for kind in ("real", "flat"):
        rows = parts[kind]
        tokens = [codec.tokenize(f, relative[s.speaker]) for s, f in zip(rows, frames[kind], strict=True)]
        partner = world._references(rows, rows, generator)
        made[kind] = [
            Utterance(f"{kind}-{i}", Prompt(list(s.words), Style(tokens[j], list(rows[j].words)), voices[s.speaker]), t)
            for i, (s, j, t) in enumerate(zip(rows, partner, tokens, strict=True))
        ]
    shape = {"codes": codec.vocabulary, "pause": codec.pause, "seed": seed, "codec": codec}
    lm = OneVoice(mean, **shape) if mixed else TextSpeechLM(**shape)
    module = SFT(lm, lr=SFT_LR, weight_decay=0.01, warmup_steps=steps // 10, schedule="cosine")
    data = SpeechData(made["real"] + made["flat"], max_frames=1500, seed=seed, plain_fraction=0.5)
    trainer(steps, iter).fit(module, data)
    return lm, made["real"], codec


def prosody_only(utterances: list[Utterance], codec: Codec) -> Separation:
    """DGSA's look at the same utterances, with the prosody classes of the style as the style."""
    rows = []
    for u in utterances:
        style = Style(codec.prosody(u.prompt.style.tokens), u.prompt.style.text)
        rows.append(Triplet(u.id, replace(u.prompt, style=style), u.tokens, u.tokens, u.tokens))
    return quick_audit(rows, "prosody only")


def one_seed(fsdd: str | None, seed: int, steps: int, figure: Path | None) -> dict[str, Separation]:
    """Speech, listeners, both backbones and their audits."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(world.record(folder, fsdd, SIZES, seed), flush=True)
        world.recognise_speakers(folder, seed)
        embed, found = Speakers.load(folder / "speaker.pt").embed, {}
        for kind in ("separated", "mixed"):
            lm, utterances, codec = build(folder, kind == "mixed", steps, seed)
            found[kind] = SeparationAudit(lm, embed, seed=seed, progress=False).run(utterances)
            print(f"--- seed {seed}, {kind}\n{found[kind]}\n", flush=True)
            if figure is not None:
                found[kind].figure(figure.with_stem(f"{figure.stem}_{kind}"))
            if kind == "separated":
                found["prosody only"] = prosody_only(utterances, codec)
                print(f"--- seed {seed}, prosody only\n{found['prosody only']}\n", flush=True)
    return found


def main() -> None:
    """Parse arguments, run the seeds, print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=SIZES.sft_steps, help="of SFT")
    parser.add_argument("--fsdd", help="folder of the Free Spoken Digit Dataset; without it the embedded voice")
    parser.add_argument("--figure", type=Path, help="PNG: those of the last seed go beside it, *_separated, *_mixed")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    runs = [
        one_seed(arguments.fsdd, seed, arguments.steps, arguments.figure if seed == arguments.seeds - 1 else None)
        for seed in range(arguments.seeds)
    ]
    names = (STYLE, SPEECH, VOICE, TOGGLE)
    print(f"| backbone | seed | {' | '.join(names)} | verdict |\n|---|---|{'---|' * (len(names) + 1)}")
    for kind in runs[0]:
        for seed, run in enumerate(runs):
            numbers = [f.number if (f := run[kind].get(name)) else "-" for name in names]
            print(f"| {kind} | {seed} | {' | '.join(numbers)} | {run[kind].status} |")
    if arguments.json:
        rows = [{kind: {"status": f.status, "verdict": f.verdict} for kind, f in run.items()} for run in runs]
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
