"""The paper's numbers, by table (Geng et al. 2026); systems bear the names that they have here.

Where a value is left out, it is not known here. Listeners have no counterpart in the miniature.
"""

from __future__ import annotations

from typing import NamedTuple

MEASURED = {"wer": "WER %", "entropy": "H_p bits", "repetition": "rep. %", "f0_std": "F0 std st", "similarity": "SIM"}
JUDGED = {"wer": "WER %", "entropy": "H_p bits", "repetition": "rep. %", "pass": "accepted %", "share": "of them %"}
_ROUNDS = {**{key: name for key, name in MEASURED.items() if key != "similarity"}, "pass": "accepted %"}
STANDS_FOR = {"f0_std": "nmos", "similarity": "smos"}
"""What is measured where the paper asked listeners."""


class Table(NamedTuple):
    """Its title, what is measured here, what the paper reports, and a row per system: label, the paper's values."""

    title: str
    here: dict[str, str]
    there: tuple[str, ...]
    rows: dict[str, tuple[object, ...]]

    def paper(self, system: str, metric: str) -> float | None:
        """The paper's value, or None."""
        values = dict(zip(self.there, self.rows.get(system, ("",))[1:], strict=False))
        return values.get(metric, values.get(STANDS_FOR.get(metric, "")))  # type: ignore[return-value]


TABLES = {
    "table 1": Table("the synthetic share α", MEASURED, ("wer", "entropy", "repetition"), {
        "alpha 0": ("α = 0", 75.0, None, 2.96),
        "alpha 0.25": ("α = 0.25",),
        "alpha 0.5": ("α = 0.5", None, 10.506, 2.02),
        "alpha 0.8": ("α = 0.8",),
        "alpha 1": ("α = 1", 36.2, 10.210, 9.83),
        **{f"alpha {alpha} styled": (f"α = {alpha}, style on",) for alpha in ("0", "0.25", "0.5", "0.8", "1")},
        "recordings": ("recordings",),
        "codec only": ("recordings through the codec",),
    }),
    "table 3": Table("repair at α = 0.8", MEASURED, ("wer", "entropy", "repetition", "nmos", "smos"), {
        "alpha 0.8": ("SFT", 38.9, 10.36, 6.51, 3.61, 3.54),
        "no stability": ("standard DPO", 45.2, 10.49, 4.08, 3.92, 3.81),
        "rejection": ("rejection, best of 4", 40.5, 10.41, 5.18, 3.75, 3.66),
        "DGSA": ("DGSA", 38.9, 10.52, 2.82, 4.42, 4.53),
        "more SFT on real": ("more SFT on real (no row of the paper)",),
    }),
    "table 7": Table("what DGSA is made of", MEASURED, ("wer", "entropy", "nmos"), {
        "DGSA": ("DGSA", 38.9, 10.52, 4.4),
        "no expressivity": ("no expressivity objective", 38.2, 10.38, 3.7),
        "random pairing": ("random speaker pairing", 42.8, 10.41, 3.9),
        "no stability": ("no stability objective", 46.5, 10.55, 4.0),
        "fixed weights": ("fixed weights 0.5, 0.5", 40.2, 10.45, 4.2),
    }),
    "table 4": Table("no real speech", MEASURED, ("wer", "entropy", "repetition", "nmos"), {
        "SFT": ("SFT", 38.5, 10.08, 7.62, 3.12),
        "self-training": ("self-training", 35.2, 10.15, 6.94, 3.31),
        "rejection of SFT": ("rejection, best of 4", 36.8, 10.11, 7.28, 3.24),
        "TDSC": ("TDSC", 29.8, 10.42, 4.15, 3.94),
        "SFT with a prior": ("SFT with an expressive prior (no row of the paper)",),
        "TDSC with a prior": ("TDSC from there (no row of the paper)",),
    }),
    "table 8": Table("what TDSC is made of", MEASURED, ("wer", "entropy"), {
        "TDSC": ("TDSC", 29.8, 10.42),
        "no DPO": ("no DPO", 35.8, 10.21),
        "T = 1 only": ("T = 1 only", 34.1, 10.05),
        "no length filter": ("no length filter", 33.5, 10.35),
        "no curriculum": ("no curriculum", 32.6, 10.18),
        "no repetition filter": ("no repetition filter", 31.2, 10.28),
    }),
    "table 9": Table("TDSC by temperature, last iteration, as its judge hears it", JUDGED, tuple(JUDGED), {
        "coolest": ("T = 0.7", 26.8, 9.85, 3.42, 78.5, 42.0),
        "middle": ("T = 1", 32.4, 10.38, 4.65, 61.2, 35.0),
        "hottest": ("T = 1.3", 41.6, 10.82, 6.18, 38.4, 23.0),
    }),
    "figure 6": Table("TDSC by iteration, as its judge hears it", _ROUNDS, ("pass",), {
        "first iteration": ("first iteration", 23.0),
        "last iteration": ("last iteration", 62.0),
    }),
}  # fmt: skip
