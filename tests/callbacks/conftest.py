from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from tests.callbacks.strangers import ListLogger


@pytest.fixture
def listener() -> ListLogger:
    return ListLogger()


@pytest.fixture
def quiet_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """A CPU trainer without progress bar, seeded, whose files go to a temporary folder."""

    def make(**kwargs: Any) -> Trainer:
        torch.manual_seed(0)
        settings: dict[str, Any] = {
            "accelerator": "cpu",
            "max_epochs": 2,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": tmp_path,
        }
        return Trainer(**(settings | kwargs))

    return make
