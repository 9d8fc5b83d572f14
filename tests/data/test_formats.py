"""Labels on disk: nothing wrong passes in silence, nothing right is changed, and the three formats agree."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from data.config import load_data_config, read_split
from data.formats import coco, voc, yolo
from data.formats.assemble import to_coco
from tests.data.tiny_sets import (
    HEIGHT,
    NAMES,
    WIDTH,
    annotation,
    make_coco,
    make_config,
    make_image,
    make_voc,
    make_yolo,
    read,
    said,
    voc_object,
)
from utils.config import ConfigError
from utils.structures import LabelledImages, Sample

GOOD = annotation(1, [10, 5, 20, 10.5])


# ---- no objects


def test_no_objects_in_any_format(tmp_path: Path) -> None:
    sets = [
        make_coco(tmp_path / "coco", []),
        make_yolo(tmp_path / "yolo", {"a": "", "b": "\n  \n"}),
        make_voc(tmp_path / "voc", {"a": "", "b": ""}),
    ]
    for config in sets:
        data = read(config)
        assert [len(sample.boxes) for sample in data.samples] == [0, 0]
        assert data.samples[0].boxes.shape == (0, 4)
        assert data.problems == ()
        assert data.ground_truth["annotations"] == []


def test_no_images(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"val.json: no images; expected entries"):
        read(make_coco(tmp_path, [], images=[]))
    (tmp_path / "val.txt").write_text("\n\n")
    with pytest.raises(ConfigError, match=r"val.txt: the list is empty"):
        read(make_config(tmp_path, "val: val.txt\nnames: [cat]"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=r"folder: no image in this folder; expected files with one of .bmp"):
        read(make_config(tmp_path, "val: folder\nnames: [cat]"))


# ---- COCO


def test_coco_order_ids_and_ground_truth(tmp_path: Path) -> None:
    crowd = annotation(2, [0, 0, 60, 40], image=3, category=9, iscrowd=1, segmentation={"size": [40, 60], "counts": []})
    data = read(make_coco(tmp_path, [crowd, GOOD]))
    assert data.names == ("cat", "dog", "owl")
    assert data.category_ids == (2, 5, 9)
    assert [sample.image_id for sample in data.samples] == [7, 3]
    assert data.samples[0].boxes.tolist() == [[10, 5, 30, 15.5]]
    assert data.samples[0].boxes.dtype == np.float64
    assert data.samples[1].labels.tolist() == [2]
    assert data.samples[1].crowd.tolist() == [True]
    assert data.ground_truth == json.loads((tmp_path / "val.json").read_text())


def test_coco_bad_annotations_are_named_with_their_line(tmp_path: Path) -> None:
    bad = [
        annotation(2, [10, 5, 0, 10]),
        annotation(3, [10, 5, -4, 10]),
        annotation(4, [50, 5, 20, 10]),
        annotation(5, [70, 5, 20, 10]),
        annotation(6, [1, 2, 3]),
        annotation(7, None),
        annotation(8, [1, 2, math.nan, 4]),
        annotation(9, [1, 2, 3, 4], image=99),
        annotation(10, [1, 2, 3, 4], category=1),
        annotation(11, [1, 2, 3, 4], iscrowd=2),
        "nonsense",
        annotation(12, [10, 5, 20, 10.5]),
        annotation(13, [0, 0, 60.04, 40]),
    ]
    data = read(make_coco(tmp_path, [GOOD, *bad], indent=1))
    assert data.samples[0].boxes.tolist() == [[10, 5, 30, 15.5], [50, 5, 60, 15], [0, 0, 60, 40]]
    assert len(data.problems) == 12
    text = (tmp_path / "val.json").read_text().splitlines()
    for problem in data.problems:
        file, line, called = problem.where.split(":")[-3:]
        assert Path(file).name == "val.json"
        number = called.removeprefix(" annotation ")
        block = "\n".join(text[int(line) - 1 : int(line) + 14])
        assert block.startswith('  "nonsense"') if "[" in called else f'"id": {number},' in block.split("}")[0]
    for what in (
        "annotation 2: box [10, 5, 10, 15] (x1, y1, x2, y2) has no area; left out",
        "annotation 4: box [50, 5, 70, 15] (x1, y1, x2, y2) sticks out of the 60x40 image by 10 px; clipped",
        "annotation 5: box [70, 5, 90, 15] (x1, y1, x2, y2) lies outside the 60x40 image; left out",
        "annotation 6: bbox is [1, 2, 3], expected [x, y, width, height], finite numbers; left out",
        "annotation 7: bbox is null",
        "annotation 8: bbox is [1, 2, NaN, 4]",
        "annotation 9: image_id 99 is not among the images",
        "annotation 10: category_id 1 is not among the categories",
        "annotation 11: iscrowd is 2, expected 0 or 1",
        'annotations[11]: expected an object, found "nonsense"',
        "annotation 12: box [10, 5, 30, 15.5] (x1, y1, x2, y2) of the same class stands in this image already",
    ):
        assert what in said(data)
    kept = [entry["id"] for entry in data.ground_truth["annotations"]]
    assert kept == [1, 2, 3, 4, 5, 12, 13]  # what pycocotools can read stays, unusable boxes too


def test_coco_missing_area_and_iscrowd_are_completed(tmp_path: Path) -> None:
    data = read(make_coco(tmp_path, [annotation(5, [1, 2, 3, 4], area=None, iscrowd=None), GOOD]))
    assert data.ground_truth["annotations"][0]["area"] == 12
    assert data.ground_truth["annotations"][0]["iscrowd"] == 0
    assert said(data).endswith("1 annotations have no area; width times height is taken")


def test_coco_annotation_ids_taken_or_missing(tmp_path: Path) -> None:
    twice = [GOOD, annotation(1, [0, 0, 9, 9]), annotation(None, [1, 1, 9, 9])]
    data = read(make_coco(tmp_path, twice))
    assert [entry["id"] for entry in data.ground_truth["annotations"]] == [1, 2, 3]
    assert "annotation 1: its id is taken; kept under a new id" in said(data)
    assert len(data.samples[0].boxes) == 3


def test_coco_ids_as_text_and_floats(tmp_path: Path) -> None:
    images = [
        {"id": "7", "file_name": "a.png", "height": HEIGHT, "width": WIDTH},
        {"id": 3.0, "file_name": "b.png", "height": HEIGHT, "width": WIDTH},
    ]
    for image in images:
        make_image(tmp_path / "images" / image["file_name"])
    entries = [annotation(1, [1, 2, 3, 4], image=7, category="2"), annotation(2, [1, 2, 3, 4], image="3", iscrowd="x")]
    data = read(make_coco(tmp_path, entries, images=images, categories=[{"id": "2", "name": "cat"}]))
    assert [sample.image_id for sample in data.samples] == [7, 3]
    assert [image["id"] for image in data.ground_truth["images"]] == [7, 3]
    assert data.ground_truth["categories"] == [{"id": 2, "name": "cat"}]
    assert data.ground_truth["annotations"] == [annotation(1, [1, 2, 3, 4])]
    assert 'iscrowd is "x"' in said(data)


def test_coco_image_ids_that_are_no_numbers_are_numbered(tmp_path: Path) -> None:
    images = [{"id": "007", "file_name": "a.png", "height": HEIGHT, "width": WIDTH}]
    make_image(tmp_path / "images" / "a.png")
    data = read(make_coco(tmp_path, [annotation(4, [1, 2, 3, 4], image="007")], images=images))
    assert data.samples[0].image_id == 1
    assert data.ground_truth["annotations"][0]["image_id"] == 1
    assert "image ids such as '007' are no whole numbers; images are numbered 1, 2, ... instead" in said(data)


def test_coco_bad_images(tmp_path: Path) -> None:
    images = [
        {"id": 7, "file_name": "a.png", "height": HEIGHT, "width": WIDTH},
        {"id": 7, "file_name": "b.png", "height": HEIGHT, "width": WIDTH},
        {"id": 8},
        {"id": 9, "file_name": "gone.png", "height": HEIGHT, "width": WIDTH},
        {"id": 10, "file_name": "deep/er/c.png"},
        {"id": 11, "file_name": "broken.png"},
    ]
    make_image(tmp_path / "images" / "a.png")
    make_image(tmp_path / "images" / "deep" / "er" / "c.png", 33, 44)
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    entries = [GOOD, annotation(2, [1, 2, 3, 4], image=9), annotation(3, [1, 2, 50, 4], image=10)]
    data = read(make_coco(tmp_path, [*entries, annotation(4, [1, 2, 3, 4], image=11)], images=images))
    assert [sample.image_id for sample in data.samples] == [7, 10]
    assert (data.samples[1].height, data.samples[1].width) == (33, 44)
    assert data.samples[1].boxes.tolist() == [[1, 2, 44, 6]]
    for what in (
        "val.json:1: image 7: the image a.png has this id already; left out",
        "val.json:1: image 8: expected an 'id' and a 'file_name'",
        "val.json:1: image 9: no such image: ",
        "broken.png: not an image that Pillow knows",
    ):
        assert what in said(data)


def test_coco_no_image_on_disk(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "a.png"}]
    with pytest.raises(ConfigError, match=r"the first: a.png. are in none of .*set 'images'"):
        read(make_coco(tmp_path, [], images=images))
    make_image(tmp_path / "pictures" / "a.png")
    (tmp_path / "images").mkdir()
    with pytest.raises(ConfigError, match=r"none of its 1 images exists, the first would be .*images/a.png"):
        read(make_coco(tmp_path, [], images=images, options="images: images"))
    assert len(read(make_coco(tmp_path, [], images=images, options="images: pictures"))) == 1
    make_image(tmp_path / "images" / "a.png")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(ConfigError, match=r"they are in .*images: set 'images' to it"):
        read(make_coco(tmp_path, [], images=images, options="images: elsewhere"))


@pytest.mark.parametrize("place", ["train2017", "images/train2017", "images", "annotations", "."])
def test_coco_images_are_found_in_the_usual_places(tmp_path: Path, place: str) -> None:
    make_image(tmp_path / place / "a.png")
    (tmp_path / "annotations").mkdir(exist_ok=True)
    content = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": [{"id": 1, "name": "x"}]}
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    data = read_split(make_config(tmp_path, "train: annotations/instances_train2017.json"), "train")
    assert data.samples[0].path == (tmp_path / place / "a.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "a list, as in COCO results"),
        ('{"images": [', r"val.json:1: not valid JSON"),
        ('{"annotations": []}', "no COCO JSON; expected an object with the lists"),
        ('{"images": [], "annotations": {}}', "'annotations' is {}, expected a list"),
        ('{"images": [], "annotations": []}', "expected a list 'categories'"),
        ('{"images": [], "annotations": [], "categories": [{"id": "x", "name": "y"}]}', "expected a whole number 'id'"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "y"}, {"id": 1, "name": "z"}]}',
            "category id 1 stands twice",
        ),
    ],
)
def test_coco_file_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "val.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read(make_config(tmp_path, "val: val.json"))


def test_coco_without_annotations_is_test_dev(tmp_path: Path) -> None:
    make_coco(tmp_path, [])
    content = json.loads((tmp_path / "val.json").read_text())
    del content["annotations"]
    (tmp_path / "val.json").write_text(json.dumps(content))
    data = read(make_config(tmp_path, "val: val.json\nlabels: error"))
    assert data.ground_truth["annotations"] == []
    assert "has no annotations; kept as images without objects" in said(data)


def test_coco_names_of_the_yaml(tmp_path: Path) -> None:
    assert read(make_coco(tmp_path, [], options="names: [chat, chien, hibou]")).names == ("chat", "chien", "hibou")
    with pytest.raises(ConfigError, match="3 categories, but 2 names"):
        read(make_coco(tmp_path, [], options="names: [cat, dog]"))
    with pytest.raises(ConfigError, match=r"class 0 is 'dog' there and 'cat' here \(category id 2\)"):
        read(make_coco(tmp_path, [], options="names: [dog, cat, owl]"))
    with pytest.raises(ConfigError, match=r"nc is 4, but .* has 3"):
        read(make_coco(tmp_path, [], options="nc: 4"))


def test_coco_two_categories_of_one_name(tmp_path: Path) -> None:
    data = read(make_coco(tmp_path, [], categories=[{"id": 4, "name": "cell"}, {"id": 1, "name": "cell"}]))
    assert data.names == ("cell", "cell (4)")
    assert "two categories are named 'cell'" in said(data)


def test_coco_agrees_with_pycocotools(shared: Path) -> None:
    for name in ("bccd", "coco_tiny"):
        config = load_data_config(str(shared / "data" / name / "data.yaml"))
        data = read_split(config, "val")
        truth = COCO(str(config.val))
        assert data.problems == ()
        assert list(data.category_ids) == sorted(truth.getCatIds())
        assert list(data.names) == [truth.cats[number]["name"] for number in data.category_ids]
        assert [sample.image_id for sample in data.samples] == truth.getImgIds()
        for sample in data.samples:
            entries = truth.loadAnns(truth.getAnnIds([sample.image_id]))
            assert [data.category_ids[label] for label in sample.labels] == [entry["category_id"] for entry in entries]
            assert sample.crowd.tolist() == [bool(entry["iscrowd"]) for entry in entries]
            boxes = np.array([entry["bbox"] for entry in entries]).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            assert np.abs(sample.boxes - boxes).max(initial=0) < 0.05
        assert data.ground_truth == json.loads(config.val.read_text())


# ---- YOLO


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
        "cat 0.5 0.5 0.2 0.2": "'cat 0.5 0.5 0.2 0.2' holds something that is no number",
        "0,0.5,0.5,0.2,0.2": "holds something that is no number",
        "0 30 20 10 10": "value 30 looks like pixels",
        "0 0.5 0.5 nan 0.2": "no finite number",
        "0 0.5 0.5 0 0.2": "has no area",
        "0 0.5 0.5 -0.2 0.2": "has no area",
        "0 1.5 0.5 0.2 0.2": "lies outside the 60x40 image",
        "0 0.5 0.5 0.20 0.2": "stands in this image already",
        "0 1.0 0.5 0.2 0.2": "sticks out of the 60x40 image by 6 px; clipped",
    }
    data = read(make_yolo(tmp_path, {"a": "\n".join(rows)}))
    assert data.samples[0].boxes == pytest.approx(np.array([[24, 16, 36, 24], [54, 16, 60, 24]]))
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
    ("image", "label"),
    [
        ("images/a.png", "labels/a.txt"),
        ("images/val/a.png", "labels/val/a.txt"),
        ("val/images/a.png", "val/labels/a.txt"),
        ("val/a.png", "labels/val/a.txt"),
        ("val/a.png", "labels/a.txt"),
        ("val/a.png", "val/labels/a.txt"),
        ("x/y/a.png", "labels/x/y/a.txt"),
        ("val/a.png", "val/a.txt"),
    ],
)
def test_yolo_places_of_labels(tmp_path: Path, image: str, label: str) -> None:
    make_image(tmp_path / image)
    (tmp_path / label).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / label).write_text("2 0.5 0.5 1 1\n")
    data = read(make_config(tmp_path, f"val: {Path(image).parent}\nnames: [cat, dog, owl]"))
    assert data.samples[0].labels.tolist() == [2]


def test_list_lines(tmp_path: Path) -> None:
    for name in ("one.png", "two words.png", "three.PNG"):
        make_image(tmp_path / "set" / "images" / name)
        label = tmp_path / "set" / "labels" / Path(name).with_suffix(".txt").name
        label.parent.mkdir(exist_ok=True)
        label.write_text("0 0.5 0.5 1 1")
    (tmp_path / "lists").mkdir()
    lines = [f"{tmp_path}/set/images/one.png", "images/two words.png", "../set/images\\three.PNG"]
    (tmp_path / "lists" / "val.txt").write_text("\ufeff" + "\n".join(lines) + "\n")
    data = read(make_config(tmp_path, f"path: set\nval: {tmp_path}/lists/val.txt\nnames: [cat]"))
    assert [sample.path.name for sample in data.samples] == ["one.png", "two words.png", "three.PNG"]
    (tmp_path / "lists" / "val.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read(make_config(tmp_path, f"path: set\nval: {tmp_path}/lists/val.txt\nnames: [cat]"))


# ---- VOC


def test_voc_objects(tmp_path: Path) -> None:
    objects = voc_object("owl", (1, 1, 60, 40)) + voc_object("cat", ("5.5", "6", "7", "8"), "<difficult>1</difficult>")
    data = read(make_voc(tmp_path, {"a": objects, "b": ""}))
    assert data.samples[0].boxes.tolist() == [[0, 0, 60, 40], [4.5, 5, 7, 8]]
    assert data.samples[0].labels.tolist() == [2, 0]
    assert not data.samples[0].crowd.any()
    assert data.category_ids == (1, 2, 3)
    assert data.problems == ()


def test_voc_counting_from_zero(tmp_path: Path) -> None:
    objects = {"a": voc_object("owl", (0, 0, 60, 40))}
    data = read(make_voc(tmp_path / "x", objects))
    assert "a.xml:2: box [-1, -1, 60, 40] (x1, y1, x2, y2) sticks out of the 60x40 image by 1 px; clipped" in said(data)
    data = read(make_voc(tmp_path / "y", objects, options="voc_first_pixel: 0"))
    assert data.samples[0].boxes.tolist() == [[0, 0, 60, 40]]
    assert data.problems == ()


def test_voc_bad_objects_are_named_with_their_line(tmp_path: Path) -> None:
    objects = [
        voc_object("cat", (1, 1, 60, 40)),
        voc_object("dgo", (1, 1, 5, 5)),
        voc_object("cat", (1, "x", 5, 5)),
        "<object><name>cat</name></object>\n",
        voc_object("cat", (9, 9, 5, 5)),
        voc_object("cat", (1, 1, "nan", 5)),
        voc_object("cat", (1, 1, 60, 40)),
        voc_object("dog", (1, 1, 90, 40)),
    ]
    config = make_voc(tmp_path, {"a": "".join(objects), "b": "<object>", "c": None})
    (tmp_path / "Annotations" / "lonely.xml").write_text("<annotation/>")
    data = read(config)
    assert [sample.path.stem for sample in data.samples] == ["a", "c"]
    assert data.samples[0].labels.tolist() == [0, 1]
    for what in (
        "a.xml:6: class 'dgo' is not among the names of the data set. Did you mean 'dog'?; left out",
        "a.xml:10: object 'cat': expected a number in <bndbox><ymin>, found 'x'",
        "a.xml:14: object 'cat': expected a number in <bndbox><xmin>, found nothing",
        "a.xml:15: box [8, 8, 5, 5] (x1, y1, x2, y2) has no area",
        "a.xml:19: box [0, 0, nan, 5] holds a value that is no finite number",
        "a.xml:23: box [0, 0, 60, 40] (x1, y1, x2, y2) of the same class stands in this image already",
        "a.xml:27: box [0, 0, 90, 40] (x1, y1, x2, y2) sticks out of the 60x40 image by 30 px; clipped",
        "b.xml:2: not valid XML",
        "Annotations: 1 of 3 images have no label file (the first: c.png)",
        "lonely.xml: a label file without an image",
    ):
        assert what in said(data)


def test_voc_size_is_compared_with_the_image(tmp_path: Path) -> None:
    size = "<size><width>40</width><height>60</height></size>"
    data = read(make_voc(tmp_path, {"a": voc_object("cat", (1, 1, 5, 5))}, size=size))
    assert "a.xml: <size> says 40x60, the upright image is 60x40; kept" in said(data)


def test_voc_without_names_suggests_them(tmp_path: Path) -> None:
    config = make_voc(tmp_path, {"a": voc_object("cat", (1, 1, 5, 5)) + voc_object("ant", (1, 1, 5, 5))})
    config = make_config(tmp_path, f"val: {config.val}")
    with pytest.raises(ConfigError, match=r"expected 'names'.* names: \['ant', 'cat'\]"):
        read(config)


def test_voc_class_lists_and_folders(tmp_path: Path) -> None:
    config = make_voc(tmp_path, {"a 1": voc_object("cat", (1, 1, 5, 5)), "b": voc_object("dog", (1, 1, 5, 5))})
    assert len(read(make_config(tmp_path, "val: JPEGImages\nnames: [cat, dog]"))) == 2
    config.val.write_text("a 1  1\nb -1\nc  0\n")
    data = read(make_config(tmp_path, "val: ImageSets/Main/val.txt\nnames: [cat, dog]"))
    assert [sample.path.stem for sample in data.samples] == ["a 1", "b"]
    assert "val.txt:3: no such image" in said(data)


# ---- the formats agree


def same_boxes(first: LabelledImages, second: LabelledImages, *, crowd: bool, tolerance: float = 1e-9) -> None:
    assert first.names == second.names
    assert [sample.path.name for sample in first.samples] == [sample.path.name for sample in second.samples]
    for one, other in zip(first.samples, second.samples, strict=True):
        keep = np.ones(len(one.boxes), bool) if crowd else ~one.crowd
        assert (one.height, one.width) == (other.height, other.width)
        assert one.labels[keep].tolist() == other.labels.tolist()
        assert one.crowd[keep].tolist() == other.crowd.tolist()
        assert np.abs(one.boxes[keep] - other.boxes).max(initial=0) < tolerance


def test_both_forms_of_the_shared_data_agree(shared: Path) -> None:
    for name, splits in (("bccd", ("train", "val", "test")), ("coco_tiny", ("train", "val"))):
        for split in splits:
            first = read_split(load_data_config(str(shared / "data" / name / "data.yaml")), split)
            second = read_split(load_data_config(str(shared / "data" / name / "data_yolo.yaml")), split)
            same_boxes(first, second, crowd=False, tolerance=2e-3)  # six decimals of 640 pixels
            assert second.problems == ()


@pytest.mark.parametrize("labelling", [yolo, voc])
def test_round_trip_of_coco(shared: Path, tmp_path: Path, labelling: object) -> None:
    data = read_split(load_data_config(str(shared / "data" / "coco_tiny" / "data.yaml")), "val")
    paths = [sample.path for sample in data.samples]
    folder = {paths[0].parent: tmp_path / "labels"}
    if labelling is yolo:
        assert yolo.write(data.samples, paths[0].parent, tmp_path / "labels") == 11
        back = yolo.read(paths, folder, data.names, category_ids=data.category_ids)
    else:
        voc.write(data.samples, data.names, paths[0].parent, tmp_path / "labels")
        back = voc.read(paths, folder, data.names, category_ids=data.category_ids)
    assert back.problems == ()
    assert back.category_ids == data.category_ids
    same_boxes(data, back, crowd=labelling is voc)


def test_coco_written_is_coco_read(shared: Path, tmp_path: Path) -> None:
    data = read_split(load_data_config(str(shared / "data" / "coco_tiny" / "data.yaml")), "val")
    coco.write(data, tmp_path / "val.json", [sample.path.name for sample in data.samples])
    back = coco.read(tmp_path / "val.json", tmp_path, images=data.samples[0].path.parent)
    assert back.ground_truth == data.ground_truth
    same_boxes(data, back, crowd=True, tolerance=1e-12)


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


def test_lines_in_a_file_with_keys_in_any_order(tmp_path: Path) -> None:
    make_image(tmp_path / "images" / "a.png")
    text = """{"info": {"annotations": [1, 2], "said": "\\"annotations\\": ["},
    "categories": [{"id": 1, "name": "cat"}], "annotations" :
    [ {"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]}, {"id": 2, "image_id": 8},

      {"id": 3, "image_id": 9}], "images": [{"id": 7,
      "file_name": "a.png"}, 5]
    }
    """
    (tmp_path / "val.json").write_text(text)
    data = read(make_config(tmp_path, "val: val.json"))
    places = [problem.where.removeprefix(str(tmp_path / "val.json")) for problem in data.problems]
    assert places[:3] == [":6: images[1]", ":3: annotation 2", ":5: annotation 3"]
