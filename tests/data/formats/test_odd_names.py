"""Whatever images are called, a converted set is read back as it was, or is refused before anything is written."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data.config import read_data_config
from data.convert import FORMATS, write_dataset
from data.read import read_split
from tests.data.tiny_sets import HEIGHT, WIDTH, annotation, make_image
from utils.config import ConfigError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such names")

PART = st.text(st.sampled_from("aB1 .-_#%20?*=&+,;:@!~$^'\"`()[]{}<>|\\äÖßñ日🙂"), min_size=1, max_size=9).filter(
    lambda part: part.strip(".") != ""
)
SUFFIX = st.sampled_from((".jpg", ".JPG", ".jpeg", ".Png", ".jpg.jpg", ".tif"))
NAME = st.builds("{}{}".format, st.lists(PART, min_size=1, max_size=3).map("/".join), SUFFIX)
EXPLICIT = [
    "blank in it.JPG", "Übergröße ñ.jpg", ".hidden.jpg", "..dots.jpg", "#1.jpg", "50%20off.jpg", "100%.jpg", "%2Fa.jpg",
    "q?d=b.jpg", "http:x.jpg", "a&b=c.jpg", "[1].jpg", "*.jpg", "~home.jpg", "- dash.jpg", "x" * 251 + ".JPG",
    ".dot/.dot.jpg", "sub #1/%41.jpg", "labels/images/labels.jpg", "images/images.jpg", "train.txt.jpg", "null.jpg",
]  # fmt: skip


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_image(tmp_path_factory.mktemp("picture") / "any.png", seed=0)


def make_set(folder: Path, names: Sequence[str], picture: Path) -> Path:
    """A COCO set of one picture under these names, each with a box of its own width."""
    for name in names:
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(picture, folder / "images" / name)
    images = [
        {"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH} for number, name in enumerate(names, 1)
    ]
    rows = [annotation(number, [1, 2, number, 9], image=number) for number in range(1, len(names) + 1)]
    content = {"images": images, "annotations": rows, "categories": [{"id": 2, "name": "cat"}]}
    (folder / "val.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "data.yaml").write_text("val: val.json\nimages: images\n", encoding="utf-8")
    return folder / "data.yaml"


def read_back(file: Path) -> list[tuple[str, float]]:
    data = read_split(read_data_config(file), "val")
    assert data.problems == ()
    return [(sample.path.name, round(float(sample.boxes[0, 2] - sample.boxes[0, 0]), 6)) for sample in data.samples]


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=20, deadline=None)
@given(names=st.lists(NAME, min_size=1, max_size=4, unique_by=str.casefold))
@example(names=EXPLICIT)
@example(names=["back\\slash.jpg", "back/slash.jpg"])
@example(names=["a.jpg", "a.JPG", "a.Png"])
@example(names=["0 .jpg"])
def test_names_come_back_or_are_refused(picture: Path, form: str, names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        try:
            file = make_set(root / "in", names, picture)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            return  # one name is a folder of the other
        expected = [(name.rpartition("/")[2], number) for number, name in enumerate(names, start=1)]
        assert read_back(file) == expected
        splits = {"val": read_split(read_data_config(file), "val")}
        try:
            write_dataset(splits, root / "out", form)
        except ConfigError as refusal:
            assert form != "coco"
            assert "cannot hold the name" in str(refusal)
            assert not (root / "out").exists()
            return
        assert read_back(root / "out" / "data.yaml") == expected
