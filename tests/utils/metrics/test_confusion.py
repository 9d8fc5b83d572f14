"""The confusion matrix: a case by hand, and that no object is lost or counted twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.utils.metrics.test_detection import random_detections, random_ground_truth
from tests.utils.metrics.test_matches import IDS, hand_made
from utils.metrics.confusion import confusion_matrix
from utils.metrics.detection import DetectionMetric
from utils.metrics.f1 import best_f1

A, B, C, D = ([x, 0, 20, 20] for x in (0, 50, 100, 150))


def test_nothing_at_all() -> None:
    assert confusion_matrix(hand_made([], []), 0.5).tolist() == [[0, 0, 0]] * 3


def test_found_confused_missed_and_not_there() -> None:
    objects = [(0, 0, A, 0), (0, 0, B, 0), (0, 1, C, 0), (1, 1, A, 0), (0, 0, [200, 0, 50, 50], 1)]
    found = [
        (0, 0, A, 0.9),  # right
        (0, 1, A, 0.95),  # the object is taken by its own class: nothing is there
        (0, 1, B, 0.8),  # class 0 found as 1
        (0, 0, C, 0.3),  # below the threshold: missed
        (0, 0, D, 0.7),  # nothing is there
        (0, 0, [210, 10, 20, 20], 0.7),  # in a crowd region: does not count
        (1, 1, [2, 0, 20, 20], 0.6),  # right
        (1, 1, A, 0.55),  # a duplicate
    ]
    matches = hand_made(objects, found, images=2)
    assert confusion_matrix(matches, 0.5).tolist() == [[1, 1, 0], [0, 1, 1], [1, 2, 0]]
    assert confusion_matrix(matches, 0.2).tolist() == [[1, 1, 0], [1, 1, 0], [1, 2, 0]]
    assert confusion_matrix(matches, 1.0).tolist() == [[0, 0, 2], [0, 0, 2], [0, 0, 0]]


@pytest.mark.parametrize("seed", range(4))
def test_rows_add_up_to_the_objects_and_columns_to_the_detections(seed: int) -> None:
    truth, rng = random_ground_truth(seed), np.random.default_rng(seed)
    metric = DetectionMetric(truth, IDS, [f"thing{i}" for i in IDS])
    for image_id, each in random_detections(truth, IDS, seed + 1).items():
        labels = np.where(rng.random(len(each)) < 0.3, rng.integers(0, 4, len(each)), each.labels)
        metric.update([image_id], [replace(each, labels=labels)])
    matches = metric.matches()
    best = best_f1(matches.scores, matches.hits, len(matches.object_labels))
    for conf in (0.0, best.conf, 0.9):
        matrix, kept = confusion_matrix(matches, conf), matches.select(matches.scores > conf)
        assert matrix[:-1].sum(axis=1).tolist() == np.bincount(matches.object_labels, minlength=4).tolist()
        assert matrix[:, :-1].sum(axis=0).tolist() == np.bincount(kept.labels, minlength=4).tolist()
        assert np.trace(matrix) == kept.hits.sum(), "what F1 counts as found"
        assert matrix[:-1, :-1].sum() > np.trace(matrix) or conf == 0.9, "nothing is confused: the case proves little"
