"""The COCO dict that is made from samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pycocotools.coco import COCO

from data.formats.assemble import to_coco, to_labelled_images
from data.formats.rows import ImageTable, Problems, Rows
from tests.data.tiny_sets import (
    HEIGHT,
    NAMES,
    WIDTH,
)
from utils.structures import LabelledImages, Sample


def test_ground_truth_of_samples_is_read_by_pycocotools() -> None:
    boxes = np.array([[1.0, 2, 11, 7], [0, 0, 5, 5]])
    sample = Sample(Path("a.png"), 4, HEIGHT, WIDTH, boxes, np.array([2, 0]), np.array([False, True]))
    content = to_coco(LabelledImages((sample,), NAMES, (2, 5, 9), {}))
    truth = COCO()
    truth.dataset = content
    truth.createIndex()
    first, second = truth.loadAnns(truth.getAnnIds([4]))
    assert (first["id"], first["bbox"], first["area"], first["category_id"]) == (1, [1, 2, 10, 5], 50, 9)
    assert (second["id"], second["iscrowd"]) == (2, 1)


def test_doubled_boxes_are_found_among_many_that_are_alike() -> None:
    """The same image, class, crowd flag and box; all values from a few, so that most rows agree in most of them."""
    rng = np.random.default_rng(0)
    count = 3000
    corners = rng.integers(3, size=(count, 2)).astype(np.float64)
    boxes = np.concatenate((corners, corners + rng.integers(1, 4, size=(count, 2))), axis=1)
    image, labels, crowd = rng.integers(4, size=count), rng.integers(2, size=count), rng.random(count) < 0.5
    seen: set[tuple[object, ...]] = set()
    expected = []
    for row, key in enumerate(zip(image.tolist(), labels.tolist(), crowd.tolist(), map(tuple, boxes), strict=True)):
        expected += [f"row {row}"] if key in seen else []
        seen.add(key)
    table = ImageTable([Path(f"{number}.png") for number in range(4)], range(4), [(9, 9)] * 4)
    problems = Problems()
    rows = Rows(image, labels, boxes, crowd, "row {}".format)
    data = to_labelled_images(table, rows, NAMES, (2, 5, 9), problems)
    assert [problem.where for problem in problems.entries if "stands in this image already" in problem.what] == expected
    assert len(data.samples.boxes) == len(seen) < len(expected)


def test_each_pair_of_doubles_is_told_once_in_pictures_of_any_size() -> None:
    """Also where a picture has more boxes than are compared at once."""
    count = 700
    corners = np.stack((np.arange(count) * 20.0, np.zeros(count)), axis=1)
    boxes = np.concatenate((corners, corners + 15), axis=1)
    pairs = [(3, 5), (250, 260), (10, 699), (600, 601)]
    for one, other in pairs:
        boxes[other] = boxes[one] + [0, 0, 0, 0.5]
    rows = Rows(
        np.array([0] * count + [1] * 3),
        np.zeros(count + 3, np.int64),
        np.concatenate((boxes, boxes[:2], boxes[:1] + np.array([0, 0, 0, 0.5]))),
        np.zeros(count + 3, bool),
        "row {}".format,
    )
    problems = Problems(thorough=True)
    table = ImageTable([Path("0.png"), Path("1.png")], range(2), [(99, 20 * count)] * 2)
    to_labelled_images(table, rows, NAMES, (2, 5, 9), problems)
    told = [(problem.where, problem.what.split(" at ")[1].split(" with")[0]) for problem in problems.entries]
    assert sorted(told) == sorted([*((f"row {b}", f"row {a}") for a, b in pairs), ("row 702", "row 700")])
