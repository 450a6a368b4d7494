"""From recordings to utterances: text and sound become tokens, and every utterance gets a reference of its speaker."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal

from torch import Tensor

from seaalign.data.references import Spoken, choose
from seaalign.data.sound import sound_of
from seaalign.records import Prompt, Speech, Style, Utterance
from seaalign.records.recording import Recording
from seaalign.sampling.progress import track
from seaalign.storage.lines import require_rows
from seaalign.storage.rows import OnBad, Refused, check_codes, sift
from seaalign.storage.texts import Tokenize

Encode = Callable[[Sequence[Tensor], int], Speech]
Timbre = Callable[[Tensor, int], Any]
_SOURCE = "recordings"


def prepare(
    recordings: Iterable[Recording],
    tokenize: Tokenize,
    encode: Any = None,
    *,
    references: Literal["speaker", "self"] | None = "speaker",
    reference_frames: tuple[int, int] = (75, 250),
    per_speaker: int | None = None,
    alone: Literal["refuse", "plain"] = "refuse",
    timbre: Timbre | None = None,
    min_frames: int = 1,
    max_frames: int | None = None,
    vocab_size: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = True,
    on_bad: OnBad = "refuse",
    refused: list[Refused] | None = None,
) -> list[Utterance]:
    """Make utterances of recordings, for `write_utterances`.

    Recordings that have speech tokens keep them; the sound of the others is read and encoded. Nothing is written on the
    way: if this is killed, time is lost and no file is half done. Where that is too much time, prepare the recordings
    in parts and write each.

    Args:
        recordings: with unique ids.
        tokenize: from a text to text ids, for instance `backbone.tokenize`.
        encode: a backbone that encodes, or `(waveforms, sample_rate) -> Speech`; resampling is its business. Not needed
            where every recording has tokens.
        references: what an utterance's style prefix and timbre are made of. "speaker": another recording of the same
            speaker that says something else, drawn by seed and id. "self": the recording itself, for corpora where
            nobody speaks twice; **the style prefix then is the answer**, so a model trained on it learns to copy, and
            what it says with style on tells nothing. None: no style, and the timbre of the recording itself.
        reference_frames: lengths to prefer, in speech tokens: 3 to 10 s at 25 a second.
        per_speaker: draw among so many references of each speaker, at least 2; None = all. Bounds how many timbres are
            computed and kept.
        alone: an utterance whose speaker says nothing else is refused, or "plain": left without style and with the
            timbre of itself.
        timbre: `(waveform, sample_rate) -> timbre` of a reference, for instance `backbone.timbre`. Default: the timbre
            that the recording carries, or None.
        min_frames: refuse utterances of fewer speech tokens.
        max_frames: refuse utterances of more; None: of none.
        vocab_size: size of the codebook; tokens outside are refused.
        batch_size: recordings per call of `encode`; those of one sample rate share a call.
        seed: of the references.
        progress: show a bar where somebody can see it.
        on_bad: "refuse" leaves bad recordings out and warns with the reasons, "raise" stops at the first.
        refused: a list to fill with what was left out.

    Raises:
        ValueError: an argument is out of range, no recording is good, or a bad one under "raise".
        Unsupported: the backbone cannot encode.

    Example:
        >>> spoken = [Recording(f"u{i}", text, tokens=[i] * 80, speaker="ann") for i, text in enumerate(["ab", "cd"])]
        >>> first, _ = prepare(spoken, lambda text: [ord(letter) - 97 for letter in text])
        >>> first.prompt.text, first.prompt.style.text
        (tensor([0, 1]), tensor([2, 3]))
    """
    _require(references, alone, per_speaker)
    given = list(recordings)
    work = _Work(given, on_bad)
    work.texts(tokenize)
    work.tokens(getattr(encode, "encode", encode), batch_size, progress)
    work.lengths(min_frames, max_frames, vocab_size)
    work.references(references, reference_frames, per_speaker, seed, timbre is not None, alone)
    work.timbres(timbre, progress)
    rows = ((f"recording {i}", item.id, partial(work.utterance, i)) for i, item in enumerate(given))
    good = require_rows(sift(rows, _SOURCE, on_bad, refused), _SOURCE)
    plain = sum(utterance.prompt.style is None for utterance in good)
    if references is not None and plain:
        warnings.warn(f"{plain} of {len(good)} utterances have no style: their speakers say nothing else", stacklevel=2)
    return good


def _require(references: Any, alone: Any, per_speaker: int | None) -> None:
    if references not in ("speaker", "self", None):
        raise ValueError(f"references must be 'speaker', 'self' or None, got {references!r}")
    if alone not in ("refuse", "plain"):
        raise ValueError(f"alone must be 'refuse' or 'plain', got {alone!r}")
    if per_speaker is not None and per_speaker < 2:
        raise ValueError(f"per_speaker must be 2 or more, or a reference would stand before itself; got {per_speaker}")


class _Work:
    """The recordings while they become utterances: what each has so far, and what is wrong with it."""

    def __init__(self, recordings: list[Recording], on_bad: OnBad) -> None:
        self.recordings, self.on_bad = recordings, on_bad
        self.faults: dict[int, ValueError] = {}
        self.text: dict[int, Tensor] = {}
        self.speech: dict[int, Tensor] = {}
        self.reference: dict[int, int | None] = {}
        self.timbre: dict[int, Any] = {}

    def good(self) -> list[int]:
        return [i for i in range(len(self.recordings)) if i not in self.faults]

    def refuse(self, i: int, error: ValueError | TypeError) -> None:
        """Under "raise" a fault ends the work at once, not after hours of encoding."""
        if self.on_bad == "raise":
            raise ValueError(f"{_SOURCE}, recording {i} (id {self.recordings[i].id!r}): {error}") from error
        self.faults.setdefault(i, ValueError(str(error)))

    def texts(self, tokenize: Tokenize) -> None:
        seen: set[str] = set()
        for i, recording in enumerate(self.recordings):
            try:
                if recording.id in seen:
                    raise ValueError(f"id {recording.id!r} is a duplicate: keep one of them, or rename")
                self.text[i] = Prompt(tokenize(recording.text)).text
            except (TypeError, ValueError) as error:
                self.refuse(i, error)
            seen.add(recording.id)

    def tokens(self, encode: Encode | None, batch_size: int, progress: bool) -> None:
        waiting = []
        for i in self.good():
            known = self.recordings[i].tokens
            if known is not None:
                self.speech[i] = known
            elif encode is None:
                self.refuse(i, ValueError("no speech tokens: pass encode=, a backbone that encodes or a function"))
            else:
                waiting.append(i)
        batches = [waiting[at : at + batch_size] for at in range(0, len(waiting), batch_size)]
        for batch in track(batches, "encoding", progress):
            for rate, group in self._sounds(batch).items():
                self._encode(encode, group, rate)

    def _sounds(self, batch: list[int]) -> dict[int, dict[int, Tensor]]:
        """Waveforms by sample rate and number."""
        rates: dict[int, dict[int, Tensor]] = {}
        for i in batch:
            try:
                waveform, rate = sound_of(self.recordings[i])
                rates.setdefault(rate, {})[i] = waveform
            except ValueError as error:
                self.refuse(i, error)
        return rates

    def _encode(self, encode: Any, group: dict[int, Tensor], rate: int) -> None:
        try:
            rows = encode(list(group.values()), rate).rows()
        except ValueError as error:
            if len(group) == 1:
                self.refuse(next(iter(group)), error)
                return
            for i, waveform in group.items():  # one of them is at fault, and the others are not
                self._encode(encode, {i: waveform}, rate)
            return
        if len(rows) != len(group):
            raise ValueError(f"encode gave {len(rows)} rows for {len(group)} waveforms: it must give one for each")
        for i, row in zip(group, rows, strict=True):
            self.speech[i] = row.cpu()

    def lengths(self, least: int, most: int | None, vocab_size: int | None) -> None:
        for i in self.good():
            frames = len(self.speech[i])
            try:
                if not frames:
                    raise ValueError("no speech tokens: the encoder made none of this sound; leave the row out")
                if frames < least or (most is not None and frames > most):
                    raise ValueError(f"the length is out of range: {frames} speech tokens, allowed {least}..{most}")
                check_codes("speech tokens", self.speech[i], vocab_size)
            except ValueError as error:
                self.refuse(i, error)

    def references(
        self, kind: str | None, frames: tuple[int, int], per_speaker: int | None, seed: int, heard: bool, alone: str
    ) -> None:
        if kind != "speaker":
            self.reference = {i: None if kind is None else i for i in self.good()}
            return
        spoken = {}
        for i in self.good():
            item = self.recordings[i]
            if item.speaker is None:
                what = "name the column or key that says who speaks, or pass references=None"
                self.refuse(i, ValueError(f"the speaker is unknown: {what}"))
            else:
                usable = item.audio is not None or not heard
                spoken[i] = Spoken(item.id, item.speaker, self.text[i], self.speech[i], usable)
        self.reference = choose(spoken, frames, per_speaker, seed)
        for i in self.good() if alone == "refuse" else ():
            if self.reference[i] is None:
                what = f"speaker {self.recordings[i].speaker!r} says nothing else; alone='plain' keeps it without style"
                self.refuse(i, ValueError(f"no reference: {what}"))

    def timbres(self, timbre: Timbre | None, progress: bool) -> None:
        """Of every recording that is a reference, or stands for itself."""
        for i in track(sorted({self._voice(i) for i in self.good()}), "timbres", progress and timbre is not None):
            try:
                self.timbre[i] = self.recordings[i].timbre if timbre is None else timbre(*sound_of(self.recordings[i]))
            except ValueError as error:
                self.timbre[i] = error
        for i in self.good():
            failed = self.timbre[self._voice(i)]
            if isinstance(failed, ValueError):
                name = self.recordings[self._voice(i)].id
                self.refuse(i, ValueError(f"no timbre: that of the reference {name!r} cannot be computed ({failed})"))

    def _voice(self, i: int) -> int:
        reference = self.reference[i]
        return i if reference is None else reference

    def utterance(self, i: int) -> Utterance:
        if i in self.faults:
            raise self.faults[i]
        item, reference = self.recordings[i], self.reference[i]
        style = None if reference is None else Style(self.speech[reference], self.text[reference])
        prompt = Prompt(self.text[i], style, self.timbre[self._voice(i)])
        return Utterance(item.id, prompt, self.speech[i], item.source)
