"""Which label file belongs to which image: decided for each image, and never two ways in silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.doctor.__main__ import main
from data.doctor.examine import examine
from tests.data.tiny_sets import make_config, make_image, make_voc, read, said, voc_object
from utils.config import ConfigError

YAML = "names: [cat, dog, owl]\nval: "


def put(folder: Path, files: dict[str, str]) -> None:
    """Images (empty text) and label files."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text:
            path.write_text(text)
        else:
            make_image(path)


def labels(folder: Path, val: str = ".") -> dict[str, list[int]]:
    data = read(make_config(folder, YAML + val))
    return {sample.path.relative_to(folder).as_posix(): sample.labels.tolist() for sample in data.samples}


def test_darknet_labels_folder_holds_pictures_of_letters(tmp_path: Path) -> None:
    put(tmp_path, {"data/labels/32_0.png": "", "data/obj/a.jpg": "", "data/obj/a.txt": "1 0.5 0.5 1 1\n"})
    assert labels(tmp_path, "data/obj") == {"data/obj/a.jpg": [1]}
    (tmp_path / "list.txt").write_text("data/obj/a.jpg\n")
    assert labels(tmp_path, "list.txt") == {"data/obj/a.jpg": [1]}


def test_each_image_has_the_file_that_exists(tmp_path: Path) -> None:
    put(tmp_path, {"images/a.png": "", "labels/a.txt": "0 0.5 0.5 1 1\n", "images/none.png": ""})
    put(tmp_path, {"extra/shots/b.png": "", "extra/shots/b.txt": "2 0.5 0.5 1 1\n"})
    expected = {"extra/shots/b.png": [2], "images/a.png": [0], "images/none.png": []}
    assert labels(tmp_path) == expected
    put(tmp_path, {"extra/shots/a.png": "", "extra/shots/a.txt": "1 0.5 0.5 1 1\n"})  # labels/a.txt is of images/a
    assert labels(tmp_path) == {"extra/shots/a.png": [1], **expected}


def test_letter_images_beside_voc_do_not_make_it_yolo(tmp_path: Path) -> None:
    make_voc(tmp_path, {"a": voc_object("dog", (1, 1, 60, 40))})
    put(tmp_path, {"labels/32_0.png": ""})
    assert labels(tmp_path, "JPEGImages") == {"JPEGImages/a.png": [1]}


@pytest.mark.parametrize("kind", ["txt", "xml"])
def test_two_files_that_disagree_are_a_problem(tmp_path: Path, kind: str) -> None:
    first, second = "0 0.5 0.5 1 1\n1 0.5 0.5 0.5 0.5\n", "1 0.5 0.5 0.5 0.5\n0 0.5 0.5  1 1\n"
    if kind == "xml":
        first, second = (
            f"<annotation>{path}{voc_object('cat', (1, 1, 5, 5))}</annotation>" for path in ("<path/>", "")
        )
    place = "labels" if kind == "txt" else "Annotations"
    put(tmp_path, {"images/a.png": "", "images/b.png": ""})
    for name in ("a", "b"):
        put(tmp_path, {f"{place}/{name}.{kind}": first, f"images/{name}.{kind}": second})
    assert len(labels(tmp_path, "images")) == 2, "they say the same"
    put(tmp_path, {f"images/a.{kind}": "0 0.5 0.5 0.9 1\n" if kind == "txt" else "<annotation/>"})
    data = read(config := make_config(tmp_path, f"{YAML}images"))
    assert [sample.path.name for sample in data.samples] == ["b.png"]
    folder = tmp_path / place
    assert f"{folder}/a.{kind}: labels of a.png, and {tmp_path}/images/a.{kind} has others; delete or" in said(data)
    assert main([str(config.source)]) == 2
    with pytest.raises(ConfigError, match=r"that stop the run\):\n.*labels of a.png"):
        read(make_config(tmp_path, f"{YAML}images\nunreadable: run"))


def test_one_file_for_several_images_is_a_problem_that_names_them(tmp_path: Path) -> None:
    put(tmp_path, {"images/shot.jpg": "", "images/shot.png": "", "labels/shot.txt": "0 0.5 0.5 1 1\n"})
    put(tmp_path, {"images/a.png": "", "labels/a.txt": "1 0.5 0.5 1 1\n"})
    data = read(config := make_config(tmp_path, f"{YAML}images"))
    assert [sample.path.name for sample in data.samples] == ["a.png"]
    assert f"{tmp_path}/labels/shot.txt: labels of 2 images, shot.jpg, shot.png, but which?" in said(data)
    assert examine(config)[0].status == "errors"


def test_a_flat_folder_of_labels_for_two_folders_of_images(tmp_path: Path) -> None:
    put(tmp_path, {"a/001.png": "", "b/001.png": "", "b/002.png": ""})
    put(tmp_path, {"labels/001.txt": "0 0.5 0.5 1 1\n", "labels/002.txt": "0 0.5 0.5 1 1\n"})
    data = read(make_config(tmp_path, f"{YAML}."))
    assert [sample.path.name for sample in data.samples] == ["002.png"]
    assert f"labels of 2 images, {tmp_path}/a/001.png, {tmp_path}/b/001.png, but which?" in said(data)
    data = read(make_config(tmp_path, f"{YAML}a"))  # the labels of b/002.png are no orphans
    assert "without an image" not in said(data)


