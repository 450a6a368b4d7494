"""Writing the lists of Parquet files that CosyVoice trains on; `cosyvoice` reads them and says what is in them."""

from __future__ import annotations

import io
import os
import shutil
import uuid
import warnings
import wave
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seaalign.records import Pair
from seaalign.records.recording import Recording
from seaalign.storage.columns import whole_or_nothing

_MARK = "<|endofprompt|>"
_RATE = 25
"""Speech tokens a second."""


def write_cosyvoice(
    folder: str | Path,
    rows: Sequence[Recording] | Sequence[Pair],
    originals: Iterable[Recording] = (),
    *,
    rows_per_file: int = 1000,
    silence: bool = False,
) -> Path:
    """Write a folder that CosyVoice's training reads, whole or not at all.

    Recordings become rows with their tokens, pairs rows with speech_token (chosen) and reject_speech_token. Ids are
    all that a pair has of its text and sound, so the text, audio, speaker and embedding of a pair come from the
    recording of the same id among `originals`.

    Upstream's loader opens the audio of every row, also where only the language model is trained on tokens. Of files
    the bytes are written, of samples 16-bit WAV. What comes before `<|endofprompt|>` in a text goes to the column
    instruct where every row has it. utt_embedding is the timbre's "embedding"; spk_embedding is the mean over the rows
    of the speaker, as upstream computes it. Upstream's tool also writes utt2data.list and spk2data.list; its training
    reads neither, so they are left out.

    What the format cannot say: whether an answer ended (upstream's training puts the end token after every one), style
    prefixes, and reference log-probs.

    Args:
        folder: a new or an empty one. data.list names its files by absolute paths, as upstream's recipes do where they
            start from other folders.
        rows: recordings with or without tokens, or pairs.
        originals: recordings by whose ids the pairs go; of recordings as rows there are none.
        rows_per_file: upstream shares files among processes, so there should be more of them than processes.
        silence: give rows without audio silence, as long as their tokens. Training of the language model does not hear
            it; never train flow or vocoder on it.

    Returns:
        The path of data.list.

    Raises:
        FileExistsError: the folder holds something.
        ValueError: no row, an id twice, a pair without original, a row without audio, or tokens or embeddings that some
            rows have and others lack; upstream's loader would stop at those.
    """
    target = Path(folder).absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} is there already and not empty: give a new folder, or remove it first")
    table = _table(rows, {recording.id: recording for recording in originals}, silence)
    instructed, means = all(_MARK in row.recording.text for row in table), _means(table)
    names = [f"parquet_{i:09d}.tar" for i in range(-(-len(table) // rows_per_file))]
    draft = target.parent / f".{target.name}.{uuid.uuid4().hex}.tmp"
    try:
        for i, name in enumerate(names):
            _write(draft / name, table[i * rows_per_file : (i + 1) * rows_per_file], means, instructed)
        with whole_or_nothing(draft / "data.list") as file:
            file.write("".join(f"{target / name}\n" for name in names).encode())
        os.rename(draft, target)  # replaces an empty folder, refuses another
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target / "data.list"


@dataclass(frozen=True)
class _Row:
    recording: Recording
    tokens: dict[str, Tensor]
    embedding: Tensor | None

    @property
    def speaker(self) -> str:
        return self.recording.speaker or self.recording.id


def _table(rows: Sequence[Recording | Pair], originals: Mapping[str, Recording], silence: bool) -> list[_Row]:
    table = [_row(row, originals) for row in rows]
    twice = [key for key, times in Counter(row.recording.id for row in table).items() if times > 1]
    if not table or twice:
        raise ValueError(f"need rows with unique ids: got {len(table)} rows, and more than once {twice[:5]}")
    for what, kept in (("tokens", [bool(row.tokens) for row in table]), ("an embedding", [_has(row) for row in table])):
        if any(kept) and not all(kept):
            lacking = [row.recording.id for row, there in zip(table, kept, strict=True) if not there]
            raise ValueError(f"{len(lacking)} of {len(table)} rows lack {what}, first {lacking[:3]}: give all or none")
    mute = [row.recording.id for row in table if row.recording.audio is None]
    if mute and not silence:
        raise ValueError(
            f"{len(mute)} of {len(table)} rows have no audio, which upstream's loader opens in every row: first "
            f"{mute[:3]}. Decode their tokens and pass the sound as audio=(samples, rate), or pass silence=True"
        )
    styled = sum(row.prompt.style is not None for row in rows if isinstance(row, Pair))
    if styled:
        warnings.warn(f"{styled} of {len(table)} pairs have a style prefix, which the format cannot hold", stacklevel=3)
    cut = sum(not all(row.ended) for row in rows if isinstance(row, Pair))
    if cut:
        warnings.warn(
            f"{cut} of {len(table)} pairs hold an answer that was cut at the length limit, which the format cannot "
            "say: upstream puts the end token after it",
            stacklevel=3,
        )
    return table


def _has(row: _Row) -> bool:
    return row.embedding is not None


def _row(row: Recording | Pair, originals: Mapping[str, Recording]) -> _Row:
    recording = originals.get(row.id) if isinstance(row, Pair) else row
    if recording is None:
        raise ValueError(
            f"pair {row.id!r} has no original: its text and sound are those of the recording of the same id, and there "
            f"are {len(originals)} originals, first {list(originals)[:3]}"
        )
    if recording.start is not None and not isinstance(recording.audio, tuple):
        raise ValueError(
            f"recording {row.id!r} is a part of a file (from {recording.start} s): cut it first, with "
            "dataclasses.replace(recording, audio=seaalign.data.sound.sound_of(recording), start=None, duration=None)"
        )
    if isinstance(row, Pair):
        tokens = {"speech_token": row.chosen, "reject_speech_token": row.rejected}
    else:
        tokens = {} if row.tokens is None else {"speech_token": row.tokens}
    for name, values in tokens.items():
        if values.dim() != 1 or not len(values):
            raise ValueError(f"{name} of {row.id!r} must be (T,) and not empty, got {tuple(values.shape)}")
    return _Row(recording, tokens, _embedding(recording, row.prompt.timbre if isinstance(row, Pair) else None))


def _embedding(recording: Recording, other: Any) -> Tensor | None:
    for timbre in (recording.timbre, other):
        if isinstance(timbre, Mapping) and isinstance(timbre.get("embedding"), Tensor):
            return timbre["embedding"].detach().flatten().double().cpu()
    return None


def _write(path: Path, rows: Sequence[_Row], means: Mapping[str, Tensor], instructed: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {
        "utt": [row.recording.id for row in rows],
        "audio_data": [_bytes(row) for row in rows],
        "wav": [_name(row.recording) for row in rows],
        "text": [row.recording.text for row in rows],
        "spk": [row.speaker for row in rows],
    }
    if instructed:
        parts = [text.partition(_MARK) for text in columns["text"]]
        columns |= {"instruct": [head + mark for head, mark, _ in parts], "text": [text for *_, text in parts]}
    if _has(rows[0]):
        columns["utt_embedding"] = [row.embedding.tolist() for row in rows if row.embedding is not None]
        columns["spk_embedding"] = [means[row.speaker].tolist() for row in rows]
    columns |= {name: [row.tokens[name].tolist() for row in rows] for name in rows[0].tokens}
    kinds = {name: pa.list_(pa.int64()) for name in rows[0].tokens} | {"audio_data": pa.binary()}
    table = pa.table({name: pa.array(values, kinds.get(name)) for name, values in columns.items()})
    with whole_or_nothing(path) as file:
        pq.write_table(table, file)


def _means(table: Sequence[_Row]) -> dict[str, Tensor]:
    """The mean embedding of each speaker."""
    spoken: dict[str, list[Tensor]] = {}
    for row in table:
        if row.embedding is not None:
            spoken.setdefault(row.speaker, []).append(row.embedding)
    return {speaker: torch.stack(found).mean(0) for speaker, found in spoken.items()}


def _name(recording: Recording) -> str:
    return str(recording.audio) if isinstance(recording.audio, Path) else f"{recording.id}.wav"


def _bytes(row: _Row) -> bytes:
    audio = row.recording.audio
    if isinstance(audio, bytes):
        return audio
    if isinstance(audio, str | Path):
        return Path(audio).read_bytes()
    rate = 16_000
    if audio is None:
        samples = torch.zeros(max((len(tokens) for tokens in row.tokens.values()), default=_RATE) * rate // _RATE)
    else:
        samples, rate = audio
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples.clamp(-1, 1) * 32767).round().short().numpy().astype("<i2").tobytes())
    return buffer.getvalue()
