"""Any text in a label file: a data set, or the project's own error, never more than a page of message."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.config import DataConfig
from data.formats.rows import summarize
from data.read import read_split
from tests.data.tiny_sets import HEIGHT, NAMES, WIDTH, make_config, make_image
from utils.config import ConfigError
from utils.structures import LabelledImages

LONGEST = 4000
"""Characters of a message."""

EXAMPLES = settings(
    max_examples=int(os.environ.get("PROPERTY_EXAMPLES", "50")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

numbers = st.one_of(
    st.integers(-3, 70), st.floats(-1, 2), st.floats(), st.integers(), st.sampled_from([10**30, 10**400, -0.0, 2**63])
)
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=12), st.just("x" * 9000))
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a.png and b.png."""
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("a", "b"):
        make_image(folder / f"{name}.png")
    return folder


@contextmanager
def data_set(pictures: Path, text: str) -> Iterator[DataConfig]:
    """A data YAML in a folder of its own with the images in images/."""
    with TemporaryDirectory() as name:
        shutil.copytree(pictures, Path(name) / "images")
        yield make_config(Path(name), text)


def check(config: DataConfig) -> None:
    """Reading gives sound samples or a ConfigError; every message is short."""
    try:
        data = read_split(config, "val", thorough=True)
    except ConfigError as error:
        assert len(str(error)) < LONGEST
        assert str(config.path) in str(error)
        return
    check_sound(data)
    assert len(summarize(data.problems)) < LONGEST
    for problem in data.problems:
        assert len(str(problem)) < LONGEST
        assert problem.where.startswith(str(config.path))


def check_sound(data: LabelledImages) -> None:
    """Boxes lie in their images, labels are classes, and the ground truth belongs to the samples."""
    for sample in data.samples:
        assert (sample.boxes[:, :2] >= 0).all()
        assert (sample.boxes[:, 2:] <= (sample.width, sample.height)).all()
        assert (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()
        assert ((sample.labels >= 0) & (sample.labels < len(data.names))).all()
    ids = [entry["id"] for entry in data.ground_truth["annotations"]]
    assert len(set(ids)) == len(ids)
    images = {image["id"] for image in data.ground_truth["images"]}
    for entry in data.ground_truth["annotations"]:
        assert entry["image_id"] in images
        assert entry["category_id"] in data.category_ids
        assert len(entry["bbox"]) == 4


# COCO

boxes = st.lists(numbers, min_size=4, max_size=4)
outlines = st.one_of(
    st.lists(st.lists(numbers, max_size=8), max_size=3),
    st.fixed_dictionaries({"size": st.just([HEIGHT, WIDTH]), "counts": st.lists(st.integers(0, 2400), max_size=5)}),
    st.fixed_dictionaries({"size": st.lists(numbers, max_size=3), "counts": st.text(max_size=9)}),
    values,
)


def some(**known: st.SearchStrategy) -> st.SearchStrategy[dict[str, Any]]:
    """Dicts whose keys have mostly the values of their own kind, or are missing, or have anything."""
    return st.fixed_dictionaries({}, optional={key: kind | kind | kind | values for key, kind in known.items()})


ids = st.sampled_from([1, 2, 3, "1", 2.0, "x"])
images = some(
    id=ids, file_name=st.sampled_from(["a.png", "b.png", "a.PNG", "none.png"]), width=st.just(60), height=st.just(40)
)
annotations = some(
    id=st.integers(0, 9), image_id=ids, category_id=st.integers(1, 3), bbox=boxes, segmentation=outlines,
    area=numbers, iscrowd=st.integers(0, 1),
)  # fmt: skip
categories = some(id=st.integers(1, 3), name=st.sampled_from(["cat", "dog", "owl"]))
whole_images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png", "width": WIDTH, "height": HEIGHT}]
whole_categories = [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}]
coco = st.fixed_dictionaries(
    {
        "images": st.just(whole_images) | st.lists(images, max_size=4) | values,
        "annotations": st.lists(annotations, max_size=6) | st.lists(annotations, max_size=6) | values,
        "categories": st.just(whole_categories) | st.lists(categories, max_size=3) | values,
    }
)


