"""VOC labels: boxes count from the first pixel, and bad objects and files are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.tiny_sets import (
    make_config,
    make_voc,
    read,
    said,
    voc_object,
)
from utils.config import ConfigError


def test_voc_objects(tmp_path: Path) -> None:
    objects = voc_object("owl", (1, 1, 60, 40)) + voc_object("cat", ("5.5", "6", "7", "8"), "<difficult>1</difficult>")
    data = read(make_voc(tmp_path, {"a": objects, "b": ""}))
    assert data.samples[0].boxes.tolist() == [[0, 0, 60, 40], [4.5, 5, 7, 8]]
    assert data.samples[0].labels.tolist() == [2, 0]
    assert not data.samples[0].crowd.any()
    assert data.category_ids == (1, 2, 3)
    assert data.problems == ()


def test_voc_counting_from_zero(tmp_path: Path) -> None:
    objects = {"a": voc_object("owl", (0, 0, 60, 40))}
    data = read(make_voc(tmp_path / "x", objects))
    assert "a.xml:2: box [-1, -1, 60, 40] (x1, y1, x2, y2) sticks out of the 60x40 image by 1 px; clipped" in said(data)
    data = read(make_voc(tmp_path / "y", objects, options="voc_first_pixel: 0"))
    assert data.samples[0].boxes.tolist() == [[0, 0, 60, 40]]
    assert data.problems == ()


def test_voc_bad_objects_are_named_with_their_line(tmp_path: Path) -> None:
    objects = [
        voc_object("cat", (1, 1, 60, 40)),
        voc_object("dgo", (1, 1, 5, 5)),
        voc_object("cat", (1, "x", 5, 5)),
        "<object><name>cat</name></object>\n",
        voc_object("cat", (9, 9, 5, 5)),
        voc_object("cat", (1, 1, "nan", 5)),
        voc_object("cat", (1, 1, 60, 40)),
        voc_object("dog", (1, 1, 90, 40)),
    ]
    config = make_voc(tmp_path, {"a": "".join(objects), "b": "<object>", "c": None}, options="unreadable: object")
    (tmp_path / "Annotations" / "lonely.xml").write_text("<annotation/>")
    data = read(config)
    assert [sample.path.stem for sample in data.samples] == ["a", "c"]
    assert data.samples[0].labels.tolist() == [0, 0, 1]
    assert data.samples[0].boxes[1].tolist() == [4, 4, 9, 9]
    for what in (
        "a.xml:6: class 'dgo' is not among the names of the data set. Did you mean 'dog'?; left out",
        "a.xml:10: object 'cat': expected a number in <bndbox><ymin>, found 'x'",
        "a.xml:14: object 'cat': expected a number in <bndbox><xmin>, found nothing",
        "a.xml:15: object 'cat': <xmin> 9 is more than <xmax> 5, the two are exchanged; repaired",
        "a.xml:15: object 'cat': <ymin> 9 is more than <ymax> 5, the two are exchanged; repaired",
        "a.xml:19: box [0, 0, nan, 5] holds a value that is no finite number",
        "a.xml:23: box [0, 0, 60, 40] (x1, y1, x2, y2) of the same class stands in this image already",
        "a.xml:27: box [0, 0, 90, 40] (x1, y1, x2, y2) sticks out of the 60x40 image by 30 px; clipped",
        "b.xml:2: not valid XML",
        "Annotations: 1 of 3 images have no label file (the first: c.png)",
        "lonely.xml: a label file without an image",
    ):
        assert what in said(data)


def test_voc_size_is_compared_with_the_image(tmp_path: Path) -> None:
    size = "<size><width>40</width><height>60</height></size>"
    data = read(make_voc(tmp_path, {"a": voc_object("cat", (1, 1, 5, 5))}, size=size))
    assert "a.xml: <size> says 40x60, the upright image is 60x40; kept" in said(data)


def test_voc_without_names_suggests_them(tmp_path: Path) -> None:
    config = make_voc(tmp_path, {"a": voc_object("cat", (1, 1, 5, 5)) + voc_object("ant", (1, 1, 5, 5))})
    config = make_config(tmp_path, f"val: {config.val}")
    with pytest.raises(ConfigError, match=r"expected 'names'.* names: \['ant', 'cat'\]"):
        read(config)
