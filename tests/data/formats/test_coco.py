"""COCO JSON: ids, order and ground truth are those of the file, and bad entries are named with their line."""

from __future__ import annotations

import json
import math
import os
import tracemalloc
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from pycocotools.coco import COCO

from data.config import DataConfig, load_data_config, read_data_config
from data.convert import main as convert
from data.formats import coco
from data.formats.coco_compact import entries_at
from data.read import read_split, read_splits
from tests.data.formats.test_formats import same_boxes
from tests.data.tiny_sets import (
    HEIGHT,
    WIDTH,
    annotation,
    make_coco,
    make_config,
    make_image,
    read,
    said,
)
from utils.config import ConfigError
from utils.metrics.build import build_metric
from utils.structures import Detections

GOOD = annotation(1, [10, 5, 20, 10.5])


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
    data = read(make_coco(tmp_path, [GOOD, *bad], indent=1, options="unreadable: object"))
    assert data.samples[0].boxes.tolist() == [[10, 5, 30, 15.5], [6, 5, 10, 15], [50, 5, 60, 15], [0, 0, 60, 40]]
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
        "annotation 3: bbox is [10, 5, -4, 10], of negative size, and is turned round; repaired",
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
    categories = [{"id": "2", "name": "cat"}]
    config = make_coco(tmp_path, entries, images=images, categories=categories, options="unreadable: object")
    data = read(config)
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


TWINS = [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "./a.png"}, {"id": 3, "file_name": "b.png"}]


def twins(folder: Path, annotations: list[dict], options: str = "") -> DataConfig:
    """a.png under the ids 7 and 8, and b.png."""
    make_image(folder / "images" / "a.png")
    make_image(folder / "images" / "b.png")
    return make_coco(folder, annotations, images=TWINS, options=options)


@pytest.mark.parametrize(("owner", "other"), [(7, 8), (8, 7)])
def test_coco_one_file_for_two_images_of_which_one_is_empty(tmp_path: Path, owner: int, other: int) -> None:
    data = read(twins(tmp_path, [annotation(1, [10, 5, 20, 10.5], image=owner)]))
    assert [(sample.image_id, len(sample.boxes)) for sample in data.samples] == [(owner, 1), (3, 0)]
    assert f"val.json:1: image {other}: its file is that of image {owner} too, and it has no annotations; left" in said(
        data
    )
    assert [entry["id"] for entry in data.ground_truth["images"]] == [owner, 3]


def test_coco_one_file_for_two_images_that_say_the_same(tmp_path: Path) -> None:
    entries = [annotation(1, [10, 5, 20, 10]), annotation(2, [1, 2, 9, 9])]
    entries += [{**entries[1], "id": 3, "image_id": 8}, {**entries[0], "id": 4, "image_id": 8, "area": 1}]
    config = twins(tmp_path, entries)
    data = read(config)
    assert [(sample.image_id, len(sample.boxes)) for sample in data.samples] == [(7, 2), (3, 0)]
    assert said(data).endswith("image 8: its file is that of image 7 too, and it has the same annotations; left out")
    assert [entry["id"] for entry in data.ground_truth["annotations"]] == [1, 2]
    with pytest.raises(ConfigError, match="image 8: its file is that of image 7 too"):
        read(twins(tmp_path, entries, "labels: error"))


@pytest.mark.parametrize("second", [{"bbox": [1, 2, 9, 9]}, {"category_id": 5}, {"iscrowd": 1}, {"category_id": 77}])
def test_coco_one_file_for_two_images_that_disagree(tmp_path: Path, second: dict) -> None:
    entries = [GOOD, {**GOOD, "id": 2, "image_id": 8, **second}, annotation(3, [1, 2, 9, 9], image=3)]
    data = read(twins(tmp_path, entries, "unreadable: object"))
    assert [sample.image_id for sample in data.samples] == [3]
    assert "val.json:1: image 7: one image file under 2 ids, 7, 8, with other annotations each; " in said(data)
    assert "its image is left out" in said(data)
    assert [entry["id"] for entry in data.ground_truth["annotations"]] == [3]
    for option, message in (("unreadable: run", "unreadable: image"), ("labels: error", "labels: warn")):
        with pytest.raises(ConfigError, match=f"(?s)image file under 2 ids, 7, 8.*{message}"):
            read(twins(tmp_path, entries, option))


