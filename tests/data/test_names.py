"""Names of images as cameras and people give them: every writer's set is read back by its reader."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from data.config import read_data_config
from data.convert import FORMATS
from data.convert import main as convert
from data.doctor.__main__ import main as doctor
from data.read import read_split
from tests.data.tiny_sets import annotation, make_coco, make_config, make_folders, make_image, read, read_classes, said

NAMES = (
    "IMG_0001.JPG", "b.jpeg", "c.JPEG", "d.Png", "two.dots.jpg", "x.jpg.JPEG", "x.jpg", "blank in it.JPG", "shot 1.JPG",
    "shot -1.jpg", "ñandú–Straße.JPG", "日本.jpg", "sub folder/e.JPG", "sub folder/IMG_0001.jpg", "dot..jpg",
    "upper.TIF", "no_suffix", "odd.v2", "v1.2/f.BMP",
)  # fmt: skip


@pytest.fixture(scope="module")
def coco_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data YAML of images with all these names, each with a box of its own width."""
    folder = tmp_path_factory.mktemp("names")
    images, entries = [], []
    for number, name in enumerate(NAMES, start=1):
        path = folder / "images" / name
        if path.suffix.lower() in (".v2", ""):
            path.parent.mkdir(exist_ok=True)
            shutil.copy(make_image(folder / "other.png", seed=number), path)
        else:
            make_image(path, seed=number)
        images.append({"id": number, "file_name": name, "height": 40, "width": 60})
        entries.append(annotation(number, [1, 2, number + 1, 9], image=number))
    return make_coco(folder, entries, images=images).source


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("second", FORMATS)
def test_conversions_are_read_back(coco_set: Path, tmp_path: Path, form: str, second: str) -> None:
    source = coco_set
    for step, target in enumerate((form, second, "coco")):
        assert convert([str(source), str(tmp_path / str(step)), "--to", target]) == 0
        source = tmp_path / str(step) / "data.yaml"
        data = read_split(read_data_config(source), "val")
        assert data.problems == ()
        assert [sample.path.suffix for sample in data.samples] == [Path(name).suffix for name in NAMES]
        widths = [float((sample.boxes[0, 2] - sample.boxes[0, 0]).round(6)) for sample in data.samples]
        assert widths == [number + 1 for number in range(1, len(NAMES) + 1)]


@pytest.mark.parametrize("form", FORMATS)
def test_fix_is_read_back(coco_set: Path, tmp_path: Path, form: str) -> None:
    assert convert([str(coco_set), str(tmp_path / "a"), "--to", form]) == 0
    assert doctor([str(tmp_path / "a" / "data.yaml"), "--fix", str(tmp_path / "b")]) == 1
    data = read_split(read_data_config(tmp_path / "b" / "data.yaml"), "val")
    assert len(data) == len(NAMES)
    assert data.problems == ()


def test_class_folders(tmp_path: Path) -> None:
    folder = make_folders(tmp_path, {"cat": 1, "dog": 1})
    for number, name in enumerate(("a.JPG", "b.jpeg", "c c.JPEG", "d.Png", "e.f.JPG", "é.jpg")):
        make_image(folder / "cat" / name, seed=10 + number)
    config = make_config(tmp_path, "train: train")
    assert doctor([str(config.source), "--fix", str(tmp_path / "fixed")]) in (0, 1)
    data = read_classes(read_data_config(tmp_path / "fixed" / "data.yaml"))
    assert sorted(sample.path.name for sample in data.samples) == sorted(
        ["0.png", "0.png", "a.JPG", "b.jpeg", "c c.JPEG", "d.Png", "e.f.JPG", "é.jpg"]
    )


def test_suffixes_in_other_letters_than_on_disk(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.PNG"}, {"id": 3, "file_name": "c.jpg"}]
    for name in ("a.JPG", "b.png", "c.jpg", "c.JPG"):
        make_image(tmp_path / "images" / name)
    data = read(make_coco(tmp_path, [annotation(1, [1, 2, 3, 4], image=2)], images=images))
    assert [sample.path.name for sample in data.samples] == ["a.JPG", "b.png", "c.jpg"]
    (tmp_path / "val.txt").write_text("images/a.jpg\nimages/c.JPG\n")
    (tmp_path / "labels").mkdir()
    for name in ("a.txt", "c.TXT"):
        (tmp_path / "labels" / name).write_text("0 0.5 0.5 1 1\n")
    data = read(make_config(tmp_path, "val: val.txt\nnames: [cat]"))
    assert [(sample.path.name, len(sample.boxes)) for sample in data.samples] == [("a.JPG", 1), ("c.JPG", 1)]


def test_bare_names_find_any_suffix_and_never_choose_in_silence(tmp_path: Path) -> None:
    for name in ("a.JPG", "b.jpg", "b.PNG"):
        make_image(tmp_path / "JPEGImages" / name)
        file = tmp_path / "Annotations" / f"{name[0]}.xml"
        file.parent.mkdir(exist_ok=True)
        file.write_text("<annotation><filename>b.PNG</filename></annotation>")
    (tmp_path / "val.txt").write_text("a\nb\n")
    data = read(config := make_config(tmp_path, "val: val.txt\nnames: [cat]"))
    assert [sample.path.name for sample in data.samples] == ["a.JPG", "b.PNG"]
    assert "b.jpg: its label file" in said(data)
    (tmp_path / "Annotations" / "b.xml").write_text("<annotation/>")
    data = read(config)
    assert [sample.path.name for sample in data.samples] == ["a.JPG"]
    assert "b.xml: labels of 2 images, b.PNG, b.jpg, but which?" in said(data)


def test_voc_numbers_are_whole_where_they_were(tmp_path: Path) -> None:
    """YOLO's fractions give 29.999999999999996 for 30; many tools read whole numbers only."""
    for width in range(1, 100, 7):
        make_image(tmp_path / "images" / f"{width}.png", 97, 101)
        (tmp_path / "labels").mkdir(exist_ok=True)
        x, y, w, h = (3 + width / 2) / 101, (5 + 45 / 2) / 97, width / 101, 45 / 97
        (tmp_path / "labels" / f"{width}.txt").write_text(f"0 {x} {y} {w} {h}\n")
    config = make_config(tmp_path, "val: images\nnames: [cat]")
    assert convert([str(config.source), str(tmp_path / "to"), "--to", "voc"]) == 0
    for file in (tmp_path / "to" / "Annotations").iterdir():
        assert "." not in file.read_text().split("<bndbox>")[1].split("</bndbox>")[0]
        assert "<xmin>4</xmin>" in "".join(file.read_text().split())
