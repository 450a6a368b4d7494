"""The demo's self-critique part: texts that are nobody's, claims by hand, figures that are drawn."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from rich.console import Console

pytestmark = pytest.mark.audio

from seaalign import Prompt, Utterance, write_utterances  # noqa: E402
from seaalign.demo import scarce  # noqa: E402
from seaalign.demo.claims import critique_claims  # noqa: E402
from seaalign.demo.show import plot_rounds, rounds_table  # noqa: E402
from seaalign.demo.world import Sizes  # noqa: E402


@pytest.fixture
def folder(tmp_path):
    """All pairs and digits as flat speech; the pairs of 0-3 with 0-9 are test texts."""
    pairs = [(i // 10, i % 10) for i in range(100)]
    flat = [*[(i,) for i in range(10)], *pairs[40:]]
    rows = [Utterance(f"f{i}", Prompt(text, timbre=torch.tensor([float(i)])), [1, 2]) for i, text in enumerate(flat)]
    write_utterances(tmp_path / "flat.parquet", rows, None)
    write_utterances(tmp_path / "test.parquet", [Utterance(f"t{i}", Prompt(p), [1]) for i, p in enumerate(pairs[:40])])
    write_utterances(tmp_path / "real.parquet", rows[:20])
    return tmp_path


def test_texts_to_learn_on_are_neither_known_nor_tested(folder):
    sizes = Sizes()
    for seed in (0, 1):
        known = {tuple(u.prompt.text.tolist()) for u in scarce.scarce(folder, sizes, seed)}
        new = [tuple(s.prompt.text.tolist()) for s in scarce.sentences(folder, sizes, seed)]
        assert len(known) == 10 + 30 and len(new) == 60 and len(set(new)) == 30
        assert not known & set(new) and all(a >= 4 for a, _ in new)
        assert len({s.id for s in scarce.sentences(folder, sizes, seed)}) == 60
    assert scarce.sentences(folder, sizes, 0)[0].text == " ".join(scarce.WORDS[w] for w in new_words(folder, sizes))
    assert len(scarce.scarce(folder, replace(sizes, scarce=12), 0)) == 12


def new_words(folder, sizes):
    return scarce.sentences(folder, sizes, 0)[0].prompt.text.tolist()


def test_a_foreign_language_has_the_same_speech_and_other_names(folder):
    for before, after in zip(scarce.read_utterances(folder / "real.parquet"), scarce.foreign(folder, 0), strict=True):
        assert torch.equal(before.tokens, after.tokens) and len(before.prompt.text) == len(after.prompt.text)
    names = {int(u.prompt.text[0]) for u in scarce.foreign(folder, 0)[:10]}
    assert names == set(range(10))  # one for each: a renaming, not noise


def systems(**wer):
    still = {"entropy": (5.5, 0.1), "f0_std": (0.15, 0.01), "repetition": (4.0, 1.0)}
    return {name.replace("_", " "): {"wer": (value, 3.0), **still} for name, value in wer.items()}


def test_claims():
    rounds = [{"pass_rate": 0.2}, {"pass_rate": 0.6}, {"pass_rate": 0.5}]
    made = systems(SFT_on_little=40.0, TDSC=30.0, **{"self-training": 42.0})
    held = {claim["claim"].split(",")[0]: claim["holds"] for claim in critique_claims(made, rounds)}
    assert list(held.values()) == [True, True, True, True, False, False]  # the pass rate may fall in the last one
    made = systems(SFT_on_little=40.0, TDSC=34.0, **{"self-training": 33.0})
    made["TDSC"]["repetition"] = (9.0, 1.0)
    claims = critique_claims(made, rounds[::-1])
    assert [claim["holds"] for claim in claims] == [False, False, True, False, False, False]
    assert claims[0]["numbers"] == "wer 40.00 -> 34.00" and claims[2]["numbers"] == "pass % 50 -> 60 -> 20"
    one = critique_claims(made, rounds[:1])[2]
    assert not one["holds"] and one["verdict"] == "undecided"  # one iteration shows no rise, and no fall
    assert claims[2]["verdict"] == "holds" and claims[3]["verdict"] == "does not"
    assert claims[0]["verdict"] == "undecided"  # 6 points, and 7 are well within the noise


def test_iterations_are_shown_and_drawn(tmp_path, capsys):
    numbers = {"error": 0.3, "entropy": 5.5, "repetition": 0.02, "tokens_per_unit": 18.0, "pairs": 40.0}
    rows = [{"iteration": k, "pass_rate": 0.2 * k, "f0_std": 0.15, **numbers} for k in (1, 2, 3)]
    rounds_table(rows, Console(width=80))
    rounds_table([], Console(width=80))
    shown = capsys.readouterr().out
    assert "60.0" in shown and "nothing accepted" in shown and "…" not in shown
    for name, some in (("three.png", rows), ("none.png", [])):
        plot_rounds(tmp_path / name, some)
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"