def test_the_ground_truth_is_of_the_images_in_use(tmp_path: Path) -> None:
    """Objects of an image that is not evaluated would count as missed."""
    entries = [GOOD, annotation(2, [1, 2, 9, 9], category=77), annotation(3, [1, 2, 9, 9], image=3)]
    data = read(make_coco(tmp_path, entries))
    assert [sample.image_id for sample in data.samples] == [3]
    assert [entry["id"] for entry in data.ground_truth["images"]] == [3]
    assert [entry["id"] for entry in data.ground_truth["annotations"]] == [3]
    (tmp_path / "images" / "b.png").unlink()
    data = read(make_coco(tmp_path, [GOOD, entries[2]], images=[*TWINS[:1], TWINS[2]]))
    assert [entry["id"] for entry in data.ground_truth["annotations"]] == [1]
    metric = build_metric(data)
    metric.update(
        [7], [Detections(np.array([[10, 5, 30, 15.5]], np.float32), np.ones(1, np.float32), np.zeros(1, int))]
    )
    assert metric.compute()["images"] == 1
    assert metric.compute()["AP"] == pytest.approx(1)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_coco_files_that_are_none_are_refused_unopened(tmp_path: Path) -> None:
    config = make_coco(tmp_path, [GOOD, annotation(3, [1, 2, 9, 9], image=3)])
    (tmp_path / "images" / "b.png").unlink()
    os.mkfifo(tmp_path / "images" / "b.png")
    data = read(config)
    assert [sample.image_id for sample in data.samples] == [7]
    assert f"image 3: a pipe or a device, expected a regular file: {tmp_path}/images/b.png; left out" in said(data)
    (tmp_path / "images" / "b.png").unlink()
    (tmp_path / "images" / "b.png").symlink_to("gone.png")
    assert f"image 3: a link to nothing: {tmp_path}/images/b.png; left out" in said(read(config))
    (tmp_path / "val.json").unlink()
    os.mkfifo(tmp_path / "val.json")
    with pytest.raises(ConfigError, match=r"val.json: cannot be read \(a pipe or a device, expected a regular file\)"):
        read(config)


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
    ordered = read(make_coco(tmp_path, [annotation(1, [1, 2, 3, 4])], options="names: [dog, cat, owl]"))
    assert (ordered.names, ordered.category_ids) == (("dog", "cat", "owl"), (5, 2, 9))
    assert ordered.samples[0].labels.tolist() == [1]
    assert "stand in another order than the categories; matched by name" in said(ordered)
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


def test_coco_written_is_coco_read(shared: Path, tmp_path: Path) -> None:
    data = read_split(load_data_config(str(shared / "data" / "coco_tiny" / "data.yaml")), "val")
    coco.write(data, tmp_path / "val.json", [sample.path.name for sample in data.samples])
    back = coco.read(tmp_path / "val.json", tmp_path, images=data.samples[0].path.parent)
    assert back.ground_truth == data.ground_truth
    same_boxes(data, back, crowd=True, tolerance=1e-12)


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


def test_names_that_no_data_yaml_holds_are_replaced(tmp_path: Path) -> None:
    categories = [{"id": i, "name": name} for i, name in enumerate(("", "cell", "cell", "cell (2)", "cell"))]
    config = make_coco(tmp_path / "set", [annotation(1, [1, 2, 9, 9], category=0)], categories=categories)
    data = read(config)
    assert data.names == ("category 0", "cell", "cell (2) (2)", "cell (2)", "cell (4)")
    assert "category 0 has an empty name; it is called 'category 0'" in said(data)
    assert convert([str(config.source), str(tmp_path / "yolo"), "--to", "yolo"]) == 0
    assert read(read_data_config(tmp_path / "yolo" / "data.yaml")).names == data.names


def test_the_folder_of_images_is_that_of_most(tmp_path: Path) -> None:
    """An absolute path is found from any folder."""
    elsewhere = make_image(tmp_path / "elsewhere" / "c.png")
    images = [{"id": 1, "file_name": str(elsewhere)}, {"id": 2, "file_name": "a.png"}]
    make_image(tmp_path / "set" / "images" / "a.png")
    assert len(read(make_coco(tmp_path / "set", [], images=images))) == 2


def test_outlines_are_dropped_where_nobody_needs_them(tmp_path: Path) -> None:
    """All but those that a box may come from; the samples and the messages are the same."""
    outline = [[10, 5, 30, 5, 30, 15]]
    usable, others = (
        [[10, 5, 20, 10], [9, 9, -3, -4]],
        [[1, 2, 0, 0], [1, 1, 2], None, [True, 0, 5, 5], [1e400, 0, 1, 1]],
    )
    entries = [
        {**annotation(number, [1, 2, 3, 4]), "bbox": box, "segmentation": outline}
        for number, box in enumerate([*usable, *others], start=1)
    ]
    config = make_coco(tmp_path, entries)
    whole, without, nothing = (read_split(config, "val", truth=truth) for truth in ("whole", "boxes", "none"))
    for data in (without, nothing):
        assert said(data) == said(whole)
        assert data.samples.boxes.tolist() == whole.samples.boxes.tolist()
    kept = [entry["id"] for entry in without.ground_truth["annotations"] if "segmentation" in entry]
    assert kept == [entry["id"] for entry in whole.ground_truth["annotations"] if entry["id"] > len(usable)]
    cut = [{k: v for k, v in entry.items() if k != "segmentation"} for entry in without.ground_truth["annotations"]]
    full = [{k: v for k, v in entry.items() if k != "segmentation"} for entry in whole.ground_truth["annotations"]]
    assert cut == full
    assert nothing.ground_truth == {}


