"""utils/timings.py."""

from __future__ import annotations

import pytest

from utils import timings as module
from utils.timings import STAGES, Timings


def test_nothing_measured() -> None:
    timings = Timings()
    assert timings.stages() == []
    with pytest.raises(ValueError, match="'draw' was not measured"):
        timings.percentile("draw", 50)


def test_percentiles_are_times_of_frames() -> None:
    timings = Timings()
    for number in range(100):
        timings.add("encode", (99 - number) / 1000)
    assert timings.percentile("encode", 0) == 0
    assert timings.percentile("encode", 50) == 0.050
    assert timings.percentile("encode", 95) == 0.095
    assert timings.percentile("encode", 100) == 0.099


def test_a_batch_counts_as_its_frames() -> None:
    timings = Timings()
    timings.add("inference", 0.4, frames=4)
    timings.add("inference", 0.3)
    assert [timings.percentile("inference", percent) for percent in (0, 75, 90)] == [0.1, 0.1, 0.3]


def test_measure_notes_a_block_but_not_a_failed_one() -> None:
    timings = Timings()
    with timings.measure("prepare"):
        pass
    with pytest.raises(RuntimeError), timings.measure("read"):
        raise RuntimeError
    assert timings.stages() == ["prepare"]
    assert 0 <= timings.percentile("prepare", 50) < 60


def test_stages_keep_their_order_and_memory_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEPT", 10)
    timings = Timings()
    for stage in reversed(STAGES):
        for number in range(25):
            timings.add(stage, float(number))
    assert timings.stages() == list(STAGES)
    assert timings.percentile("read", 0) == 15
