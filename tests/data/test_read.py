"""Splits as read from disk: what is refused, what bad labels do, and what a data set is for."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from data.classes import same_classes
from data.config import SPLITS
from data.read import guess_task, read_split, read_splits
from tests.data.tiny_sets import (
    annotation,
    folders_config,
    make_coco,
    make_config,
    make_folders,
    make_image,
    make_yolo,
    read,
    read_classes,
    said,
)
from utils.config import ConfigError
from utils.provenance import data_fingerprint


def test_category_ids_of_the_yaml_are_kept(tmp_path: Path) -> None:
    data = read(make_yolo(tmp_path, {"a": "1 0.5 0.5 1 1"}, options="category_ids: [1, 18, 90]"))
    assert data.category_ids == (1, 18, 90)
    assert data.ground_truth["annotations"][0]["category_id"] == 18


def test_splits_that_are_not_there(tmp_path: Path) -> None:
    config = make_config(tmp_path, "train: a.txt\nval: b.csv")
    with pytest.raises(ConfigError, match="has no split 'test', only train, val"):
        read_split(config, "test")
    with pytest.raises(ConfigError, match="split 'vla' is unknown; expected one of train, val, test"):
        read_split(config, "vla")
    with pytest.raises(ConfigError, match=r"train: no such file or folder: .*a.txt$"):
        read_split(config, "train")
    (tmp_path / "b.csv").touch()
    with pytest.raises(ConfigError, match=r"val: b.csv: expected a COCO JSON file, a .txt list of images or a folder"):
        read_split(config, "val")
    config = make_coco(tmp_path, [])
    with pytest.raises(ConfigError, match=r"images: no such file or folder: .*nowhere"):
        read(dataclasses.replace(config, images=tmp_path / "nowhere"))
    assert set(SPLITS) == {"train", "val", "test"}


def test_policy_for_bad_labels(tmp_path: Path) -> None:
    text = {"a": "0 0.5 0.5 1 1\n9 0.5 0.5 1 1\n", "b": None}
    config = make_yolo(tmp_path, text, options="unreadable: object")
    data = read(config)
    assert len(data.problems) == 2
    with pytest.raises(ConfigError) as caught:
        read(dataclasses.replace(config, labels="error"))
    assert "1 problem in the labels (1 left out):" in str(caught.value)
    assert "a.txt:2: class 9 is out of range" in str(caught.value)
    assert "or set 'labels: warn'" in str(caught.value)
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 1 1\n")
    assert len(read(dataclasses.replace(config, labels="error"))) == 2  # background images are no mistake


def test_splits_must_mean_the_same_classes(tmp_path: Path) -> None:
    first = read(make_coco(tmp_path / "a", []))
    second = read(make_coco(tmp_path / "b", []))
    assert same_classes(first, second) is second
    fewer = read(make_coco(tmp_path / "c", [], categories=[{"id": 2, "name": "cat"}, {"id": 9, "name": "owl"}]))
    with pytest.raises(ConfigError, match="one split has 3 classes, the other 2: only one of them has dog"):
        same_classes(first, fewer)


def test_classes_of_splits_are_matched_by_name(tmp_path: Path) -> None:
    first = read(make_coco(tmp_path / "a", []))
    ids = [{"id": 2, "name": "cat"}, {"id": 6, "name": "dog"}, {"id": 9, "name": "owl"}]
    rows = [annotation(1, [1, 2, 3, 4], category=6), annotation(2, [5, 6, 7, 8], category=9)]
    matched = same_classes(first, read(make_coco(tmp_path / "b", rows, categories=ids)))
    assert (matched.names, matched.category_ids) == (("cat", "dog", "owl"), (2, 6, 9))
    assert "and other ids ('dog': 6 for 5); matched by name" in said(matched)
    order = [{"id": 2, "name": "owl"}, {"id": 6, "name": "dog"}, {"id": 9, "name": "cat"}]
    matched = same_classes(first, read(make_coco(tmp_path / "c", rows, categories=order)))
    assert (matched.names, matched.category_ids) == (("cat", "dog", "owl"), (9, 6, 2))
    assert matched.samples.labels.tolist() == [1, 0]
    assert matched.ground_truth["annotations"] == rows
    assert "in another order (class 0 is 'owl' here, 'cat' there); matched by name" in said(matched)


def test_reading_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "sub/c.png", ".hidden.png"):
        make_image(tmp_path / "images" / name)
        label = (tmp_path / "labels" / name).with_suffix(".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 0.5 0.5 1 1")
    data = read(make_config(tmp_path, "val: images\nnames: [cat]"))
    assert [sample.path.name for sample in data.samples] == ["a.png", "b.png", "c.png"]
    assert np.array_equal([sample.image_id for sample in data.samples], [1, 2, 3])


def test_annotations_of_unknown_images_are_problems(tmp_path: Path) -> None:
    config = make_coco(tmp_path, [annotation(1, [1, 2, 3, 4], image=1)], options="labels: error")
    with pytest.raises(ConfigError, match="image_id 1 is not among the images; left out"):
        read(config)


def test_a_training_set_of_crowds_alone_is_refused(tiny_coco: Path, tmp_path: Path) -> None:
    content = json.loads((tiny_coco.parent / "train.json").read_text())
    for entry in content["annotations"]:
        entry["iscrowd"] = 1
    (tmp_path / "train.json").write_text(json.dumps(content))
    folder = tiny_coco.parent
    (tmp_path / "d.yaml").write_text(f"train: train.json\nval: {folder}/val.json\nimages: {folder}/images\n")
    crowds = len(content["annotations"])
    with pytest.raises(ConfigError, match=f"nothing to learn: no object in 8 images, and {crowds} crowd regions"):
        read_splits(str(tmp_path / "d.yaml"))


def test_the_fingerprint_names_both_splits(tiny_coco: Path) -> None:
    splits = read_splits(str(tiny_coco))
    assert splits.fingerprint() == {"train": data_fingerprint(splits.train), "val": data_fingerprint(splits.val)}


def test_the_training_split_decides_the_classes_of_all(tmp_path: Path) -> None:
    make_folders(tmp_path, {"ant": 1, "bee": 1, "cow": 1})
    make_folders(tmp_path, {"cow": 1, "ant": 1, "dog": 1}, split="val")
    splits = read_splits(str(folders_config(tmp_path).source), "classify")
    assert splits.names == splits.val.names == ("ant", "bee", "cow")
    assert (splits.task, splits.counts()) == ("classify", "3 training images, 2 validation images")
    assert "'dog' is none of the 3 classes" in said(splits.val)
    assert [int(sample.labels[0]) for sample in splits.shown(5)] == [0, 2]
    alone = make_config(tmp_path, "val: val\n")
    assert read_classes(alone, "val").names == ("ant", "cow", "dog")


def test_each_task_refuses_the_other_tasks_data(tmp_path: Path) -> None:
    coco = make_coco(tmp_path / "coco", [annotation(1, [1, 1, 20, 20])])
    with pytest.raises(
        ConfigError, match=r"the model is a classifier.*python -m data.convert SRC DST --to imagefolder"
    ):
        read_classes(coco, "val")
    yolo = make_yolo(tmp_path / "yolo", {"a": "0 0.5 0.5 1 1"})
    for target in ("images", "val.txt"):
        with pytest.raises(ConfigError, match="expected one folder of images for each class"):
            read_classes(make_config(tmp_path / "yolo", f"val: {target}\nnames: [cat]"), "val")
    assert read_split(yolo, "val").task == "detect"
    make_folders(tmp_path, {"cat": 1, "dog": 1})
    with pytest.raises(ConfigError, match=r"no labels for .*; class folders are for a classifier"):
        read_split(folders_config(tmp_path), "train")
    with pytest.raises(ConfigError, match="no image of a known class: the folders are cat, dog; 'names' has cow"):
        read_classes(folders_config(tmp_path, "names: [cow]"))


def test_other_sets_are_a_detectors(tmp_path: Path) -> None:
    assert guess_task(make_coco(tmp_path / "coco", [])) == "detect"
    assert guess_task(make_yolo(tmp_path / "yolo", {"a": "0 0.5 0.5 1 1"})) == "detect"
    assert guess_task(make_config(tmp_path / "yolo", "val: images\nnames: [cat]")) == "detect"
    assert guess_task(make_config(tmp_path / "none", "val: gone")) == "detect"
    make_image(tmp_path / "flat" / "images" / "a.png")
    assert guess_task(make_config(tmp_path / "flat", "val: images")) == "detect"
