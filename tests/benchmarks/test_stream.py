"""benchmarks/stream.py: a camera that hangs up again and again makes the process hold no more."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest

from benchmarks.stream import camera, clip, reading, watch
from data.media import sources
from data.media.recorder import Outputs
from data.media.sources import open_source
from engine.stream import DetectOptions
from tests.test_detect import ColourPredictor

EVERYTHING = Outputs(txt=True, json=True, jsonl=True, crops=True)


def test_the_camera_plays_in_a_loop_and_hangs_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "RECONNECT_DELAYS_S", (0.01, 0.01))
    pictures = clip(4)
    with camera(pictures, fps=100, hang_up_s=0.1) as url:
        source = open_source(url)
        frames = []
        for frame in source:
            frames.append(frame)
            if len(frames) == 25:
                source.stop()
    assert [frame.index for frame in frames] == list(range(25))
    assert source.reconnects >= 2
    assert all(np.array_equal(frames[index].image, frames[0].image) for index in (4, 8, 10, 20))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory and files are read from /proc")
def test_a_stream_of_minutes_holds_no_more_than_one_of_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 250 frames a second, 12 seconds are what a usual camera gives in two minutes."""
    monkeypatch.setattr(sources, "RECONNECT_DELAYS_S", (0.05, 0.1, 0.5))
    options = DetectOptions((96, 128))
    with camera(clip(), fps=250, hang_up_s=1) as url:
        readings, summary = watch(ColourPredictor(), options, url, EVERYTHING, seconds=12, every=0.5)
    assert int(re.search(r"(\d+) images from", summary)[1]) > 500
    assert int(re.search(r"Reconnects: (\d+)", summary)[1]) >= 5
    assert re.search(r"Milliseconds from a frame to its detections, p50/p95: age [\d.]+/[\d.]+\n", summary)
    third = len(readings) // 3
    assert third >= 5
    middle, end = readings[third : 2 * third], readings[2 * third :]
    for name in ("threads", "files"):  # one more for an instant: two connections, a file that is being written
        assert max(getattr(each, name) for each in end) <= max(getattr(each, name) for each in middle) + 1, name
    assert max(each.memory for each in end) - max(each.memory for each in middle) < 6e6


def test_readings() -> None:
    now = reading(3.0)
    assert now.memory > 20e6
    assert now.threads >= 1
    assert str(now).split()[0] == "3"
