"""What the CosyVoice guides say a user has on disk, in small: models, data lists, texts, a checkout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from seaalign.records.recording import Recording
from seaalign.storage.cosyvoice_write import write_cosyvoice
from tests.backbones.cosyvoice_standin import installed, model_folder, tiny

CODES = 24


def recordings(count: int, seed: int) -> list[Recording]:
    """Four speakers who say a few words; codes of the lower half, which the model can learn to prefer."""
    g = torch.Generator().manual_seed(seed)
    return [
        Recording(
            f"u{i}",
            f"text {'abcdefgh'[i % 8]} {i}",
            audio=(torch.randn(4800 * 6, generator=g) * 0.1, 24000),
            tokens=torch.randint(CODES // 2, (8 + i % 5,), generator=g),
            speaker=f"spk{i % 4}",
            timbre={"embedding": torch.randn(192, generator=g)},
        )
        for i in range(count)
    ]


@contextmanager
def world(folder: Path) -> Iterator[Path]:
    """Inside, the files lie in the folder and the checkout can be imported."""
    model_folder(folder / "pretrained_models" / "CosyVoice2-0.5B")
    for language in ("thai", "lao"):
        (folder / "exp" / f"{language}_sft").mkdir(parents=True)
        # as upstream's training writes it, with keys that its own strict loader refuses
        fine = {**tiny(2, seed=7).state_dict(), "epoch": 3, "step": 1200}
        torch.save(fine, folder / "exp" / f"{language}_sft" / "llm.pt")
    (folder / "data").mkdir()
    write_cosyvoice(folder / "data" / "thai_real", recordings(12, 0))
    write_cosyvoice(folder / "data" / "lao_tts", recordings(12, 1))
    (folder / "lao.txt").write_text("".join(f"new sentence {'abcdefghijklmnop'[i]}\n" for i in range(16)))
    with installed(folder / "checkout"):
        yield folder