def test_one_file_for_images_of_two_splits(tmp_path: Path) -> None:
    put(tmp_path, {"a/001.png": "", "b/001.png": "", "labels/001.txt": "0 0.5 0.5 1 1\n"})
    config = make_config(tmp_path, "names: [cat]\ntrain: a\nval: b")
    found = [str(finding) for finding in examine(config)[0].findings]
    shared = (
        f"error: val: {tmp_path}/labels/001.txt: labels of {tmp_path}/b/001.png, and of {tmp_path}/a/001.png in train"
    )
    assert any(line.startswith(shared) for line in found)


def test_voc_says_which_image_it_means(tmp_path: Path) -> None:
    size = "<filename>shot.JPG</filename>"
    make_voc(tmp_path, {"shot": voc_object("dog", (1, 1, 60, 40))}, size=size)
    put(tmp_path, {"JPEGImages/shot.JPG": ""})
    for val in ("JPEGImages", "ImageSets/Main/val.txt"):
        data = read(make_config(tmp_path, YAML + val))
        assert [(sample.path.name, sample.labels.tolist()) for sample in data.samples] == [("shot.JPG", [1])]
        assert "shot.png: its label file" in said(data)
        assert "shot.xml names shot.JPG as its image; left out" in said(data)


def test_voc_says_which_folder_it_means(tmp_path: Path) -> None:
    put(tmp_path, {"a/001.png": "", "b/001.png": ""})
    head = "<folder>b</folder><filename>001.png</filename>"
    put(tmp_path, {"Annotations/001.xml": f"<annotation>{head}{voc_object('owl', (1, 1, 9, 9))}</annotation>"})
    assert labels(tmp_path) == {"b/001.png": [2]}


def test_images_labelled_in_the_other_format_are_no_background(tmp_path: Path) -> None:
    put(tmp_path, {"images/a.png": "", "images/b.png": "", "images/c.png": ""})
    put(tmp_path, {"labels/a.txt": "0 0.5 0.5 1 1\n", "labels/c.txt": "0 0.5 0.5 1 1\n"})
    put(tmp_path, {"Annotations/b.xml": "<annotation/>"})
    data = read(make_config(tmp_path, f"{YAML}images"))
    assert [sample.path.name for sample in data.samples] == ["a.png", "c.png"]
    assert f"images/b.png: its label file is {tmp_path}/Annotations/b.xml, but the others are YOLO; left out" in said(
        data
    )


@pytest.mark.parametrize("place", ["marks/b", "marks", "marks/a/b"])
def test_labels_dir(tmp_path: Path, place: str) -> None:
    put(tmp_path, {"a/b/c.png": ""})
    with pytest.raises(ConfigError, match="or another folder as 'labels_dir'"):
        read(make_config(tmp_path, f"{YAML}a"))
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "c.TXT").write_text("2 0.5 0.5 1 1\n")
    assert labels(tmp_path, "a\nlabels_dir: marks") == {"a/b/c.png": [2]}
    with pytest.raises(ConfigError, match=r"labels_dir: no such file or folder: .*nowhere"):
        read(make_config(tmp_path, f"{YAML}a\nlabels_dir: nowhere"))


def test_darknet_box_of_a_letter(tmp_path: Path) -> None:
    put(tmp_path, {"data/labels/a.txt": "0 0.5 0.5 1 1\n", "data/obj/a.jpg": ""})
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "data" / "labels" / "a.png")
    assert labels(tmp_path, "data/obj") == {"data/obj/a.jpg": [0]}


def test_another_format_with_other_objects_is_named(tmp_path: Path) -> None:
    """Complete labels in both formats, as after a conversion that left the old ones in place."""
    rows = {"a": "0 0.5 0.5 1 1\n", "b": "1 0.5 0.5 1 1\n2 0.5 0.5 0.5 0.5\n", "c": "1 0.5 0.5 1 1\n"}
    objects = {"a": ["cat"], "b": ["DOG", "owl"], "c": ["dog", "cow"]}
    for name, row in rows.items():
        xml = "".join(voc_object(each, (1, 1, 60, 40)) for each in objects[name])
        put(tmp_path, {f"images/{name}.png": "", f"labels/{name}.txt": row})
        put(tmp_path, {f"Annotations/{name}.xml": f"<annotation>{xml}</annotation>"})
    config = make_config(tmp_path, YAML + "images\nlabels: error")
    assert read(config).problems == (), "they agree on the classes of the set"
    (tmp_path / "labels" / "b.txt").write_text("1 0.5 0.5 1 1\n1 0.5 0.5 0.5 0.5\n")
    assert said(read(config)) == (
        f"{tmp_path}/labels: 1 of 3 images that have labels in VOC too have other objects there (the first: "
        f"{tmp_path}/Annotations/b.xml); the YOLO files are used. Delete those that are wrong, or name the folder of "
        "the right ones with 'labels_dir'; kept"
    )
    assert labels(tmp_path, "images\nlabels_dir: Annotations\nunreadable: object")["images/b.png"] == [1, 2]
    (tmp_path / "labels" / "a.txt").unlink()
    (tmp_path / "Annotations" / "b.xml").write_text("<annotation")
    data = read(make_config(tmp_path, YAML + "images"))
    assert "3 objects" not in said(data)
    assert "labels in YOLO too have other objects" in said(data), "VOC has more files now, and one is broken"
