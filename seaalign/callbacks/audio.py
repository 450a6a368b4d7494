"""Something to listen to: the same sentences, said again and again while training goes on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from seaalign.audio import check, save
from seaalign.backbones.base import Unsupported
from seaalign.backbones.sound import rate_of, sound
from seaalign.callbacks.prompted import PromptedCallback, Prompts
from seaalign.records import Prompt

_SAFE = re.compile(r"[\w][\w.+-]*")


class SampleAudio(PromptedCallback):
    """Writes `step-00000100/ID.wav` for fixed prompts and seeds; also logs the sound where a logger can (TensorBoard).

    Where the backbone knows style, a prompt with a style prefix is said twice, `ID.plain.wav` and `ID.styled.wav`, so
    that both modes can be heard side by side. Each file appears whole or not at all. An answer that is empty or holds
    NaN is named in a warning, not written; a full disk costs the samples, never the run.

    Override `file_name` for another layout, `measure` for other sounds:

        >>> class Flat(SampleAudio):
        ...     def file_name(self, step, id, mode):
        ...         return f"{id}-{mode}-{step}.wav"
        >>> Flat([[1, 2]]).file_name(10, "prompt-000", "plain")
        'prompt-000-plain-10.wav'

    Args:
        prompts: see `PromptedCallback`, which also describes the arguments up to `limit`.
        out_dir: folder of the wavs; default: `samples` in the trainer's log folder.
        every_n_epochs: in every n-th epoch, at each of its validations or at its end.
        every_n_steps: every n optimizer steps instead.
        max_len: frames.
        temperature: 0 = greedy.
        top_p: nucleus mass.
        seed: of the sampling.
        backbone: attribute path, or a function from the LightningModule to a backbone.
        batch_size: prompts per call of `sample`.
        limit: how many prompts to take from a file.
        ids: one name per prompt, of letters, digits and `._+-`; default: the ids in the file, or prompt-000, ...
        sample_rate: Hz; default: `backbone.sample_rate`.
        tag: of the logger's entries.

    Raises:
        Unsupported: (when training starts) the backbone cannot decode.
    """

    def __init__(
        self,
        prompts: Prompts,
        out_dir: str | None = None,
        every_n_epochs: int = 1,
        every_n_steps: int | None = None,
        max_len: int = 1024,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
        backbone: Any = "backbone",
        batch_size: int = 64,
        limit: int = 8,
        ids: Sequence[str] | None = None,
        sample_rate: int | None = None,
        tag: str = "samples",
    ) -> None:
        when = (every_n_epochs, every_n_steps)
        super().__init__(prompts, *when, 1, max_len, temperature, top_p, seed, backbone, batch_size, limit)
        self.out_dir, self.ids, self.sample_rate, self.tag = out_dir, ids, sample_rate, tag

    def file_name(self, step: int, id: str, mode: str) -> str:
        """Where a wav goes, relative to `out_dir`. `mode` is "plain" or "styled", or "" where there is only one."""
        return f"step-{step:08d}/{id}{'.' if mode else ''}{mode}.wav"

    @property
    def names(self) -> list[str]:
        """The ids of the prompts."""
        if self.ids is not None:
            return list(self.ids)
        return self.file_ids or [f"prompt-{i:03d}" for i in range(len(self.prompts))]

    def check(self, backbone: Any) -> None:
        """See `PromptedCallback.check`; also decoding, timbre, sample rate and file names."""
        super().check(backbone)
        offered = sorted(getattr(backbone, "features", ()))
        if "decode" not in offered:
            raise Unsupported(
                f"SampleAudio needs a backbone with decode(), and {type(backbone).__name__} offers {offered}; override "
                "decode(speech, timbres) and add 'decode' to features, or use ErosionMonitor, which needs tokens only"
            )
        rate_of(backbone, self.sample_rate)
        names = self.names
        unsafe = [name for name in names if not _SAFE.fullmatch(name)]
        if unsafe or len({*names}) != len(names) or len(names) != len(self.prompts):
            raise ValueError(
                f"SampleAudio needs {len(self.prompts)} different file names of letters, digits and ._+-, got "
                f"{unsafe or names}; pass ids=[...]"
            )

    def measure(self, backbone: Any, trainer: Trainer, module: LightningModule) -> dict[tuple[str, str], Tensor | None]:
        """Waveforms (samples,) by id and mode; None for an empty answer."""
        spoken: list[tuple[str, str, Prompt]] = []
        for name, prompt in zip(self.names, self._moved(module), strict=True):
            if prompt.style is None or "style" not in backbone.features:
                spoken.append((name, "", prompt.plain()))
            else:
                spoken += [(name, "plain", prompt.plain()), (name, "styled", prompt)]
        prompts = [prompt for *_, prompt in spoken]
        waveforms = sound(backbone, self.draw(backbone, prompts), prompts)
        return {(name, mode): waveforms.get(row) for row, (name, mode, _) in enumerate(spoken)}

    def report(self, measured: Any, trainer: Trainer, module: LightningModule) -> None:
        """Write and log; rank 0 alone."""
        log_dir = trainer.log_dir or trainer.default_root_dir  # on every rank: this one is a broadcast
        folder = Path(self.out_dir or Path(log_dir) / "samples")
        if not trainer.is_global_zero or getattr(
            trainer, "fast_dev_run", False
        ):  # which writes nothing, by Lightning's rule
            return
        rate, step = rate_of(self.find(module), self.sample_rate), trainer.global_step
        refused = []
        for (name, mode), waveform in measured.items():
            try:
                if waveform is None:
                    raise ValueError("the answer is empty")
                check(waveform)
                self._write(folder / self.file_name(step, name, mode), waveform, rate)
                self._log(trainer, f"{self.tag}/{name}{'/' if mode else ''}{mode}", waveform, rate)
            except (ValueError, OSError) as error:
                refused.append(f"{name} {mode}".rstrip() + f": {error}")
        if refused:
            count = f"{len(refused)} of {len(measured)} samples not written to {folder}"
            rank_zero_warn(f"SampleAudio at step {step}: {count}: " + "; ".join(refused))

    def _write(self, path: Path, waveform: Tensor, rate: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, waveform, rate)

    def _log(self, trainer: Trainer, tag: str, waveform: Tensor, rate: int) -> None:
        for logger in trainer.loggers:
            add_audio = getattr(getattr(logger, "experiment", None), "add_audio", None)
            if callable(add_audio):
                add_audio(tag, waveform[None], trainer.global_step, sample_rate=rate)
