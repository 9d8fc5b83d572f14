"""Lists of images: paths, bare names, and what is in no file."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from data.formats.listing import Folders
from tests.data.tiny_sets import (
    make_config,
    make_image,
    make_voc,
    make_yolo,
    read,
    said,
    voc_object,
)
from utils.config import ConfigError


def test_list_lines(tmp_path: Path) -> None:
    for name in ("one.png", "two words.png", "three.PNG"):
        make_image(tmp_path / "set" / "images" / name)
        label = tmp_path / "set" / "labels" / Path(name).with_suffix(".txt").name
        label.parent.mkdir(exist_ok=True)
        label.write_text("0 0.5 0.5 1 1")
    (tmp_path / "lists").mkdir()
    lines = [f"{tmp_path}/set/images/one.png", "images/two words.png", "../set/images\\three.PNG"]
    (tmp_path / "lists" / "val.txt").write_text("\ufeff" + "\n".join(lines) + "\n")
    data = read(make_config(tmp_path, f"path: set\nval: {tmp_path}/lists/val.txt\nnames: [cat]"))
    assert [sample.path.name for sample in data.samples] == ["one.png", "two words.png", "three.PNG"]
    (tmp_path / "lists" / "val.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read(make_config(tmp_path, f"path: set\nval: {tmp_path}/lists/val.txt\nnames: [cat]"))


def test_voc_class_lists_and_folders(tmp_path: Path) -> None:
    config = make_voc(tmp_path, {"a 1": voc_object("cat", (1, 1, 5, 5)), "b": voc_object("dog", (1, 1, 5, 5))})
    assert len(read(make_config(tmp_path, "val: JPEGImages\nnames: [cat, dog]"))) == 2
    config.val.write_text("a 1  1\nb -1\nc  0\n")
    data = read(make_config(tmp_path, "val: ImageSets/Main/val.txt\nnames: [cat, dog]"))
    assert [sample.path.stem for sample in data.samples] == ["a 1", "b"]
    assert "val.txt:3: no such image" in said(data)


def test_links_that_lead_back_up_are_not_followed_for_ever(tmp_path: Path) -> None:
    make_yolo(tmp_path / "set", {"a": "0 0.5 0.5 1 1", "b": ""})
    for name in ("up", "up2"):
        (tmp_path / "set" / "images" / name).symlink_to("..")
    make_image(tmp_path / "other" / "c.png")
    (tmp_path / "set" / "images" / "linked").symlink_to(tmp_path / "other")
    data = read(make_config(tmp_path / "set", "val: images\nnames: [cat]"))
    assert [sample.path.relative_to(tmp_path / "set").as_posix() for sample in data.samples] == [
        "images/a.png", "images/b.png", "images/linked/c.png",
    ]  # fmt: skip


ONE, APART = (unicodedata.normalize(form, "Bücher é.jpg") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(("on_disk", "asked"), [(APART, ONE), (ONE, APART), (ONE, ONE), (APART, APART)])
def test_accents_may_be_written_in_either_way(tmp_path: Path, on_disk: str, asked: str) -> None:
    (tmp_path / on_disk).touch()
    (tmp_path / "other é.jpg").touch()
    assert Folders().find(tmp_path / asked) == tmp_path / on_disk


def test_a_name_that_is_there_comes_first_and_no_other_letter_is_taken(tmp_path: Path) -> None:
    for name in (ONE, APART):
        (tmp_path / name).touch()
    folders = Folders()
    assert folders.find(tmp_path / ONE) == tmp_path / ONE
    assert folders.find(tmp_path / APART) == tmp_path / APART
    assert folders.find(tmp_path / "Bucher e.jpg") is None
    assert folders.find(tmp_path / "nichts ä.jpg") is None
