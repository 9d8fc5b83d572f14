"""The exports of labelling tools are read unchanged; docs/own-data.md has a row for each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.config import DataConfig, load_data_config, write_data_yaml
from data.convert import main as convert
from data.formats.rows import NOTES
from data.read import read_split, read_splits
from data.split import main as split_main
from tests.data.exports import BOXES, EXPORTS, SPLIT, coco, cvat_images, label_studio_yolo, labelme, put, rows, write
from tests.data.tiny_sets import make_config, make_image, said
from utils.config import ROOT, ConfigError
from utils.structures import LabelledImages


def check(data: LabelledImages, stems: tuple[str, ...]) -> None:
    """The images show what BOXES says, and nothing was lost."""
    assert not [problem for problem in data.problems if problem.action not in NOTES], said(data)
    assert data.names == ("cat", "dog")
    assert [sample.path.stem.split("-")[-1] for sample in data.samples] == sorted(stems)
    for sample in data.samples:
        wanted = BOXES[sample.path.stem.split("-")[-1]]
        assert [data.names[label] for label in sample.labels] == [name for name, _ in wanted]
        assert np.allclose(sample.boxes, [box for _, box in wanted], atol=1e-9)
        assert (sample.height, sample.width) == (40, 60)


@pytest.mark.parametrize("name", EXPORTS)
def test_exports_are_read_unchanged(name: str, tmp_path: Path) -> None:
    source = EXPORTS[name](tmp_path / "my pets")
    before = sorted(path for path in tmp_path.rglob("*"))
    config = load_data_config(str(source))
    check(read_split(config, "train"), ("one", "two"))
    if name in SPLIT:
        check(read_split(config, "val"), ("three",))
        assert len(read_splits(str(source)).val) == 1
    else:
        with pytest.raises(ConfigError, match=r"has no split 'val', only train; make one: python -m data.split"):
            read_split(config, "val")
    assert sorted(path for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", sorted(set(EXPORTS) - SPLIT))
def test_exports_without_a_split_are_split(name: str, tmp_path: Path) -> None:
    assert split_main([str(EXPORTS[name](tmp_path / "pets")), str(tmp_path / "out"), "--val", "0.5"]) == 0
    splits = read_splits(str(tmp_path / "out" / "data.yaml"))
    assert splits.names == ("cat", "dog")
    paths = [*splits.train.samples.paths(), *splits.val.samples.paths()]
    assert sorted(path.stem.split("-")[-1] for path in paths) == ["one", "two"]


@pytest.mark.parametrize("name", sorted(EXPORTS))
def test_own_data_has_a_row_for_each(name: str) -> None:
    assert f"`{name}`" in (ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")


def config_values(config: DataConfig) -> list[object]:
    return [config.train, config.val, config.test, config.names, config.nc, config.labels_dir]


@pytest.mark.parametrize("name", ["label_studio_yolo", "annots_folder", "pascal_voc", "roboflow_coco", "labelme"])
def test_what_a_folder_holds_is_told_and_saved(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = load_data_config(str(EXPORTS[name](tmp_path / "pets")))
    assert "no data YAML; found " in caplog.text
    assert "Save this as data.yaml: python -m data.doctor" in caplog.text
    file = write_data_yaml(config)
    again = load_data_config(str(file))
    assert config_values(again) == config_values(config)
    assert load_data_config(str(file.parent)).source == file
    with pytest.raises(ConfigError, match="--write saves what a folder without a data YAML holds"):
        write_data_yaml(again)


def test_folders_that_hold_no_set(tmp_path: Path) -> None:
    make_image(tmp_path / "images" / "a.png")
    with pytest.raises(ConfigError, match=r"a folder with 1 images in which no data set is recognised. Looked for"):
        load_data_config(str(tmp_path))
    for name in ("a", "b"):
        write(tmp_path / f"{name}.yaml", "val: images\nnames: [cat]")
    with pytest.raises(ConfigError, match=r"several data YAMLs; name one of them: a.yaml, b.yaml"):
        load_data_config(str(tmp_path))


def test_classes_without_names_are_numbered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = label_studio_yolo(tmp_path)
    for name in ("classes.txt", "notes.json"):
        (folder / name).unlink()
    assert read_split(load_data_config(str(folder)), "train").names == ("0", "1")
    assert "the classes are called by their numbers" in caplog.text


def test_class_folders_are_found(tmp_path: Path) -> None:
    for name in ("train/ant", "train/bee", "valid/ant", "valid/bee"):
        put(tmp_path / name, ("x", "y"))
    splits = read_splits(str(tmp_path), "classify")
    assert (splits.names, len(splits.train), len(splits.val)) == (("ant", "bee"), 4, 4)


def test_keys_of_other_programs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_config(tmp_path, "val: a\nroboflow: {version: 1}\nflip_idx: [0]\nnames: [cat]\nkpt_names: {0: [x]}")
    assert "keys of other programs are not used: roboflow, flip_idx, kpt_names" in caplog.text
    for text, meant in (("lables_dir: b", "labels_dir"), ("name: [cat]", "names"), ("image: b", "images")):
        with pytest.raises(ConfigError, match=f"unknown key. Did you mean '{meant}'"):
            make_config(tmp_path, f"val: a\n{text}")


def test_the_group_of_all_categories_is_a_class_if_boxes_have_it(tmp_path: Path) -> None:
    put(tmp_path, ("one", "two"))
    content = coco(("one", "two"), group="pets")
    write(tmp_path / "a.json", content)
    config = make_config(tmp_path, "val: a.json")
    assert "is the group of all others, and no box has it; no class" in said(read_split(config, "val"))
    named = make_config(tmp_path, "val: a.json\nnames: [pets, cat, dog]")
    assert read_split(named, "val").names == ("pets", "cat", "dog")
    content["annotations"][0]["category_id"] = 0
    write(tmp_path / "a.json", content)
    assert read_split(config, "val").names == ("pets", "cat", "dog")


def test_shapes_of_labelme(tmp_path: Path) -> None:
    folder = labelme(tmp_path)
    shapes = [
        {"label": "cat", "points": [[10, 5], [30, 5], [20, 35]], "shape_type": "polygon"},
        {"label": "cat", "points": [[30, 20], [33, 24]], "shape_type": "circle"},
        {"label": "dog", "points": [[30, 20], [10, 5]], "shape_type": "rectangle"},
        {"label": "dog", "points": [[1, 2]], "shape_type": "point"},
        {"label": "dog", "points": [[1, 2], ["x", 2]], "shape_type": "rectangle"},
        {"label": "dgo", "points": [[1, 2], [9, 9]], "shape_type": "rectangle"},
    ]
    write(folder / "one.json", {"shapes": shapes, "imagePath": "one.jpg", "imageHeight": 41, "imageWidth": 60})
    write(folder / "two.json", {"shapes": 3})
    data = read_split(make_config(folder, "val: .\nnames: [cat, dog]\nunreadable: object"), "val")
    (sample,) = data.samples
    assert sample.boxes.tolist() == [[10, 5, 30, 35], [25, 15, 35, 25], [10, 5, 30, 20]]
    for line in (
        'one.json: shape 4: a shape of type "point" has no box; expected rectangle, polygon, circle, mask; left out',
        'one.json: shape 5: points are [[1, 2], ["x", 2]], expected at least 2 pairs of numbers; left out',
        "one.json: shape 6: label 'dgo' is not among the names of the data set. Did you mean 'dog'?; left out",
        "two.json: no file of labelme; expected an object with the list 'shapes'; its image is left out",
        "2 shapes are polygons, circles or masks; read as their boxes",
        "one.json: imageWidth and imageHeight say 60x41, the upright image is 60x40; kept",
    ):
        assert line in said(data), line


def test_shapes_of_cvat(tmp_path: Path) -> None:
    folder = cvat_images(tmp_path)
    shapes = (
        '<polygon label="cat" points="10,5;30,5;20,35"/><ellipse label="cat" cx="30" cy="20" rx="5" ry="4"/>'
        '<mask label="dog" rle="1" left="3" top="4" width="10" height="6"/><tag label="cat"/>'
        '<box label="dog" xtl="20" ytl="10" xbr="40" ybr="20" rotation="90"/><polyline label="cat" points="1,2;3,4"/>'
        '<box label="owl" xtl="1" ytl="1" xbr="9" ybr="9"/><box label="dog" xtl="x" ytl="1" xbr="9" ybr="9"/>'
    )
    names = "<meta><task><labels><label><name>cat</name></label><label><name>dog</name></label></labels></task></meta>"
    image = f'<image id="0" name="one.jpg" width="60" height="40">{shapes}</image><image id="1" name="no.jpg"/>'
    write(folder / "annotations.xml", f"<annotations>{names}{image}</annotations>")
    data = read_split(make_config(folder, "val: annotations.xml\nunreadable: object"), "val")
    (sample,) = data.samples
    assert np.allclose(sample.boxes, [[10, 5, 30, 35], [25, 16, 35, 24], [3, 4, 13, 10], [25, 5, 35, 25]])
    for line in (
        "image one.jpg, shape 6: <polyline> has no box; expected box, polygon, ellipse or mask; left out",
        "image one.jpg, shape 7: label 'owl' is not among the names (cat, dog); left out",
        "image one.jpg, shape 8: <box>: xtl is 'x', expected a number; left out",
        "image no.jpg: no such image: ",
        "1 tags of whole images are no objects; not used",
        "4 polygons, masks, ellipses and rotated boxes; read as their boxes",
    ):
        assert line in said(data), line
    for text, told in (
        ("<annotation/>", "expected <annotations>, CVAT for images"),
        ("<annotations><track/></annotations>", "CVAT for video"),
        ("<annotations/>", "no label"),
        ("<", "not valid XML"),
    ):
        write(folder / "annotations.xml", text)
        with pytest.raises(ConfigError, match=told):
            read_split(make_config(folder, "val: annotations.xml"), "val")


def test_images_of_one_plain_name_are_not_mixed_up(tmp_path: Path) -> None:
    put(tmp_path / "images", ("one",))
    names = {"one": "/data/upload/1/one.jpg", "two": "/data/upload/2/one.jpg"}
    write(tmp_path / "result.json", coco(("one", "two"), names.__getitem__))
    with pytest.raises(ConfigError, match=r"one image file under 2 ids, 0, 1, with other annotations each.*\n.*"):
        read_split(make_config(tmp_path, "val: result.json"), "val")


def test_a_split_of_several_folders_and_lists(tmp_path: Path) -> None:
    """As in the YAMLs that Ultralytics writes for PASCAL VOC."""
    for name in BOXES:
        put(tmp_path / "images" / name, (name,))
        write(tmp_path / "labels" / name / f"{name}.txt", rows(name))
    write(tmp_path / "list.txt", "images/two/two.jpg\nimages/one/one.jpg\n")
    text = "train: [images/one, list.txt]\nval:\n  - images/three\nnames: [cat, dog]"
    splits = read_splits(str(make_config(tmp_path, text).source))
    assert [path.stem for path in splits.train.samples.paths()] == ["one", "two"]
    check(splits.val, ("three",))
    with pytest.raises(ConfigError, match=r"train: no such file or folder: .*images/four"):
        read_split(make_config(tmp_path, "train: [images/one, images/four]\nnames: [cat, dog]"), "train")
    with pytest.raises(ConfigError, match=r"a list may hold folders and .txt lists, not data.yaml"):
        read_split(make_config(tmp_path, "train: [images/one, data.yaml]\nnames: [cat, dog]"), "train")


def test_names_of_the_yaml_in_another_order_than_the_categories(tmp_path: Path) -> None:
    put(tmp_path, ("one", "two"))
    write(tmp_path / "a.json", coco(("one", "two")))
    data = read_split(make_config(tmp_path, "val: a.json\nnames: [dog, cat]"), "val")
    assert (data.names, data.category_ids) == (("dog", "cat"), (2, 1))
    assert [data.names[label] for label in data.samples[0].labels] == [name for name, _ in BOXES["one"]]
    assert "stand in another order than the categories; matched by name" in said(data)


@pytest.mark.parametrize("form", ["coco", "yolo", "voc"])
@pytest.mark.parametrize("name", ["cvat_images", "labelme", "darknet", "roboflow_coco", "ultralytics_segment"])
def test_exports_are_converted_and_read_back(name: str, form: str, tmp_path: Path) -> None:
    assert convert([str(EXPORTS[name](tmp_path / "ñ pets")), str(tmp_path / "out"), "--to", form]) == 0
    config = load_data_config(str(tmp_path / "out"))
    check(read_split(config, "train"), ("one", "two"))
    if name in SPLIT:
        check(read_split(config, "val"), ("three",))


def test_files_that_are_not_used_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "images", ("one", "two", "three"))
    for name, stems in (("train", ("one", "two")), ("val", ("three",)), ("other", ("one",))):
        write(tmp_path / "annotations" / f"instances_{name}.json", coco(stems))
    assert len(read_splits(str(tmp_path)).train) == 2
    assert "COCO JSON (not used: annotations/instances_other.json): train: annotations/" in caplog.text
