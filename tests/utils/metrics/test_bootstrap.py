"""utils/metrics/bootstrap.py: the AP of a resample is pycocotools' of that very data set; verdicts follow."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from utils.metrics.bootstrap import ResampledAP, compare
from utils.metrics.coco import evaluate_boxes


def split(images: int = 12, *, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    annotations = []
    for image in range(1, images + 1):
        for _ in range(rng.integers(0, 5)):
            x, y, w, h = (float(v) for v in (*rng.uniform(0, 60, 2), *rng.uniform(8, 40, 2)))
            about = {"id": len(annotations) + 1, "image_id": image, "category_id": int(rng.integers(1, 4))}
            annotations.append({**about, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0})
    return {
        "images": [{"id": image} for image in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": k, "name": str(k)} for k in (1, 2, 3)],
    }


def predictions(truth: dict, *, noise: float, seed: int = 1) -> list[dict]:
    rng = np.random.default_rng(seed)
    return [
        {
            "image_id": each["image_id"],
            "category_id": each["category_id"],
            "bbox": [float(value + rng.normal(0, noise)) for value in each["bbox"]],
            "score": float(rng.uniform()),
        }
        for each in truth["annotations"]
    ]


def test_nothing_found_is_zero_and_no_image_is_an_error() -> None:
    assert ResampledAP(split(), [])() == 0
    with pytest.raises(ValueError, match="no image"):
        compare({"images": [], "annotations": [], "categories": []}, [[]], [[]])


def test_a_resample_has_the_ap_of_the_data_set_that_it_is() -> None:
    """The data set with its images really left out and repeated, under new ids, through the usual evaluation."""
    truth = split()
    rows = predictions(truth, noise=3)
    metric = ResampledAP(truth, rows)
    rng = np.random.default_rng(7)
    for sample in (np.arange(12), rng.integers(12, size=12), np.array([3, 3, 3, 5])):
        drawn = {"images": [], "annotations": [], "categories": truth["categories"]}
        found = []
        for place, position in enumerate(sample, start=1):
            image = metric.image_ids[position]
            drawn["images"].append({"id": place})
            for annotation in truth["annotations"]:
                if annotation["image_id"] == image:
                    drawn["annotations"].append({**annotation, "id": len(drawn["annotations"]) + 1, "image_id": place})
            found += [{**copy.deepcopy(row), "image_id": place} for row in rows if row["image_id"] == image]
        ids = [image["id"] for image in drawn["images"]]
        expected = evaluate_boxes(drawn, found, ids, max_det=100, backend="pycocotools").average_precision()
        assert metric(sample) == pytest.approx(expected, abs=1e-9)


def test_the_better_side_wins_and_equals_are_not_told_apart() -> None:
    truth = split(40)
    good, bad = predictions(truth, noise=1), predictions(truth, noise=6)
    assert compare(truth, [bad], [good], samples=50).verdict == "B beats A"
    assert compare(truth, [good], [bad], samples=50).verdict == "A beats B"
    same = compare(truth, [good], [good], samples=20)
    assert (same.low, same.high) == (0, 0)
    assert "cannot tell" in str(same)
    other = [predictions(truth, noise=3, seed=seed) for seed in (2, 3)]
    assert compare(truth, other[:1], other[1:], samples=50) == compare(truth, other[:1], other[1:], samples=50)
