"""What every test shares: one thread, the recordings if they are there, and runs without the audio packages.

`SEAALIGN_BLOCK_AUDIO=1 pytest` makes torchaudio and speechbrain unimportable and leaves out the tests marked `audio`.
All others must pass: the contract, losses, statistics and training may not need sound. Mark a test (or, with
`pytestmark`, a file) `pytest.mark.audio` only if what it tests needs sound; documentation examples of the rooms in
SOUNDING count as marked.
"""

from __future__ import annotations

import importlib.abc
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
BLOCKED = ("torchaudio", "speechbrain")
SOUNDING = (
    "seaalign/audio.py",
    "seaalign/data/hearing.py",
    "seaalign/modules/habits.py",
    "seaalign/miniature/",
    "seaalign/demo/",
)


class _Unimportable(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Packages that can be found, as where they are installed beside a torch they do not fit, and that fail to load."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name.partition(".")[0] in BLOCKED else None

    def exec_module(self, module: ModuleType) -> None:
        raise ImportError(f"{module.__name__} is made unimportable by SEAALIGN_BLOCK_AUDIO")


def audio_is_blocked() -> bool:
    return os.environ.get("SEAALIGN_BLOCK_AUDIO", "") not in ("", "0")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fsdd", metavar="PATH", help="folder of the Free Spoken Digit Dataset (holds recordings/)")


def pytest_configure(config: pytest.Config) -> None:
    # a busy machine is no failure; CI judges the same examples each time, a person's run keeps looking for new ones
    hypothesis.settings.register_profile("seaalign", deadline=None, derandomize="CI" in os.environ, print_blob=True)
    hypothesis.settings.load_profile("seaalign")
    torch.set_num_threads(1)  # tests are many and small: more threads wait for each other, above all under pytest-xdist
    if audio_is_blocked():
        loaded = sorted(set(BLOCKED) & set(sys.modules))
        if loaded:
            raise pytest.UsageError(f"SEAALIGN_BLOCK_AUDIO came too late: {', '.join(loaded)} already imported")
        sys.meta_path.insert(0, _Unimportable())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(ROOT) and item.path.relative_to(ROOT).as_posix().startswith(SOUNDING):
            item.add_marker("audio")
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    if audio_is_blocked():
        deselected = [item for item in items if item.get_closest_marker("audio")]
        items[:] = [item for item in items if not item.get_closest_marker("audio")]
        config.hook.pytest_deselected(items=deselected)


def pytest_report_header(config: pytest.Config) -> list[str]:
    audio = "torchaudio and speechbrain made unimportable" if audio_is_blocked() else "audio packages as installed"
    return [f"torch {torch.__version__}, {torch.get_num_threads()} thread; {audio}"]


@pytest.fixture(scope="session")
def fsdd_path(pytestconfig: Any) -> Path:
    """The folder of real recordings: `--fsdd`, then $SEAALIGN_FSDD, then shared/data/fsdd beside the checkout."""
    named = pytestconfig.getoption("--fsdd") or os.environ.get("SEAALIGN_FSDD")
    folder = Path(named) if named else ROOT.parent / "shared" / "data" / "fsdd"
    if any((folder / "recordings").glob("*.wav")):
        return folder
    if named:
        pytest.fail(f"{folder} holds no recordings/*.wav: give the folder that contains recordings/", pytrace=False)
    pytest.skip(f"no recordings of people at {folder}: pytest --fsdd PATH")


@pytest.fixture(autouse=True)
def no_lazy_modules() -> Iterator[None]:
    """Speechbrain leaves stand-ins for optional packages in sys.modules that fail when anybody looks at them.

    Hypothesis looks at every module there.
    """
    yield
    for name, module in list(sys.modules.items()):
        if any(kind.__name__ == "LazyModule" for kind in type(module).__mro__):
            del sys.modules[name]
