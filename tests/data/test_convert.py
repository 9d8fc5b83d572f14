"""Conversion: every way and back, nothing is lost in silence, and no image of the source is touched."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest

from data.config import load_data_config, read_data_config
from data.convert import FORMATS, main, read_dataset, write_dataset
from data.read import read_split
from tests.data.tiny_sets import (
    HEIGHT,
    WIDTH,
    annotation,
    make_coco,
    make_config,
    make_image,
    make_voc,
    make_yolo,
    read,
    voc_object,
)
from utils.config import ConfigError
from utils.structures import LabelledImages


def same(first: LabelledImages, second: LabelledImages, *, crowd: bool = True) -> None:
    """Names, category ids, files, classes and boxes are equal; without `crowd`, of all that are no crowd regions."""
    assert first.names == second.names
    assert first.category_ids == second.category_ids
    assert second.problems == ()
    assert [sample.path.name for sample in first.samples] == [sample.path.name for sample in second.samples]
    for one, other in zip(first.samples, second.samples, strict=True):
        keep = np.ones(len(one.crowd), bool) if crowd else ~one.crowd
        assert one.labels[keep].tolist() == other.labels.tolist()
        assert one.crowd[keep].tolist() == other.crowd.tolist()
        assert np.abs(one.boxes[keep] - other.boxes).max(initial=0) < 1e-9
        assert one.path.read_bytes() == other.path.read_bytes()


@pytest.mark.parametrize("form", FORMATS)
def test_no_objects(tmp_path: Path, form: str) -> None:
    config = make_coco(tmp_path / "from", [])
    assert main([str(config.source), str(tmp_path / "to"), "--to", form]) == 0
    data = read(read_data_config(tmp_path / "to" / "data.yaml"))
    assert [len(sample.boxes) for sample in data.samples] == [0, 0]
    assert data.category_ids == (2, 5, 9)


@pytest.mark.parametrize(("first", "second"), list(itertools.product(FORMATS, FORMATS)))
def test_there_and_back(shared: Path, tmp_path: Path, first: str, second: str) -> None:
    source = load_data_config(str(shared / "data" / "coco_tiny" / "data.yaml"))
    splits = read_dataset(source)
    write_dataset(splits, tmp_path / "one", first, copy=True)  # shared data is not to be touched, not even linked
    write_dataset(read_dataset(read_data_config(tmp_path / "one" / "data.yaml")), tmp_path / "two", second)
    back = read_dataset(read_data_config(tmp_path / "two" / "data.yaml"))
    for split, data in splits.items():
        same(data, back[split], crowd="yolo" not in (first, second))
        if (first, second) == ("coco", "coco"):
            assert back[split].ground_truth == data.ground_truth


@pytest.mark.parametrize("form", FORMATS)
def test_from_yolo_and_voc(tmp_path: Path, form: str) -> None:
    yolo = make_yolo(tmp_path / "yolo", {"a": "2 0.5 0.5 0.31 0.7\n0 0.1 0.1 0.1 0.1\n", "b": ""})
    voc = make_voc(tmp_path / "voc", {"a": voc_object("owl", (1, 1, 60, 40)), "b": ""})
    for config in (yolo, voc):
        target = tmp_path / f"{config.path.name}-{form}"
        assert main([str(config.source), str(target), "--to", form, "--copy"]) == 0
        converted = read_data_config(target / "data.yaml")
        assert converted.category_ids is None
        same(read(config), read(converted))


def test_what_is_lost_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    crowd = annotation(8, [0, 0, 30, 30], image=3, iscrowd=1, segmentation={"counts": []})
    config = make_coco(tmp_path / "from", [annotation(1, [1, 2, 3, 4], area=7.5), crowd])
    assert main([str(config.source), str(tmp_path / "yolo"), "--to", "yolo"]) == 0
    said = capsys.readouterr().out
    for line in (
        "val: 2 images, 1 objects and 1 crowd regions, 3 classes",
        "Lost: 1 crowd regions, left out: a row has no flag for them",
        "Lost: 2 image ids: YOLO numbers images in the order of the split",
        "Lost: 1 annotation ids: YOLO has none",
        "Lost: 1 areas of masks",
        "Lost: 1 'segmentation' of annotations",
        "Lost: 1 'info' of a file",
        f"Written: {tmp_path / 'yolo' / 'data.yaml'}",
    ):
        assert line in said
    assert main([str(config.source), str(tmp_path / "voc"), "--to", "voc"]) == 0
    assert "crowd regions, left out" not in capsys.readouterr().out
    assert read(read_data_config(tmp_path / "voc" / "data.yaml")).samples[1].crowd.tolist() == [True]
    assert "<difficult>1</difficult>" in (tmp_path / "voc" / "Annotations" / "b.xml").read_text()
    assert main([str(config.source), str(tmp_path / "coco"), "--to", "coco"]) == 0
    assert "Lost" not in capsys.readouterr().out


def test_images_are_linked_or_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = {"val": read(make_yolo(tmp_path / "from", {"a": "0 0.5 0.5 1 1"}))}
    source = tmp_path / "from" / "images" / "a.png"
    assert write_dataset(splits, tmp_path / "linked", "coco")[0].startswith("Images: 1 hard-linked")
    assert source.samefile(tmp_path / "linked" / "images" / "a.png")
    assert write_dataset(splits, tmp_path / "copied", "coco", copy=True) == ["Images: 1 copied"]
    assert not source.samefile(tmp_path / "copied" / "images" / "a.png")

    def refuse(*_: object) -> None:
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", refuse)
    assert write_dataset(splits, tmp_path / "other", "voc") == ["Images: 1 copied"]


@pytest.mark.parametrize("form", FORMATS)
def test_two_images_of_one_name(tmp_path: Path, form: str) -> None:
    for name, row in (("train/x.png", 0), ("train/x.jpg", 1), ("train/deep/x.png", 2), ("val/X.png", 1)):
        make_image(tmp_path / "from" / "images" / name, seed=sum(name.encode()))
        label = (tmp_path / "from" / "labels" / name).with_suffix(".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(f"{row} 0.5 0.5 0.5 0.5\n")
    (tmp_path / "from" / "images" / "train" / "x.jpg").unlink()  # would share x.txt with x.png
    config = make_config(tmp_path / "from", "train: images/train\nval: images/val\nnames: [a, b, c]")
    (tmp_path / "from" / "labels" / "train" / "x.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    splits = read_dataset(config)
    assert "2 images have a new name" in write_dataset(splits, tmp_path / "to", form)[1]
    back = read_dataset(read_data_config(tmp_path / "to" / "data.yaml"))
    for split, data in splits.items():
        same(data, back[split])


def test_coco_ids_and_names_in_subfolders(tmp_path: Path) -> None:
    images = [
        {"id": 40, "file_name": "x/1.png", "height": HEIGHT, "width": WIDTH, "license": 3},
        {"id": 30, "file_name": "y/1.png"},
        {"id": 20, "file_name": "../outside.png"},
    ]
    for image in images:
        make_image(tmp_path / "from" / "images" / image["file_name"])
    config = make_coco(tmp_path / "from", [annotation(6, [1, 2, 3, 4], image=30)], images=images)
    write_dataset({"val": read(config)}, tmp_path / "to", "coco")
    content = json.loads((tmp_path / "to" / "annotations" / "instances_val.json").read_text())
    assert [(image["id"], image["file_name"]) for image in content["images"]] == [
        (40, "x/1.png"),
        (30, "y/1.png"),
        (20, "outside.png"),
    ]
    assert content["images"][0]["license"] == 3
    assert content["images"][1]["width"] == WIDTH
    same(read(config), read_split(read_data_config(tmp_path / "to" / "data.yaml"), "val"))


def test_wrong_command_lines(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = make_yolo(tmp_path / "from", {"a": "0 0.5 0.5 1 1"})
    with pytest.raises(SystemExit) as caught:
        main([str(config.source), str(tmp_path / "to"), "--to", "csv"])
    assert caught.value.code == 2
    assert main(["nothing", str(tmp_path / "to"), "--to", "coco"]) == 2
    assert "data set 'nothing': no such file" in capsys.readouterr().err
    assert main([str(config.source), str(tmp_path / "from"), "--to", "coco"]) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert not (tmp_path / "to").exists()


def test_splits_with_different_classes(tmp_path: Path) -> None:
    make_coco(tmp_path, [])
    other = json.loads((tmp_path / "val.json").read_text())
    other["categories"].pop()
    (tmp_path / "train.json").write_text(json.dumps(other))
    with pytest.raises(ConfigError, match="one split has 2 classes, the other 3"):
        read_dataset(make_config(tmp_path, "train: train.json\nval: val.json"))


@pytest.mark.parametrize("form", ["coco", "yolo", "voc", "imagefolder"])
def test_images_of_another_size_than_the_labels_are_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    """Boxes as fractions of the wrong size, and crops at the wrong place, would be wrong without a word."""
    entries = [annotation(1, [10, 5, 20, 10]), annotation(2, [1, 2, 30, 20], image=3)]
    config = make_coco(tmp_path / "set", entries)
    make_image(tmp_path / "set" / "images" / "a.png", 60, 40)
    assert main([str(config.source), str(tmp_path / form), "--to", form]) == 0
    out = capsys.readouterr().out
    assert "val: 1 images, 1 objects" in out
    assert "a.png: the labels are for 60x40, the upright image is 40x60: were the boxes drawn without" in out
    make_image(tmp_path / "set" / "images" / "b.png", 41, 60)
    assert main([str(config.source), str(tmp_path / "none"), "--to", form]) == 2
    assert "the labels are for 60x40, the upright image is 60x41; left out" in capsys.readouterr().err
