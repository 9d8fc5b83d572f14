"""Temperature and calibration error: known answers, an order that stays, and AP that does not move."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.utils.metrics.test_detection import random_detections, random_ground_truth
from tests.utils.metrics.test_matches import IDS, drawn_metric
from utils.metrics.calibration import (
    TEMPERATURES,
    calibrated,
    calibrated_in_order,
    calibration_error,
    fit_temperature,
    log_loss,
    uncalibrated,
)
from utils.metrics.detection import DetectionMetric

SCORES = arrays.arrays(np.float32, st.integers(0, 30), elements=st.floats(0, 1, width=32))
ANY_TEMPERATURE = st.floats(*TEMPERATURES)


def test_a_temperature_divides_the_log_odds() -> None:
    assert calibrated(np.array([0.8]), 2)[0] == pytest.approx(1 / (1 + math.exp(-math.log(4) / 2)))
    assert calibrated(np.array([0.0, 0.5, 1.0]), 0.3).tolist() == [0.0, 0.5, 1.0]
    assert uncalibrated(0.25, 1.0) == 0.25
    assert calibrated(np.empty(0), 2).shape == (0,)


@settings(max_examples=100, deadline=None)
@given(scores=SCORES, temperature=ANY_TEMPERATURE)
def test_the_order_stays_to_the_last_bit_and_equal_scores_stay_equal(scores: np.ndarray, temperature: float) -> None:
    new = calibrated_in_order(scores, temperature)
    assert ((new >= 0) & (new <= 1)).all()
    assert (np.sign(new[:, None] - new) == np.sign(scores[:, None].astype(float) - scores)).all()
    np.testing.assert_allclose(new, calibrated(scores, temperature), rtol=0, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(score=st.floats(0.001, 0.999), temperature=st.floats(0.3, 5))
def test_it_can_be_undone(score: float, temperature: float) -> None:
    there = float(calibrated(np.array([score]), temperature)[0])
    assert uncalibrated(there, temperature) == pytest.approx(score, abs=1e-9)


def test_the_error_by_hand() -> None:
    scores = np.array([0.92, 0.94, 0.93, 0.91, 0.52, 0.53])
    hits = np.array([True, True, True, False, True, False])
    first, second = abs(3.70 / 4 - 3 / 4), abs(1.05 / 2 - 1 / 2)
    assert calibration_error(scores, hits) == pytest.approx(4 / 6 * first + 2 / 6 * second)
    assert calibration_error(scores, hits, bins=1) == pytest.approx(abs(scores.mean() - hits.mean()))
    assert calibration_error(np.empty(0), np.empty(0, bool)) is None
    assert calibration_error(np.array([1.0, 0.0]), np.array([True, False])) == 0
    assert log_loss(np.array([0.5]), np.array([True])) == pytest.approx(math.log(2))


@pytest.mark.parametrize("heat", [0.5, 1.0, 2.5])
def test_the_temperature_that_scores_were_spoilt_with_is_found(heat: float) -> None:
    rng = np.random.default_rng(0)
    true = rng.beta(0.6, 1.2, 40_000)
    hits = rng.random(40_000) < true
    spoilt = calibrated(true, 1 / heat)
    found = fit_temperature(spoilt, hits)
    assert found == pytest.approx(heat, rel=0.03)
    assert calibration_error(calibrated(spoilt, found), hits) < 0.01
    losses = [log_loss(calibrated(spoilt, t), hits) for t in (0.98 * found, found, 1.02 * found)]
    assert losses[1] == min(losses)


def test_no_temperature_where_nothing_tells() -> None:
    scores = np.array([0.2, 0.9])
    assert fit_temperature(scores, np.array([True, True])) is None
    assert fit_temperature(scores, np.array([False, False])) is None
    assert fit_temperature(np.empty(0), np.empty(0, bool)) is None
    assert fit_temperature(np.array([0.1, 0.9]), np.array([True, False])) == pytest.approx(TEMPERATURES[1], rel=1e-3)


@pytest.mark.parametrize("temperature", [*TEMPERATURES, 0.63, 1.7])
def test_no_figure_moves_with_the_temperature(temperature: float) -> None:
    """Not even by what pycocotools makes of scores that rounding would have made equal."""
    truth, names = random_ground_truth(3), [f"thing{i}" for i in IDS]
    found = random_detections(truth, IDS, 4)
    near = np.nextafter(np.float32(1), np.float32(0), dtype=np.float32) - np.arange(20, dtype=np.float32) * 2e-7
    for detections in found.values():  # scores that crowd at 1
        detections.scores[: len(near)] = near[: len(detections)]
    plain, heated = (DetectionMetric(truth, IDS, names, temperature=t) for t in (1.0, temperature))
    for metric in (plain, heated):
        metric.update(list(found), list(found.values()))
    assert heated.compute() == plain.compute()
    rows = heated.predictions()
    assert [{**row, "score": 0} for row in rows] == [{**row, "score": 0} for row in plain.predictions()]
    again = DetectionMetric(truth, IDS, names)
    again.extend(rows)
    assert again.compute() == plain.compute(), "predictions.json says the same"
    assert (heated.matches().found == plain.matches().found).all()
    heated.calibrate(1.0)
    assert heated.predictions() == plain.predictions()


def test_pictures_show_calibrated_scores() -> None:
    plain, heated = drawn_metric(1), drawn_metric(1, temperature=2.0)
    one, other = plain.detections(10), heated.detections(10)
    np.testing.assert_allclose(other.scores, calibrated(one.scores, 2.0), rtol=1e-6)
    assert (one.boxes == other.boxes).all()
