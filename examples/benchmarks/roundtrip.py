"""How well does the judge without a speech recogniser (seaalign.judges.roundtrip) agree with one that listens?

    python examples/benchmarks/roundtrip.py --fsdd free-spoken-digit-dataset/recordings --seeds 3

Per seed: a small model is taught flat synthetic speech alone, and not much of it; it says texts that it was not taught,
12 times each, 4 at each of the temperatures 0.7, 1.0 and 1.3. Two recognisers of audio, taught by other voices and
recordings, listen to the decoded candidates: the judge, whose word error rate is what everybody else tries to predict,
and a second one, which measures what was chosen. Compared are

    roundtrip     share of wrong text ids heard by a TokenRecogniser taught the same utterances as the model
    surprise      how unlikely it finds the text, nats per text id
    both          roundtrip, ties by surprise: the criterion's score "error"
    confidence    what the model thinks itself: its mean log-probability per token
    coldest       nobody listens: the lower the temperature, the better
    second ear    another recogniser of audio: what agreement can be hoped for

Without --fsdd all voices are the embedded toy voice. About two minutes a seed on one thread. Intervals are bootstrapped
over texts, 95 %.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import kendalltau, spearmanr

from seaalign.backbones import Backbone
from seaalign.demo import train, world
from seaalign.demo.evaluate import word_errors
from seaalign.judges.roundtrip import RoundTrip, TokenRecogniser, fit
from seaalign.miniature.ear import Ear
from seaalign.miniature.spoken import WORDS
from seaalign.records import Candidate, Prompt, Sentence, Speech
from seaalign.sampling import explore
from seaalign.storage import read_utterances

SIZES = world.Sizes(
    real=60, flat=300, codec=150, lessons=600, tests=40, codec_steps=200, ear_steps=300, sft_steps=150
)  # fmt: skip
TEMPERATURES = (0.7,) * 4 + (1.0,) * 4 + (1.3,) * 4
TAU = 0.4
DRAWS = 200


class Table(NamedTuple):
    """What was found for the candidates of one seed, those of a text side by side.

    Attributes:
        wer: word error rate of each candidate by the judge (N,).
        second: the same by the second ear (N,).
        words: words in its text (N,).
        text: number of its text (N,).
        temperature: (N,).
        scores: of each ranker (N,), lower is better.
        accepted: by the round trip (N,).
    """

    wer: np.ndarray
    second: np.ndarray
    words: np.ndarray
    text: np.ndarray
    temperature: np.ndarray
    scores: dict[str, np.ndarray]
    accepted: np.ndarray


def prepare(folder: Path, fsdd: str | None, seed: int, sizes: world.Sizes = SIZES) -> str:
    """Voices, codec, two ears and a model taught flat speech alone, in a folder; returns what the voices are."""
    description = world.record(folder, fsdd, sizes, seed)
    world.tokenize(folder, sizes, seed)
    world.teach(folder, "judge.pt", 96, sizes, seed)
    world.teach(folder, "reporter.pt", 64, sizes, seed + 100)
    train.sft(folder, 1.0, sizes, seed)
    return description


def untaught(folder: Path, triples: int = 20, seed: int = 0) -> list[Sentence]:
    """Pairs of digits that the model was not taught, and strings of three, in the voices that it was taught."""
    taught = read_utterances(folder / "flat.parquet")
    texts = [tuple(u.prompt.text.tolist()) for u in read_utterances(folder / "test.parquet")]
    texts = list(dict.fromkeys(texts)) + world.texts(triples, (3, 3), torch.Generator().manual_seed(seed), set())
    prompts = [Prompt(list(text), timbre=taught[i % len(taught)].prompt.timbre) for i, text in enumerate(texts)]
    return [
        Sentence(f"s{i:03d}", " ".join(WORDS[word] for word in text), prompt)
        for i, (text, prompt) in enumerate(zip(texts, prompts, strict=True))
    ]


def attempts(backbone: Backbone, sentences: Sequence[Sentence], seed: int) -> list[Candidate]:
    """Candidates of all sentences, with their sound."""
    most = [40 * len(sentence.prompt.text) + 20 for sentence in sentences]
    waves = explore(backbone, sentences, TEMPERATURES, max_len=most, seed=seed)
    found = [candidate for _, wave in waves for candidate in wave]
    sounds = backbone.decode(Speech.pack([c.tokens for c in found]), [c.sentence.prompt.timbre for c in found])
    return [replace(c, waveform=w, sample_rate=8000) for c, w in zip(found, sounds, strict=True)]


def listen(ear: Ear, candidates: Sequence[Candidate]) -> np.ndarray:
    """Word error rate of each candidate (N,), 1 where there is nothing to hear."""
    rates = np.ones(len(candidates))
    loud = [i for i, c in enumerate(candidates) if len(c.waveform) and float(c.waveform.abs().max()) > 1e-3]
    heard = word_errors(ear, [candidates[i].waveform for i in loud], [candidates[i].sentence.prompt for i in loud])
    rates[loud] = heard.numpy() / np.array([len(candidates[i].sentence.prompt.text) for i in loud])
    return rates


@torch.no_grad()
def doubt(backbone: Backbone, candidates: Sequence[Candidate], batch: int = 64) -> np.ndarray:
    """Minus the mean log-probability per token under the model (N,), at temperature 1."""
    parts = []
    for start in range(0, len(candidates), batch):
        rows = candidates[start : start + batch]
        speech = Speech.pack([c.tokens for c in rows], ended=[c.ended for c in rows])
        logps = backbone([c.sentence.prompt for c in rows], speech)
        parts.append(-(logps * speech.scored).sum(1) / speech.scored.sum(1).clamp(min=1))
    return torch.cat(parts).numpy()


def judge(folder: Path, recogniser: TokenRecogniser, seed: int) -> Table:
    """Let everybody judge the same candidates."""
    backbone = train.load(folder, "sft-1").eval()
    candidates = attempts(backbone, untaught(folder, seed=seed), seed)
    verdicts = RoundTrip(recogniser, TAU)(candidates)
    error = np.array([verdict.scores["roundtrip"] for verdict in verdicts])
    surprise = np.array([verdict.scores["surprise"] for verdict in verdicts])
    both = np.array([verdict.scores["error"] for verdict in verdicts])
    second = listen(Ear.load(folder / "reporter.pt"), candidates)
    temperature = np.array([c.temperature for c in candidates])
    scores = {
        "roundtrip": error, "surprise": surprise, "both": both,
        "confidence": doubt(backbone, candidates), "coldest": temperature, "second ear": second,
    }  # fmt: skip
    names = {name: i for i, name in enumerate(dict.fromkeys(c.sentence.id for c in candidates))}
    return Table(
        listen(Ear.load(folder / "judge.pt"), candidates),
        second,
        np.array([len(c.sentence.prompt.text) for c in candidates]),
        np.array([names[c.sentence.id] for c in candidates]),
        temperature,
        scores,
        np.array([verdict.ok for verdict in verdicts]),
    )


def concordance(score: np.ndarray, wer: np.ndarray, group: np.ndarray) -> float:
    """Of two candidates of one group with different WER, how often is the better one ranked better? 0.5 is chance."""
    right = total = 0.0
    for name in np.unique(group):
        s, w = score[group == name], wer[group == name]
        better = w[:, None] < w[None, :]
        total += better.sum()
        right += (better & (s[:, None] < s[None, :])).sum() + 0.5 * (better & (s[:, None] == s[None, :])).sum()
    return right / total


def within(score: np.ndarray, wer: np.ndarray, text: np.ndarray) -> float:
    """Spearman's correlation inside a text, averaged over the texts in which both vary."""
    rows = [(score[text == t], wer[text == t]) for t in np.unique(text)]
    return float(np.mean([spearmanr(s, w).statistic for s, w in rows if np.ptp(s) > 0 and np.ptp(w) > 0]))


