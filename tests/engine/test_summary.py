"""Summary: what a run came across, in the words of its last lines."""

from __future__ import annotations

import time

import numpy as np
import pytest

from data.media.find import find_media
from data.media.sources import Frame
from engine.summary import Summary
from utils.structures import Detections


def found(*labels: int) -> Detections:
    count = len(labels)
    return Detections(np.zeros((count, 4), np.float32), np.ones(count, np.float32), np.array(labels, np.int64))


def frame(spec: str = "http://host/a", *, age: float = 0.0) -> Frame:
    return Frame(np.zeros((2, 2, 3), np.uint8), 0, 0.0, find_media(spec)[0], taken=time.monotonic() - age)


def test_nothing() -> None:
    assert str(Summary(("a",))).startswith("Found: nothing\n0 image in ")


def test_objects_frames_and_times(monkeypatch: pytest.MonkeyPatch) -> None:
    summary = Summary(("dog", "cat"))
    for labels in ((0, 0), (1,), ()):
        summary.add(frame("http://host/a.jpg"), found(*labels))
    for milliseconds in range(1, 101):
        summary.timings.add("inference", milliseconds / 1000)
        summary.timings.add("encode", milliseconds / 10000)
    first, second, third = str(summary).splitlines()
    assert first == "Found: 2 dog, 1 cat"
    assert second.startswith("3 images from 1 sources in ")
    assert third == "Milliseconds a frame, p50/p95: inference 51.0/96.0, encode 5.1/9.6"


def test_live_frames_have_an_age(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    summary = Summary(("dog", "cat"))
    for number in range(20):
        summary.add(frame(age=0.010 if number < 18 else 0.500), found())
    summary.reconnects = 3
    assert str(summary).splitlines()[-2:] == [
        "Milliseconds from a frame to its detections, p50/p95: age 10.0/500.0",
        "Reconnects: 3",
    ]


def test_of_a_classifier_the_likeliest_class_counts() -> None:
    summary = Summary(("dog", "cat"), "classify")
    summary.add(frame(), found(1, 0))
    assert str(summary).startswith("Found: 1 cat\n1 image in ")
    assert summary.line(found(1, 0)) == "cat 1.00, dog 1.00"
