"""Labels on disk: nothing wrong passes in silence, nothing right is changed, and the three formats agree."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from data.config import load_data_config
from data.formats import voc, yolo
from data.formats.label_places import LabelPlaces
from data.read import read_split
from tests.data.tiny_sets import (
    make_coco,
    make_config,
    make_voc,
    make_yolo,
    read,
)
from utils.config import ConfigError
from utils.structures import LabelledImages


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
def test_round_trip_of_coco(shared: Path, tmp_path: Path, labelling: ModuleType) -> None:
    data = read_split(load_data_config(str(shared / "data" / "coco_tiny" / "data.yaml")), "val")
    paths = [sample.path for sample in data.samples]
    files = {path: tmp_path / "labels" / f"{path.stem}{labelling.SUFFIX}" for path in paths}
    places = LabelPlaces(paths, files)
    if labelling is yolo:
        assert yolo.write(data.samples, paths[0].parent, tmp_path / "labels") == 11
        back = yolo.read(places, data.names, category_ids=data.category_ids)
    else:
        voc.write(data.samples, data.names, paths[0].parent, tmp_path / "labels")
        back = voc.read(places, data.names, category_ids=data.category_ids)
    assert back.problems == ()
    assert back.category_ids == data.category_ids
    same_boxes(data, back, crowd=labelling is voc)
