"""YOLO rows with more than four numbers: boxes with keypoints, or outlines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.formats.keypoints import AmbiguousRows, keypoint_values
from data.read import read_split
from tests.data.tiny_sets import make_config, make_image, make_yolo, read, said
from utils.config import ConfigError

RNG = np.random.default_rng(1)
Maker = Callable[[], list[float]]


def keypoint_row(count: int, numbers: int, *, largest: float = 0.4) -> list[float]:
    """A box somewhere in the image, and points all over it, a few of them absent."""
    size = RNG.uniform(0.05, largest, 2)
    centre = RNG.uniform(size / 2, 1 - size / 2)
    row = [*centre, *size]
    for _ in range(count):
        visible = int(RNG.integers(0, 3)) if numbers == 3 else 2
        point = centre + RNG.uniform(-0.5, 0.5, 2) * size if visible else (0, 0)
        row += [*point, visible][:numbers]
    return [round(float(value), 6) for value in row]


def outline_row(points: int, *, largest: float = 0.4) -> list[float]:
    """A polygon around a centre somewhere in the image."""
    radius = RNG.uniform(0.02, largest / 2)
    centre = RNG.uniform(radius, 1 - radius, 2)
    angles = np.sort(RNG.uniform(0, 2 * np.pi, points))
    corners = centre + radius * np.stack((np.cos(angles), np.sin(angles)), axis=1)
    return [round(float(value), 6) for value in corners.ravel()]


def test_no_rows() -> None:
    assert keypoint_values([], None) == 0


def test_the_rows_of_the_report(tmp_path: Path) -> None:
    make_image(tmp_path / "images" / "a.png", 120, 160)
    (tmp_path / "labels").mkdir()
    row, triangle = "0 0.50 0.50 0.20 0.30 0.45 0.45\n", "0 0.2 0.2 0.4 0.2 0.3 0.5\n"
    for text, options, box, kind in (
        (row, "", [64, 42, 96, 78], "1 rows are boxes with keypoints; the boxes are taken"),
        (triangle, "", [32, 24, 64, 60], "1 rows are outlines; read as their boxes"),
        (row, "kpt_shape: [0, 2]", [32, 36, 80, 60], "1 rows are outlines; read as their boxes"),
        (triangle, "kpt_shape: [1, 2]", [0, 12, 64, 36], "1 rows are boxes with keypoints; the boxes are taken"),
    ):
        (tmp_path / "labels" / "a.txt").write_text(text)
        data = read(make_config(tmp_path, f"val: images\nnames: [cat]\nlabels: error\n{options}"))
        assert data.samples[0].boxes.round(9).tolist() == [box]
        assert kind in said(data)


@pytest.mark.parametrize("count", [1, 2, 5, 17])
@pytest.mark.parametrize("numbers", [2, 3])
def test_keypoints_are_found(count: int, numbers: int) -> None:
    rows = [keypoint_row(count, numbers) for _ in range(200)]
    assert keypoint_values(rows, None) == 4 + count * numbers
    rows[3][4], rows[7] = 0.99, rows[7][:-1]  # slips
    assert keypoint_values(rows, None) == 4 + count * numbers


@pytest.mark.parametrize(("points", "largest"), [(3, 0.4), (3, 0.1), (4, 0.4), (4, 0.05), (7, 0.3), (20, 0.8)])
def test_outlines_of_one_length_stay_outlines(points: int, largest: float) -> None:
    assert keypoint_values([outline_row(points, largest=largest) for _ in range(200)], None) == 0


def test_outlines_of_many_lengths() -> None:
    assert keypoint_values([outline_row(int(RNG.integers(3, 30))) for _ in range(100)], None) == 0
    assert keypoint_values([keypoint_row(2, 2), *(outline_row(4) for _ in range(30))], None) == 0


def test_what_may_be_both_is_named(tmp_path: Path) -> None:
    rows = [[0.4, 0.4, 0.5, 0.42, 0.5, 0.5, 0.4, 0.52], [0.45, 0.4, 0.5, 0.42, 0.55, 0.55, 0.4, 0.52]]
    with pytest.raises(AmbiguousRows, match="9 numbers a row may be boxes with 2 keypoints, or outlines of 4 points"):
        keypoint_values(rows, None)
    text = "".join(f"0 {' '.join(map(str, row))}\n" for row in rows)
    with pytest.raises(ConfigError, match=r"labels: 9 numbers a row .* kpt_shape: \[2, 2\] for keypoints"):
        read(make_yolo(tmp_path / "x", {"a": text}))
    boxes = [
        read(make_yolo(tmp_path / name, {"a": text}, options=f"kpt_shape: {shape}")).samples[0].boxes
        for name, shape in (("y", "[2, 2]"), ("z", "[0, 2]"))
    ]
    assert boxes[0][0] == pytest.approx([9, 7.6, 39, 24.4])
    assert boxes[1][0] == pytest.approx([24, 16, 30, 20.8])


def test_rows_that_are_not_of_the_shape(tmp_path: Path) -> None:
    text = "0 0.5 0.5 0.4 0.4\n1 0.5 0.5 0.4 0.4 0.5 0.5 2\n1 0.5 0.5 0.2 0.4 0.5 0.5 2 0.4\n"
    config = make_yolo(tmp_path, {"a": text, "b": "2 0.5 0.5 0.4 0.4 0.5 0.5 2\n"}, options="kpt_shape: [1, 3]")
    data = read(config)
    assert [sample.labels.tolist() for sample in data.samples] == [[2]]
    assert "a.txt:3: 9 numbers; expected 8, a box with keypoints; its image is left out" in said(data)
    config = make_yolo(tmp_path / "x", {"a": text}, options="kpt_shape: [1, 3]\nunreadable: object")
    assert read_split(config, "val").samples[0].labels.tolist() == [0, 1]


@pytest.mark.parametrize("shape", ["[1]", "[1, 4]", "[-1, 2]", "17", "[a, 2]"])
def test_a_wrong_shape(tmp_path: Path, shape: str) -> None:
    with pytest.raises(ConfigError, match="kpt_shape"):
        make_config(tmp_path, f"val: images\nkpt_shape: {shape}")
