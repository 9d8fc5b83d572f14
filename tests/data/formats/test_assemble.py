"""The COCO dict that is made from samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pycocotools.coco import COCO

from data.formats.assemble import to_coco
from tests.data.tiny_sets import (
    HEIGHT,
    NAMES,
    WIDTH,
)
from utils.structures import Sample


def test_ground_truth_of_samples_is_read_by_pycocotools() -> None:
    boxes = np.array([[1.0, 2, 11, 7], [0, 0, 5, 5]])
    sample = Sample(Path("a.png"), 4, HEIGHT, WIDTH, boxes, np.array([2, 0]), np.array([False, True]))
    content = to_coco([sample], NAMES, (2, 5, 9))
    truth = COCO()
    truth.dataset = content
    truth.createIndex()
    first, second = truth.loadAnns(truth.getAnnIds([4]))
    assert (first["id"], first["bbox"], first["area"], first["category_id"]) == (1, [1, 2, 10, 5], 50, 9)
    assert (second["id"], second["iscrowd"]) == (2, 1)
