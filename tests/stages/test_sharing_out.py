"""How many workers a Ray cluster gets, and how much of a GPU each; Ray itself is not asked."""

from __future__ import annotations

import pytest

from seaalign.stages.engines import StageError, _shared_out


@pytest.mark.parametrize(
    ("has", "wanted", "most", "workers", "gpus"),
    [
        ({"CPU": 16.0}, None, 100, 16, None),
        ({"CPU": 16.0}, 3, 100, 3, None),
        ({"CPU": 16.0, "GPU": 8.0}, None, 100, 8, 1.0),
        ({"CPU": 16.0, "GPU": 8.0}, 4, 100, 4, 1.0),
        ({"CPU": 16.0, "GPU": 8.0}, None, 2, 2, 1.0),
        ({"CPU": 16.0, "GPU": 2.0}, 3, 100, 3, 0.5),  # a third of two GPUs each would leave one without room
        ({"CPU": 16.0, "GPU": 2.0}, 7, 100, 7, 0.25),
        ({}, 5, 100, 5, None),
    ],
)
def test_all_workers_find_room_at_once(has, wanted, most, workers, gpus):
    assert _shared_out(has, wanted, most) == (workers, gpus)
    if gpus is not None:
        assert int(has["GPU"]) * int(1 / gpus) >= workers  # a worker is on one GPU


def test_a_cluster_that_shows_nothing_wants_to_be_told_how_many():
    with pytest.raises(StageError, match=r"neither GPUs nor CPUs.*--workers 8"):
        _shared_out({"memory": 1e9}, None, 100)
