"""Matches against pycocotools' own, detection by detection, and cases that can be followed by hand."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest

from tests.utils.metrics.test_detection import random_detections, random_ground_truth
from utils.metrics import matches
from utils.metrics.coco import box_ground_truth, coco_eval
from utils.metrics.detection import DetectionMetric
from utils.metrics.matches import Matches, match, overlaps

IDS = (2, 3, 7, 11)


def drawn_metric(seed: int = 0, *, images: int = 40, max_det: int = 100, temperature: float = 1.0) -> DetectionMetric:
    """Drawn objects, crowds among them, and detections near and far, many with equal scores."""
    truth = random_ground_truth(seed, images=images)
    names = [f"thing{i}" for i in IDS]
    metric = DetectionMetric(truth, IDS, names, max_det=max_det, temperature=temperature)
    found = random_detections(truth, IDS, seed + 1)
    metric.update(list(found), list(found.values()))
    return metric


def hand_made(objects: list[tuple], found: list[tuple], *, images: int = 1, classes: int = 2) -> Matches:
    """Of (image, class, box, crowd) and (image, class, box, score), with boxes [x, y, w, h]."""
    truth = box_ground_truth(
        {
            "images": [{"id": i} for i in range(images)],
            "categories": [{"id": c, "name": str(c)} for c in range(classes)],
            "annotations": [
                {"id": n, "image_id": i, "category_id": c, "bbox": box, "iscrowd": crowd}
                for n, (i, c, box, crowd) in enumerate(objects, start=1)
            ],
        }
    )
    rows = [{"image_id": i, "category_id": c, "bbox": box, "score": score} for i, c, box, score in found]
    return match(truth, rows, range(classes))


def test_nothing_at_all() -> None:
    nothing = hand_made([], [])
    assert len(nothing) == 0
    assert nothing.hits.shape == (0,)
    assert hand_made([(0, 1, [0, 0, 9, 9], 0)], []).object_labels.tolist() == [1]
    assert hand_made([], [(0, 1, [0, 0, 9, 9], 0.5)]).found.tolist() == [-1]


def test_the_best_detection_takes_the_object_it_overlaps_most() -> None:
    objects = [(0, 0, [0, 0, 100, 100], 0), (0, 0, [10, 0, 100, 100], 0), (0, 1, [0, 0, 100, 100], 0)]
    found = [
        (0, 0, [6, 0, 100, 100], 0.5),  # is nearer to the second, which is taken: the first is left
        (0, 0, [9, 0, 100, 100], 0.9),
        (0, 0, [2, 0, 100, 100], 0.4),  # both are taken: a duplicate
        (0, 1, [0, 0, 100, 49], 0.8),  # IoU 0.49
        (0, 1, [0, 0, 100, 50], 0.7),  # IoU 0.5 is enough
    ]
    matched = hand_made(objects, found)
    assert matched.scores.tolist() == [0.9, 0.8, 0.7, 0.5, 0.4]
    assert matched.found.tolist() == [1, -1, 2, 0, -1]


def test_what_lies_in_a_crowd_region_of_its_class_does_not_count() -> None:
    objects = [(0, 0, [0, 0, 200, 200], 1), (0, 0, [10, 10, 20, 20], 0)]
    found = [
        (0, 0, [10, 10, 20, 20], 0.9),  # an object inside it still counts
        (0, 0, [50, 50, 20, 20], 0.8),
        (0, 1, [50, 50, 20, 20], 0.7),  # of another class
        (0, 0, [190, 0, 30, 30], 0.6),  # a third of it inside
    ]
    matched = hand_made(objects, found)
    assert matched.scores.tolist() == [0.9, 0.7, 0.6]
    assert matched.found.tolist() == [0, -1, -1]
    assert len(matched.object_labels) == 1


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("max_det", [100, 11])
def test_every_match_is_pycocotools_own(seed: int, max_det: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matches, "_PAIRS", 50)  # many parts
    metric = drawn_metric(10 * seed, max_det=max_det)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = coco_eval(metric.ground_truth, metric.predictions())
        evaluation.params.iouThrs, evaluation.params.maxDets = np.array([0.5]), [max_det]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
    expected = []
    places = {image["id"]: place for place, image in enumerate(metric.ground_truth["images"])}
    for part in filter(None, evaluation.evalImgs):
        label = IDS.index(part["category_id"])
        counts = np.array(part["dtIgnore"][0]) == 0
        for score, mate, count in zip(part["dtScores"], part["dtMatches"][0], counts, strict=True):
            if count:
                expected.append((places[part["image_id"]], label, float(score), int(mate)))
    own = metric.matches()
    ids = [a["id"] for a in metric.ground_truth["annotations"] if not a["iscrowd"]]
    mates = [ids[found] if found >= 0 else 0 for found in own.found.tolist()]
    rows = zip(own.images.tolist(), own.labels.tolist(), own.scores.tolist(), mates, strict=True)
    assert sorted(rows) == sorted(expected)
    assert own.hits.sum() > 50
    assert (np.diff(own.scores) <= 0).all()


def test_overlaps_are_pycocotools_own_to_the_last_bit() -> None:
    from pycocotools import mask

    rng = np.random.default_rng(3)
    boxes, others = rng.uniform(0, 90, (40, 4)), rng.uniform(0, 90, (30, 4))
    boxes[:5, 2], others[:5, 3] = 0, 0
    for crowd in (False, True):
        expected = np.array(mask.iou(boxes, others, [crowd] * 30))
        first, second, values = overlaps(boxes, np.zeros(40, int), others, np.zeros(30, int), least=1e-300, crowd=crowd)
        assert len(first) == np.count_nonzero(expected)
        assert (values == expected[first, second]).all()
