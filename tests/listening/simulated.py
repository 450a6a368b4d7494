"""Listening tests without sound, and people who answer as a planted quality says."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from seaalign.listening.build import key_of
from seaalign.listening.clips import Clip
from seaalign.listening.design import design
from seaalign.listening.results import checksum


def made_clips(systems=("recordings", "dgsa", "sft"), texts=12, **more) -> list[Clip]:
    return [
        Clip(name, f"t{t}", f"text {t}", Path(f"{name}-{t}.wav"), Path("speaker.wav"), **more)
        for t in range(texts)
        for name in systems
    ]


def write_key(folder: Path, clips, tests=("nmos",), raters=20, seed=0, **layout) -> dict:
    made = design(clips, tests, seed, **layout)
    plans = {f"{i + 1:02d}": {test: made.section(test, i) for test in tests} for i in range(raters)}
    key = key_of(made, "abc", plans, {name: f"page{name}" for name in plans}, {"tests": list(tests)})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "key.json").write_text(json.dumps(key))
    return key


def result(key: dict, rater: str, answers: list[dict], /, **changed) -> dict:
    page = key["raters"][rater]["page"]
    complete = len(answers) == len(key["raters"][rater]["trials"])
    made = {"kind": "listening result", "version": 1, "test": key["test"], "rater": rater, "page": page}
    made |= {"complete": complete, "comment": "", "answers": answers}
    return made | {"checksum": checksum(key["test"], rater, page, answers)} | changed


def listen(key: dict, rater: str, quality: dict[str, float], seed: int = 0, *, clicks: bool = False) -> list[dict]:
    """Answers of one person: quality of the system, a bias and noise of theirs; `clicks`: without listening."""
    random = Random(f"{seed} {rater}")
    texts = {c["text_id"]: Random(f"{seed} {c['text_id']}").gauss(0, 0.3) for c in key["clips"]}
    bias, answers = random.gauss(0, 0.4), []

    def heard(i: int) -> float:
        clip = key["clips"][i]
        return quality[clip["system"]] + texts[clip["text_id"]] + bias + random.gauss(0, 0.6)

    for trial in key["raters"][rater]["trials"]:
        spoiled = trial["role"] == "low"
        if trial["test"] == "ab":
            left, right = (heard(i) for i in trial["clips"])
            left, right = {"high": (5, 1), "low": (1, 5)}.get(trial["role"], (left, right))
            answer = "same" if abs(left - right) < 0.2 else ("left" if left > right else "right")
            answer = random.choice(["left", "right", "same"]) if clicks else answer
        else:
            value = 1 + random.random() if spoiled else heard(trial["clips"][0])
            answer = random.randint(1, 5) if clicks else min(5, max(1, round(value)))
        answers.append({"trial": trial["id"], "answer": answer, "seconds": 4.0, "plays": 1})
    return answers


def write_results(folder: Path, key: dict, quality: dict[str, float], seed: int = 0, clickers=()) -> list[Path]:
    paths = []
    for rater in key["raters"]:
        paths.append(folder / f"result-{rater}.json")
        answers = listen(key, rater, quality, seed, clicks=rater in clickers)
        paths[-1].write_text(json.dumps(result(key, rater, answers)))
    return paths
