"""The tables of docs/many_machines.md are what the script computes, and its bytes are what real shards take."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "benchmarks"))
    yield import_module("many_machines")
    sys.modules.pop("many_machines")


def test_the_page_shows_what_is_computed(script):
    page = (ROOT / "docs" / "many_machines.md").read_text()
    for table in (script.hours_table, script.rates_table, script.storage_table):
        assert table(script.Work()) in page, table.__name__


def test_by_hand(script):
    """60 million candidates of 200 tokens: 12 billion at 20,000 a second; 384 million seconds of sound are heard."""
    hours = script.Work().hours(8)
    assert hours["sampling"] == pytest.approx(12e9 / 20_000 / 3600 / 8)
    assert hours["decoding"] == pytest.approx(60e6 * 8 * 0.8 / 50 / 3600 / 8) == 2 * hours["transcribing"]
    assert hours["scoring"] == pytest.approx(5 * 0.7e6 * 2 * 200 / 290_000 / 3600 / 8)
    assert hours["mining"] == script.Work().hours(64)["mining"] == pytest.approx(1.0)
    assert script.Work().gigabytes()["candidates"] == pytest.approx(12e6 * 332 / 1e9)


def test_bytes_are_measured(script, tmp_path):
    work, found = script.Work(), script.measured(tmp_path)
    for name in ("candidate_bytes", "judged_bytes", "pair_bytes"):
        assert found[name] == pytest.approx(getattr(work, name), rel=0.1), name