def chosen_wer(score: np.ndarray, table: Table) -> float:
    """WER % by the second ear of each text's best candidate; between equals a draw decides, so their mean counts."""
    texts = np.unique(table.text)
    picks = [(table.text == t) & (score == score[table.text == t].min()) for t in texts]
    words = np.array([table.words[table.text == t][0] for t in texts])
    return float(100 * sum(table.second[p].mean() * n for p, n in zip(picks, words, strict=True)) / words.sum())


def ranking(table: Table, name: str) -> dict[str, float]:
    """All numbers of one ranker."""
    score, wer = table.scores[name], table.wer
    return {
        "spearman": float(spearmanr(score, wer).statistic),
        "kendall": float(kendalltau(score, wer).statistic),
        "in a text": within(score, wer, table.text),
        "concordance": concordance(score, wer, table.text),
        "at one T": concordance(score, wer, table.text * 100 + np.round(10 * table.temperature)),
        "best of 12": chosen_wer(score, table),
    }


def acceptance(table: Table, ok: np.ndarray) -> dict[str, float]:
    """Agreement of who accepts with the judge's acceptance, %."""
    truth = table.wer < TAU
    both = (ok & truth).sum()
    return {
        "passes": 100 * ok.mean(),
        "precision": 100 * both / ok.sum(),
        "recall": 100 * both / truth.sum(),
        "agree": 100 * (ok == truth).mean(),
        "wrong let in": 100 * (ok & ~truth).sum() / (~truth).sum(),
    }


