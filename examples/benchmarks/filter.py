"""What does the filter of synthetic speech leave, in miniature? Policies of the demo stand for three TTS systems.

    seaalign demo --out runs/demo
    python examples/benchmarks/filter.py --demo runs/demo --out runs/filter

"careful" was taught flat speech alone, "lively" flat and expressive speech half and half, "hot" is lively at
temperature 1.3. Each says 400 texts in the voices of the real recordings; what they say is written as a user has it
(tokens as Parquet, sound as WAV, texts in a manifest) and filtered with the demo's judge. The demo's other recogniser,
which the filter never asked, reports errors before and after. About a minute on one thread.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from seaalign import Utterance, read_utterances, write_utterances
from seaalign.audio import save
from seaalign.data import filter_utterances
from seaalign.demo.evaluate import TOP_P, word_errors
from seaalign.demo.scarce import Listener, spelled
from seaalign.demo.train import load
from seaalign.miniature.ear import Ear
from seaalign.storage import read_nemo

SYSTEMS = {"careful": ("sft-1", 1.0), "lively": ("sft-0.5", 1.0), "hot": ("sft-0.5", 1.3)}


def speak(demo: Path, out: Path, texts: int) -> tuple[list[Utterance], dict[str, torch.Tensor]]:
    """Utterances of all systems and their sound; also as WAV files with a manifest."""
    prompts = [u.prompt.plain() for u in read_utterances(demo / "real.parquet")]
    prompts = [prompts[i % len(prompts)] for i in range(texts)]
    said: list[Utterance] = []
    sound: dict[str, torch.Tensor] = {}
    for name, (checkpoint, temperature) in SYSTEMS.items():
        policy = load(demo, checkpoint)
        limit = torch.tensor([60 * len(prompt.text) for prompt in prompts])
        with torch.no_grad():
            speech = policy.sample(prompts, 1, temperature, TOP_P, limit, 1, torch.Generator().manual_seed(0))
            waves = policy.decode(speech, [prompt.timbre for prompt in prompts])
        for i, (prompt, tokens, wave) in enumerate(zip(prompts, speech.rows(), waves, strict=True)):
            said.append(Utterance(f"{name}-{i:03d}", prompt, tokens, name))
            sound[f"{name}-{i:03d}"] = wave
            save(out / "wavs" / f"{name}-{i:03d}.wav", wave, policy.sample_rate)
    lines = [{"id": u.id, "audio_filepath": f"wavs/{u.id}.wav", "text": spelled(u.prompt.text.tolist())} for u in said]
    (out / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_utterances(out / "tts.parquet", said)
    return said, sound


def main() -> None:
    """Speak, filter, and let another ear report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, required=True, help="folder of `seaalign demo`")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=400)
    given = parser.parse_args()
    torch.set_num_threads(1)
    (given.out / "wavs").mkdir(parents=True, exist_ok=True)
    said, sound = speak(given.demo, given.out, given.texts)
    sieve = filter_utterances(
        [given.out / "tts.parquet"], given.out / "kept", real=[given.demo / "real.parquet"],
        transcriber=Listener(Ear.load(given.demo / "judge.pt"), "judge.pt"),
        recordings=read_nemo(given.out / "manifest.jsonl"),
    )  # fmt: skip
    print(sieve)
    reporter = Ear.load(given.demo / "reporter.pt")
    with torch.no_grad():
        errors = word_errors(reporter, [sound[u.id] for u in said], [u.prompt for u in said])
    kept = {u.id for u in read_utterances(given.out / "kept" / "kept.parquet")}
    for name in (*SYSTEMS, ""):
        mine = [i for i, u in enumerate(said) if u.source == name or not name]
        rates = []
        for rows in (mine, [i for i in mine if said[i].id in kept]):
            rates.append(100 * int(errors[rows].sum()) / max(sum(len(said[i].prompt.text) for i in rows), 1))
        print(f"WER % by the recogniser that was not asked, {name or 'all'}: {rates[0]:.1f} -> {rates[1]:.1f}")


if __name__ == "__main__":
    main()
