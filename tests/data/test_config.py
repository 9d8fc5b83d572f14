"""The data YAML: every mistake in it is named with its remedy, and the embedded data set is found by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from data.config import (
    SPLITS,
    check_same_classes,
    load_data_config,
    read_data_config,
    read_split,
    summarize,
)
from tests.data.tiny_sets import annotation, make_coco, make_config, make_image, make_yolo, read
from utils.config import ROOT, ConfigError, to_plain
from utils.structures import LabelProblem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected 'key: value' lines, found nothing"),
        ("names: [cat]", "expected at least one of train, val and test, found none"),
        ("val: a\ntrian: b", r"trian: unknown key. Did you mean 'train'\? Known: .*val"),
        ("val: [a, b]", r"val: expected .*found \['a', 'b'\]"),
        ("val: 3", "val: expected"),
        ("val: a\nval: b", "line 2: key 'val' stands twice"),
        ("val: a\nnames: []", r"names: expected a list of names or a map .*found \[\]"),
        ("val: a\nnames: cat", "names: expected a list of names or a map"),
        ("val: a\nnames: [cat, no]", "names: expected a name, found False; put quotes around words like yes, no"),
        ("val: a\nnames: [cat, dog, cat]", "'cat' stands twice"),
        ("val: a\nnames: {0: cat, 2: dog}", r"expected the numbers 0 to 1 as keys, found \[0, 2\]"),
        ("val: a\nnames: {1: cat, 2: dog}", r"expected the numbers 0 to 1 as keys, found \[1, 2\]"),
        ("val: a\nnames: {0: cat, a: dog}", "expected the numbers 0 to 1 as keys"),
        ("val: a\nnames: [cat, dog]\nnc: 3", "nc is 3, but there are 2 names"),
        ("val: a\nnc: 0", "nc is 0, expected at least 1"),
        ("val: a\nlabels: ignore", "labels: expected one of warn, error, found 'ignore'"),
        ("val: a\nvoc_first_pixel: 2", "voc_first_pixel: expected one of 0, 1, found 2"),
        ("val: a\nnames: [cat, dog]\ncategory_ids: [2, 1]", "category_ids must ascend"),
        ("val: a\nnames: [cat, dog]\ncategory_ids: [2]", "1 category_ids for 2 names"),
        ("val: a\nsource: b", "source: unknown key"),
    ],
)
def test_mistakes_in_the_yaml(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_config(tmp_path, text)
    assert str(tmp_path / "data.yaml") in str(caught.value)


def test_paths_are_relative_to_the_yaml_and_to_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(tmp_path, "path: set\ntrain: lists/train.txt\nval: /far/val.json\nimages: pictures")
    assert config.source == tmp_path / "data.yaml"
    assert config.path == tmp_path / "set"
    assert config.train == tmp_path / "set" / "lists" / "train.txt"
    assert config.val == Path("/far/val.json")
    assert config.images == tmp_path / "set" / "pictures"
    monkeypatch.chdir(tmp_path)
    assert read_data_config(Path("data.yaml")) == config
    assert make_config(tmp_path, "val: a").path == tmp_path


def test_names_as_list_as_map_and_as_numbers(tmp_path: Path) -> None:
    assert make_config(tmp_path, "val: a\nnames: [cat, 'no', 7]").names == ("cat", "no", "7")
    assert make_config(tmp_path, "val: a\nnames: {1: dog, 0: cat}\nnc: 2").names == ("cat", "dog")
    config = make_yolo(tmp_path, {"a": "1 0.5 0.5 1 1"})
    assert read(dataclasses.replace(config, names=None, nc=2)).names == ("0", "1")
    with pytest.raises(ConfigError, match=r"data.yaml: expected 'names', the list of class names"):
        read(dataclasses.replace(config, names=None))


def test_category_ids_of_the_yaml_are_kept(tmp_path: Path) -> None:
    data = read(make_yolo(tmp_path, {"a": "1 0.5 0.5 1 1"}, options="category_ids: [1, 18, 90]"))
    assert data.category_ids == (1, 18, 90)
    assert data.ground_truth["annotations"][0]["category_id"] == 18


def test_config_is_plain_for_checkpoints(tmp_path: Path) -> None:
    plain = to_plain(make_config(tmp_path, "val: a\nnames: [cat]"))
    assert plain["val"] == str(tmp_path / "a")
    assert plain["names"] == ["cat"]


def test_finding_data_sets(tmp_path: Path) -> None:
    make_config(tmp_path, "val: a")
    assert load_data_config(str(tmp_path / "data")).val == tmp_path / "a"
    assert load_data_config("coco").names[79] == "toothbrush"
    assert load_data_config("voc.yaml").nc == 20
    with pytest.raises(
        ConfigError, match=r"data set 'cocoa': no such file.*Did you mean 'coco.yaml'.*embedded set 'shapes'"
    ):
        load_data_config("cocoa")


def test_data_sets_that_come_with_the_project(tmp_path: Path) -> None:
    files = sorted((ROOT / "cfg" / "data").glob("*.yaml"))
    assert {"coco.yaml", "voc.yaml"} <= {file.name for file in files}
    for file in files:
        config = read_data_config(file)
        assert config.download
        missing = dataclasses.replace(config, train=tmp_path / "train.json")
        with pytest.raises(
            ConfigError, match=r"train: no such file or folder: .*train.json\nHow to get the data:\nGet"
        ):
            read_split(missing, "train")


def test_the_embedded_data_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_config(tmp_path, "val: a")
    monkeypatch.setattr("data.shapes.ensure_shapes", lambda: tmp_path / "data.yaml")
    for name in (None, "shapes", "shapes.yaml"):
        assert load_data_config(name).source == tmp_path / "data.yaml"


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
    config = make_yolo(tmp_path, {"a": "0 0.5 0.5 1 1\n9 0.5 0.5 1 1\n", "b": None})
    data = read(config)
    assert len(data.problems) == 2
    with pytest.raises(ConfigError) as caught:
        read(dataclasses.replace(config, labels="error"))
    assert "1 problem in the labels (1 left out):" in str(caught.value)
    assert "a.txt:2: class 9 is out of range" in str(caught.value)
    assert "or set 'labels: warn'" in str(caught.value)
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 1 1\n")
    assert len(read(dataclasses.replace(config, labels="error"))) == 2  # background images are no mistake


def test_summary_of_problems() -> None:
    assert summarize([]) == "no problems in the labels"
    problems = [LabelProblem(f"a.txt:{line}", "has no area", "left out") for line in range(1, 13)]
    text = summarize([*problems, LabelProblem("b.txt:1", "sticks out", "clipped")], limit=3)
    assert text.splitlines() == [
        "13 problems in the labels (12 left out, 1 clipped):",
        "  a.txt:1: has no area; left out",
        "  a.txt:2: has no area; left out",
        "  a.txt:3: has no area; left out",
        "  ... and 10 more; 'python -m data.doctor DATA' lists all of them",
    ]


def test_splits_must_mean_the_same_classes(tmp_path: Path) -> None:
    first = read(make_coco(tmp_path / "a", []))
    check_same_classes(first, read(make_coco(tmp_path / "b", [])))
    fewer = read(make_coco(tmp_path / "c", [], categories=[{"id": 2, "name": "cat"}, {"id": 9, "name": "owl"}]))
    with pytest.raises(ConfigError, match="one split has 3 classes, the other 2: only one of them has dog"):
        check_same_classes(first, fewer)
    other = [{"id": 2, "name": "cat"}, {"id": 6, "name": "dog"}, {"id": 9, "name": "owl"}]
    with pytest.raises(
        ConfigError, match=r"class 1 is 'dog' \(category id 5\) in one split and 'dog' \(category id 6\)"
    ):
        check_same_classes(first, read(make_coco(tmp_path / "d", [], categories=other)))


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
