"""The threshold of the best F1 against every threshold there is, and its spread."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.utils.metrics.test_matches import drawn_metric, hand_made
from utils.metrics.f1 import best_f1, rates_above, spread_of_best

GRAINS = st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=30)


def f1_above(conf: float, scores: np.ndarray, hits: np.ndarray, objects: int) -> float:
    kept = scores > conf
    return 2 * int((kept & hits).sum()) / (int(kept.sum()) + objects)


def test_nothing_found_or_to_be_found() -> None:
    none = np.empty(0), np.empty(0, bool)
    assert best_f1(*none, 3) is None
    assert best_f1(np.array([0.5]), np.array([False]), 3) is None
    assert best_f1(np.array([0.5]), np.array([False]), 0) is None
    precision, recall, f1 = rates_above(np.array([0.1]), *none, 0)
    assert np.isnan([precision, recall, f1]).all()
    assert spread_of_best(hand_made([], [])) is None
    assert spread_of_best(hand_made([(0, 0, [0, 0, 9, 9], 0)], [])) is None


@settings(max_examples=200, deadline=None)
@given(rows=GRAINS, missed=st.integers(0, 10), kind=st.sampled_from([np.float32, np.float64]))
def test_no_threshold_gives_a_better_f1(rows: list[tuple[int, bool]], missed: int, kind: type) -> None:
    """Also as float32, as which models compare, and with scores one bit apart."""
    rows.sort(key=lambda row: -row[0])
    hits = np.array([row[1] for row in rows], bool)
    scores = np.array([0.5 + row[0] * float(np.spacing(kind(0.5))) for row in rows])
    objects = int(hits.sum()) + missed
    best = best_f1(scores, hits, objects)
    if not hits.any():
        assert best is None
        return
    everything = [f1_above(conf, scores, hits, objects) for conf in (0.0, *scores)]
    assert best.f1 == pytest.approx(max(everything), abs=1e-12)
    assert f1_above(best.conf, scores, hits, objects) == pytest.approx(best.f1, abs=1e-12)
    if kind is np.float32:
        assert ((scores.astype(np.float32) > np.float32(best.conf)) == (scores > best.conf)).all()
    assert best.f1 == pytest.approx(2 * best.precision * best.recall / (best.precision + best.recall))


def test_the_threshold_lies_between_what_it_keeps_and_the_rest() -> None:
    best = best_f1(np.array([0.9, 0.8, 0.2, 0.1]), np.array([True, True, False, False]), 2)
    assert best.conf == pytest.approx(0.5)
    assert best_f1(np.array([0.9, 0.8]), np.array([True, True]), 2).conf == pytest.approx(0.8)


def test_rates_are_those_of_the_detections_above() -> None:
    matches = drawn_metric(4).matches()
    objects, grid = len(matches.object_labels), np.linspace(0, 1, 23)
    precision, recall, f1 = rates_above(grid, matches.scores, matches.hits, objects)
    for place, conf in enumerate(grid):
        kept = matches.scores > conf
        found = int((kept & matches.hits).sum())
        assert recall[place] == found / objects
        assert np.isnan(precision[place]) if not kept.any() else precision[place] == found / kept.sum()
        assert f1[place] == pytest.approx(f1_above(conf, matches.scores, matches.hits, objects))


def test_the_spread_is_that_of_counting_each_sample_anew() -> None:
    """By drawing the same images and making a metric of them; the same seed gives the same."""
    matches = drawn_metric(1, images=12).matches()
    rng, draws = np.random.default_rng(5), []
    for _ in range(40):
        sample = rng.integers(12, size=12)
        rows = np.concatenate([np.flatnonzero(matches.images == image) for image in sample])
        rows = rows[np.argsort(-matches.scores[rows], kind="stable")]
        objects = sum(int((matches.object_images == image).sum()) for image in sample)
        draws.append(best_f1(matches.scores[rows], matches.hits[rows], objects).f1)
    (low, high), (least, most) = spread_of_best(matches, samples=40, seed=5)
    assert (low, high) == pytest.approx(tuple(np.quantile(draws, (0.025, 0.975))))
    best = best_f1(matches.scores, matches.hits, len(matches.object_labels))
    assert low <= best.f1 <= high
    assert least <= best.conf <= most
    assert spread_of_best(matches, samples=40, seed=5) == ((low, high), (least, most))


def test_more_images_make_it_surer() -> None:
    (few, _), (many, _) = (spread_of_best(drawn_metric(2, images=images).matches()) for images in (20, 200))
    assert many[1] - many[0] < 0.6 * (few[1] - few[0])
