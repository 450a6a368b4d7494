"""SampleAudio: the files, their names, what is refused, and that a full disk costs no training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from seaalign import Prompt, SampleAudio, Unsupported
from seaalign.audio import load
from tests.callbacks.strangers import RATE, ListLogger, Stranger, TinyBackbone, prompts


class Board:
    """What TensorBoard's writer offers."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, tuple[int, ...], int, int]] = []

    def add_audio(self, tag: str, sound: torch.Tensor, global_step: int, sample_rate: int) -> None:
        self.heard.append((tag, tuple(sound.shape), global_step, sample_rate))


def player(given: list[Prompt] | None = None, **kwargs: Any) -> SampleAudio:
    return SampleAudio(given or prompts(), **({"backbone": "inner.policy", "max_len": 20} | kwargs))


def test_both_modes_of_every_prompt_at_every_epoch_with_stable_names(quiet_trainer: Any, tmp_path: Path) -> None:
    board = Board()
    trainer = quiet_trainer(callbacks=[player(ids=["one", "two"])], logger=ListLogger(board))
    trainer.fit(Stranger())
    folder = tmp_path / "samples"
    steps = [f"step-{step:08d}" for step in (0, 4, 8)]
    modes = ["one.plain", "one.styled", "two.plain", "two.styled"]
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert found == [f"{step}/{mode}.wav" for step in steps for mode in modes]
    waveform, rate = load(folder / steps[0] / "one.plain.wav")
    assert rate == RATE and len(waveform) % (RATE // 25) == 0 and len(waveform) > 0
    assert ("samples/one/plain", (1, len(waveform)), 0, RATE) in board.heard and len(board.heard) == len(found)


def test_the_file_holds_what_the_backbone_says(quiet_trainer: Any, tmp_path: Path) -> None:
    module = Stranger()
    policy = module.inner["policy"]
    plain = [prompt.plain() for prompt in prompts()]
    speech = policy.sample(plain, max_len=20, generator=torch.Generator().manual_seed(0))  # type: ignore[operator]
    expected = policy.decode(speech, [prompt.timbre for prompt in plain])  # type: ignore[operator]
    quiet_trainer(callbacks=[player(out_dir=str(tmp_path / "out"))], max_epochs=1).fit(module)
    waveform, _ = load(tmp_path / "out" / "step-00000000" / "prompt-000.plain.wav")
    assert torch.allclose(waveform, expected[0], atol=2e-4)


def test_one_file_without_style(quiet_trainer: Any, tmp_path: Path) -> None:
    quiet_trainer(callbacks=[player(prompts(styled=False), every_n_steps=4)], max_epochs=1).fit(Stranger())
    names = sorted(path.name for path in (tmp_path / "samples" / "step-00000004").iterdir())
    assert names == ["prompt-000.wav", "prompt-001.wav"]


def test_a_backbone_that_cannot_decode_is_refused(quiet_trainer: Any) -> None:
    class Mute(TinyBackbone):
        features = frozenset({"style", "timbre"})

    with pytest.raises(Unsupported, match=re.escape("Mute offers ['style', 'timbre']")):
        quiet_trainer(callbacks=[player()]).fit(Stranger(Mute()))


@pytest.mark.parametrize("ids", [["../up", "b"], ["same", "same"], ["only one"], [".hidden", "b"], ["a/b", "c"]])
def test_names_that_would_leave_the_folder_or_collide_are_refused(quiet_trainer: Any, ids: list[str]) -> None:
    with pytest.raises(ValueError, match="different file names"):
        quiet_trainer(callbacks=[player(ids=ids)]).fit(Stranger())


def test_broken_sound_is_named_and_the_rest_is_written(quiet_trainer: Any, tmp_path: Path) -> None:
    class Broken(TinyBackbone):
        def decode(self, speech: Any, timbres: Any) -> list[torch.Tensor]:
            first, *rest = super().decode(speech, timbres)
            return [first * float("nan"), *rest]

    with pytest.warns(UserWarning, match=r"1 of 4 samples not written.*prompt-000 plain: .*NaN"):
        quiet_trainer(callbacks=[player()], max_epochs=1).fit(Stranger(Broken()))
    assert len(list((tmp_path / "samples" / "step-00000000").iterdir())) == 3


def test_an_empty_answer_is_named(quiet_trainer: Any) -> None:
    class Silent(TinyBackbone):
        def logits(self, features: torch.Tensor) -> torch.Tensor:
            return super().logits(features) + 100.0 * torch.nn.functional.one_hot(torch.tensor(self.eos), self.eos + 1)

    with pytest.warns(UserWarning, match=r"4 of 4 samples not written.*the answer is empty"):
        quiet_trainer(callbacks=[player()], max_epochs=1).fit(Stranger(Silent()))


def test_a_full_disk_leaves_nothing_half_written_and_training_goes_on(
    quiet_trainer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import soundfile

    def full(file: Any, *args: Any, **kwargs: Any) -> None:
        file.write(b"RIFF")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(soundfile, "write", full)
    trainer = quiet_trainer(callbacks=[player()], max_epochs=1)
    with pytest.warns(UserWarning, match=r"4 of 4 samples not written.*No space left on device"):
        trainer.fit(Stranger())
    assert trainer.global_step == 4
    assert not [path for path in (tmp_path / "samples").rglob("*") if path.is_file()]


def test_listening_does_not_change_training(quiet_trainer: Any) -> None:
    trained = []
    for callbacks in ([], [player()]):
        module = Stranger()
        quiet_trainer(callbacks=callbacks).fit(module)
        trained.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    assert torch.equal(*trained)


def test_fast_dev_run_writes_nothing(quiet_trainer: Any, tmp_path: Path) -> None:
    quiet_trainer(callbacks=[player()], fast_dev_run=True).fit(Stranger())
    assert not list(tmp_path.rglob("*.wav"))


def test_prompts_and_names_from_a_file(quiet_trainer: Any, tmp_path: Path) -> None:
    from seaalign import Utterance, write_utterances

    utterances = [Utterance(f"u{i}", prompt, torch.tensor([1, 2])) for i, prompt in enumerate(prompts(styled=False))]
    write_utterances(tmp_path / "prompts.parquet", utterances)
    watch = player(str(tmp_path / "prompts.parquet"), limit=1)  # type: ignore[arg-type]
    quiet_trainer(callbacks=[watch], max_epochs=1).fit(Stranger())
    assert [path.name for path in (tmp_path / "samples" / "step-00000000").iterdir()] == ["u0.wav"]
