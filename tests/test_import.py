"""`import seaalign` is light, silent and without side effects, and what needs sound says what to install."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torchaudio", "speechbrain", "transformers", "soundfile", "pyarrow", "matplotlib")

SIDE_EFFECTS = """
import logging, os, random, sys, warnings
import numpy as np
import torch

def state():
    return {
        "torch random state": torch.get_rng_state().tolist(),
        "numpy random state": repr(np.random.get_state()),
        "random state": random.getstate(),
        "default dtype": torch.get_default_dtype(),
        "default device": str(torch.get_default_device()),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "grad mode": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "print options": repr(torch._tensor_str.PRINT_OPTS),
        "warning filters": list(warnings.filters),
        "showwarning": warnings.showwarning,
        "root log level and handlers": (logging.root.level, list(logging.root.handlers)),
        "environment": dict(os.environ),
        "excepthook": sys.excepthook,
        "sys.path": list(sys.path),
        "working directory": os.getcwd(),
    }

before = state()
import seaalign
after = state()
changed = [name for name in before if before[name] != after[name]]
assert not changed, f"import seaalign changed: {changed}"
"""


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_import_leaves_the_heavy_packages_alone():
    loaded = _python("import sys, seaalign; print(*sorted({m.partition('.')[0] for m in sys.modules}))").split()
    assert "seaalign" in loaded
    assert not set(HEAVY) & set(loaded)


def test_import_prints_nothing_and_changes_nothing():
    assert _python(SIDE_EFFECTS) == ""


def test_the_side_effect_probe_notices_a_change():
    spoilt = SIDE_EFFECTS.replace("import seaalign\n", "torch.manual_seed(0); os.environ['X_SEAALIGN'] = '1'\n", 1)
    done = subprocess.run([sys.executable, "-c", spoilt], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "['torch random state', 'environment']" in done.stderr


def test_version_is_the_installed_one():
    import seaalign

    try:
        installed = metadata.version("seaalign")
    except metadata.PackageNotFoundError:
        pytest.skip("seaalign is imported from the checkout, not installed")
    assert seaalign.__version__ == installed


def test_every_public_name_resolves():
    import seaalign

    missing = {}
    for name in seaalign.__all__:
        try:
            getattr(seaalign, name)
        except (AttributeError, ImportError) as error:
            missing[name] = str(error)
    assert not missing
    assert len(set(seaalign.__all__)) == len(seaalign.__all__)
    assert set(seaalign.__all__) <= set(dir(seaalign))


def test_an_unknown_name_is_an_attribute_error():
    import seaalign

    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = seaalign.no_such_thing


FAULTS = [ImportError("absent"), OSError("cannot load library"), RuntimeError("different CUDA versions")]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_door_to_sound_names_the_pair_to_install(monkeypatch, fault):
    """It fails in three ways: absent, built for another torch (OSError), built for another CUDA (RuntimeError)."""
    from seaalign import audio

    def broken(name: str, package: str | None = None):
        raise fault

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ImportError, match=r"torchaudio.*pip install .*torch.*torchaudio") as caught:
        audio.torchaudio()
    assert str(fault) in str(caught.value)