def test_training_needs_no_ground_truth_and_validation_no_outlines(tmp_path: Path) -> None:
    entry = {**annotation(1, [1, 2, 3, 4]), "segmentation": [[1, 2, 4, 2, 4, 6]]}
    make_coco(tmp_path, [entry])
    yaml = (tmp_path / "data.yaml").read_text()
    (tmp_path / "data.yaml").write_text(yaml + "train: val.json\n")
    splits = read_splits(str(tmp_path / "data.yaml"))
    assert splits.train.ground_truth == {}
    assert splits.val.ground_truth["annotations"] == [annotation(1, [1, 2, 3, 4])]


@pytest.mark.parametrize("name", ["images", "annotations", "categories"])
def test_a_list_that_stands_twice_is_refused(tmp_path: Path, name: str) -> None:
    """A parser of JSON keeps the last one alone."""
    config = make_coco(tmp_path, [annotation(1, [1, 2, 9, 9])])
    file = tmp_path / "val.json"
    content = json.loads(file.read_text())
    content["info"] = {"description": f'"{name}"', name: []}
    file.write_text(json.dumps(content))
    assert read(config).samples[0].boxes.tolist() == [[1, 2, 10, 11]]
    again = json.dumps({name: content[name]})
    file.write_text(f"{json.dumps(content)[:-1]},\n{again[1:]}")
    with pytest.raises(ConfigError, match=rf"val\.json:2: a second list '{name}'"):
        read(config)


ODD = (
    GOOD,
    annotation(2, [1.5, 2, 3, 4], image=3, category=5, area=None, segmentation=[[1, 2, 3, 4, 5, 6]]),
    annotation("3", [1, 2, 3, 4.5], image="7", category=9.0),
    annotation(4, [1, 2, "3", 4]),
    annotation(5, [9, 9, -3, 4]),
    annotation(6, [], segmentation=[[1, 2, 9, 2, 9, 8]]),
    annotation(7, [1, 2, 0, 4], segmentation=[[1, 2, 9, 2, 9, 8]]),
    annotation(8, [1, 2, 0, 4]),
    annotation(9, [50, 20, 30, 30]),
    annotation(10, [70, 20, 30, 30], image=3),
    annotation(11, [4, 4, 9, 9], image=99),
    annotation(12, [4, 4, 9, 9], category=77),
    annotation(13, [4, 4, 9, 9], iscrowd=True),
    annotation(14, [4, 4, 9, 9], iscrowd=5),
    annotation(1, [5, 4, 9, 9], iscrowd=None),
    annotation(0, [6, 4, 9, 9], iscrowd=1),
    annotation(None, [7, 4, 9, 9]),
    annotation(2**70, [8, 4, 9, 9], area="x"),
    annotation(16, [True, 4, 9, 1e300]),
    annotation(17, [10, 5, 20, 10.5], area=math.nan, deep={"bbox": [1, 2, 3, 4], "text": "x"}),
    [1],
    None,
)


@pytest.mark.parametrize("options", ["", "unreadable: object"])
@pytest.mark.parametrize("count", [0, 1, 2, len(ODD), -1])
def test_what_is_read_does_not_depend_on_whether_the_truth_is_wanted(tmp_path: Path, count: int, options: str) -> None:
    """Its annotations are read into columns then. The last set has what looks like an annotation inside of one."""
    listed = ODD[:count] if count >= 0 else [GOOD, annotation(2, [1, 2, 3, 4], deep=annotation(3, [3, 2, 3, 4]))]
    config = make_coco(tmp_path, listed, indent=1, options=options)
    truths: tuple[Literal["whole", "file", "boxes", "none"], ...] = ("whole", "file", "boxes", "none")
    first, *others = (read_split(config, "val", thorough=True, truth=truth) for truth in truths)
    for other in others:
        assert list(map(str, first.problems)) == list(map(str, other.problems))
        same_boxes(first, other, crowd=True)
    assert others[-1].ground_truth == {}
    used = {entry["id"] for entry in first.ground_truth["images"]}
    listed = others[0].ground_truth["annotations"]
    again = [entry for entry in entries_at(listed, range(len(listed))) if entry["image_id"] in used]
    assert list(map(repr, again)) == list(map(repr, first.ground_truth["annotations"]))
    assert first.ground_truth.keys() >= {"images", "annotations"}


def test_memory_of_many_annotations_is_small_where_no_truth_is_wanted(tmp_path: Path) -> None:
    listed = [annotation(number, [number % 50, 5.5, 2 + number / 10_000, 10.5]) for number in range(1, 20_001)]
    config = make_coco(tmp_path, listed)
    tracemalloc.start()
    try:
        assert len(read_split(config, "val", truth="none").samples.boxes) == len(listed)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 550 * len(listed)  # dictionaries would take 880
