"""The faster backend against pycocotools run by itself, on cases drawn from all that may decide a figure."""

from __future__ import annotations

import contextlib
import copy
import io
from collections import Counter
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from utils.choices import BACKENDS
from utils.metrics.coco import CocoResult, evaluate_boxes

Case = tuple[dict[str, Any], list[dict[str, Any]]]


def draw_case(seed: int) -> Case:
    """Ground truth and rows: crowds, equal scores and boxes, empty images, areas on the edges of the ranges, more rows
    than count, classes without objects or unknown, ids in any order, IoUs that are thresholds exactly."""
    rng = np.random.default_rng(seed)
    image_ids = rng.permutation(np.arange(500))[: rng.choice([0, 1, 2, 6, 12])].tolist()
    categories = rng.permutation(np.arange(30))[: rng.choice([1, 2, 5])].tolist()
    whole, decimals = bool(rng.random() < 0.5), int(rng.choice([0, 1, 8]))
    numbers = rng.permutation(np.arange(rng.integers(2), 200)).tolist()
    annotations: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    crowd, most, strays = rng.choice([0, 0.2, 1]), rng.choice([1, 12]), rng.choice([0, 4, 130])

    def row(image: int, category: int, box: np.ndarray) -> None:
        score = float(np.float32(rng.random().__round__(decimals)))
        rows.append({"image_id": image, "category_id": category, "bbox": box.tolist(), "score": score})

    def draw_box() -> np.ndarray:
        return rng.integers(0, 12, 4) * 8.0 if whole else rng.random(4) * rng.choice([20, 600])

    for image in image_ids:
        for _ in range(rng.integers(most + 1) if rng.random() < 0.8 else 0):
            box = draw_box()
            box[2:] += box[2:] == 0
            area = rng.choice([box[2] * box[3], box[2] * box[3] * rng.random(), 1024, 9216, 0, 1e10, 1e11])
            category = int(rng.choice(categories[: max(len(categories) - 1, 1)]))
            annotation = {"id": numbers[len(annotations)], "image_id": image, "category_id": category}
            annotations.append(
                annotation | {"bbox": box.tolist(), "area": float(area), "iscrowd": int(rng.random() < crowd)}
            )
            for _ in range(rng.integers(4)):
                near = rng.integers(-2, 3, 4) * 8.0 if whole else rng.normal(0, 0.1, 4) * box[2]
                found = box + near * (rng.random() < 0.6)
                row(image, category if rng.random() < 0.8 else int(rng.choice(categories)), np.abs(found))
        for _ in range(rng.integers(strays + 1)):
            row(image, int(rng.choice(categories)), draw_box())
    rng.shuffle(rows)  # type: ignore[arg-type]
    known = [{"id": category, "name": str(category)} for category in categories[rng.integers(2) :]]
    return {"images": [{"id": image} for image in image_ids], "annotations": annotations, "categories": known}, rows


def by_hand(case: Case, image_ids: list[int], limits: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall as pycocotools leaves them."""
    truth, results = COCO(), COCO()
    truth.dataset, rows = copy.deepcopy(case)
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        results.dataset = {**truth.dataset, "annotations": []}
        results.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(rows) if rows else results, "bbox")
        evaluation.params.imgIds, evaluation.params.maxDets = image_ids, limits
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def check_backends(case: Case, image_ids: list[int], max_det: int) -> None:
    limits = [1, 10, 100, max_det] if max_det > 100 else [1, 10, max_det]
    precision, recall = by_hand(case, image_ids, limits)
    for backend in BACKENDS:
        result: CocoResult = evaluate_boxes(*copy.deepcopy(case), list(image_ids), max_det=max_det, backend=backend)
        assert result.precision.shape == precision.shape
        np.testing.assert_allclose(result.precision, precision, rtol=0, atol=1e-9)
        np.testing.assert_allclose(result.recall, recall, rtol=0, atol=1e-9)


@pytest.mark.parametrize("seeds", [range(start, start + 20) for start in range(0, 80, 20)], ids=str)
def test_both_backends_are_pycocotools_on_drawn_cases(seeds: range) -> None:
    for seed in seeds:
        case = draw_case(seed)
        image_ids = [image["id"] for image in case[0]["images"]]
        image_ids = image_ids if seed % 5 else image_ids[: len(image_ids) // 2 + 1]
        check_backends(case, image_ids, (100, 11, 300, 1000)[seed % 4])


def test_the_drawn_cases_have_what_they_are_for() -> None:
    cases = [draw_case(seed) for seed in range(80)]
    annotations = [annotation for truth, _ in cases for annotation in truth["annotations"]]
    assert {annotation["iscrowd"] for annotation in annotations} == {0, 1}
    assert {0.0, 1024.0, 9216.0, 1e10, 1e11} <= {annotation["area"] for annotation in annotations}
    assert 0 in {annotation["id"] for annotation in annotations}
    assert any(not truth["images"] for truth, _ in cases)
    groups = [Counter((row["image_id"], row["category_id"]) for row in rows) for _, rows in cases]
    assert max(number for group in groups for number in group.values()) > 100
    assert any(len({row["score"] for row in rows}) == 2 < len(rows) for _, rows in cases)
    orders = [[image["id"] for image in truth["images"]] for truth, _ in cases]
    assert any(order != sorted(order) for order in orders)


@pytest.mark.parametrize(
    "change",
    [lambda i: -i - 1, lambda i: i + 10**17, lambda i: i // 2, lambda i: i + 0.5],
    ids=["negative", "of 57 bits", "twice", "fractions"],
)
@pytest.mark.parametrize("which", ["images", "annotations", "categories"])
def test_ids_of_any_kind_give_what_pycocotools_gives(which: str, change: Any) -> None:
    truth, rows = next(case for case in map(draw_case, range(200, 300)) if len(case[0]["annotations"]) > 40)
    key = {"images": "image_id", "categories": "category_id"}.get(which)
    for entry in truth[which]:
        entry["id"] = change(entry["id"])
    for entry in (*truth["annotations"], *rows) if key else ():
        entry[key] = change(entry[key])
    check_backends((truth, rows), list(dict.fromkeys(image["id"] for image in truth["images"])), 100)
