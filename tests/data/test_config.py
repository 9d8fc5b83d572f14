"""The data YAML: every mistake in it is named with its remedy, and the embedded data set is found by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from data.config import load_data_config, read_data_config
from data.read import read_split
from tests.data.tiny_sets import make_config, make_yolo, read
from utils.config import ROOT, ConfigError, to_plain


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected 'key: value' lines, found nothing"),
        ("names: [cat]", "expected at least one of train, val and test, found none"),
        ("val: a\ntrian: b", r"trian: unknown key. Did you mean 'train'\? Known: .*val"),
        ("val: [a, 3]", r"val: expected .*found \['a', 3\]"),
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
        ("val: a\nalso: b", "also: unknown key"),
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
