"""Is it understood? A recogniser writes down what it hears, and that is compared with the text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor

from seaalign.functional.errors import edit_distance
from seaalign.judges.base import Criterion
from seaalign.judges.criteria import verdict_of
from seaalign.judges.transcribers import Transcriber, as_transcriber
from seaalign.judges.transcribers.base import checked
from seaalign.records import Candidate, Sentence, Verdict


class Intelligibility(Criterion):
    """Rejects what a recogniser does not understand (eq. 16: WER < tau_w).

    Scores: "cer", errors per grapheme cluster; with `unit="word"` also "wer", errors per word, both over normalised
    text (:mod:`seaalign.judges.languages`) and above 1 where much is inserted. "error", by which candidates are ranked,
    is that of `unit`, at most 1: from there on nothing is right. Where nothing is heard all of them are 1 and the
    candidate is rejected, so silence never comes before anything that was said. The verdict keeps the transcript.

    Args:
        transcriber: a `Transcriber`, or a function (waveforms, sample_rate) -> texts. It is called once for each
            language and sample rate in a batch.
        max_error: accept below this error, 0 < max_error <= 1.
        unit: "word" or "grapheme". Take "grapheme" where a language has no word segmenter.

    Raises:
        ValueError: a setting out of range; when judging, a text in which nothing is spoken, or a wrong number of texts.
        TypeError: when judging, an answer that is no text.

    Source: Geng et al. 2026, eq. 16.
    """

    name = "intelligibility"
    needs_audio = True

    def __init__(
        self,
        transcriber: Transcriber | Callable[[list[Tensor], int], Sequence[str]],
        max_error: float = 0.4,
        unit: Literal["word", "grapheme"] = "word",
    ) -> None:
        if not 0 < max_error <= 1 or unit not in ("word", "grapheme"):
            raise ValueError(f"need 0 < max_error <= 1 and unit 'word' or 'grapheme', got {max_error} and {unit!r}")
        self.transcriber, self.max_error, self.unit = as_transcriber(transcriber), max_error, unit

    def __call__(self, candidates: Sequence[Candidate]) -> list[Verdict]:
        """Verdicts in the order of the candidates."""
        groups: dict[tuple[str | None, int], list[int]] = {}
        for index, candidate in enumerate(candidates):
            rate = sounding(candidate)[1]
            groups.setdefault((candidate.sentence.language, rate), []).append(index)
        heard = [""] * len(candidates)
        for (language, rate), places in groups.items():
            waveforms = [sounding(candidates[place])[0] for place in places]
            texts = self.transcriber.transcribe(waveforms, rate, language)
            for place, text in zip(places, checked(texts, len(places), self.transcriber.name), strict=True):
                heard[place] = text
        return [self._judge(candidate, text) for candidate, text in zip(candidates, heard, strict=True)]

    def _judge(self, candidate: Candidate, heard: str) -> Verdict:
        from seaalign.judges.languages import graphemes, words

        sentence, scores = candidate.sentence, dict[str, float]()
        for score, split in (("cer", graphemes), ("wer", words)):
            if score == "cer" or self.unit == "word":
                said = split(heard, sentence.language)
                scores[score] = _rate(said, split(sentence.text, sentence.language), sentence)
        scores["error"] = min(1.0, scores["wer" if self.unit == "word" else "cer"])
        return verdict_of(self.name, scores["error"] < self.max_error, scores, heard)


def sounding(candidate: Candidate) -> tuple[Tensor, int]:
    """A candidate's waveform (S,) and its rate (Hz).

    Raises:
        ValueError: it has none.
    """
    if candidate.waveform is None or not candidate.sample_rate:
        raise ValueError(f"{candidate.name} has no waveform with a sample rate: decode it first")
    return candidate.waveform, candidate.sample_rate


def _rate(said: Sequence[str], wanted: Sequence[str], sentence: Sentence) -> float:
    if not wanted:
        raise ValueError(f"nothing is spoken in the text of sentence {sentence.id!r}, {sentence.text!r}: drop it")
    return edit_distance(list(said), list(wanted)) / len(wanted)
