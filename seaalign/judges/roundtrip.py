"""The judge for languages without a speech recogniser: does a recogniser of the model's own tokens hear the text?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from seaalign.functional.errors import edit_distance
from seaalign.judges.base import Criterion
from seaalign.judges.lessons import fit
from seaalign.judges.recogniser import TokenRecogniser
from seaalign.records import Candidate, Verdict
from seaalign.storage.fingerprint import weights_hash

TIES = 1e-6
"""Weight of the surprise (0..20) beside the share of wrong text ids: it decides between equals and nothing else."""


class RoundTrip(Criterion):
    """From text to speech tokens and back: edit distance to the text ids of the prompt, per text id.

    It listens to no audio. What the recogniser cannot hear because its own lessons say it wrongly, it cannot reject:
    docs/no_asr.md says what was measured.

    Scores: "roundtrip" is the share of wrong text ids, 1.0 where nothing is heard; "surprise" is how unlikely the
    speech makes the text (`TokenRecogniser.surprise`, nats per text id); "error", by which candidates are ranked, is
    the first plus a millionth of the second: a short text has few different shares, and of equals the least surprising
    one wins.

    Args:
        recogniser: trained by `fit` on the utterances that the model was taught with; or the file that `save` wrote.
        max_error: accept below this share of wrong text ids.

    Raises:
        ValueError: the recogniser is untrained, or itself errs as much as candidates may; or max_error is 0.

    Example:
        >>> RoundTrip(TokenRecogniser(codes=4, symbols=[0, 1]))
        Traceback (most recent call last):
        ValueError: the recogniser is untrained: seaalign.judges.roundtrip.fit(recogniser, utterances) first
    """

    name = "intelligibility"
    needs_audio = False

    def __init__(self, recogniser: TokenRecogniser | str | Path, max_error: float = 0.4) -> None:
        if isinstance(recogniser, str | Path):
            recogniser = TokenRecogniser.load(recogniser)
        if not max_error > 0:
            raise ValueError(f"max_error must be above 0, got {max_error}: candidates are accepted below it")
        if math.isnan(recogniser.error):
            raise ValueError("the recogniser is untrained: seaalign.judges.roundtrip.fit(recogniser, utterances) first")
        if recogniser.error >= max_error:
            raise ValueError(
                f"the recogniser gets {recogniser.error:.0%} of the text ids wrong on utterances held out from its "
                f"training, so it cannot tell who gets more than {max_error:.0%} wrong: train it longer, or on more "
                "utterances"
            )
        self.recogniser, self.max_error = recogniser, max_error

    @property
    def fingerprint(self) -> str:
        """Of its settings and of the recogniser's weights."""
        return f"{self.name}|{self.max_error}|{self.recogniser.settings}|{weights_hash(self.recogniser)}"

    def __call__(self, candidates: Sequence[Candidate]) -> list[Verdict]:
        """Verdicts in the order of the candidates; the transcript is the text ids heard."""
        rows = [candidate.tokens for candidate in candidates]
        texts = [candidate.sentence.prompt.text.tolist() for candidate in candidates]
        heard = self.recogniser.recognise(rows)
        surprise = self.recogniser.surprise(rows, texts).tolist()
        return [self._verdict(*row) for row in zip(heard, texts, surprise, strict=True)]

    def _verdict(self, heard: tuple[int, ...], text: list[int], surprise: float) -> Verdict:
        error = edit_distance([str(i) for i in heard], [str(i) for i in text]) / len(text)
        scores = {"error": error + TIES * surprise, "roundtrip": error, "surprise": surprise}
        transcript = " ".join(map(str, heard))
        if heard and error < self.max_error:
            return Verdict.accept(scores, transcript)
        return Verdict("reject", (self.name,), scores, transcript)


__all__ = ["RoundTrip", "TokenRecogniser", "fit"]