@EXAMPLES
@given(content=coco | values, options=st.sampled_from(["", "unreadable: object", "unreadable: run"]))
def test_coco(pictures: Path, content: Any, options: str) -> None:
    with data_set(pictures, f"val: val.json\n{options}") as config:
        (config.path / "val.json").write_text(json.dumps(content))
        check(config)


@EXAMPLES
@given(text=st.binary(max_size=200) | st.text('[]{}",:0123456789e-.ab \n', max_size=200).map(str.encode))
def test_coco_of_any_bytes(pictures: Path, text: bytes) -> None:
    with data_set(pictures, "val: val.json") as config:
        (config.path / "val.json").write_bytes(text)
        check(config)


# YOLO

words = st.one_of(numbers.map(repr), st.floats(0, 1).map(repr), st.text(max_size=5), st.just("9" * 5000))
rows = st.builds(
    lambda label, values, end: " ".join([label, *values]) + end,
    st.integers(-1, 3).map(str) | words,
    st.lists(st.floats(0, 1).map(repr), min_size=4, max_size=4) | st.lists(words, max_size=12),
    st.sampled_from(["\n", "\r\n", " \n", "\u2028", ""]),
)


@EXAMPLES
@given(
    first=st.lists(rows, max_size=6).map("".join) | st.text(max_size=100),
    second=st.none() | st.binary(max_size=60),
    options=st.sampled_from(["", "unreadable: object", "kpt_shape: [2, 3]", "kpt_shape: [0, 2]", "labels_dir: labels"]),
)
def test_yolo(pictures: Path, first: str, second: bytes | None, options: str) -> None:
    with data_set(pictures, f"val: images\nnames: {list(NAMES)}\n{options}") as config:
        (config.path / "labels").mkdir()
        (config.path / "labels" / "a.txt").write_bytes(first.encode("utf-8", "replace"))
        if second is not None:
            (config.path / "labels" / "b.txt").write_bytes(second)
        check(config)


# VOC

xml_texts = st.one_of(
    st.sampled_from([*NAMES, "Dog", "dgo", "1", "5", "30", "60", "a.png", "&amp;", "<b/>", "1e999", "nan"]),
    numbers.map(repr), st.text("abc<>&;\"'/ \n", max_size=8), st.just("9" * 5000),
)  # fmt: skip


def tag(name: str, inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return inner.map(lambda text: f"<{name}>{text}</{name}>")


corners = st.tuples(*(tag(name, xml_texts) for name in ("xmin", "ymin", "xmax", "ymax"))).map("".join)
objects = st.tuples(tag("name", xml_texts), tag("bndbox", corners), tag("iscrowd", xml_texts) | st.just("")).map(
    "".join
)
sizes = st.tuples(tag("width", xml_texts), tag("height", xml_texts)).map("".join)
trees = st.tuples(
    tag("filename", xml_texts) | st.just(""),
    tag("size", sizes) | st.just(""),
    st.lists(tag("object", objects), max_size=4).map("".join),
).map("".join)


@EXAMPLES
@given(first=tag("annotation", trees) | xml_texts, second=st.none() | st.binary(max_size=60), shared=st.booleans())
def test_voc(pictures: Path, first: str, second: bytes | None, shared: bool) -> None:
    with data_set(pictures, f"val: images\nnames: {list(NAMES)}") as config:
        (config.path / "Annotations").mkdir()
        (config.path / "Annotations" / "a.xml").write_bytes(first.encode("utf-8", "replace"))
        if shared:
            shutil.copy(config.path / "images" / "b.png", config.path / "images" / "a.PNG")
        if second is not None:
            (config.path / "Annotations" / "b.xml").write_bytes(second)
        check(config)


# Lists


@EXAMPLES
@given(lines=st.lists(st.sampled_from(["images/a.png", "a", "b 1", "./images/b.PNG", ".", "/"]) | st.text(max_size=20)))
def test_lists(pictures: Path, lines: list[str]) -> None:
    with data_set(pictures, f"val: val.txt\nnames: {list(NAMES)}") as config:
        (config.path / "labels").mkdir()
        (config.path / "labels" / "a.txt").write_text("0 0.5 0.5 1 1\n")
        (config.path / "val.txt").write_bytes("\n".join(lines).encode("utf-8", "replace"))
        check(config)
