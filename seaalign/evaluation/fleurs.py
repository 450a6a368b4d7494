"""The public Lao and Thai evaluation on FLEURS: which sentences, which recordings of them, and whose voice.

    FOLDER/lo_la/test.tsv, FOLDER/lo_la/audio/test/*.wav; th_th; for prompts of other languages cmn_hans_cn, en_us

Source: protocol of the released SE-Bridge-TTS checkpoints (Geng et al. 2026). FLEURS: Conneau et al. 2022.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from seaalign.evaluation.texts import Case, Texts
from seaalign.storage.lines import AudioFolder, Row, require_file, require_rows, text_lines
from seaalign.storage.rows import OnBad, Refused, sift

RATE = 16_000
"""Of all recordings in FLEURS, Hz."""
PAIRED = ("lo_la", "th_th")
"""Languages whose shared sentences are evaluated."""
SHARED = 255
"""Sentences that both have in the published evaluation."""
TARGET_SECONDS, PROMPT_SECONDS, BEST_SECONDS = (1.5, 30.0), (3.0, 8.0), 5.0
DIRECTIONS = tuple((prompt, target) for target in PAIRED for prompt in dict.fromkeys((target, "cmn_hans_cn", "en_us")))
"""Language of the prompt and of the target: six."""


@dataclass(frozen=True)
class Utterance:
    """A row of FLEURS.

    Args:
        uid: of the recording: its file name without the ending.
        sentence: id of the sentence, the same in all languages.
        text: as people write it.
        seconds: how long it is.
        gender: of the speaker.
        audio: the file.
    """

    uid: str
    sentence: int
    text: str
    seconds: float
    gender: str
    audio: Path


def read_fleurs(
    folder: str | Path,
    language: str,
    split: str = "test",
    on_bad: OnBad = "refuse",
    refused: list[Refused] | None = None,
) -> list[Utterance]:
    """Read a split of a language as FLEURS is distributed.

    A line of the table is, between tabs: sentence id, file name, raw transcription, normalised transcription,
    characters, number of samples, gender. The raw transcription is taken.

    Args:
        folder: holds a folder for each language.
        language: as "lo_la".
        split: "test", "dev" or "train".
        on_bad: "refuse" leaves bad rows out and warns with the reasons, "raise" stops at the first.
        refused: a list to fill with what was left out.

    Raises:
        FileNotFoundError: no such table.
        ValueError: no good row, or a bad one under "raise".
    """
    path = require_file(Path(folder, language, f"{split}.tsv"), f"table of FLEURS for {language}")
    sounds = AudioFolder(path.parent / "audio" / split)

    def build(line: str | ValueError) -> Utterance:
        if isinstance(line, ValueError):
            raise line
        cells = line.split("\t")
        if len(cells) != 7 or not cells[0].isdecimal() or not cells[5].isdecimal():
            raise ValueError(f"the cells are wrong: 7, the first and the sixth numbers, are expected; got {cells[:7]}")
        sentence, name, raw, _, _, samples, gender = cells
        return Utterance(Path(name).stem, int(sentence), raw, int(samples) / RATE, gender.upper(), sounds.find(name))

    def rows() -> Iterator[Row[Utterance]]:
        for number, line in text_lines(path):
            cells = [] if isinstance(line, ValueError) else line.split("\t")
            yield f"line {number}", Path(cells[1]).stem if len(cells) > 1 else None, partial(build, line)

    return require_rows(sift(rows(), str(path), on_bad, refused), str(path))


def targets(utterances: Mapping[str, Sequence[Utterance]], language: str) -> list[Utterance]:
    """One recording of each sentence that all languages have, in the order of the sentences.

    Those of 1.5 to 30 s count, and of a sentence the one nearest to 5 s; of equally near ones the first uid.

    Args:
        utterances: of the languages whose sentences are paired.
        language: whose recordings are chosen.
    """
    low, high = TARGET_SECONDS
    fit = {name: [u for u in rows if low <= u.seconds <= high] for name, rows in utterances.items()}
    shared = set.intersection(*({u.sentence for u in rows} for rows in fit.values()))
    chosen: dict[int, Utterance] = {}
    for each in sorted(fit[language], key=lambda u: (u.sentence, abs(u.seconds - BEST_SECONDS), u.uid)):
        if each.sentence in shared:
            chosen.setdefault(each.sentence, each)
    return list(chosen.values())


def prompts(
    wanted: Sequence[Utterance], candidates: Sequence[Utterance], prompt_language: str, target_language: str
) -> list[Utterance]:
    """A prompt for each target: the least used so far, then the smallest SHA-256 of the names, then the first uid.

    Prompts have 3 to 8 s. Within a language a prompt says another sentence than its target, and those of the same
    gender are preferred where there are some.

    Args:
        wanted: the targets, in order.
        candidates: recordings in the prompt's language.
        prompt_language: theirs.
        target_language: the targets'.

    Raises:
        ValueError: nobody can prompt a target.
    """
    low, high = PROMPT_SECONDS
    fit = [each for each in candidates if low <= each.seconds <= high]
    used = dict.fromkeys((each.uid for each in fit), 0)
    same = prompt_language == target_language
    made = []
    for target in wanted:
        able = [each for each in fit if each.sentence != target.sentence] if same else fit
        able = (same and [each for each in able if each.gender == target.gender]) or able
        if not able:
            raise ValueError(
                f"no prompt of {low} to {high} s in {prompt_language} for {target.uid} in {target_language}"
            )
        lead = "" if same else f"{prompt_language}::{target_language}::{target.sentence}::"
        best = min(able, key=lambda each: (used[each.uid], _sha(f"{lead}{target.uid}::{each.uid}"), each.uid))
        used[best.uid] += 1
        made.append(best)
    return made


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Fleurs(Texts):
    """The 255 sentences that Lao and Thai share in FLEURS, to be said in the voice of a prompt.

    The published protocol leaves open what it calls a uid and a pair id, and in which order targets take their prompts.
    Here these are the file name without its ending, the sentence id, and the order of sentence ids, and the 3 to 8 s
    hold for prompts of all languages. So the targets are those of the published run; the prompts are drawn by its rule,
    yet need not be the same ones.

    Args:
        folder: FLEURS as it is distributed, a folder per language.
        target: language of the texts, "lo_la" or "th_th".
        prompt: language of the voices: the target's, "cmn_hans_cn" or "en_us".
        split: the protocol's is "test".

    Raises:
        ValueError: when read; no sentence is shared, or no prompt fits.
    """

    def __init__(
        self, folder: str | Path, target: str = "lo_la", prompt: str | None = None, split: str = "test"
    ) -> None:
        self.folder, self.target, self.prompt, self.split = folder, target, prompt or target, split
        if (self.prompt, target) not in DIRECTIONS:
            raise ValueError(
                f"no direction {self.prompt} -> {target}: there are {', '.join(map(' -> '.join, DIRECTIONS))}"
            )

    def read(self) -> list[Case]:
        """The texts, each with its recording and its prompt; a warning where they are not as many as published."""
        paired = {name: read_fleurs(self.folder, name, self.split) for name in PAIRED}
        wanted = targets(paired, self.target)
        if not wanted:
            raise ValueError(f"{self.folder}: {' and '.join(PAIRED)} share no sentence of {TARGET_SECONDS} s")
        if len(wanted) != SHARED:
            warnings.warn(
                f"{self.folder} gives {len(wanted)} shared sentences, the published evaluation has {SHARED}: numbers "
                "are not comparable with it", stacklevel=2,
            )  # fmt: skip
        spoken = paired[self.prompt] if self.prompt in paired else read_fleurs(self.folder, self.prompt, self.split)
        chosen = prompts(wanted, spoken, self.prompt, self.target)
        return [
            Case(
                f"{self.target}-{target.sentence}",
                target.text,
                None,
                target.audio,
                voice.audio,
                voice.text,
                self.target[:2],
            )
            for target, voice in zip(wanted, chosen, strict=True)
        ]
