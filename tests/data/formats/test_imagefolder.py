"""Image folders: classes from folders, bad files named, both tasks told apart, and cutting boxes out into folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import convert
from data.config import read_data_config
from data.convert import write_class_folders
from data.doctor import __main__ as doctor
from data.formats import imagefolder
from data.images import read_image
from data.read import guess_task, read_split
from tests.data.tiny_sets import (
    annotation,
    folders_config,
    make_coco,
    make_config,
    make_folders,
    make_image,
    read_classes,
    said,
)
from utils.config import ConfigError, load_yaml
from utils.structures import LabelledImages


def test_an_empty_folder_says_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(ConfigError, match="no image in this folder"):
        read_classes(folders_config(tmp_path))


def test_folders_are_classes_in_alphabetical_order(tmp_path: Path) -> None:
    make_folders(tmp_path, {"dog": 2, "cat": 1, ".hidden": 1, "Owl": 1})
    make_image(tmp_path / "train" / "dog" / "deeper" / "x.png")
    data = read_classes(folders_config(tmp_path))
    assert data.task == "classify"
    assert data.names == ("Owl", "cat", "dog")
    assert [sample.path.relative_to(tmp_path / "train").as_posix() for sample in data.samples] == [
        *("Owl/0.png", "cat/0.png", "dog/0.png", "dog/1.png", "dog/deeper/x.png")
    ]
    assert [sample.labels.tolist() for sample in data.samples] == [[0], [1], [2], [2], [2]]
    assert [sample.image_id for sample in data.samples] == [1, 2, 3, 4, 5]
    assert data.samples[0].boxes.tolist() == [[0, 0, data.samples[0].width, data.samples[0].height]]
    assert "'.hidden' is none of the 3 classes: 1 images" in said(data)
    assert data.ground_truth == {}


def test_names_give_the_order_and_what_is_none_of_them_is_told(tmp_path: Path) -> None:
    make_folders(tmp_path, {"dog": 1, "cat": 2, "owl": 2})
    make_image(tmp_path / "train" / "lost.png")
    data = read_classes(folders_config(tmp_path, "names: [dog, cat, fox]"))
    assert data.names == ("dog", "cat", "fox")
    assert [int(sample.labels[0]) for sample in data.samples] == [1, 1, 0]
    assert "owl: 'owl' is none of the 3 classes: 2 images (the first: 0.png); left out" in said(data)
    assert "images in no folder of a class: 1 images (the first: lost.png)" in said(data)
    assert "no image of class 'fox'; kept" in said(data)
    with pytest.raises(ConfigError, match="labels: warn"):
        read_classes(folders_config(tmp_path, "names: [dog, cat, fox]\nlabels: error"))
    assert len(read_classes(folders_config(tmp_path, "names: [dog, cat, owl, fox]\nlabels: warn"))) == 5


def test_a_map_gives_folders_their_names(tmp_path: Path) -> None:
    make_folders(tmp_path, {"n02": 1, "n01": 1})
    data = read_classes(folders_config(tmp_path, "names: {n02: shark, n01: 'no'}"))
    assert data.names == ("shark", "no")
    assert [int(sample.labels[0]) for sample in data.samples] == [1, 0]
    assert read_classes(folders_config(tmp_path, "names: [a, b]\nfolders: [n01, n02]")).names == ("a", "b")
    with pytest.raises(ConfigError, match="1 folders for 2 names"):
        folders_config(tmp_path, "names: [a, b]\nfolders: [n01]")
    with pytest.raises(ConfigError, match="'shark' stands twice"):
        folders_config(tmp_path, "names: {n02: shark, n01: shark}")
    with pytest.raises(ConfigError, match=r"expected a list or the numbers 0 to 1 as keys, found \['n02', 'n01'\]"):
        read_split(folders_config(tmp_path, "names: {n02: shark, n01: 'no'}"), "train")


def test_a_list_takes_the_class_from_the_folder_above(tmp_path: Path) -> None:
    make_folders(tmp_path, {"dog": 2, "cat": 2}, split="images")
    (tmp_path / "train.txt").write_text("images/dog/1.png\n./images/cat/0.png\nimages/cat/9.png\n")
    data = read_classes(make_config(tmp_path, "train: train.txt"))
    assert data.names == ("cat", "dog")
    assert [int(sample.labels[0]) for sample in data.samples] == [1, 0]
    assert "train.txt:3: no such image" in said(data)


def test_bad_files_are_named_and_left_out(tmp_path: Path) -> None:
    target = make_folders(tmp_path, {"cat": 2, "dog": 1})
    (target / "cat" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    (target / "dog" / "empty.png").write_bytes(b"")
    (target / "dog" / "notes.txt").write_text("no image")
    data = read_classes(folders_config(tmp_path))
    assert len(data) == 3
    assert len(data.problems) == 2
    assert "cat/broken.jpg: " in said(data)
    assert "dog/empty.png: the file is empty" in said(data)
    for file in (*target.glob("cat/?.png"), *target.glob("dog/?.png")):
        file.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"none of the 5 images can be read; the first: .*0.png: the file is empty"):
        read_classes(folders_config(tmp_path))


def test_sizes_are_those_of_the_upright_image(tmp_path: Path) -> None:
    path = tmp_path / "train" / "cat" / "turned.jpg"
    path.parent.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(path, exif=exif)
    (sample,) = read_classes(folders_config(tmp_path)).samples
    assert (sample.height, sample.width) == read_image(path).shape[:2] == (30, 20)


def test_boxes_are_cut_out_into_class_folders(tmp_path: Path) -> None:
    boxes = [[1, 2, 20, 20], [3.4, 5.6, 20.2, 10.1], [0, 0, 60, 5], [0, 0, 60, 40]]
    entries = [annotation(number, box, category=(2, 5)[number % 2]) for number, box in enumerate(boxes, start=1)]
    entries.append(annotation(5, [0, 0, 30, 30], iscrowd=1))
    entries.append(annotation(6, [0, 0, 30, 30], image=3))
    data = read_split(make_coco(tmp_path / "coco", entries), "val")
    written = imagefolder.write(data, tmp_path / "cut" / "train")
    assert (written.images, written.small, written.crowd) == (4, 1, 1)
    assert written.folders == {"cat": "cat", "dog": "dog", "owl": "owl"}
    again = read_classes(folders_config(tmp_path / "cut"))
    assert again.names == ("cat", "dog", "owl")
    found = [(sample.path.parent.name, sample.path.name, sample.height, sample.width) for sample in again.samples]
    assert found == [
        ("cat", "a_2.jpg", 11, 21),
        ("cat", "a_4.jpg", 40, 60),
        ("cat", "b_1.jpg", 30, 30),
        ("dog", "a_1.jpg", 20, 20),
    ]
    original = read_image(tmp_path / "coco" / "images" / "a.png")
    np.testing.assert_allclose(read_image(again.samples[3].path).mean(), original[2:22, 1:21].mean(), atol=2)
    copied = imagefolder.write(again, tmp_path / "copy" / "train")
    assert copied.images == 4
    for sample in again.samples:
        path = tmp_path / "copy" / "train" / sample.path.parent.name / sample.path.name
        assert path.read_bytes() == sample.path.read_bytes()


def test_odd_class_names_survive_the_cutting(tmp_path: Path) -> None:
    entries = [annotation(1, [1, 2, 20, 20], category=1), annotation(2, [5, 5, 30, 30], image=3, category=2)]
    categories = [{"id": 1, "name": "b/c"}, {"id": 2, "name": "a"}]
    splits = {"val": read_split(make_coco(tmp_path / "coco", entries, categories=categories), "val")}
    write_class_folders(splits, tmp_path / "cut")
    data = read_classes(read_data_config(tmp_path / "cut" / "data.yaml"), "val")
    assert data.names == ("b/c", "a")
    assert [int(sample.labels[0]) for sample in data.samples] == [1, 0]


def test_folders_have_names_that_every_system_takes(tmp_path: Path) -> None:
    data = read_split(make_coco(tmp_path / "coco", [annotation(1, [1, 1, 20, 20])]), "val")
    odd = LabelledImages(data.samples, ("a/b", "A_B", "..."), data.category_ids, data.ground_truth)
    assert imagefolder.write(odd, tmp_path / "cut").folders == {"a_b": "a/b", "A_B 1": "A_B", "class 2": "..."}


def test_the_same_name_in_two_folders_is_kept_apart(tmp_path: Path) -> None:
    make_folders(tmp_path, {"cat": 1})
    make_image(tmp_path / "train" / "cat" / "more" / "0.png", seed=9)
    written = imagefolder.write(read_classes(folders_config(tmp_path)), tmp_path / "cut")
    assert written.images == 2
    assert sorted(path.name for path in (tmp_path / "cut" / "cat").iterdir()) == ["0-2.png", "0.png"]


def test_the_command_cuts_a_set_for_a_classifier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [annotation(1, [1, 2, 20, 20]), annotation(2, [5, 5, 30, 30], image=3, category=5)]
    source = make_coco(tmp_path / "coco", entries).source
    assert convert.main([str(source), str(tmp_path / "cut"), "--to", "imagefolder"]) == 0
    assert "val: 2 images cut out" in capsys.readouterr().out
    content = load_yaml(tmp_path / "cut" / "data.yaml")
    assert content["names"] == ["cat", "dog", "owl"]
    data = read_classes(read_data_config(tmp_path / "cut" / "data.yaml"), "val")
    assert [data.names[int(sample.labels[0])] for sample in data.samples] == ["cat", "dog"]
    assert convert.main([str(source), str(tmp_path / "cut"), "--to", "imagefolder"]) == 2
    assert "exists and is not empty" in capsys.readouterr().err


def test_the_doctor_knows_a_classifiers_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_folders(tmp_path / "set", {"cat": 3, "dog": 2})
    make_folders(tmp_path / "set", {"cat": 1, "dog": 1}, split="val")
    make_image(tmp_path / "set" / "train" / "dog" / "0.png", seed=50)
    make_image(tmp_path / "set" / "val" / "dog" / "0.png", seed=51)
    whole = tmp_path / "set" / "train" / "cat" / "1.png"
    whole.write_bytes(whole.read_bytes()[:400])
    config = folders_config(tmp_path / "set")
    assert guess_task(config) == "classify"
    assert doctor.main([str(config.source), "--fix", str(tmp_path / "fixed")]) == 2
    out = capsys.readouterr().out
    assert "cat/1.png: cannot be decoded" in out
    assert "val/cat/0.png: the same picture as" in out
    assert "so the measured accuracy is too good" in out
    fixed = read_data_config(tmp_path / "fixed" / "data.yaml")
    assert len(read_classes(fixed)) == 4
    assert doctor.main([str(fixed.source)]) == 1
