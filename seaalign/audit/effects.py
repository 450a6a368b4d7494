"""From what was heard to findings: whose voice, whose melody, what the style toggle changes; intervals over texts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from seaalign.audit.findings import TOLERANCE, Finding, skipped, weigh
from seaalign.audit.swaps import WAYS, Heard
from seaalign.functional.comparison import group_weights
from seaalign.functional.entropy import entropy_at

_DRAWS = 200
AA, AB, BA, BB, OFF = range(len(WAYS))
VOICE = "swap: voice, 0 % the style's, 100 % the timbre's"
TOGGLE = "toggle: voice moved, of the way between speakers"


def over_texts(statistic: Callable[[Tensor], float], text: Tensor, seed: int = 0) -> tuple[float, float, float] | None:
    """A statistic and its 95 % interval from a bootstrap over texts: rows of one text succeed and fail together.

    Args:
        statistic: of how often each row counts (S,); NaN where undefined.
        text: which text each row says (S,), 0..N-1.
        seed: of the draws.

    Returns:
        Value, low, high; None where the value is undefined, or fewer than 3 texts could vary.

    Example:
        >>> over_texts(lambda w: float((w * 2.0).sum() / w.sum()), torch.arange(5))
        (2.0, 2.0, 2.0)
    """
    value, count = statistic(torch.ones(len(text))), int(text.max()) + 1 if len(text) else 0
    generator = torch.Generator().manual_seed(seed)
    times = group_weights(count, _DRAWS if count >= 3 else 0, generator)
    found = torch.tensor([statistic(row[text].float()) for row in times])
    found = found[found.isfinite()]
    if not value == value or len(found) < _DRAWS / 2:
        return None
    from scipy import stats

    reach = float(stats.t.ppf(0.975, count - 1)) * float(found.std()) * (count / (count - 1)) ** 0.5
    return value, value - reach, value + reach


def mean(values: Tensor, weight: Tensor) -> float:
    """Weighted mean of what is not NaN; NaN where nothing is."""
    known = values.isfinite()
    total = (weight * known).sum()
    return float((weight * values.nan_to_num()).sum() / total) if total > 0 else float("nan")


def voice_findings(heard: Heard, why_not: str | None, seed: int) -> list[Finding]:
    """Whose voice comes out, and does the toggle move it? Cosines count in units of the distance between speakers."""
    if why_not is not None:
        return [skipped(name, why_not) for name in (VOICE, TOGGLE, "toggle: SIM, style on minus off")]
    own, other = heard.similarity[..., 0], heard.similarity[..., 1]  # to A's voice and to B's
    lean = own - other

    def distance(w: Tensor) -> float:
        """How much closer unswapped speech is to its own speaker than to the other; NaN where that cannot be told."""
        gap = (mean(lean[AA], w) - mean(lean[BB], w)) / 2
        return gap if gap > 0.02 else float("nan")

    def followed(w: Tensor) -> float:
        return 0.5 + (mean(lean[BA], w) - mean(lean[AB], w)) / 4 / distance(w)

    def moved(w: Tensor) -> float:
        return mean(own[AA] - own[OFF], w) / distance(w)

    voice, toggle = over_texts(followed, heard.text, seed), over_texts(moved, heard.text, seed)
    made = [
        _finding(VOICE, voice, "share", heard, 1 - TOLERANCE, lambda low, high: weigh(-high, -low, TOLERANCE - 1)),
        _finding(TOGGLE, toggle, "share", heard, TOLERANCE, _moved),
    ]
    drop = over_texts(lambda w: mean(own[AA] - own[OFF], w), heard.text, seed)
    return [*made, _finding("toggle: SIM, style on minus off", drop, "cosine", heard)]


def _moved(low: float, high: float) -> str:
    return "leak" if low > TOLERANCE or high < -TOLERANCE else "clear" if high <= TOLERANCE else "unclear"


def prosody_findings(heard: Heard, two_speakers: bool, vocabulary: int, seed: int) -> list[Finding]:
    """Whose melody comes out of a swap, and does the style toggle change prosody at all?"""
    made = []
    if two_speakers:
        span = heard.span
        from_style = torch.stack([(span[AB] - span[AA]).abs(), (span[BA] - span[BB]).abs()]).nanmean(0)
        from_timbre = torch.stack([(span[AB] - span[BB]).abs(), (span[BA] - span[AA]).abs()]).nanmean(0)
        for j, whose in enumerate(("style", "timbre")):
            found = over_texts(lambda w, j=j: mean(heard.melody[:, j].nanmean(0), w), heard.text, seed)  # type: ignore[misc]
            made.append(_finding(f"swap: F0 correlation with the same {whose}", found, "correlation", heard))
        for whose, gap in (("style", from_style), ("timbre", from_timbre)):
            found = over_texts(lambda w, gap=gap: mean(gap, w), heard.text, seed)  # type: ignore[misc]
            made.append(_finding(f"swap: F0 range, distance from the same {whose}", found, "semitones", heard))
    spread = over_texts(lambda w: mean(heard.spread[AA] - heard.spread[OFF], w), heard.text, seed)
    made.append(_finding("toggle: F0 std, style on minus off", spread, "semitones", heard))
    on, off = (_counts(heard.tokens[way], vocabulary) for way in ("AA", "-A"))

    def livelier(w: Tensor) -> float:
        a, b = w @ on, w @ off
        n = int(min(a.sum(), b.sum()))
        return float(entropy_at(a, n) - entropy_at(b, n)) if n else float("nan")

    entropy = over_texts(livelier, heard.text, seed)
    return [*made, _finding("toggle: H_p, style on minus off, equal counts", entropy, "bits", heard)]


def _counts(rows: list[Tensor], size: int) -> Tensor:
    """Tokens of each row counted (S, K x size); codebooks side by side."""
    books = max((row.shape[1] if row.dim() == 2 else 1) for row in rows)
    flat = [(row.reshape(len(row), -1) + size * torch.arange(books)).flatten().long() for row in rows]
    return torch.stack([torch.bincount(row, minlength=books * size) for row in flat]).float()


def _finding(
    name: str,
    found: tuple[float, float, float] | None,
    unit: str,
    heard: Heard,
    bound: float | None = None,
    rule: Callable[[float, float], str] | None = None,
) -> Finding:
    if found is None:
        why = (
            "undefined in what was generated: silence, too little voiced speech, voices that the embedder cannot tell "
        )
        return skipped(name, f"{why}apart, or fewer than 3 texts")
    outcome = rule(found[1], found[2]) if rule else "measured"
    counts = {"scenes": len(heard.text), "texts": int(heard.text.max()) + 1}
    return Finding(name, outcome, *found, unit=unit, bound=bound, counts=counts)  # type: ignore[arg-type]
