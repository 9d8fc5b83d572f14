"""Thresholds of a file: a round trip, and values that nobody here wrote."""

from __future__ import annotations

import pytest

from utils.saved import wrong_value
from utils.thresholds import Thresholds

GOOD = {"conf": 0.25, "by_class": [None, 0.5, 1]}


def test_round_trip() -> None:
    assert wrong_value({"thresholds": GOOD, "temperature": 0.7}) is None
    thresholds = Thresholds.from_plain(GOOD)
    assert thresholds.to_plain() == GOOD
    assert thresholds.of_labels().tolist() == [0.25, 0.5, 1.0]
    assert thresholds.least == 0.25
    assert Thresholds(0.4, ()).least == 0.4


def test_many_classes_are_not_all_told() -> None:
    names = [f"c{i}" for i in range(20)]
    told = Thresholds(0.3, tuple(0.01 * i for i in range(20))).told(names)
    assert "c7 0.070 and 12 classes more" in told
    assert Thresholds(0.3, (None,) * 20).told(names) == "0.300 (best F1 on val)"


@pytest.mark.parametrize(
    "thresholds",
    [
        None,
        0.5,
        {"conf": 0.5},
        {**GOOD, "more": 1},
        {**GOOD, "conf": None},
        {**GOOD, "conf": 1.5},
        {**GOOD, "conf": True},
        {**GOOD, "conf": float("nan")},
        {**GOOD, "by_class": 0.5},
        {**GOOD, "by_class": ["0.5"]},
        {**GOOD, "by_class": [-0.1]},
    ],
)
def test_wrong_thresholds_are_named(thresholds: object) -> None:
    assert wrong_value({"thresholds": thresholds}).startswith("thresholds: expected conf, a number from 0 to 1")


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf"), "1", True, None, 1000])
def test_wrong_temperatures_are_named(temperature: object) -> None:
    assert wrong_value({"temperature": temperature}).startswith("temperature: expected a number from 0.01 to 100")
