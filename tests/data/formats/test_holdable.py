"""Names of images and classes: what a format can hold comes back, what it cannot is refused in time."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from data.config import read_data_config
from data.convert import write_dataset
from tests.data.tiny_sets import HEIGHT, WIDTH, annotation, make_coco, make_image, read
from utils.config import ConfigError
from utils.files import write_lines
from utils.structures import LabelledImages

CLASSES = ("a b", "é.é", "<&>'\"", "грузовик")
NAMES = ("a b.png", "é.png", "c.d.png", "<&>.png", "x/ü y.png")


def data_set(folder: Path, name: str, class_name: str) -> LabelledImages:
    images = [{"id": 7, "file_name": name, "height": HEIGHT, "width": WIDTH}]
    make_image(folder / "images" / name, seed=0)
    categories = [{"id": 2, "name": class_name}]
    return read(make_coco(folder, [annotation(1, [10, 5, 20, 10])], images=images, categories=categories))


@pytest.mark.parametrize("form", ["coco", "yolo", "voc"])
def test_what_a_format_holds_comes_back(tmp_path: Path, form: str) -> None:
    for number, (name, class_name) in enumerate(zip(NAMES, (*CLASSES, CLASSES[0]), strict=True)):
        data = data_set(tmp_path / str(number), name, class_name)
        out = tmp_path / f"out{number}"
        write_dataset({"val": data}, out, form)
        back = read(read_data_config(out / "data.yaml"))
        assert back.names == data.names
        assert [sample.path.name for sample in back.samples] == [Path(name).name]
        assert back.samples[0].boxes.tolist() == [[10, 5, 30, 15]]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such names")
@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9.png"), "a\nb.png", "a\rb.png", " a.png"])
@pytest.mark.parametrize("form", ["coco", "yolo", "voc"])
def test_names_that_a_list_cannot_hold(tmp_path: Path, form: str, name: str) -> None:
    data = data_set(tmp_path / "in", name, "cat")
    if form == "coco":
        write_dataset({"val": data}, tmp_path / "out", form)
        back = read(read_data_config(tmp_path / "out" / "data.yaml"))
        assert [sample.path.name for sample in back.samples] == [name]
        return
    with pytest.raises(ConfigError, match=f"--to {form}: its lists of images cannot hold the name") as caught:
        write_dataset({"val": data}, tmp_path / "out", form)
    assert str(caught.value).isprintable()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("class_name", ["a\nb", "\udce9", "\x1b[31m", " cat"])
def test_class_names_that_xml_cannot_hold(tmp_path: Path, class_name: str) -> None:
    data = data_set(tmp_path / "in", "a.png", class_name)
    for form in ("coco", "yolo"):
        write_dataset({"val": data}, tmp_path / form, form)
        assert read(read_data_config(tmp_path / form / "data.yaml")).names == (class_name,)
    with pytest.raises(ConfigError, match="--to voc: XML cannot hold the class name"):
        write_dataset({"val": data}, tmp_path / "voc", "voc")


def test_lines_hold_one_entry_each(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.names", ["cat", "", "грузовик"])
    assert (tmp_path / "a.names").read_text(encoding="utf-8") == "cat\n\nгрузовик\n"
    for bad in ("a\nb", "\udce9", "a\u2028b"):
        with pytest.raises(ValueError, match=r"b\.names: a line cannot hold '"):
            write_lines(tmp_path / "b.names", ["cat", bad])
    assert not (tmp_path / "b.names").exists()
