"""YOLO labels: rows become boxes, and bad rows and files are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.config import read_data_config
from data.doctor.__main__ import main as doctor
from tests.data.tiny_sets import (
    make_yolo,
    read,
    said,
)
from utils.config import ConfigError


def test_yolo_rows(tmp_path: Path) -> None:
    data = read(make_yolo(tmp_path, {"a": "\ufeff1 0.5 0.5 0.2 0.5\r\n\r\n0.0 0.25 0.25 0.5 0.5\n", "b": ""}))
    assert data.samples[0].boxes == pytest.approx(np.array([[24, 10, 36, 30], [0, 0, 30, 20]]))
    assert data.samples[0].labels.tolist() == [1, 0]
    assert [sample.image_id for sample in data.samples] == [1, 2]
    assert data.category_ids == (1, 2, 3)
    assert data.ground_truth["annotations"][0]["category_id"] == 2
    assert data.ground_truth["annotations"][0]["area"] == pytest.approx(240)
    assert data.problems == ()


def test_yolo_bad_rows_are_named_with_their_line(tmp_path: Path) -> None:
    rows = {
        "0 0.5 0.5 0.2 0.2": None,
        "0 0.5 0.5 0.2": "4 numbers; expected",
        "0 0.5 0.5 0.2 0.2 0.9": "6 numbers, as in predictions with a confidence",
        "0 0.5 0.5 0.2 0.2 0.9 0.1 0.1": "8 numbers; expected",
        "3 0.5 0.5 0.2 0.2": "class 3 is out of range; the data set has 3 classes, from 0",
        "-1 0.5 0.5 0.2 0.2": "class -1 is out of range",
        "0.5 0.5 0.5 0.2 0.2": "class '0.5' is no whole number",
        "nan 0.5 0.5 0.2 0.2": "class 'nan' is no whole number",
        "cow 0.5 0.5 0.2 0.2": "'cow 0.5 0.5 0.2 0.2' holds something that is no number",
        "0,0.5,0.5,0.2,0.2": "holds something that is no number",
        "0 30 20 10 10": "value 30 looks like pixels",
        "0 0.5 0.5 nan 0.2": "no finite number",
        "0 0.5 0.5 0 0.2": "has no area",
        "2 0.5 0.5 -0.2 0.2": "width -0.2 and height 0.2, taken without the sign; repaired",
        "0 1.5 0.5 0.2 0.2": "lies outside the 60x40 image",
        "0 0.5 0.5 0.20 0.2": "stands in this image already",
        "0 1.0 0.5 0.2 0.2": "sticks out of the 60x40 image by 6 px; clipped",
    }
    data = read(make_yolo(tmp_path, {"a": "\n".join(rows)}, options="unreadable: object"))
    assert data.samples[0].boxes == pytest.approx(np.array([[24, 16, 36, 24], [24, 16, 36, 24], [54, 16, 60, 24]]))
    assert data.samples[0].labels.tolist() == [0, 2, 0]
    by_line = {int(problem.where.rpartition(":")[2]): str(problem) for problem in data.problems}
    assert all(problem.where.startswith(str(tmp_path / "labels" / "a.txt:")) for problem in data.problems)
    for line, what in enumerate(rows.values(), start=1):
        if what is None:
            assert line not in by_line
        else:
            assert what in by_line[line]


def test_yolo_outlines_become_boxes(tmp_path: Path) -> None:
    config = make_yolo(tmp_path, {"a": "2 0.1 0.2 0.5 0.1 0.3 0.9\n"}, options="labels: error")
    data = read(config)
    assert data.samples[0].boxes == pytest.approx(np.array([[6, 4, 30, 36]]))
    assert "1 rows are outlines; read as their boxes" in said(data)


def test_yolo_files_that_do_not_match(tmp_path: Path) -> None:
    config = make_yolo(tmp_path, {"a": "0 0.5 0.5 0.2 0.2", "b": None, "c": b"0 0.5 0.5 \xff", "d": ""})
    (tmp_path / "labels" / "lonely.txt").write_text("0 0.5 0.5 0.2 0.2")
    (tmp_path / "labels" / "classes.txt").write_text("cat")
    (tmp_path / "images" / "d.png").write_bytes(b"broken")
    with (tmp_path / "val.txt").open("a") as file:
        file.write("./images/gone.png\nimages/a.png\n")
    data = read(config)
    assert [sample.path.name for sample in data.samples] == ["a.png", "b.png"]
    for what in (
        "labels: 1 of 4 images have no label file (the first: b.png); kept as images without objects",
        "c.txt: not UTF-8 text (byte 10); its image is left out",
        "lonely.txt: a label file without an image; left out",
        "d.png: not an image that Pillow knows",
        f"val.txt:5: no such image: {tmp_path / 'images' / 'gone.png'}; left out",
        "val.txt:6: a.png is on line 1 already; left out",
    ):
        assert what in said(data)
    assert "classes" not in said(data)
    assert [image["id"] for image in data.ground_truth["images"]] == [sample.image_id for sample in data.samples]


def test_yolo_no_label_or_image_at_all(tmp_path: Path) -> None:
    config = make_yolo(tmp_path, {"a": None})
    with pytest.raises(ConfigError, match=r"no labels for .*a.png: expected labels/ with YOLO .* or Annotations/"):
        read(config)
    (tmp_path / "labels").mkdir()
    with pytest.raises(ConfigError, match=r"labels: no label file for any of the 1 images"):
        read(config)
    (tmp_path / "labels" / "a.txt").touch()
    (tmp_path / "images" / "a.png").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"none of the 1 images can be read; the first: .*a.png: the file is empty"):
        read(config)
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(ConfigError, match=r"val.txt: none of its 1 images exists. Looked for the first as .*a.png"):
        read(config)


@pytest.mark.parametrize(
    ("row", "label", "repair"),
    [
        ("owl 0.5 0.5 0.2 0.5", 2, "has the name of class 2 for its number"),
        ("OWL 0.5 0.5 0.2 0.5", 2, "has the name of class 2 for its number"),
        ("Barn  owl 2 0.5 0.5 0.2 0.5", 3, "'Barn owl 2 0.5 0.5 0.2 0.5' has the name of class 3 for its number"),
        ("dog 0.5 0.5 0.2 0.5", 1, "class 1"),
        ("Dog 0.5 0.5 0.2 0.5", 0, "class 0"),
        ("2 0,5 0,5 0,2 0,5", 2, "'2 0,5 0,5 0,2 0,5' has decimal commas, read as points"),
        ("2 0.5 ,5 0,2 5,0e-1", 2, "decimal commas"),
        ("owl 0,5 0,5 0,2 0,5", 2, "decimal commas"),
    ],
)
def test_yolo_names_and_decimal_commas_are_repaired(tmp_path: Path, row: str, label: int, repair: str) -> None:
    names = "names: [Dog, dog, Owl, barn owl 2]"
    config = make_yolo(tmp_path, {"a": row})
    config.source.write_text(f"val: val.txt\n{names}\n")
    data = read(read_data_config(config.source))
    assert data.samples[0].labels.tolist() == [label]
    assert data.samples[0].boxes == pytest.approx(np.array([[24, 10, 36, 30]]))
    assert repair in said(data)
    assert {problem.action for problem in data.problems} == {"repaired"}
    assert doctor([str(config.source), "--fix", str(tmp_path / "fixed")]) == 1
    fixed = read(read_data_config(tmp_path / "fixed" / "data.yaml"))
    assert fixed.problems == ()
    assert fixed.samples[0].boxes == pytest.approx(data.samples[0].boxes)
    config.source.write_text(f"val: val.txt\n{names}\nlabels: error\n")
    with pytest.raises(ConfigError, match="repaired"):
        read(read_data_config(config.source))


@pytest.mark.parametrize(
    "row",
    [
        "DOG 0.5 0.5 0.2 0.2",  # Dog or dog?
        "barn owl 0.5 0.5 0.2 0.2",
        "owl 0.5 0.5 0.2",
        "owl 0.5 0.5 0.2 0.2 0.9",
        "0,5,5 0,5 0,2 0,3",
        "0 0,5,0 0,5 0,2 0,3",
        "0,0,5,0,5,0,2,0,3",
        "owl 0,5 30,5 0,2 0,3",
        "barn 1 0.5 0.5 0.2 0.2",  # 'barn' or 'barn 1'?
    ],
)
def test_yolo_rows_that_may_mean_two_things_are_not_repaired(tmp_path: Path, row: str) -> None:
    config = make_yolo(tmp_path, {"a": row, "b": ""})
    config.source.write_text("val: val.txt\nnames: [Dog, dog, owl, barn, barn 1]\n")
    data = read(read_data_config(config.source))
    assert [sample.path.name for sample in data.samples] == ["b.png"]
    assert [problem.action for problem in data.problems] == ["its image is left out"]
