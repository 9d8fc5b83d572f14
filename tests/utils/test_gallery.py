"""utils/gallery.py: the worst pictures of each kind are those that are known to be the worst."""

from __future__ import annotations

from typing import Any

import pytest

from utils.gallery import KINDS, Case, Mark, window_of, worst_pictures, wrong_pictures

SIDE = 40.0


def split(objects: dict[int, list[tuple[float, int]]]) -> dict[str, Any]:
    """Square objects in a row: image id -> (left edge, category) of each."""
    annotations = [
        {"image_id": image, "category_id": category, "bbox": [left, 10.0, SIDE, SIDE], "area": SIDE**2, "iscrowd": 0}
        for image, boxes in objects.items()
        for left, category in boxes
    ]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    categories = [{"id": number, "name": f"c{number}"} for number in (5, 7)]
    return {"images": [{"id": image} for image in objects], "annotations": annotations, "categories": categories}


def row(image: int, left: float, category: int, score: float, *, side: float = SIDE) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": [left, 10.0, side, side], "score": score}


ROWS = [
    row(1, 0, 5, 0.9),  # right
    row(2, 0, 7, 0.8),  # class
    row(3, 22, 5, 0.7),  # location
    row(4, 0, 5, 0.9),
    row(4, 1, 5, 0.6),  # duplicate
    row(5, 300, 5, 0.95),  # background
    row(6, 300, 5, 0.5),
    row(6, 400, 5, 0.5),
    row(6, 500, 7, 0.5),  # three of them: worse
    row(7, 300, 5, 0.2),  # below the threshold
]
TRUTH = split({**{image: [(0.0, 5)] for image in range(1, 8)}, 8: [(0.0, 5), (100.0, 7)], 9: []})


def test_each_kind_has_the_pictures_that_are_known_to_have_it() -> None:
    found = worst_pictures(TRUTH, ROWS, (5, 7), conf=0.3)
    of_kind = {kind: [case.image_id for case in found.cases if case.kind == kind] for kind in KINDS}
    assert of_kind == {
        "missed": [8, 5, 6, 7],
        "class": [2],
        "location": [3],
        "both": [],
        "duplicate": [4],
        "background": [6, 5],
    }
    assert found.errors == {"missed": 5, "class": 1, "location": 1, "both": 0, "duplicate": 1, "background": 4}
    assert found.pictures["background"] == 2
    (wrong,) = [case for case in found.cases if case.kind == "class"]
    assert wrong.labels == {0, 1}
    assert wrong.marks == (
        Mark((0.0, 10.0, 40.0, 50.0), 1, 0.8, wrong=True),
        Mark((0.0, 10.0, 40.0, 50.0), 0, None, wrong=True),
    )


def test_the_threshold_decides_and_nothing_found_is_all_missed() -> None:
    assert worst_pictures(TRUTH, ROWS, (5, 7), conf=0.1).errors["background"] == 5
    found = worst_pictures(TRUTH, [], (5, 7))
    assert found.errors["missed"] == 9
    assert found.cases[0].image_id == 8, "two of them"
    empty = worst_pictures({"images": [], "annotations": [], "categories": []}, [], (5, 7))
    assert (empty.cases, set(empty.errors.values())) == ((), {0})


def test_a_crowd_region_is_neither_missed_nor_shown() -> None:
    truth = split({1: [(0.0, 5), (200.0, 5)]})
    truth["annotations"][1]["iscrowd"] = 1
    found = worst_pictures(truth, [row(1, 200, 5, 0.9)], (5, 7))
    assert found.errors == {**dict.fromkeys(KINDS, 0), "missed": 1}
    assert [mark.score for mark in found.cases[0].marks] == [None, 0.9]


def test_the_worst_of_each_class_has_a_place() -> None:
    truth = split({image: [] for image in range(1, 31)})
    rows = [row(image, 0, 5, 0.99 - image / 1000) for image in range(1, 30)] + [row(30, 0, 7, 0.4)]
    found = worst_pictures(truth, rows, (5, 7), limit=4)
    assert [case.image_id for case in found.cases] == [1, 2, 3, 30]
    assert found.errors["background"] == 30


@pytest.mark.parametrize(("width", "height"), [(640, 480), (50, 2000), (33, 20)])
@pytest.mark.parametrize("box", [(0.0, 0.0, 10.0, 10.0), (600.0, 400.0, 900.0, 470.0), (5.0, 5.0, 5.0, 5.0)])
def test_the_window_lies_in_the_picture(width: int, height: int, box: tuple[float, float, float, float]) -> None:
    case = Case("missed", 1, (Mark(box, 0, wrong=True),), 1, 1.0, frozenset({0}))
    x1, y1, x2, y2 = window_of(case, width, height)
    assert 0 <= x1 < x2 <= width
    assert 0 <= y1 < y2 <= height


def test_a_small_box_is_seen_enlarged_and_a_large_one_with_the_whole_picture() -> None:
    def window(side: float) -> tuple[int, int, int, int]:
        box = (300.0, 200.0, 300.0 + side, 200.0 + side)
        return window_of(Case("missed", 1, (Mark(box, 0, wrong=True),), 1, 1.0, frozenset()), 640, 480)

    x1, y1, x2, y2 = window(8)
    assert (x2 - x1, y2 - y1) == (160, 160)
    assert x1 < 300 < 308 < x2
    assert window(200) == (0, 0, 640, 480)


def test_a_classifiers_surest_mistakes_come_first() -> None:
    rows = [
        {"image_id": 1, "label": 0, "labels": [0, 1], "scores": [0.99, 0.01], "rank": 0},
        {"image_id": 2, "label": 0, "labels": [1, 0], "scores": [0.6, 0.4], "rank": 1},
        {"image_id": 3, "label": 1, "labels": [0, 1], "scores": [0.9, 0.1], "rank": 1},
    ]
    found = wrong_pictures(rows, ("cat", "dog"))
    assert [case.image_id for case in found.cases] == [3, 2]
    assert found.cases[0].note == "dog, found as cat 0.90"
