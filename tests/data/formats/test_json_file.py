"""COCO JSON that nobody meant well: numbers, names and nesting without end, each named in short."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from data.formats.json_file import as_float, as_id, load_coco
from tests.data.tiny_sets import HEIGHT, WIDTH, annotation, make_coco, make_config, make_image, read, said
from utils.config import ConfigError

GOOD = annotation(1, [10, 5, 20, 10.5])
HUGE = int("7" * 400)


@pytest.mark.parametrize(
    ("value", "number"),
    [(7, 7), ("12", 12), (12.0, 12), (10**18, str(10**18)), (1e300, "1e+300"), ("x", "x"), ("", None), (True, None)],
)
def test_ids_are_whole_numbers_of_64_bits_or_texts(value: object, number: object) -> None:
    assert as_id(value) == number
    assert type(as_id(value)) is type(number)


def test_numbers_too_large_for_a_float_are_none() -> None:
    assert [as_float(value) for value in (1, 2.5, float("inf"))] == [1.0, 2.5, float("inf")]
    assert all(as_float(value) != as_float(value) for value in (HUGE, None, "1", True, [1]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested in each other without end"),
        ('{"a":' * 100_000, "nested in each other without end"),
        ('{"images": [],\n "x": ' + "7" * 5000 + "}", r"a\.json:2: a number of more than 4,300 digits"),
        ('{"images": [], "annotations": ' + json.dumps("x" * 9000) + "}", r"'annotations' is \"xxx.*\.\.\., expected"),
        ('{"images": [], "annotations": ' + "[" * 900 + "]" * 900 + "}", ""),
        ("", "not valid JSON"),
    ],
)
def test_hostile_json_is_named_in_short(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    if not message:
        load_coco(tmp_path / "a.json")
        return
    with pytest.raises(ConfigError, match=message) as caught:
        load_coco(tmp_path / "a.json")
    assert len(str(caught.value)) < 400


def test_sizes_that_no_image_has_are_taken_from_the_image(tmp_path: Path) -> None:
    images = [{"id": 7, "file_name": "a.png", "height": HEIGHT, "width": 10**30}]
    make_image(tmp_path / "images" / "a.png")
    (sample,) = read(make_coco(tmp_path, [GOOD], images=images)).samples
    assert (sample.height, sample.width) == (HEIGHT, WIDTH)
    assert sample.boxes.tolist() == [[10, 5, 30, 15.5]]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"bbox": [HUGE, 5, 20, 10]}, r"bbox is \[777.*\.\.\., expected \[x, y, width, height\]"),
        ({"bbox": [10**400, 10**400, 1, 1]}, "bbox is"),
        ({"bbox": "x" * 10_000}, r'bbox is "xxx.*\.\.\.,'),
        ({"id": HUGE}, "kept under a new id"),
        ({"id": "n" * 9000, "bbox": 1}, r"annotation nnn.*\.\.\.: bbox is 1"),
        ({"id": {"a": 1}, "bbox": 1}, r"annotations\[1\]: bbox is 1"),
        ({"image_id": 10**30}, "image_id 1000000000000000000000000000000 is not among"),
        ({"category_id": [[[]]] * 999}, r"category_id \[\[\[\]\]"),
        ({"iscrowd": HUGE}, r"iscrowd is 777.*\.\.\."),
    ],
)
def test_hostile_annotations_are_left_out_and_named_in_short(tmp_path: Path, bad: dict, message: str) -> None:
    data = read(make_coco(tmp_path, [GOOD, {**annotation(2, [1, 2, 3, 4]), **bad}]))
    assert data.samples[0].boxes.tolist()[0] == [10, 5, 30, 15.5]
    (problem,) = data.problems
    assert re.search(message, str(problem))
    assert len(str(problem)) < 500


def test_an_area_without_end_is_taken_from_the_box(tmp_path: Path) -> None:
    data = read(make_coco(tmp_path, [{**GOOD, "area": HUGE}]))
    assert data.ground_truth["annotations"][0]["area"] == 210
    assert "width times height is taken" in said(data)


def test_names_that_no_system_can_hold_are_missing_images(tmp_path: Path) -> None:
    make_image(tmp_path / "images" / "a.png")
    names = ["a.png", "\ud800/b.png", "c\0/d.png", "\x1b[2J\n.png", "e" * 5000 + "/f.png"]
    images = [
        {"id": 7 + index, "file_name": name, "height": HEIGHT, "width": WIDTH} for index, name in enumerate(names)
    ]
    data = read(make_coco(tmp_path, [GOOD], images=images))
    assert [sample.path.name for sample in data.samples] == ["a.png"]
    assert len(data.problems) == 4
    for problem in data.problems:
        assert str(problem).isprintable()
        assert len(str(problem)) < 800
    assert r"\ud800/b.png" in said(data)


def test_class_names_keep_what_they_hold(tmp_path: Path) -> None:
    categories = [{"id": 2, "name": "a\nb"}, {"id": 3, "name": "\udce9"}, {"id": 4, "name": "a\nb"}]
    data = read(make_coco(tmp_path, [GOOD], categories=categories))
    assert data.names == ("a\nb", "\udce9", "a\nb (4)")
    assert all(str(problem).isprintable() for problem in data.problems)
    with pytest.raises(ConfigError, match=r"category id 2 stands twice \('x\\x1b' and 'y+"):
        read(make_coco(tmp_path, [GOOD], categories=[{"id": 2, "name": "x\x1b"}, {"id": 2, "name": "y" * 999}]))


def test_a_data_yaml_with_a_number_as_path_is_refused(tmp_path: Path) -> None:
    for value in ("2024", "[a]", "true", "1.5"):
        with pytest.raises(ConfigError, match=r"data\.yaml: path: expected a folder, found .*quotes"):
            make_config(tmp_path, f"path: {value}\nval: a\n")
    for value in ("2024", "{a: 1}"):
        with pytest.raises(ConfigError, match=r"data\.yaml: val: expected"):
            make_config(tmp_path, f"val: {value}\n")
    assert make_config(tmp_path, "path: ~nobody-here/x\nval: a\n").val == tmp_path / "~nobody-here" / "x" / "a"
