"""Data folders of Kaldi as recordings: wav.scp and text, and where they exist utt2spk, utt2lang and segments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from seaalign.records.recording import Recording
from seaalign.storage.lines import AudioFolder, Row, require_file, require_rows, text_lines
from seaalign.storage.rows import OnBad, Refused, sift

_Table = Mapping[str, "str | ValueError"]


def read_kaldi(
    path: str | Path,
    *,
    language: str | None = None,
    root: str | Path | None = None,
    source: str = "real",
    on_bad: OnBad = "refuse",
    refused: list[Refused] | None = None,
) -> list[Recording]:
    """Read a data folder of Kaldi.

    An utterance needs a line in `text` and one in `wav.scp`; where there is `segments`, it has its own line there and
    that of its recording in `wav.scp`. A line of `wav.scp` may be a command, to be run by a shell. **Commands are never
    run here**: utterances that need one are refused.

    Args:
        path: the folder.
        language: of the utterances that `utt2lang` does not name.
        root: the folder that audio files must lie in, and where relative paths start; Kaldi's own start where its
            recipe is run. Default: the data folder.
        source: "real", or the system that synthesised the recordings.
        on_bad: "refuse" leaves bad utterances out and warns with the reasons, "raise" stops at the first.
        refused: a list to fill with what was left out.

    Raises:
        FileNotFoundError: no such folder, or no wav.scp or text in it.
        ValueError: no good utterance, or a bad one under "raise".
    """
    path = Path(path)
    audio, texts = (_table(require_file(path / name, "file of Kaldi")) for name in ("wav.scp", "text"))
    segments, speakers, languages = (_optional(path / name) for name in ("segments", "utt2spk", "utt2lang"))
    folder = AudioFolder(path, root)

    def build(key: str) -> Recording:
        text = _entry(texts, key, "text")
        recording, start, duration = key, None, None
        if segments is not None:
            recording, start, duration = _segment(_entry(segments, key, "segments"))
        return Recording(
            key,
            text,
            folder.find(_plain(_entry(audio, recording, "wav.scp"))),
            speaker=None if speakers is None else _entry(speakers, key, "utt2spk"),
            language=language if languages is None or key not in languages else _entry(languages, key, "utt2lang"),
            source=source,
            start=start,
            duration=duration,
        )

    def rows() -> Iterator[Row[Recording]]:
        for key in dict.fromkeys([*texts, *(audio if segments is None else segments)]):
            yield f"utterance {key}", key, partial(build, key)

    return require_rows(sift(rows(), str(path), on_bad, refused), str(path))


def _table(path: Path) -> _Table:
    """Keys and the rest of each line; an error stands for an entry that is broken or there twice."""
    table: dict[str, str | ValueError] = {}
    for number, line in text_lines(path):
        if isinstance(line, ValueError):
            table[f"line {number} of {path.name}"] = line
            continue
        key, *rest = line.split(None, 1)
        twice = ValueError(f"two entries: {path.name} has {key!r} more than once, again in line {number}; keep one")
        table[key] = twice if key in table else (rest[0].strip() if rest else "")
    return table


def _optional(path: Path) -> _Table | None:
    return _table(path) if path.is_file() else None


def _entry(table: _Table, key: str, name: str) -> str:
    found = table.get(key, "")
    if isinstance(found, ValueError):
        raise found
    if not found:
        raise ValueError(f"no entry in {name}: it has nothing for {key!r}")
    return found


def _plain(entry: str) -> str:
    if entry.endswith("|") or entry.startswith("|"):
        raise ValueError(
            f"a command in wav.scp: {entry[:60]!r} would have to be run by a shell, and commands in data are never run "
            "here; write the audio out once (wav-copy does), and list the files"
        )
    return entry


def _segment(entry: str) -> tuple[str, float, float | None]:
    """The recording, start and duration in seconds of `recording start end`; an end of -1 is that of the recording."""
    cells = entry.split()
    try:
        recording, start, end = cells[0], float(cells[1]), float(cells[2])
    except (IndexError, ValueError) as error:
        raise ValueError(f"a segment is `recording start end`: got {entry[:60]!r}") from error
    if end != -1 and not end > start:
        raise ValueError(f"a segment must end after its start: got {start} to {end} seconds")
    return recording, start, None if end == -1 else end - start
