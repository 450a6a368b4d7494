"""How many listeners and texts does it take to hear a difference? By simulation, for docs/listening.md.

    python examples/benchmarks/listening_power.py [--trials 400] [--noise 0.8] [--by-rater 0.25] [--by-text 0.4]

Two systems differ by so many grades on average. How much a rater hears of it varies from person to person (--by-rater,
standard deviation in grades), and so it does from text to text (--by-text); every rating has noise of its own (--noise)
and is rounded to a grade from 1 to 5. Raters also differ in how they use the scale; each of them hears both systems on
every text, so that cancels. A difference counts as found when p < .05 over raters and over texts (`paired_test`).
"""

from __future__ import annotations

import argparse

import torch

from seaalign.functional.comparison import paired_test

RATERS, TEXTS, DIFFERENCES = (5, 10, 20, 40), (10, 25, 50), (0.0, 0.2, 0.3, 0.5)


def one(raters: int, texts: int, apart: float, given: argparse.Namespace, generator: torch.Generator) -> list[bool]:
    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    level = 3.4 + 0.5 * drawn(raters, 1) + 0.3 * drawn(1, texts)
    heard = apart + given.by_rater * drawn(raters, 1) + given.by_text * drawn(1, texts)
    grades = [(level + side * heard / 2 + given.noise * drawn(raters, texts)).round().clamp(1, 5) for side in (1, -1)]
    found = [paired_test(*(side.mean(axis) for side in grades)) < 0.05 for axis in (1, 0)]
    return [found[0], found[1], all(found)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--noise", type=float, default=0.8)
    parser.add_argument("--by-rater", type=float, default=0.25)
    parser.add_argument("--by-text", type=float, default=0.4)
    given = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    print("share of tests that find the difference: over raters / over texts / over both")
    print(
        "| raters | texts |"
        + "".join(f" {d} grades |" for d in DIFFERENCES)
        + "\n"
        + "|---" * (2 + len(DIFFERENCES))
        + "|"
    )
    for raters in RATERS:
        for texts in TEXTS:
            cells = []
            for apart in DIFFERENCES:
                found = torch.tensor([one(raters, texts, apart, given, generator) for _ in range(given.trials)])
                cells.append(" / ".join(f"{100 * share:.0f}" for share in found.double().mean(0).tolist()))
            print(f"| {raters} | {texts} | " + " | ".join(f"{cell} %" for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