def references(table: Table) -> dict[str, float]:
    """What the choices are to be compared with: WER % by the judge, and by the second ear of ways to choose."""
    share = table.words / table.words.sum()
    truth = table.wer < TAU
    return {
        "WER by judge": float(100 * (table.wer * share).sum()),
        "WER by second ear": float(100 * (table.second * share).sum()),
        "best of 12 by judge": chosen_wer(table.wer, table),
        "passes judge": float(100 * truth.mean()),
        "WER of round trip's accepted": mean_wer(table, table.accepted),
        "WER of judge's accepted": mean_wer(table, truth),
    }


def mean_wer(table: Table, rows: np.ndarray) -> float:
    """WER % by the second ear of some candidates."""
    return float(100 * (table.second * table.words)[rows].sum() / table.words[rows].sum())


def resampled(table: Table, random: np.random.Generator) -> Table:
    """The candidates of as many texts, drawn with replacement."""
    count = int(table.text.max()) + 1
    rows = [np.flatnonzero(table.text == t) for t in random.integers(count, size=count)]
    take, text = np.concatenate(rows), np.repeat(np.arange(count), [len(r) for r in rows])
    scores = {name: score[take] for name, score in table.scores.items()}
    return Table(
        table.wer[take], table.second[take], table.words[take], text, table.temperature[take], scores,
        table.accepted[take],
    )  # fmt: skip


def interval(tables: Sequence[Table], number: Callable[[Table], dict[str, float]], draws: int = DRAWS) -> dict:
    """Mean over seeds of each number, its 95 % interval over texts, and the values of the seeds."""
    random = np.random.default_rng(0)
    values = [number(table) for table in tables]
    again = [[number(resampled(table, random)) for table in tables] for _ in range(draws)]
    result = {}
    for key in values[0]:
        means = [np.mean([row[key] for row in draw]) for draw in again]
        low, high = np.nanquantile(means, [0.025, 0.975])
        seeds = [float(row[key]) for row in values]
        result[key] = {"mean": float(np.mean(seeds)), "low": float(low), "high": float(high), "seeds": seeds}
    return result


def show(title: str, rows: dict[str, dict]) -> None:
    """A Markdown table: mean [interval]."""
    columns = list(next(iter(rows.values())))
    print(f"\n| {title} | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for name, row in rows.items():
        digits = [1 if abs(row[key]["mean"]) > 1.5 else 2 for key in columns]
        cells = [
            f"{row[key]['mean']:.{d}f} [{row[key]['low']:.{d}f}, {row[key]['high']:.{d}f}]"
            for key, d in zip(columns, digits, strict=True)
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


def one_seed(fsdd: str | None, seed: int, steps: int) -> tuple[Table, dict]:
    """Prepare, teach the recogniser, judge."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = prepare(folder, fsdd, seed)
        taught = read_utterances(folder / "flat.parquet")
        recogniser, before = TokenRecogniser.of(taught), time.perf_counter()
        fit(recogniser, taught, steps, seed)
        learning = time.perf_counter() - before
        table = judge(folder, recogniser, seed)
    about = {
        "seed": seed, "source": source, "error on held-out texts": recogniser.error, "seconds to teach": learning,
        "seconds": time.perf_counter() - start, "utterances": len(taught), "candidates": len(table.wer),
    }  # fmt: skip
    return table, about


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fsdd", metavar="PATH", help="folder of the Free Spoken Digit Dataset (default: toy voice)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200, help="gradient steps of the recogniser (default 200)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    tables, abouts = [], []
    for seed in range(args.seeds):
        table, about = one_seed(args.fsdd, seed, args.steps)
        tables.append(table)
        abouts.append(about)
        print(json.dumps(about), flush=True)
    ears = {"roundtrip": lambda t: t.accepted, "second ear": lambda t: t.second < TAU}
    results = {
        "all": {"candidates": interval(tables, references)},
        "ranks": {name: interval(tables, lambda t, n=name: ranking(t, n)) for name in tables[0].scores},
        "accepts": {name: interval(tables, lambda t, who=who: acceptance(t, who(t))) for name, who in ears.items()},
    }
    for title, rows in results.items():
        show(title, rows)
    if args.json:
        args.json.write_text(json.dumps({"runs": abouts, **results}, indent=1))


if __name__ == "__main__":
    main()
